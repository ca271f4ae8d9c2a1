"""Seeded, class-balanced samples of labelled images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The seed of every evaluation's sample, so that figures of two commands are of the same images.
SAMPLE_SEED = 0


def class_balanced_indices(labels: NDArray[np.int64], count: int | None, seed: int | None) -> NDArray[np.int64]:
    """Choose as many images of each class as of the others, give or take one.

    Args:
        labels: int64 `[N]`.
        count: number of images; `None`, N and more choose all.
        seed: seed of a random choice; `None` takes the first of each class, then the second of each, and so on.

    Returns:
        int64 `[min(count, N)]` indices: ascending ones of a random choice, else in the order of choice.
    """
    order = np.arange(len(labels)) if seed is None else np.random.default_rng(seed).permutation(len(labels))
    # An image's turn is its place among those of its class; the first turns take from each class.
    by_class = order[np.argsort(labels[order], kind="stable")]
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    turn = np.empty(len(labels), dtype=np.int64)
    turn[by_class] = np.arange(len(labels)) - np.repeat(starts, sizes)
    chosen = order[np.argsort(turn[order], kind="stable")[:count]]
    return chosen if seed is None else np.sort(chosen)
