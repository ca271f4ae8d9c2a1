"""Seeded, class-balanced samples of labelled images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The seed of every evaluation's sample, so that figures of two commands are of the same images.
SAMPLE_SEED = 0


def class_balanced_indices(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Choose images at random, from each class as many as from the others, give or take one.

    Args:
        labels: int64 `[N]`.
        count: how many to choose; N and more choose all.
        seed: the same seed chooses the same images.

    Returns:
        int64 `[min(count, N)]`, ascending indices.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    # An image's turn is its place among those of its class: taking the first turns takes from each class.
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    turn = np.empty(len(labels), dtype=np.int64)
    turn[by_class] = np.arange(len(labels)) - np.repeat(starts, sizes)
    return np.sort(shuffled[np.argsort(turn[shuffled], kind="stable")[:count]])
