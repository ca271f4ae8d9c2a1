"""Calibration stage: a representative set of training images, and the activation ranges measured on it."""

import train  # noqa: F401  (silences the import of TensorFlow)
