"""Quantization error of a range: mean squared error, and divergence of the distribution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.histogram import Histogram

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

LEVELS = 256


def mean_squared_error(histogram: Histogram, lows: Floats, highs: Floats) -> Floats:
    """Return the mean of (value - quantized)^2 for each of several ranges, clipping and rounding together.

    The 256 levels are those of TensorFlow's FakeQuant: evenly spaced, shifted by less than half a step so that 0 is
    one of them. Values are taken as evenly spread within a bin.

    With the least level v0, the step s and the borders b between neighbouring levels, it is
    E[(x - v0)^2] - 2 s sum_b E[max(x - b, 0)]: at b the nearest level changes from v to v + s, and the error from
    (x - v)^2 to (x - v - s)^2, which is smaller by 2 s (x - b).

    Args:
        histogram: with low < high.
        lows: float64 `[C]`, or one for all, `[]`; not above 0.
        highs: float64 `[C]`, or one for all, `[]`; not below 0, and above 0 where the low end is 0.

    Returns:
        float64 `[C]`.
    """
    lows, highs = np.broadcast_arrays(lows, highs)
    step = (highs - lows) / (LEVELS - 1)
    least = -np.floor(0.5 - lows / step) * step
    borders = least[:, np.newaxis] + step[:, np.newaxis] * (np.arange(LEVELS - 1) + 0.5)
    width = (histogram.high - histogram.low) / len(histogram.counts)
    middles, shares = histogram.middles, histogram.shares
    mean, mean_square = middles @ shares, np.square(middles) @ shares + width**2 / 12.0
    from_least = mean_square - 2.0 * least * mean + np.square(least)
    return np.asarray(from_least - 2.0 * step * mean_excess(histogram, borders).sum(axis=1))


def mean_excess(histogram: Histogram, points: Floats) -> Floats:
    """Return the mean excess of values over points, E[max(x - point, 0)].

    Args:
        histogram: with low < high; values are taken as evenly spread within a bin.
        points: float64 of any shape, within the histogram.

    Returns:
        float64 of the same shape.
    """
    bins = len(histogram.counts)
    width = (histogram.high - histogram.low) / bins
    beyond = np.append(np.cumsum(histogram.shares[::-1])[::-1], 0.0)  # share of the values, at each edge
    # In units of bins: a quadratic spline with slope minus the share beyond.
    at_edges = np.append(np.cumsum((beyond[:-1] + beyond[1:])[::-1])[::-1] / 2.0, 0.0)
    places = np.clip((points - histogram.low) / width, 0.0, bins)
    at = np.minimum(places.astype(np.int64), bins - 1)
    into = places - at
    return np.asarray(width * (at_edges[at] - into * (beyond[at] - into / 2.0 * histogram.shares[at])))


def divergence(counts: Floats, firsts: Indices, lasts: Indices) -> Floats:
    """Return the divergence of quantized distributions from the true one, KL(P || Q) = sum p log(p / q) over bins.

    P is a layer's histogram with the clipped values added to the range's first or last bin. Q is the quantized
    histogram: the values of each level, without the clipped ones, spread evenly over its non-empty bins.

    Args:
        counts: float64 `[B]`, the histogram.
        firsts: int64 `[C]`, or one for all, `[]`: the first bin of each range.
        lasts: int64 `[C]`, or one for all, `[]`: its last bin.

    Returns:
        float64 `[C]`; infinity where values are clipped onto an empty bin.
    """
    firsts, ends = np.broadcast_arrays(np.atleast_1d(firsts), np.asarray(lasts) + 1)
    cumulated = _cumulated(counts)
    below, beyond = cumulated[firsts], cumulated[-1] - cumulated[ends]
    onto_none = ((below > 0.0) & (counts[firsts] == 0.0)) | ((beyond > 0.0) & (counts[ends - 1] == 0.0))
    p_log_p = _p_log_p(counts, firsts, ends, below, beyond)
    p_log_q = _p_log_q(counts, firsts, ends, below, beyond)
    return np.where(onto_none, np.inf, (p_log_p - p_log_q) / cumulated[-1])


def _p_log_p(counts: Floats, firsts: Indices, ends: Indices, below: Floats, beyond: Floats) -> Floats:
    within = _cumulated(_x_log_x(counts))
    at_first = counts[firsts]
    with_below = at_first + below
    # In a range of one bin both clipped shares land in that bin.
    at_last = np.where(ends - firsts > 1, counts[ends - 1], with_below)
    change = _x_log_x(with_below) - _x_log_x(at_first) + _x_log_x(at_last + beyond) - _x_log_x(at_last)
    return np.asarray(within[ends] - within[firsts] + change)


def _p_log_q(counts: Floats, firsts: Indices, ends: Indices, below: Floats, beyond: Floats) -> Floats:
    bins = ends - firsts
    # A level starts at its first bin; with fewer bins than levels each bin is its own level.
    borders = firsts[:, np.newaxis] - (-np.arange(LEVELS + 1) * bins[:, np.newaxis]) // LEVELS
    kept, holding = np.diff(_cumulated(counts)[borders]), np.diff(_cumulated(counts > 0.0)[borders])
    log_q = np.log(np.divide(kept, holding, out=np.ones_like(kept), where=kept > 0.0))
    level_of_last = (bins - 1) * LEVELS // bins
    clipped = below * log_q[:, 0] + beyond * log_q[np.arange(len(bins)), level_of_last]
    return np.asarray((kept * log_q).sum(axis=1) + clipped)


def _cumulated(values: NDArray[np.generic]) -> Floats:
    """Return the sum of the values before each index, float64 `[N + 1]`."""
    return np.append(0.0, np.cumsum(values, dtype=np.float64))


def _x_log_x(values: Floats) -> Floats:
    return values * np.log(np.where(values > 0.0, values, 1.0))
