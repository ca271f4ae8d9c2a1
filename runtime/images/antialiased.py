"""Antialiased bicubic and bilinear resizing as in Pillow (`Image.resize`), of one window of the result.

OpenCV's cubic and linear interpolation do not antialias, and its cubic one has another kernel. Here each output line is
a weighted sum of input lines. The weights are a kernel, widened by the scale if the image shrinks: Keys' (1981,
a = -0.5) for bicubic, a triangle for bilinear. Columns are
resized first, then rows, with rounding to 8 bits in between. The result equals Pillow's to the bit, with one exception:
Pillow 13 resizes rows first if an image is much taller than wide. A few output lines at a time are one small matrix
product over their input lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Distances = NDArray[np.float64]

A = -0.5
# With more lines at a time most weights would be 0; with fewer the products would be too small to be fast.
BLOCK_LINES = 8
# Pillow's weights are whole multiples of this step, and so are all sums here; double precision holds them exactly.
WEIGHT_STEP = 2.0**-22
# Pillow rounds halves up, OpenCV to even. No other sum is so near a half.
HALF_UP = WEIGHT_STEP / 4
# Multiplications in one matrix product. OpenBLAS divides larger products among threads, which at this size wait for
# each other longer than they work, and keep spinning while the interpreter runs.
MAX_PRODUCT = 250_000


@dataclass(frozen=True, eq=False)
class _Kernel:
    """A filter: its weights by distance in output pixels, 0 from `support` on."""

    support: float
    weights: Callable[[Distances], Distances]


@dataclass(frozen=True, eq=False)
class _Block:
    """Neighbouring output lines: weights, float64 `[lines, stop - start]`, of the input lines `start:stop`."""

    start: int
    stop: int
    weights: NDArray[np.float64]


def resize_window(
    image: Pixels, resized: tuple[int, int], window: tuple[int, int, int, int], interpolation: str = "bicubic"
) -> Pixels:
    """Resize an image and return a window of the result; no other pixel is computed.

    Args:
        image: uint8 `[H, W, 3]`, not empty.
        resized: height and width of the whole result in pixels, each 1 or more.
        window: top, left, height and width of the window within the result, in pixels.
        interpolation: a key of `KERNELS`.

    Returns:
        uint8 `[height, width, 3]`.
    """
    top, left, height, width = window
    rows = _blocks(image.shape[0], resized[0], top, height, interpolation)
    columns = _blocks(image.shape[1], resized[1], left, width, interpolation)
    first, last = _reach(rows)
    across = _combine(np.asarray(cv2.transpose(np.ascontiguousarray(image[first:last]))), columns, 0)
    return _combine(np.asarray(cv2.transpose(across)), rows, first)


def _reach(blocks: tuple[_Block, ...]) -> tuple[int, int]:
    return min(block.start for block in blocks), max(block.stop for block in blocks)


def _combine(lines: Pixels, blocks: tuple[_Block, ...], offset: int) -> Pixels:
    """Return the output lines, uint8 `[count, n, 3]`, of input lines, uint8 `[m, n, 3]`, which begin at `offset`."""
    flat = lines.reshape(len(lines), -1)
    result = np.empty((sum(len(block.weights) for block in blocks), flat.shape[1]), dtype=np.uint8)
    at = 0
    for block in blocks:
        source = flat[block.start - offset : block.stop - offset]
        target = result[at : at + len(block.weights)]
        width = max(1, MAX_PRODUCT // block.weights.size)
        for left in range(0, flat.shape[1], width):
            sums = block.weights @ source[:, left : left + width].astype(np.float64)
            # Rounds and saturates in one step.
            cv2.add(sums, HALF_UP, dst=target[:, left : left + width], dtype=cv2.CV_8U)
        at += len(target)
    return result.reshape(len(result), *lines.shape[1:])


@lru_cache(maxsize=64)
def _blocks(length: int, resized: int, first: int, count: int, interpolation: str) -> tuple[_Block, ...]:
    """Return the weights of output lines `first:first + count` of `resized`, over `length` input lines."""
    kernel = KERNELS[interpolation]
    scale = length / resized
    widening = max(scale, 1.0)
    centres = (np.arange(first, first + count) + 0.5) * scale
    starts = np.maximum((centres - kernel.support * widening + 0.5).astype(np.int64), 0)
    stops = np.minimum((centres + kernel.support * widening + 0.5).astype(np.int64), length)
    blocks = []
    for at in range(0, count, BLOCK_LINES):
        part = slice(at, at + BLOCK_LINES)
        start, stop = int(starts[part][0]), int(stops[part][-1])
        places = np.arange(start, stop)
        weights = kernel.weights((places + 0.5 - centres[part, np.newaxis]) / widening)
        weights[(places < starts[part, np.newaxis]) | (places >= stops[part, np.newaxis])] = 0.0
        weights /= weights.sum(axis=1, keepdims=True)
        blocks.append(_Block(start, stop, np.rint(weights / WEIGHT_STEP) * WEIGHT_STEP))
    return tuple(blocks)


def _cubic(distance: Distances) -> Distances:
    x = np.abs(distance)
    near = ((A + 2) * x - (A + 3)) * x * x + 1
    far = A * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _triangle(distance: Distances) -> Distances:
    return np.maximum(1.0 - np.abs(distance), 0.0)


KERNELS: Mapping[str, _Kernel] = {"bicubic": _Kernel(2.0, _cubic), "bilinear": _Kernel(1.0, _triangle)}
