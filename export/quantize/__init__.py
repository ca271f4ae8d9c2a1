"""Quantization: schemes, fake quantization, quantization-aware training."""
