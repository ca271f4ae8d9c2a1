"""Round float values to int8 and int32 grids."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from calibration.observers import Range

TINY = np.finfo(np.float32).tiny


def fake_quantize(values: Any, ends: Range) -> Any:
    """Clip values to a range and round them to its 256 values; gradients pass inside the range."""
    return tf.quantization.fake_quant_with_min_max_args(values, *ends)


def round_bias(bias: Any, source: Range, kernel: Any) -> Any:
    """Round a bias to int32: to multiples of its input's scale times its kernel's scale.

    Args:
        bias: float32 `[out]`.
        source: the range of the product's int8 input.
        kernel: float32 `[h, w, in, out]`, int8 with one scale per output channel.

    Returns:
        float32 `[out]`; unchanged in channels whose kernel is 0.
    """
    low, high = source
    scale = (high - low) / 255.0 * tf.reduce_max(tf.abs(kernel), axis=(0, 1, 2)) / 127.0  # [out]
    return tf.where(scale > 0, tf.round(bias / tf.maximum(scale, TINY)) * scale, bias)
