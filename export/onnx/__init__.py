"""ONNX artifacts."""
