"""Observers against NumPy, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.ranges import HISTOGRAM_BINS, Activations, observe
from runtime.errors import ConfigError, DataError


def batches_of(values: NDArray[np.float32], layer: str = "a", parts: int = 4) -> Callable[[], list[Activations]]:
    pieces = [{layer: part} for part in np.array_split(values, parts)]
    return lambda: pieces


def normal(offset: float = 0.0, count: int = 20_000) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(offset, 1.0, count).astype(np.float32)


def test_minmax_is_the_extremes_of_all_batches() -> None:
    values = normal().reshape(-1, 5, 5, 8)
    assert observe(batches_of(values), "minmax") == {"a": (float(values.min()), float(values.max()))}


@pytest.mark.parametrize("percentile", [60.0, 90.0, 99.0, 99.9, 99.99, 100.0])
def test_percentile_is_numpys_within_a_bin(percentile: float) -> None:
    values = normal()
    tail = (100.0 - percentile) / 2.0
    bin_width = float(np.ptp(values)) / HISTOGRAM_BINS
    for end, share in zip(observe(batches_of(values), "percentile", percentile)["a"], (tail, 100 - tail), strict=True):
        # Between the two values around the percentile, where NumPy interpolates.
        assert end >= np.percentile(values, share, method="lower") - bin_width
        assert end <= np.percentile(values, share, method="higher") + bin_width


def test_percentile_clips_an_outlier_and_minmax_does_not() -> None:
    values = normal()
    values[17] = 1000.0
    assert observe(batches_of(values), "minmax")["a"][1] == 1000.0
    assert observe(batches_of(values), "percentile", 99.9)["a"][1] < 5.0


def test_percentile_keeps_at_least_its_share() -> None:
    values = np.random.default_rng(1).lognormal(0.0, 2.0, 5_000).astype(np.float32)
    low, high = observe(batches_of(values), "percentile", 98.0)["a"]
    kept = ((values >= low) & (values <= high)).mean()
    assert 0.98 <= kept < 0.999


def test_batches_may_differ_in_size_and_layers_in_shape() -> None:
    batches = [{"a": normal(count=64), "b": normal(3.0, 12)}, {"a": normal(count=8), "b": normal(5.0, 3)}]
    ranges = observe(lambda: batches, "percentile", 100.0)
    assert list(ranges) == ["a", "b"]
    assert ranges["b"][1] == pytest.approx(max(batch["b"].max() for batch in batches))


@pytest.mark.parametrize("observer", ["minmax", "percentile"])
@pytest.mark.parametrize(("offset", "end"), [(50.0, 0), (-50.0, 1)])
def test_ranges_hold_zero(observer: str, offset: float, end: int) -> None:
    assert observe(batches_of(normal(offset)), observer, 99.0)["a"][end] == 0.0  # type: ignore[arg-type]


@pytest.mark.parametrize("observer", ["minmax", "percentile"])
@pytest.mark.parametrize("constant", [0.0, 3.5, -2.0, 1e-30, 1e30])
def test_a_constant_is_covered(observer: str, constant: float) -> None:
    values = np.full(100, constant, np.float32)
    expected = (min(float(values[0]), 0.0), max(float(values[0]), 0.0))
    assert observe(batches_of(values), observer) == {"a": expected}  # type: ignore[arg-type]


@pytest.mark.parametrize("pair", [(1.0, 1.0 + 1e-6), (1.0, 1.0003), (0.0, 1e-42), (-1e30, 1e30)])
def test_few_values_however_close_or_far_are_covered(pair: tuple[float, float]) -> None:
    values = np.array(pair, np.float32)
    low, high = observe(batches_of(values, parts=1), "percentile", 99.0)["a"]
    assert (low, high) == (min(float(values[0]), 0.0), float(values[1]))


@pytest.mark.parametrize("observer", ["minmax", "percentile"])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_refuses_what_is_not_finite(observer: str, poison: float) -> None:
    values = normal()
    values[-1] = poison
    with pytest.raises(DataError, match=r"layer sick .*not finite"):
        observe(batches_of(values, "sick"), observer)  # type: ignore[arg-type]


@pytest.mark.parametrize("observer", ["minmax", "percentile"])
def test_refuses_no_batch(observer: str) -> None:
    with pytest.raises(DataError, match="no calibration batch"):
        observe(list, observer)  # type: ignore[arg-type]


def test_each_pass_asks_for_the_batches_anew() -> None:
    values = normal()
    calls = []

    def generator() -> Callable[[], object]:
        calls.append(1)
        return ({"a": part} for part in np.array_split(values, 3))  # type: ignore[return-value]

    from_generator = observe(generator, "percentile", 99.0)  # type: ignore[arg-type]
    assert len(calls) == 2
    assert from_generator == observe(batches_of(values), "percentile", 99.0)


def test_refuses_an_unknown_observer() -> None:
    with pytest.raises(ConfigError, match=r"'entropy'; expected one of minmax, percentile"):
        observe(batches_of(normal()), "entropy")  # type: ignore[arg-type]


@pytest.mark.parametrize("percentile", [50.0, 0.0, -1.0, 100.1, float("nan")])
def test_refuses_a_percentile_out_of_range(percentile: float) -> None:
    with pytest.raises(ConfigError, match="more than 50 and at most 100"):
        observe(batches_of(normal()), "percentile", percentile)
