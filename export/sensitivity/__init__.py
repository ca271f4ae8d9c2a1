"""What int8 costs, product by product, and which products to leave in float."""

# First, whichever module of this package is wanted, as it makes TensorFlow take Keras 2.
import export.fake_quant  # noqa: F401
