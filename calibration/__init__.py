"""Calibration stage: a representative set of training images, and the activation ranges measured on it."""
