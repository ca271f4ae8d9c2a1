"""Similarity of two networks' maps, image by image.

Each of the three figures is blind to something. Cosine similarity does not see a map's strength, SSIM sees local
structure and strength, and rank correlation sees only the order of the cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from runtime.evaluation.metrics import Floats, cosine_similarity, finite_array

SSIM_WINDOW = 7
# The constants of the paper (Wang et al., 2004), in shares of the squared range of values.
SSIM_LUMINANCE, SSIM_CONTRAST = 0.01**2, 0.03**2
FIGURES = ("cosine", "ssim", "rank_correlation")


@dataclass(frozen=True)
class MapSimilarity:
    """The similarity of M maps of two networks on N images: float64 `[N, M]` each, 1 for the same map.

    Attributes:
        cosine: -1..1.
        ssim: -1..1.
        rank_correlation: -1..1, Spearman's.
    """

    cosine: Floats
    ssim: Floats
    rank_correlation: Floats

    @property
    def figures(self) -> tuple[Floats, Floats, Floats]:
        """The three, in the order of `FIGURES`."""
        return self.cosine, self.ssim, self.rank_correlation

    def worst_places(self, count: int) -> list[tuple[int, int]]:
        """Return the images with the lowest cosine of any map, and the index of that map; each image once."""
        lowest = self.cosine.argmin(axis=1)
        order = np.argsort(self.cosine.min(axis=1), kind="stable")[:count]
        return [(int(image), int(lowest[image])) for image in order]


def compare_maps(first: NDArray[np.float32], second: NDArray[np.float32]) -> MapSimilarity:
    """Compare maps image by image.

    Args:
        first: finite `[N, M, h, w]`, the reference's.
        second: the same shape, the candidate's.

    Returns:
        The three figures of every map on every image.

    Raises:
        FocalEdgeError: the shapes differ, or a value is not finite.
    """
    flat = (*first.shape[:2], -1)
    return MapSimilarity(
        cosine=cosine_similarity(first.reshape(flat), second.reshape(flat)),
        ssim=structural_similarity(first, second),
        rank_correlation=rank_correlation(first.reshape(flat), second.reshape(flat)),
    )


def structural_similarity(first: NDArray[np.float32], second: NDArray[np.float32]) -> Floats:
    """Return the mean structural similarity (SSIM) of maps, over uniform windows inside them.

    Args:
        first: finite `[..., h, w]`; its range of values scales the differences.
        second: the same shape.

    Returns:
        float64 `[...]`, -1..1. Two flat maps have 1 if their values are the same, else 0.
    """
    map_1, map_2 = finite_array(first, "map values"), finite_array(second, "map values")
    span = np.ptp(map_1, axis=(-2, -1))[..., np.newaxis, np.newaxis]
    # SSIM is made for values of 0 or more; without this, a signed map and its negative would be alike.
    least = np.minimum(map_1, map_2).min(axis=(-2, -1), keepdims=True)
    map_1, map_2 = map_1 - least, map_2 - least
    side = min(SSIM_WINDOW, *map_1.shape[-2:])
    mean_1, mean_2 = _window_mean(map_1, side), _window_mean(map_2, side)
    # The sample's variance, scikit-image's default; a window of one cell has none.
    sample = side * side / max(side * side - 1, 1)
    variance_1 = sample * (_window_mean(map_1 * map_1, side) - mean_1**2)
    variance_2 = sample * (_window_mean(map_2 * map_2, side) - mean_2**2)
    covariance = sample * (_window_mean(map_1 * map_2, side) - mean_1 * mean_2)
    low, high = SSIM_LUMINANCE * span**2, SSIM_CONTRAST * span**2
    above = (2 * mean_1 * mean_2 + low) * (2 * covariance + high)
    below = (mean_1**2 + mean_2**2 + low) * (variance_1 + variance_2 + high)
    similarity = np.divide(above, below, out=np.ones_like(above), where=below > 0).mean(axis=(-2, -1))
    same = (map_1 == map_2).all(axis=(-2, -1))
    flat = span[..., 0, 0] == 0
    return np.asarray(np.where(flat, same.astype(np.float64), np.clip(similarity, -1.0, 1.0)))


def _window_mean(maps: Floats, side: int) -> Floats:
    rows = sliding_window_view(maps, side, axis=-1).mean(axis=-1)
    return np.asarray(sliding_window_view(rows, side, axis=-2).mean(axis=-1))


def rank_correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> Floats:
    """Return Spearman's rank correlation of flattened maps; equal values share their mean rank.

    Args:
        first: finite `[..., P]`.
        second: the same shape.

    Returns:
        float64 `[...]`, -1..1. Two flat maps have 1, a flat one and another have 0.
    """
    ranks_1, ranks_2 = (_centred_ranks(finite_array(each, "map values")) for each in (first, second))
    product = (ranks_1 * ranks_2).sum(axis=-1)
    energy_1, energy_2 = (ranks_1**2).sum(axis=-1), (ranks_2**2).sum(axis=-1)
    both_flat = (energy_1 == 0) & (energy_2 == 0)
    below = np.sqrt(energy_1 * energy_2)
    correlation = np.divide(product, below, out=np.zeros_like(product), where=below > 0)
    return np.asarray(np.where(both_flat, 1.0, np.clip(correlation, -1.0, 1.0)))


def _centred_ranks(values: Floats) -> Floats:
    """Return mean ranks over the last axis, less their mean."""
    order = np.argsort(values, axis=-1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=-1)
    places = np.broadcast_to(np.arange(values.shape[-1], dtype=np.float64), values.shape)
    rises = ordered[..., 1:] != ordered[..., :-1]
    edge = np.ones((*values.shape[:-1], 1), dtype=bool)
    firsts = np.maximum.accumulate(np.where(np.concatenate([edge, rises], axis=-1), places, -1.0), axis=-1)
    ends = np.where(np.concatenate([rises, edge], axis=-1), places, np.inf)
    lasts = np.minimum.accumulate(ends[..., ::-1], axis=-1)[..., ::-1]
    ranks = np.zeros(values.shape)
    np.put_along_axis(ranks, order, (firsts + lasts) / 2.0, axis=-1)
    return np.asarray(ranks - (values.shape[-1] - 1) / 2.0)
