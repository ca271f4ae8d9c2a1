"""Parity measures: what is compared between two artifacts."""
