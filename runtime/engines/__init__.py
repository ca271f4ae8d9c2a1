"""Engines: the interpreters that run an artifact."""
