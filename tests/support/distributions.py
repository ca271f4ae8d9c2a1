"""Typical activations, for tests of observers, and their histograms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.histogram import Histogram, collect_histograms

Values = NDArray[np.float32]


def normal(offset: float = 0.0, count: int = 20_000) -> Values:
    return np.random.default_rng(0).normal(offset, 1.0, count).astype(np.float32)


def histogram_of(values: NDArray[np.floating], bins: int = 4096) -> Histogram:
    """Return a histogram of values with `bins` bins, a divisor of 4096."""
    fine = collect_histograms(lambda: [{"layer": values.astype(np.float32)}])["layer"]
    return Histogram(fine.counts.reshape(bins, -1).sum(axis=1), fine.low, fine.high)


def _distributions() -> dict[str, Values]:
    rng = np.random.default_rng(1)
    values = {
        "normal": normal(),
        "with an outlier": np.append(normal(), 40.0),
        "one-sided": np.maximum(normal(), 0.0),
        "negative": -(np.abs(normal()) ** 1.5),
        "lopsided": rng.gamma(1.5, 2.0, 20_000) - 0.4,
        "heavy-tailed": rng.standard_t(3.0, 20_000),
        "far from 0": normal(30.0),
    }
    return {name: each.astype(np.float32) for name, each in values.items()}


DISTRIBUTIONS = _distributions()
