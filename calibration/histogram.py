"""Histograms of a network's activations, one a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.core.errors import DataError

Activations = dict[str, NDArray[np.float32]]

# 16 bins for each of the 256 int8 values at the widest range.
HISTOGRAM_BINS = 4096
# Small enough for the processor's cache.
COUNTED_AT_ONCE = 1 << 16


@dataclass(frozen=True, eq=False)
class Histogram:
    """Value counts of a layer's output.

    Attributes:
        counts: int64 `[B]`, in bins of equal width, B at least 2.
        low: lower edge of the first bin: the least value seen, or 0 if that is positive.
        high: upper edge of the last bin: the largest value seen, or 0 if that is negative.
    """

    counts: NDArray[np.int64]
    low: float
    high: float

    @property
    def edges(self) -> NDArray[np.float64]:
        """Bin edges, float64 `[B + 1]`."""
        return np.linspace(self.low, self.high, len(self.counts) + 1)

    @property
    def middles(self) -> NDArray[np.float64]:
        """Bin centres, float64 `[B]`."""
        edges = self.edges
        return np.asarray((edges[:-1] + edges[1:]) / 2.0)

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of the values in each bin, float64 `[B]`, sum 1."""
        return np.asarray(self.counts / self.counts.sum())


def collect_histograms(batches: Callable[[], Iterable[Activations]]) -> dict[str, Histogram]:
    """Count the values of every layer's output in two passes: first the extremes, then the bins.

    Args:
        batches: returns the activations of all calibration batches, by layer; called once a pass.

    Returns:
        Histograms by layer, each from the least to the largest value, 0 included.

    Raises:
        DataError: there is no batch, or an activation is not finite.
    """
    histograms = {
        layer: Histogram(np.zeros(HISTOGRAM_BINS, dtype=np.int64), low, high)
        for layer, (low, high) in _extremes(batches()).items()
    }
    for batch in batches():
        for layer, values in batch.items():
            _count(values.reshape(-1), histograms[layer])
    return histograms


def _count(values: NDArray[np.float32], histogram: Histogram) -> None:
    """Add values `[N]` to a histogram; same counts as `np.histogram`, four times as fast."""
    low, high = histogram.low, histogram.high
    for start in range(0, len(values), COUNTED_AT_ONCE):
        # float64: float32 overflows or underflows for bins near its limits. A layer that is always 0 has width 0.
        places = values[start : start + COUNTED_AT_ONCE].astype(np.float64)
        places -= low
        places /= (high - low) or 1.0
        places *= HISTOGRAM_BINS  # a power of 2: exact
        bins = np.minimum(places.astype(np.intp), HISTOGRAM_BINS - 1)
        histogram.counts[:] += np.bincount(bins, minlength=HISTOGRAM_BINS)


def _extremes(batches: Iterable[Activations]) -> dict[str, tuple[float, float]]:
    """Return the least and the largest value of every layer, extended to include 0."""
    extremes: dict[str, tuple[float, float]] = {}
    for batch in batches:
        for layer, values in batch.items():
            low, high = float(values.min()), float(values.max())
            if not np.isfinite([low, high]).all():
                raise DataError(f"layer {layer} outputs non-finite values; train the run again")
            before = extremes.get(layer, (0.0, 0.0))
            extremes[layer] = min(before[0], low), max(before[1], high)
    if not extremes:
        raise DataError("received no calibration batch; expected at least one image")
    return extremes
