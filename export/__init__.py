"""The export stage: quantization-aware training, and the artifacts of a bundle."""

import os

# tensorflow-model-optimization works on Keras 2 alone, and this must be said before TensorFlow's import.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import train  # noqa: F401  (silences the import of TensorFlow)
