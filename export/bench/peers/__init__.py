"""Peers: what other converters and runtimes make of the same weights, one module a tool chain."""
