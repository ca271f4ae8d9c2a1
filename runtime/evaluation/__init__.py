"""Evaluation: split files, sampling, predictions, metrics, timing, fresh processes."""
