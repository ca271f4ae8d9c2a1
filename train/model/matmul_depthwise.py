"""Depthwise convolution as one matrix product per channel, for devices that are fast only at products."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

Tensor = Any
MAX_TOKENS = 256  # in a grid; a matrix has the square of that


class MatmulDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """`DepthwiseConv2D` with a `[tokens, tokens]` matrix per channel, of the same weights and results.

    For odd kernels, stride 1, padding "same", no bias and depth multiplier 1. Grids of more than 256 tokens use the
    stock convolution.
    """

    def call(self, inputs: Tensor) -> Tensor:
        """Convolve `[B, H, W, C]`."""
        height, width, channels = inputs.shape[1:]
        if height * width > MAX_TOKENS:
            return super().call(inputs)
        x = ops.reshape(ops.cast(inputs, self.compute_dtype), (-1, height * width, channels))  # [B, tokens, C]
        kernel = ops.reshape(ops.cast(self.kernel, self.compute_dtype), (-1, channels))  # [taps, C]
        taps = ops.cast(tap_matrix(height, width, self.kernel_size), self.compute_dtype)
        matrices = ops.einsum("qpt,tc->cqp", taps, kernel)
        y = ops.einsum("bpc,cqp->bqc", x, matrices)
        return ops.reshape(y, (-1, height, width, channels))


def tap_matrix(height: int, width: int, kernel_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the kernel tap between each pair of tokens, one-hot.

    Args:
        height: of the grid, in tokens.
        width: of the grid, in tokens.
        kernel_size: rows and columns of the kernel, odd.

    Returns:
        `[output tokens, input tokens, taps]`: 1 where the output token reads the input token through the tap.
    """
    rows, columns = kernel_size
    y, x = (each.reshape(-1) for each in np.mgrid[:height, :width])
    row = y[None, :] - y[:, None] + rows // 2  # [tokens, tokens]
    column = x[None, :] - x[:, None] + columns // 2
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    tap = np.where(inside, row * columns + column, -1)
    return (tap[:, :, None] == np.arange(rows * columns)).astype(np.uint8)


def depthwise_class(backend: str, device: str) -> Any:
    """Return the fast class of depthwise convolutions for a Keras backend and device; `None` for the stock one."""
    return MatmulDepthwiseConv2D if backend == "jax" and device != "cpu" else None
