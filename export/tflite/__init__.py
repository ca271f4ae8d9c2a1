"""TFLite artifacts."""
