"""Benchmark of a bundle's artifacts against those of other converters and runtimes."""
