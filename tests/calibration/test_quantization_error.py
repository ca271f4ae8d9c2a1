"""Quantization error against TensorFlow's fake quantization and SciPy's entropy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from calibration.quantization_error import LEVELS, divergence, mean_excess, mean_squared_error
from tests.support.distributions import DISTRIBUTIONS, Values, histogram_of, normal

by_distribution = pytest.mark.parametrize("values", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS.keys())


@by_distribution
@pytest.mark.parametrize("shares", [(1.0, 1.0), (0.9, 0.35), (0.1, 0.8), (0.06, 0.05)])
def test_the_squared_error_is_that_of_tensorflows_fake_quantization(
    values: Values, shares: tuple[float, float]
) -> None:
    import tensorflow as tf

    histogram = histogram_of(values)
    low, high = shares[0] * histogram.low, shares[1] * histogram.high
    quantized = tf.quantization.fake_quant_with_min_max_args(values, low, high).numpy()
    (error,) = mean_squared_error(histogram, np.array([low]), np.array([high]))
    assert error == pytest.approx(((values - quantized).astype(np.float64) ** 2).mean(), rel=0.02)


def test_squared_errors_of_many_ranges_are_those_of_each() -> None:
    histogram = histogram_of(DISTRIBUTIONS["lopsided"])
    lows, highs = np.linspace(-0.4, -0.01, 30), np.linspace(20.0, 1.0, 30)
    each = [
        mean_squared_error(histogram, np.array([low]), np.array([high]))[0]
        for low, high in zip(lows, highs, strict=True)
    ]
    np.testing.assert_allclose(mean_squared_error(histogram, lows, highs), each, rtol=1e-12)
    assert mean_squared_error(histogram, lows, highs[0])[7] == pytest.approx(
        mean_squared_error(histogram, lows[7:8], highs[:1])[0]
    )


@by_distribution
def test_the_mean_excess_is_counted(values: Values) -> None:
    histogram = histogram_of(values)
    points = np.linspace(histogram.low, histogram.high, 57)
    expected = [np.maximum(values.astype(np.float64) - point, 0.0).mean() for point in points]
    bin_width = (histogram.high - histogram.low) / len(histogram.counts)
    np.testing.assert_allclose(mean_excess(histogram, points), expected, atol=bin_width)


def plain_divergence(counts: NDArray[np.float64], first: int, last: int) -> float:
    """KL(P || Q) bin by bin, as in TensorRT's calibration except for Q's scale."""
    kept = counts[first : last + 1]
    true = kept.copy()
    true[0] += counts[:first].sum()
    true[-1] += counts[last + 1 :].sum()
    level = np.arange(len(kept)) * LEVELS // len(kept)
    spread = np.zeros_like(kept)
    for each in np.unique(level):
        holding = (level == each) & (kept > 0)
        if holding.any():
            spread[holding] = kept[level == each].sum() / holding.sum()
    # SciPy scales both to 1; here Q sums to the share that is kept.
    return float(scipy.stats.entropy(true, spread)) - np.log(kept.sum() / counts.sum())


@by_distribution
@pytest.mark.parametrize("bins", [128, 1024])
def test_the_divergence_is_scipys(values: Values, bins: int) -> None:
    counts = histogram_of(values, bins).counts.astype(np.float64)
    held = np.flatnonzero(counts)
    rng = np.random.default_rng(5)
    ranges = np.sort(rng.choice(held, (25, 2)), axis=1)
    ranges[0] = held[len(held) // 2]
    expected = [plain_divergence(counts, first, last) for first, last in ranges]
    np.testing.assert_allclose(divergence(counts, *ranges.T), expected, rtol=1e-9, atol=1e-12)


def test_clipping_onto_an_empty_bin_diverges_infinitely() -> None:
    counts = np.array([0.0, 0.0, 5.0, 1.0, 0.0])
    found = divergence(counts, np.array([0, 0, 1, 0]), np.array([1, 4, 3, 2]))
    assert found[0] == np.inf
    assert found[1:3].tolist() == [0.0, 0.0]
    assert 0.0 < found[3] < np.inf


def test_a_relus_zeros_make_a_wide_range_diverge() -> None:
    # The reason why the observer replaces their count.
    positive = np.abs(normal())
    with_zeros = np.append(positive, np.zeros(300_000))
    widest = [
        divergence(histogram_of(values).counts.astype(np.float64), np.array([0]), np.array([4095]))[0]
        for values in (positive, with_zeros)
    ]
    assert widest[1] > 10.0 * widest[0]
