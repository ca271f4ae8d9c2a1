"""Histograms of activations against NumPy, and refusal of bad input."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest

from calibration.histogram import HISTOGRAM_BINS, Activations, collect_histograms
from runtime.core.errors import DataError
from tests.support.distributions import DISTRIBUTIONS, Values, normal


def batches_of(values: Values, layer: str = "a", parts: int = 4) -> Callable[[], list[Activations]]:
    pieces = [{layer: part} for part in np.array_split(values, parts)]
    return lambda: pieces


@pytest.mark.parametrize("values", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS.keys())
def test_a_histogram_is_numpys(values: Values) -> None:
    histogram = collect_histograms(batches_of(values))["a"]
    exact = values.astype(np.float64)
    assert (histogram.low, histogram.high) == (min(exact.min(), 0.0), max(exact.max(), 0.0))
    counts, edges = np.histogram(exact, HISTOGRAM_BINS, (histogram.low, histogram.high))
    np.testing.assert_allclose(histogram.edges, edges, atol=1e-12)
    # A value on an edge may fall on either side.
    assert np.abs(np.cumsum(histogram.counts - counts)).max() <= 1
    assert histogram.counts.sum() == len(values)
    assert histogram.shares.sum() == pytest.approx(1.0)
    assert histogram.middles @ histogram.shares == pytest.approx(exact.mean(), abs=np.diff(edges).max())


def test_batches_may_differ_in_size_and_layers_in_shape() -> None:
    batches = [{"a": normal(count=64), "b": normal(3.0, 12).reshape(3, 4)}, {"a": normal(count=8), "b": normal(5.0, 3)}]
    histograms = collect_histograms(lambda: batches)
    assert list(histograms) == ["a", "b"]
    assert histograms["b"].high == max(batch["b"].max() for batch in batches)
    assert [histogram.counts.sum() for histogram in histograms.values()] == [72, 15]


def test_each_pass_requests_the_batches() -> None:
    values = normal()
    calls = []

    def generator() -> Iterable[Activations]:
        calls.append(1)
        return ({"a": part} for part in np.array_split(values, 3))

    from_generator = collect_histograms(generator)["a"]
    assert len(calls) == 2
    np.testing.assert_array_equal(from_generator.counts, collect_histograms(batches_of(values))["a"].counts)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_refuses_non_finite_activations(poison: float) -> None:
    values = normal()
    values[-1] = poison
    with pytest.raises(DataError, match=r"layer sick outputs non-finite"):
        collect_histograms(batches_of(values, "sick"))


def test_refuses_no_batch() -> None:
    with pytest.raises(DataError, match="no calibration batch"):
        collect_histograms(list)
