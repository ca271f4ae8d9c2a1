"""Observers: from a layer's activations to the range that int8 will cover."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ConfigError, DataError

Observer = Literal["minmax", "percentile"]
Range = tuple[float, float]
Activations = dict[str, NDArray[np.float32]]

OBSERVERS: tuple[Observer, ...] = ("minmax", "percentile")
HISTOGRAM_BINS = 4096


def observe(
    batches: Callable[[], Iterable[Activations]], observer: Observer, percentile: float = 99.99
) -> dict[str, Range]:
    """Measure the range of every layer's output.

    Args:
        batches: gives the activations of all calibration batches, by layer, afresh at each call.
        observer: "minmax" covers every value; "percentile" clips the same share at either end.
        percentile: the share that "percentile" keeps, in percent, above 50 and up to 100.

    Returns:
        `(min, max)` by layer, each widened to hold 0, which int8 must represent exactly.

    Raises:
        ConfigError: an unknown observer or a percentile out of range.
        DataError: there is no batch, or an activation is not finite.
    """
    if observer not in OBSERVERS:
        raise ConfigError(f"received observer {observer!r}; expected one of {', '.join(OBSERVERS)}")
    if not 50.0 < percentile <= 100.0:
        raise ConfigError(f"received percentile {percentile}; expected more than 50 and at most 100")
    extremes = _extremes(batches())
    if observer == "minmax":
        ranges = extremes
    else:
        histograms = _histograms(batches(), extremes)
        ranges = {layer: _central_range(counts, extremes[layer], percentile) for layer, counts in histograms.items()}
    return {layer: (min(low, 0.0), max(high, 0.0)) for layer, (low, high) in ranges.items()}


def _extremes(batches: Iterable[Activations]) -> dict[str, Range]:
    extremes: dict[str, Range] = {}
    for batch in batches:
        for layer, values in batch.items():
            low, high = float(values.min()), float(values.max())
            if not np.isfinite([low, high]).all():
                raise DataError(f"layer {layer} gives values that are not finite; train the run anew")
            before = extremes.get(layer, (low, high))
            extremes[layer] = min(before[0], low), max(before[1], high)
    if not extremes:
        raise DataError("received no calibration batch; expected at least one picture")
    return extremes


def _histograms(batches: Iterable[Activations], extremes: dict[str, Range]) -> dict[str, NDArray[np.int64]]:
    counts = {layer: np.zeros(HISTOGRAM_BINS, dtype=np.int64) for layer in extremes}
    for batch in batches:
        for layer, values in batch.items():
            low, high = extremes[layer]
            # In 0..1 and float64, as float32 has no room for the bins of a nearly constant activation;
            # one that is constant has no width to divide by.
            shares = (values.astype(np.float64) - low) / ((high - low) or 1.0)
            counts[layer] += np.histogram(shares, HISTOGRAM_BINS, (0.0, 1.0))[0]
    return counts


def _central_range(counts: NDArray[np.int64], extremes: Range, percentile: float) -> Range:
    """Return the edges of the histogram between which `percentile` percent of the values lie."""
    low, high = extremes
    edges = np.linspace(low, high, len(counts) + 1)
    cumulated = np.cumsum(counts) / counts.sum()
    clipped = (1.0 - percentile / 100.0) / 2.0
    first = int(np.searchsorted(cumulated, clipped, side="right"))
    last = int(np.searchsorted(cumulated, 1.0 - clipped, side="left"))
    return float(edges[min(first, len(counts) - 1)]), float(edges[min(last, len(counts) - 1) + 1])
