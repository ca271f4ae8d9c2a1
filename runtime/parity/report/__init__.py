"""Parity reports as HTML, Markdown and JUnit XML."""
