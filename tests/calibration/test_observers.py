"""Observers against brute force and NumPy, and refusal of bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration.histogram import HISTOGRAM_BINS, Histogram
from calibration.observers import (
    OBSERVERS,
    Range,
    choose_ranges,
    entropy,
    find_observer,
    minmax,
    mse,
    percentile,
)
from calibration.quantization_error import divergence, mean_squared_error
from runtime.core.errors import ConfigError
from tests.support.distributions import DISTRIBUTIONS, Values, histogram_of, normal

by_distribution = pytest.mark.parametrize("values", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS.keys())
by_observer = pytest.mark.parametrize("name", OBSERVERS)


def observe(values: NDArray[np.floating], name: str, percent: float = 99.99) -> Range:
    """Return the range that an observer chooses for values."""
    observer = find_observer(name, percent if name == "percentile" else None)
    return choose_ranges({"a": histogram_of(values)}, observer)["a"]


def quantized(values: Values, ends: Range) -> Values:
    """Round to 256 levels as TFLite does: the zero point is an integer, and 0 stays 0."""
    step = (ends[1] - ends[0]) / 255.0
    zero_point = round(-ends[0] / step)
    return (np.clip(np.round(values / step) + zero_point, 0, 255) - zero_point) * step


def error_of(values: Values, ends: Range, weights: Values | None = None) -> float:
    return float(np.average((values - quantized(values, ends)) ** 2, weights=weights))


def test_minmax_is_the_extremes_of_all_values() -> None:
    values = normal()
    assert observe(values, "minmax") == (float(values.min()), float(values.max()))


@pytest.mark.parametrize("percent", [60.0, 90.0, 99.0, 99.9, 99.99, 100.0])
def test_percentile_is_numpys_within_a_bin(percent: float) -> None:
    values = normal()
    tail = (100.0 - percent) / 2.0
    bin_width = float(np.ptp(values)) / HISTOGRAM_BINS
    for end, share in zip(observe(values, "percentile", percent), (tail, 100 - tail), strict=True):
        # Between the two values around the percentile, where NumPy interpolates.
        assert end >= np.percentile(values, share, method="lower") - bin_width
        assert end <= np.percentile(values, share, method="higher") + bin_width


@pytest.mark.parametrize("name", ["percentile", "entropy"])
def test_an_outlier_is_clipped_except_by_minmax(name: str) -> None:
    values = normal()
    values[17] = 1000.0
    assert observe(values, "minmax")[1] == 1000.0
    assert observe(values, name, 99.9)[1] < 6.0


def test_mse_clips_an_outlier_if_the_other_values_are_many() -> None:
    few, many = normal(), normal(count=1_000_000)
    few[17] = many[17] = 40.0
    assert observe(few, "mse")[1] > 35.0
    assert 4.0 < observe(many, "mse")[1] < 20.0


def test_percentile_keeps_at_least_its_share() -> None:
    values = np.random.default_rng(1).lognormal(0.0, 2.0, 5_000).astype(np.float32)
    low, high = observe(values, "percentile", 98.0)
    kept = ((values >= low) & (values <= high)).mean()
    assert 0.98 <= kept < 0.999


@by_distribution
def test_mse_is_nearly_the_best_of_a_fine_grid(values: Values) -> None:
    histogram = histogram_of(values, bins=64)
    # 40 evenly spread points a bin.
    points = np.linspace(histogram.low, histogram.high, 64 * 40, endpoint=False) + 0.5 / 40 / 64 * np.ptp(
        histogram.edges
    )
    weights = np.repeat(histogram.counts / 40.0, 40)
    shares = np.linspace(1.0, 0.02, 50)
    pairs = {(low * histogram.low, high * histogram.high) for low in shares for high in shares}
    best = min(error_of(points, ends, weights) for ends in pairs)
    assert error_of(points, mse(histogram), weights) <= 1.01 * best


@settings(deadline=None, max_examples=60)
@given(
    family=st.sampled_from(["normal", "laplace", "uniform", "lognormal", "standard_cauchy"]),
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(500, 4000),
    offset=st.floats(-5.0, 5.0),
    floor=st.sampled_from([-np.inf, 0.0]),
    outlier=st.floats(-100.0, 100.0),
)
def test_mse_is_no_worse_than_minmax_and_percentile(
    family: str, seed: int, count: int, offset: float, floor: float, outlier: float
) -> None:
    values = getattr(np.random.default_rng(seed), family)(size=count) + offset
    histogram = histogram_of(np.append(np.maximum(values, floor), outlier))
    assume(histogram.low < histogram.high)
    candidates = [minmax(histogram), mse(histogram)]
    candidates += [percentile(histogram, percent) for percent in (99.0, 99.9, 99.99)]
    ends = np.array([(min(low, 0.0), max(high, 0.0)) for low, high in candidates])
    widest, found, *clipped = mean_squared_error(histogram, ends[:, 0], ends[:, 1])
    assert found <= widest
    # The margin covers the grid of ends and small samples: for one draw of 500 values the 99th percentile's error is
    # 0.78 of the found one.
    assert found <= 1.5 * min(clipped)


@pytest.mark.parametrize("outlier", [12.0, 100.0, -1000.0])
def test_entropy_clips_a_far_outlier(outlier: float) -> None:
    low, high = entropy(histogram_of(np.append(normal(count=200_000), outlier)))
    assert -6.5 < low < -2.0
    assert 2.0 < high < 6.5


def test_entropy_clips_outliers_at_both_ends() -> None:
    low, high = entropy(histogram_of(np.append(normal(count=200_000), [-200.0, 90.0])))
    assert -6.5 < low < -2.0
    assert 2.0 < high < 6.5


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 3.0), (-2.0, 0.5), (-4.0, 0.0)])
def test_entropy_keeps_a_uniform_distribution_whole(low: float, high: float) -> None:
    values = np.random.default_rng(3).uniform(low, high, 400_000)
    assert entropy(histogram_of(values)) == pytest.approx((low, high), abs=0.02 * (high - low))


def test_a_relus_zeros_do_not_narrow_the_entropys_range() -> None:
    positive = np.abs(normal())
    without = entropy(histogram_of(positive))
    assert entropy(histogram_of(np.append(positive, np.zeros(300_000)))) == without
    assert without[0] == 0.0
    assert without[1] > 2.0


def test_entropy_keeps_evenly_spread_values() -> None:
    values = np.repeat(np.arange(256.0), 50)
    assert entropy(histogram_of(values)) == (0.0, 255.0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_entropy_does_not_choose_a_range_that_clips_nearly_all(sign: float) -> None:
    # A range of one bin near 0 would clip all values onto that bin, without divergence.
    low, high = entropy(histogram_of(sign * normal(30.0)))
    assert max(high, -low) > 31.0
    assert min(high, -low) == 0.0


@by_distribution
def test_entropys_divergence_is_less_than_minmaxs(values: Values) -> None:
    histogram = histogram_of(values)
    edges, counts = histogram.edges, histogram.counts.astype(np.float64)
    ends = [entropy(histogram), minmax(histogram)]
    firsts = np.array([np.searchsorted(edges, low) for low, _ in ends])
    lasts = np.array([np.searchsorted(edges, high) - 1 for _, high in ends])
    found, widest = divergence(counts, firsts, lasts)
    assert found <= widest


@by_observer
@pytest.mark.parametrize(("sign", "end"), [(1.0, 0), (-1.0, 1)])
def test_one_sided_values_keep_0_as_an_end(name: str, sign: float, end: int) -> None:
    histogram = histogram_of(sign * np.maximum(normal(), 0.0))
    found = find_observer(name, 99.9 if name == "percentile" else None)(histogram)
    assert found[end] == 0.0
    assert sign * found[1 - end] > 1.5


@pytest.mark.parametrize("observer", [mse, entropy])
@pytest.mark.parametrize(
    "values", [[0.0, 1.0], [-1e30, 1e30], [-3e38, 3e38], [0.0, 1e-42], [-1e-45, 5.0], [0.0, 0.0, 7.0]]
)
def test_two_or_three_values_are_kept(observer: Callable[[Histogram], Range], values: list[float]) -> None:
    expected = min(values), max(values)
    tolerance = 0.01 * (expected[1] - expected[0])
    assert observer(histogram_of(np.array(values))) == pytest.approx(expected, abs=tolerance)


@by_observer
@pytest.mark.parametrize(("offset", "end"), [(50.0, 0), (-50.0, 1)])
def test_ranges_include_zero(name: str, offset: float, end: int) -> None:
    found = observe(normal(offset), name, 99.0)
    assert found[end] == 0.0
    assert abs(found[1 - end]) > 50.0


@by_observer
@pytest.mark.parametrize("constant", [0.0, -0.0, 3.5, -2.0, 1e-30, 1e30])
def test_a_constant_is_covered(name: str, constant: float) -> None:
    values = np.full(100, constant, np.float32)
    expected = (min(float(values[0]), 0.0), max(float(values[0]), 0.0))
    assert observe(values, name) == expected


@by_observer
def test_a_single_value_is_covered(name: str) -> None:
    assert observe(np.array([2.5], np.float32), name) == (0.0, 2.5)


@pytest.mark.parametrize("pair", [(1.0, 1.0 + 1e-6), (1.0, 1.0003), (0.0, 1e-42), (-1e30, 1e30)])
def test_two_values_are_covered(pair: tuple[float, float]) -> None:
    values = np.array(pair, np.float32)
    low, high = observe(values, "percentile", 99.0)
    assert (low, high) == (min(float(values[0]), 0.0), float(values[1]))


@by_observer
@settings(deadline=None, max_examples=60)
@given(values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_a_range_is_within_the_extremes_and_0(name: str, values: list[float]) -> None:
    low, high = observe(np.array(values, np.float32), name)
    assert min(*values, 0.0) <= low <= 0.0 <= high <= max(*values, 0.0)
    assert low < high or not any(values)


@pytest.mark.parametrize("name", ["median", "MSE", "", None])
def test_refuses_an_unknown_observer(name: Any) -> None:
    with pytest.raises(ConfigError, match="expected one of minmax, percentile, mse, entropy"):
        find_observer(name)


@pytest.mark.parametrize("percent", [50.0, 0.0, -1.0, 100.1, float("nan"), None])
def test_refuses_a_percentile_out_of_range(percent: float | None) -> None:
    with pytest.raises(ConfigError, match="more than 50 and at most 100"):
        find_observer("percentile", percent)


@pytest.mark.parametrize("name", ["minmax", "mse", "entropy"])
def test_refuses_a_percentile_for_another_observer(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"received percentile 99.9 for observer {name}, which has none"):
        find_observer(name, 99.9)
