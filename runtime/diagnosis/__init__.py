"""Diagnosis of a machine: what it has for the demo, and what to do about the rest. Needs nothing but Python."""
