"""Peers: artifacts that other tools make of the same float network, one module a tool chain."""
