"""Datasets: loading, splits, batches."""
