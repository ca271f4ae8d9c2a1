"""Observers: from the histogram of a layer's output to the range that int8 will cover."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from calibration.histogram import Histogram
from calibration.quantization_error import Floats, Indices, divergence, mean_squared_error
from runtime.core.errors import ConfigError

Range = tuple[float, float]
# The histogram has low < high: of a layer that is always 0 there is nothing to choose.
Observer = Callable[[Histogram], Range]

DEFAULT_PERCENTILE = 99.99
# The search's two grids, as factors of an end: the extreme and every quarter octave below it, then every 1/64 octave
# about the best of those. The end in hand comes first, as that is where a search begins.
COARSE = 2.0 ** -np.arange(0.0, 12.25, 0.25)
FINE = 2.0 ** np.append(0.0, np.delete(np.arange(-16, 17), 16) / 64.0)


def minmax(histogram: Histogram) -> Range:
    """Return the range of all values."""
    return histogram.low, histogram.high


def percentile(histogram: Histogram, percent: float) -> Range:
    """Return the range that keeps `percent` percent of the values, and clips the same share at either end."""
    counts, edges = histogram.counts, histogram.edges
    cumulated = np.cumsum(counts) / counts.sum()
    clipped = (1.0 - percent / 100.0) / 2.0
    first = int(np.searchsorted(cumulated, clipped, side="right"))
    last = int(np.searchsorted(cumulated, 1.0 - clipped, side="left"))
    return float(edges[min(first, len(counts) - 1)]), float(edges[min(last, len(counts) - 1) + 1])


def mse(histogram: Histogram) -> Range:
    """Return the range with the least mean squared error, of clipping and rounding together."""
    return _least(partial(mean_squared_error, histogram), histogram)


def entropy(histogram: Histogram) -> Range:
    """Return the range with the least Kullback-Leibler divergence of the quantized distribution from the true one.

    It is TensorRT's entropy calibration (S. Migacz, 8-bit Inference with TensorRT, GTC 2017) but for these:

    - A range has two ends, each of them sought; TensorRT has one threshold for both signs, and 128 levels for either.
    - The levels share the bins evenly. Where each takes as many whole bins and the last one takes the rest, as in
      ONNX Runtime, the divergence jumps with the number of bins.
    - The bin of 0 counts as its neighbours do: every range represents 0 exactly, and the zeros of a ReLU would
      otherwise narrow the range to a few bins about them (NVIDIA's pytorch-quantization drops its first bin so).
    - A range ends at bins that hold values. To clip onto an empty one would diverge infinitely, which others smooth.
    - The quantized distribution lacks what is clipped, and is not scaled up for it. Scaled, a range of one bin
      would diverge by nothing, however much it clips; TensorRT tries no range of fewer than 128 bins.

    It is about shape alone: of a value that is clipped it does not matter how far.
    """
    zero = _zero_bin(histogram)
    counts = histogram.counts.astype(np.float64)
    counts[zero] = np.append(counts[max(zero - 1, 0) : zero], counts[zero + 1 : zero + 2]).mean()
    bins_within = partial(_bins_within, histogram, zero, np.flatnonzero(counts))

    def error(lows: Floats, highs: Floats) -> Floats:
        return divergence(counts, *bins_within(lows, highs))

    first, last = bins_within(*_least(error, histogram))
    return float(histogram.edges[first]), float(histogram.edges[last + 1])


# Each from a histogram to a range; "percentile" takes its percent too.
OBSERVERS: dict[str, Callable[..., Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}


def find_observer(name: str, percent: float | None = None) -> Observer:
    """Return an observer by name.

    Args:
        name: one of `OBSERVERS`.
        percent: the share that "percentile" keeps, in percent, above 50 and up to 100; `None` for the others.

    Raises:
        ConfigError: an unknown observer, or a percentile that is out of range, missing or of no account.
    """
    if name not in OBSERVERS:
        raise ConfigError(f"received observer {name!r}; expected one of {', '.join(OBSERVERS)}")
    if name != "percentile":
        if percent is not None:
            raise ConfigError(
                f"received percentile {percent} for observer {name}, which has none; "
                "leave it out or choose observer percentile"
            )
        return OBSERVERS[name]
    if percent is None or not 50.0 < percent <= 100.0:
        raise ConfigError(f"received percentile {percent}; expected more than 50 and at most 100")
    return partial(percentile, percent=percent)


def choose_ranges(histograms: Mapping[str, Histogram], observer: Observer) -> dict[str, Range]:
    """Choose the range of every layer's output.

    Args:
        histograms: by layer.
        observer: from a histogram to a range.

    Returns:
        `(min, max)` by layer, each widened to hold 0, which int8 must represent exactly.
    """
    ranges = {}
    for layer, histogram in histograms.items():
        always_zero = histogram.low == histogram.high
        low, high = (0.0, 0.0) if always_zero else observer(histogram)
        ranges[layer] = min(0.0, low), max(0.0, high)
    return ranges


def _least(error: Callable[[Floats, Floats], Floats], histogram: Histogram) -> Range:
    """Return the ends with the least error, sought on a coarse grid from the widest range, then on a fine one."""
    low, high = histogram.low, histogram.high
    for factors in (COARSE, FINE):
        lows = np.maximum(low * factors, histogram.low)
        highs = np.minimum(high * factors, histogram.high)
        low, high = _least_of(error, lows, highs)
    return low, high


def _least_of(error: Callable[[Floats, Floats], Floats], lows: Floats, highs: Floats) -> Range:
    """Return the best low end for the high one and the best high end for that, in turn, until neither moves.

    An end that moves lowers the error or, at the same error, comes earlier in its list: it stops.
    """
    low = high = 0
    while True:
        before = low, high
        low = int(np.argmin(error(lows, highs[high])))
        high = int(np.argmin(error(lows[low], highs)))
        if (low, high) == before:
            return float(lows[low]), float(highs[high])


def _zero_bin(histogram: Histogram) -> int:
    """Return the index of the bin that 0 falls into."""
    bins = len(histogram.counts)
    return min(int(-histogram.low / (histogram.high - histogram.low) * bins), bins - 1)


def _bins_within(
    histogram: Histogram, zero: int, held: Indices, lows: Floats | float, highs: Floats | float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first and the last bin of ranges, taken inwards to the next of those held, but not past that of 0."""
    width = (histogram.high - histogram.low) / len(histogram.counts)
    firsts = np.rint((np.asarray(lows) - histogram.low) / width)
    lasts = np.rint((np.asarray(highs) - histogram.low) / width) - 1.0
    after, before = np.searchsorted(held, firsts), np.searchsorted(held, lasts, side="right") - 1
    # Where there is none, `after` is the number of those held and `before` is -1: either finds `zero`.
    or_zero = np.append(held, zero)
    return np.minimum(or_zero[after], zero), np.maximum(or_zero[before], zero)
