"""The calibration stage: a representative set, and the activation ranges seen on it."""
