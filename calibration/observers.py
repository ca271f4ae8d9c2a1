"""Observers: rules that choose the int8 range of a layer from the histogram of its output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from calibration.histogram import Histogram
from calibration.quantization_error import Floats, Indices, divergence, mean_squared_error
from runtime.core.errors import ConfigError

Range = tuple[float, float]
# Takes a histogram with low < high.
Observer = Callable[[Histogram], Range]

DEFAULT_OBSERVER = "percentile"
DEFAULT_PERCENTILE = 99.99
# The search's two grids, as factors of an end: every quarter octave from the extreme down, then every 1/64 octave
# around the best of those. Factor 1 comes first: the search starts there.
COARSE = 2.0 ** -np.arange(0.0, 12.25, 0.25)
FINE = 2.0 ** np.append(0.0, np.delete(np.arange(-16, 17), 16) / 64.0)


def minmax(histogram: Histogram) -> Range:
    """Return the range of all values."""
    return histogram.low, histogram.high


def percentile(histogram: Histogram, percent: float) -> Range:
    """Return the range that keeps `percent` percent of the values and clips equal shares at both ends."""
    counts, edges = histogram.counts, histogram.edges
    cumulated = np.cumsum(counts) / counts.sum()
    clipped = (1.0 - percent / 100.0) / 2.0
    first = int(np.searchsorted(cumulated, clipped, side="right"))
    last = int(np.searchsorted(cumulated, 1.0 - clipped, side="left"))
    return float(edges[min(first, len(counts) - 1)]), float(edges[min(last, len(counts) - 1) + 1])


def mse(histogram: Histogram) -> Range:
    """Return the range with the least mean squared error of clipping and rounding together."""
    return _least(partial(mean_squared_error, histogram), histogram)


def entropy(histogram: Histogram) -> Range:
    """Return the range with the least Kullback-Leibler divergence of the quantized distribution from the true one.

    This is TensorRT's entropy calibration (S. Migacz, 8-bit Inference with TensorRT, GTC 2017) with these differences:

    - Both ends of a range are searched; TensorRT has one threshold for both signs, with 128 levels each.
    - The levels share the bins evenly. In ONNX Runtime the last level takes the remainder, and the divergence jumps
      with the number of bins.
    - The bin of 0 gets its neighbours' mean count. Every range represents 0 exactly, and the zeros of a ReLU would
      otherwise narrow the range to a few bins around them (NVIDIA's pytorch-quantization drops its first bin).
    - A range ends at bins that hold values. Clipping onto an empty bin would diverge infinitely; others smooth that.
    - The quantized distribution lacks the clipped values and is not rescaled. Rescaled, a range of one bin would
      have no divergence, however much it clips; TensorRT tries no range of fewer than 128 bins.

    Only the shape counts: the distance by which a value is clipped does not matter.
    """
    zero = _zero_bin(histogram)
    counts = histogram.counts.astype(np.float64)
    counts[zero] = np.append(counts[max(zero - 1, 0) : zero], counts[zero + 1 : zero + 2]).mean()
    bins_within = partial(_bins_within, histogram, zero, np.flatnonzero(counts))

    def error(lows: Floats, highs: Floats) -> Floats:
        return divergence(counts, *bins_within(lows, highs))

    first, last = bins_within(*_least(error, histogram))
    return float(histogram.edges[first]), float(histogram.edges[last + 1])


@dataclass(frozen=True)
class ObserverRow:
    """A row of `OBSERVERS`.

    Attributes:
        choose: returns the range of a histogram; takes `percent` too if there is a default for it.
        summary: for the help page.
        default_percent: percent of the values kept; `None` if the observer has no such parameter.
    """

    choose: Callable[..., Range]
    summary: str
    default_percent: float | None = None


OBSERVERS = {
    "minmax": ObserverRow(minmax, "clips nothing, so outliers cost resolution"),
    "percentile": ObserverRow(percentile, "clips the rarest values", DEFAULT_PERCENTILE),
    "mse": ObserverRow(mse, "least squared error, for post-training quantization above all"),
    "entropy": ObserverRow(entropy, "least divergence, as in TensorRT, to compare with it"),
}


def find_observer(name: str, percent: float | None = None) -> Observer:
    """Return an observer by name.

    Args:
        name: one of `OBSERVERS`.
        percent: percent of the values that "percentile" keeps, above 50 and up to 100; `None` for the others.

    Raises:
        ConfigError: the observer is unknown, or the percentile is out of range, missing or not applicable.
    """
    if name not in OBSERVERS:
        raise ConfigError(f"received observer {name!r}; expected one of {', '.join(OBSERVERS)}")
    row = OBSERVERS[name]
    if row.default_percent is None:
        if percent is not None:
            raise ConfigError(
                f"received percentile {percent} for observer {name}, which has none; "
                "leave it out or choose observer percentile"
            )
        return row.choose
    if percent is None or not 50.0 < percent <= 100.0:
        raise ConfigError(f"received percentile {percent}; expected more than 50 and at most 100")
    return partial(row.choose, percent=percent)


def choose_ranges(histograms: Mapping[str, Histogram], observer: Observer) -> dict[str, Range]:
    """Choose the range of every layer's output.

    Args:
        histograms: by layer.
        observer: returns the range of a histogram.

    Returns:
        `(min, max)` by layer, widened to include 0, which int8 must represent exactly.
    """
    ranges = {}
    for layer, histogram in histograms.items():
        always_zero = histogram.low == histogram.high
        low, high = (0.0, 0.0) if always_zero else observer(histogram)
        ranges[layer] = min(0.0, low), max(0.0, high)
    return ranges


def _least(error: Callable[[Floats, Floats], Floats], histogram: Histogram) -> Range:
    """Return the ends with the least error, searched on a coarse grid from the widest range, then on a fine one."""
    low, high = histogram.low, histogram.high
    for factors in (COARSE, FINE):
        lows = np.maximum(low * factors, histogram.low)
        highs = np.minimum(high * factors, histogram.high)
        low, high = _least_of(error, lows, highs)
    return low, high


def _least_of(error: Callable[[Floats, Floats], Floats], lows: Floats, highs: Floats) -> Range:
    """Return the ends found by alternating: the best low end for the high one, then the reverse, until neither moves.

    It terminates: each move lowers the error or, at equal error, goes to an earlier index.
    """
    low = high = 0
    while True:
        before = low, high
        low = int(np.argmin(error(lows, highs[high])))
        high = int(np.argmin(error(lows[low], highs)))
        if (low, high) == before:
            return float(lows[low]), float(highs[high])


def _zero_bin(histogram: Histogram) -> int:
    """Return the index of the bin that contains 0."""
    bins = len(histogram.counts)
    return min(int(-histogram.low / (histogram.high - histogram.low) * bins), bins - 1)


def _bins_within(
    histogram: Histogram, zero: int, held: Indices, lows: Floats | float, highs: Floats | float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first and last bin of ranges, moved inwards to the next non-empty bin, but not past the bin of 0."""
    width = (histogram.high - histogram.low) / len(histogram.counts)
    firsts = np.rint((np.asarray(lows) - histogram.low) / width)
    lasts = np.rint((np.asarray(highs) - histogram.low) / width) - 1.0
    after, before = np.searchsorted(held, firsts), np.searchsorted(held, lasts, side="right") - 1
    # Without such a bin `after` is len(held) and `before` is -1: both select `zero`.
    or_zero = np.append(held, zero)
    return np.minimum(or_zero[after], zero), np.maximum(or_zero[before], zero)
