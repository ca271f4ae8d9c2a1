"""Similarity of maps, against SciPy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage, stats

from runtime.core.errors import FocalEdgeError
from runtime.parity.maps import MapSimilarity, compare_maps, rank_correlation, structural_similarity
from runtime.parity.measures.map_similarity import map_names, measure_map_similarity


@pytest.fixture
def maps() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (3, 4, 12, 9)).astype(np.float32)


def reference_ssim(first: np.ndarray, second: np.ndarray, side: int) -> float:
    """The formula of the paper, through SciPy's filter, borders left out."""
    first, second = first.astype(float), second.astype(float)
    span, cells = np.ptp(first), side * side
    first, second = (each - min(first.min(), second.min()) for each in (first, second))
    mean = [ndimage.uniform_filter(each, side) for each in (first, second)]
    products = (
        ndimage.uniform_filter(first * second, side),
        *(ndimage.uniform_filter(each**2, side) for each in (first, second)),
    )
    scale = cells / (cells - 1)
    covariance = scale * (products[0] - mean[0] * mean[1])
    variances = [scale * (product - each**2) for product, each in zip(products[1:], mean, strict=True)]
    low, high = (0.01 * span) ** 2, (0.03 * span) ** 2
    whole = (2 * mean[0] * mean[1] + low) * (2 * covariance + high)
    whole /= (mean[0] ** 2 + mean[1] ** 2 + low) * (sum(variances) + high)
    edge = side // 2
    return float(whole[edge:-edge, edge:-edge].mean())


def test_ssim_follows_the_paper(maps: np.ndarray) -> None:
    other = (0.8 * maps + 0.3 * np.random.default_rng(1).normal(0, 1, maps.shape)).astype(np.float32)
    found = structural_similarity(maps, other)
    assert found.shape == (3, 4)
    for place in np.ndindex(3, 4):
        assert found[place] == pytest.approx(reference_ssim(maps[place], other[place], 7), abs=1e-6)


def test_small_maps_have_a_window_of_their_size() -> None:
    small = np.random.default_rng(0).normal(0, 1, (2, 4, 4)).astype(np.float32)
    assert structural_similarity(small, small).tolist() == pytest.approx([1, 1])
    assert structural_similarity(small, -small).max() < 0


def test_rank_correlation_is_spearmans_with_ties(maps: np.ndarray) -> None:
    first = maps.reshape(3, 4, -1)
    second = np.round(first + 0.5 * np.random.default_rng(2).normal(0, 1, first.shape), 0).astype(np.float32)
    found = rank_correlation(first, second)
    for place in np.ndindex(3, 4):
        assert found[place] == pytest.approx(stats.spearmanr(first[place], second[place]).statistic, abs=1e-9)


def test_each_figure_is_blind_to_something_else(maps: np.ndarray) -> None:
    stronger = compare_maps(maps, 2 * maps)
    assert stronger.cosine == pytest.approx(1)
    assert stronger.ssim.max() < 0.95
    bent = compare_maps(maps, np.exp(2 * maps).astype(np.float32))
    assert bent.rank_correlation == pytest.approx(1)
    assert bent.cosine.max() < 0.9
    permuted = compare_maps(maps, np.roll(maps, 1, axis=1))
    assert max(permuted.cosine.max(), permuted.ssim.max(), permuted.rank_correlation.max()) < 0.5


def test_flat_maps_are_similar_only_if_they_are_equal() -> None:
    flat, ramp = np.ones((1, 1, 8, 8), np.float32), np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8)
    same, other = compare_maps(flat, flat), compare_maps(flat, ramp)
    assert (same.cosine.item(), same.ssim.item(), same.rank_correlation.item()) == pytest.approx((1, 1, 1))
    assert (other.ssim.item(), other.rank_correlation.item()) == (0, 0)
    assert compare_maps(flat, 2 * flat).ssim.item() == 0


def test_non_finite_maps_and_other_shapes_are_refused(maps: np.ndarray) -> None:
    broken = maps.copy()
    broken[0, 0, 0, 0] = np.nan
    with pytest.raises(FocalEdgeError, match="NaN or infinite"):
        compare_maps(maps, broken)
    with pytest.raises(FocalEdgeError, match="one shape"):
        compare_maps(maps, maps[:, :3])


def test_figures_name_the_worst_image_and_its_map() -> None:
    cosine = np.full((9, 4), 0.999)
    cosine[5, 2], cosine[1, 3] = 0.2, 0.6
    similarity = MapSimilarity(cosine, np.ones((9, 4)), np.ones((9, 4)))
    assert similarity.worst_places(2) == [(5, 2), (1, 3)]
    predictions = SimpleNamespace(similarity=similarity)
    context: Any = SimpleNamespace(predictions=predictions, ids=[f"p{index}" for index in range(9)])
    figures: Any = measure_map_similarity(context)
    assert [(each["id"], each["map"]) for each in figures["worst"][:2]] == [("p5", "global gate"), ("p1", "modulator")]
    assert figures["lowest_mean_cosine"] == pytest.approx(cosine[:, 2].mean())
    assert figures["lowest_mean_ssim"] == 1
    assert all(sum(each["cosine"]["histogram"]) == 9 for each in figures["maps"])
    assert map_names(4) == ["focal level 1", "focal level 2", "global gate", "modulator"]
