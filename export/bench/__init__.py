"""The benchmark: a bundle's artifacts against what other converters and runtimes make of its weights."""

# First, whichever module of this package is wanted, as it makes TensorFlow take Keras 2.
import export.fake_quant  # noqa: F401
