"""Depthwise convolutions as matrix products, for devices that are fast at those alone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from train.distributed.placement import device_name

Tensor = Any
MAX_TOKENS = 256  # of a grid; the matrices grow with its square


class MatmulDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Keras' `DepthwiseConv2D` with the same weights and results, a matrix `[tokens, tokens]` for each channel.

    For odd kernels, stride 1, padding "same", no bias and one output a channel. Grids of more than 256 tokens go
    the stock way.
    """

    def call(self, inputs: Tensor) -> Tensor:
        """Convolve `[B, H, W, C]`."""
        height, width, channels = inputs.shape[1:]
        if height * width > MAX_TOKENS:
            return super().call(inputs)
        x = ops.reshape(ops.cast(inputs, self.compute_dtype), (-1, height * width, channels))  # [B, tokens, C]
        kernel = ops.reshape(ops.cast(self.kernel, self.compute_dtype), (-1, channels))  # [taps, C]
        places = ops.cast(tap_places(height, width, self.kernel_size), self.compute_dtype)
        matrices = ops.einsum("qpt,tc->cqp", places, kernel)
        y = ops.einsum("bpc,cqp->bqc", x, matrices)
        return ops.reshape(y, (-1, height, width, channels))


def tap_places(height: int, width: int, kernel_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Say by which tap of a kernel each token of a grid reads each other one.

    Args:
        height: of the grid, in tokens.
        width: of the grid, in tokens.
        kernel_size: rows and columns of the kernel, odd.

    Returns:
        `[tokens, tokens, taps]`: 1 where the first token's output takes the second token's input times the tap.
    """
    rows, columns = kernel_size
    y, x = (each.reshape(-1) for each in np.mgrid[:height, :width])
    row = y[None, :] - y[:, None] + rows // 2  # [tokens, tokens]
    column = x[None, :] - x[:, None] + columns // 2
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    tap = np.where(inside, row * columns + column, -1)
    return (tap[:, :, None] == np.arange(rows * columns)).astype(np.uint8)


def depthwise_class() -> Any:
    """Return the class of depthwise convolutions that is fast where Keras trains; `None` for the stock one."""
    return MatmulDepthwiseConv2D if keras.backend.backend() == "jax" and device_name() != "cpu" else None
