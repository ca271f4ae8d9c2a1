"""The export stage: quantization-aware training, and the artifacts of a bundle."""

import logging
import os

# tensorflow-model-optimization works with Keras 2 only; TensorFlow reads this when it is imported.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import train  # noqa: F401  (silences the import of TensorFlow)

# The converter's warnings of retracing and serialization are of no use to users of our commands.
logging.getLogger("tensorflow").setLevel(logging.ERROR)
