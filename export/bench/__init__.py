"""The benchmark: a bundle's artifacts against what other converters and runtimes make of its weights."""
