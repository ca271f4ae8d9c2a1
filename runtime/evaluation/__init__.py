"""Evaluation: split files, sampling, metrics."""
