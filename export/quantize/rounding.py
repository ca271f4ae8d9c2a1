"""Float values rounded to what int8 and int32 tensors hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from calibration.observers import Range

TINY = np.finfo(np.float32).tiny


def fake_quantize(values: Any, ends: Range) -> Any:
    """Round values to the nearest of 256 over a range, to which they are clipped; gradients pass within it."""
    return tf.quantization.fake_quant_with_min_max_args(values, *ends)


def round_bias(bias: Any, source: Range, kernel: Any) -> Any:
    """Round a bias to what int32 holds: multiples of its input's scale times its kernel's.

    Args:
        bias: float32 `[out]`.
        source: the range that the product's input is quantized over.
        kernel: float32 `[h, w, in, out]`, which int8 holds with one scale per output channel.

    Returns:
        float32 `[out]`; of a channel whose kernel is 0, as it was.
    """
    low, high = source
    scale = (high - low) / 255.0 * tf.reduce_max(tf.abs(kernel), axis=(0, 1, 2)) / 127.0  # [out]
    return tf.where(scale > 0, tf.round(bias / tf.maximum(scale, TINY)) * scale, bias)
