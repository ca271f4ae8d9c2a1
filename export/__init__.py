"""The export stage: quantization-aware training, and the artifacts of a bundle."""
