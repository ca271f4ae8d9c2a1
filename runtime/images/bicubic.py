"""Antialiased bicubic resizing, as Pillow does it (`Image.resize` with `BICUBIC`), of a window of the result alone.

OpenCV's cubic does not antialias, and has another kernel. Here each output line is a weighted sum of the input lines
under the kernel (Keys, 1981, with a = -0.5), which is widened by the scale where the image shrinks: first across,
then down, rounded to 8 bits in between. The result is Pillow's to the bit, but that its version 13 goes down first
where an image is much higher than it is wide. Lines of the output are computed some at a time, as one small
matrix product over the input lines that they have in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

A = -0.5
SUPPORT = 2.0
# Of more lines at a time, most weights would be 0; of fewer, the products too small for a fast one.
BLOCK_LINES = 8
# Pillow's weights are whole multiples of this; so are all sums of them here, which double precision holds exactly.
WEIGHT_STEP = 2.0**-22
# Pillow rounds halves up, OpenCV to even. No sum but a half itself is so near one.
HALF_UP = WEIGHT_STEP / 4
# Multiplications in one matrix product. OpenBLAS divides larger ones among threads, which at this size wait for one
# another longer than they work, and go on spinning beside the interpreter.
MAX_PRODUCT = 250_000


@dataclass(frozen=True, eq=False)
class _Block:
    """Some neighbouring output lines: `[lines, stop - start]` weights of the input lines `start:stop`."""

    start: int
    stop: int
    weights: NDArray[np.float64]


def resize_window(image: Pixels, resized: tuple[int, int], window: tuple[int, int, int, int]) -> Pixels:
    """Resize an image, and return a window of the result; no other pixel of it is computed.

    Args:
        image: uint8 `[H, W, 3]`, not empty.
        resized: height and width of the whole result, in pixels, each 1 or more.
        window: top, left, height and width of what is wanted of it.

    Returns:
        uint8 `[height, width, 3]`.
    """
    top, left, height, width = window
    rows = _blocks(image.shape[0], resized[0], top, height)
    columns = _blocks(image.shape[1], resized[1], left, width)
    first, last = _reach(rows)
    across = _combine(np.asarray(cv2.transpose(np.ascontiguousarray(image[first:last]))), columns, 0)
    return _combine(np.asarray(cv2.transpose(across)), rows, first)


def _reach(blocks: tuple[_Block, ...]) -> tuple[int, int]:
    return min(block.start for block in blocks), max(block.stop for block in blocks)


def _combine(lines: Pixels, blocks: tuple[_Block, ...], offset: int) -> Pixels:
    """Return the output lines, uint8 `[count, n, 3]`, of input lines `[m, n, 3]`, of which the first is `offset`."""
    flat = lines.reshape(len(lines), -1)
    result = np.empty((sum(len(block.weights) for block in blocks), flat.shape[1]), dtype=np.uint8)
    at = 0
    for block in blocks:
        source = flat[block.start - offset : block.stop - offset]
        target = result[at : at + len(block.weights)]
        width = max(1, MAX_PRODUCT // block.weights.size)
        for left in range(0, flat.shape[1], width):
            sums = block.weights @ source[:, left : left + width].astype(np.float64)
            # Rounds and saturates in one go.
            cv2.add(sums, HALF_UP, dst=target[:, left : left + width], dtype=cv2.CV_8U)
        at += len(target)
    return result.reshape(len(result), *lines.shape[1:])


@lru_cache(maxsize=64)
def _blocks(length: int, resized: int, first: int, count: int) -> tuple[_Block, ...]:
    """Return the weights of output lines `first:first + count` of `resized`, over `length` input lines."""
    scale = length / resized
    widening = max(scale, 1.0)
    centres = (np.arange(first, first + count) + 0.5) * scale
    starts = np.maximum((centres - SUPPORT * widening + 0.5).astype(np.int64), 0)
    stops = np.minimum((centres + SUPPORT * widening + 0.5).astype(np.int64), length)
    blocks = []
    for at in range(0, count, BLOCK_LINES):
        part = slice(at, at + BLOCK_LINES)
        start, stop = int(starts[part][0]), int(stops[part][-1])
        places = np.arange(start, stop)
        weights = _kernel((places + 0.5 - centres[part, np.newaxis]) / widening)
        weights[(places < starts[part, np.newaxis]) | (places >= stops[part, np.newaxis])] = 0.0
        weights /= weights.sum(axis=1, keepdims=True)
        blocks.append(_Block(start, stop, np.rint(weights / WEIGHT_STEP) * WEIGHT_STEP))
    return tuple(blocks)


def _kernel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(distance)
    near = ((A + 2) * x - (A + 3)) * x * x + 1
    far = A * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < SUPPORT, far, 0.0))
