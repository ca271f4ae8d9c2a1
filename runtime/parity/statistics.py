"""Intervals, tests and corrections for two classifiers of the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from runtime.core.errors import ConfigError, FocalEdgeError
from runtime.evaluation.metrics import Classes, Floats, drop_pp, softmax

CONFIDENCE = 0.95
RESAMPLES = 10_000
SEED = 0
CALIBRATION_BINS = 15
# Added to both cells of discordant images before resampling (Agresti and Min, 2005). Without it, two networks that
# agree on 200 images would have an interval of no width.
PRIOR_IMAGES = 0.5


@dataclass(frozen=True)
class Interval:
    """The two ends of a confidence interval, in the unit of its figure."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedTable:
    """Right predictions of a reference and a candidate on the same images.

    Attributes:
        images: number of images, 1 or more.
        reference: images that the reference gets right.
        only_reference: images that the reference alone gets right.
        only_candidate: images that the candidate alone gets right.
    """

    images: int
    reference: int
    only_reference: int
    only_candidate: int

    def __post_init__(self) -> None:
        """Check the fields; see the class."""
        counts = self.only_reference, self.only_candidate
        if self.images < 1 or min(counts) < 0 or sum(counts) > self.images:
            raise FocalEdgeError(
                f"received {self.only_reference} and {self.only_candidate} of {self.images} images; expected counts "
                "of one table"
            )

    @staticmethod
    def count(reference: NDArray[np.bool_], candidate: NDArray[np.bool_]) -> PairedTable:
        """Count images, from whether each artifact is right: `[N]`, N at least 1."""
        masks = reference, reference & ~candidate, candidate & ~reference
        return PairedTable(len(reference), *(int(np.count_nonzero(mask)) for mask in masks))

    @property
    def candidate(self) -> int:
        """Images that the candidate gets right."""
        return self.reference - self.only_reference + self.only_candidate

    @property
    def drop_pp(self) -> float:
        """The candidate's drop of top-1, percentage points; see `runtime.evaluation.metrics.drop_pp`."""
        return drop_pp(self.reference, self.candidate, self.images)

    @property
    def p_value(self) -> float:
        """The exact two-sided p-value of McNemar's test, 0..1.

        It is the chance of a table as uneven if both networks were equally good; 1 without discordant images.
        """
        discordant = self.only_reference + self.only_candidate
        if discordant == 0:
            return 1.0
        logs = [_log_choose(discordant, count) for count in range(min(self.only_reference, self.only_candidate) + 1)]
        largest = max(logs)
        log_tail = largest + math.log(math.fsum(math.exp(each - largest) for each in logs)) - discordant * math.log(2.0)
        return min(1.0, 2.0 * math.exp(log_tail))

    def interval_pp(self, confidence: float = CONFIDENCE, seed: int = SEED) -> Interval:
        """Return the paired bootstrap interval of the drop.

        Resampling images is resampling a table of three cells: only the reference right, only the candidate right,
        the rest.

        Args:
            confidence: of the interval, between 0 and 1.
            seed: of the draw, 0 or more.

        Returns:
            Percentage points; positive ends are losses of the candidate.

        Raises:
            ConfigError: the confidence is out of range.
        """
        if not 0.0 < confidence < 1.0:
            raise ConfigError(f"received a confidence of {confidence}; expected one between 0 and 1, e.g. 0.95")
        cells = np.array([self.only_reference + PRIOR_IMAGES, self.only_candidate + PRIOR_IMAGES])
        rest = self.images - self.only_reference - self.only_candidate + 2 * PRIOR_IMAGES
        shares = np.append(cells, rest) / (cells.sum() + rest)
        drawn = np.random.default_rng(seed).multinomial(self.images, shares, RESAMPLES)
        return _percentiles(100.0 * (drawn[:, 0] - drawn[:, 1]) / self.images, confidence)


@dataclass(frozen=True)
class CalibrationBin:
    """The images whose most likely class has a probability within one interval.

    Attributes:
        images: number of images.
        confidence: mean probability of the most likely class, 0..1; `None` without images.
        accuracy: share that is right, 0..1; `None` without images.
    """

    images: int
    confidence: float | None
    accuracy: float | None


def top_k_accuracy(logits: Floats, labels: Classes, k: int) -> float | None:
    """Return the share of images whose true class is among the k largest logits.

    Args:
        logits: `[N, K]`; a row that is not finite counts as wrong.
        labels: int64 `[N]`.
        k: 1 or more.

    Returns:
        0..1; `None` where k is K or more.
    """
    if k >= logits.shape[1]:
        return None
    finite = np.isfinite(logits).all(axis=1)
    own = np.take_along_axis(logits, labels[:, np.newaxis], axis=1)
    # The first of equal logits wins, as in top-1.
    before = np.arange(logits.shape[1]) < labels[:, np.newaxis]
    ahead = (logits > own) | ((logits == own) & before)
    return float((finite & (ahead.sum(axis=1) < k)).mean())


def cross_entropy_nats(logits: Floats, labels: Classes) -> float | None:
    """Return the mean of -log p(true class).

    Args:
        logits: `[N, K]`.
        labels: int64 `[N]`.

    Returns:
        Nats, >= 0; `None` where a logit is not finite.
    """
    if not np.isfinite(logits).all():
        return None
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float((log_sum - shifted[np.arange(len(labels)), labels]).mean())


def calibration_bins(logits: Floats, labels: Classes, bins: int = CALIBRATION_BINS) -> tuple[CalibrationBin, ...]:
    """Group images by the probability of their most likely class.

    Args:
        logits: `[N, K]`; rows that are not finite are left out.
        labels: int64 `[N]`.
        bins: number of intervals of equal width over 0..1.

    Returns:
        The intervals, from 0 to 1.
    """
    finite = np.isfinite(logits).all(axis=1)
    if not finite.any():
        return tuple(CalibrationBin(0, None, None) for _ in range(bins))
    probabilities = softmax(logits[finite])
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels[finite]
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for index in range(bins):
        member = places == index
        if not member.any():
            found.append(CalibrationBin(0, None, None))
            continue
        found.append(CalibrationBin(int(member.sum()), float(confidence[member].mean()), float(right[member].mean())))
    return tuple(found)


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float | None:
    """Return the mean difference of confidence and accuracy over images.

    Args:
        bins: from `calibration_bins`.

    Returns:
        0..1; `None` without images.
    """
    images = sum(each.images for each in bins)
    if not images:
        return None
    gaps = (
        each.images * abs(each.confidence - each.accuracy)
        for each in bins
        if each.confidence is not None and each.accuracy is not None
    )
    return sum(gaps) / images


def mean_interval(values: Floats, confidence: float = CONFIDENCE, seed: int = SEED) -> Interval:
    """Return the bootstrap interval of a mean.

    Args:
        values: float64 `[N]`, one value an image, N at least 1.
        confidence: of the interval, between 0 and 1.
        seed: of the draw, 0 or more.

    Returns:
        The interval, in the unit of the values.
    """
    generator = np.random.default_rng(seed)
    resamples = 2000
    # The sum of N drawn values is a weighted sum of all of them.
    uniform = np.full(len(values), 1.0 / len(values))
    means = np.array([generator.multinomial(len(values), uniform) @ values for _ in range(resamples)]) / len(values)
    return _percentiles(means, confidence)


def _percentiles(values: Floats, confidence: float) -> Interval:
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(values, [tail, 100.0 - tail])
    return Interval(float(low), float(high))


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number by Holm's step-down method.

    Args:
        p_values: 0..1 each.

    Returns:
        The corrected p-values in the same order. The chance that any of them is below 0.05 by accident is 5% at most.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, reached = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = reached
    return corrected


def wilson_interval(successes: int, images: int, confidence: float = CONFIDENCE) -> Interval:
    """Return Wilson's interval of a share.

    Args:
        successes: number of images, 0..images.
        images: 1 or more.
        confidence: of the interval, between 0 and 1.

    Returns:
        0..1.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    share, weight = successes / images, z * z / images
    middle = (share + weight / 2.0) / (1.0 + weight)
    reach = z / (1.0 + weight) * math.sqrt(share * (1.0 - share) / images + weight / (4.0 * images))
    return Interval(max(0.0, middle - reach), min(1.0, middle + reach))


def confusion(labels: Classes, predicted: Classes, classes: int) -> NDArray[np.int64]:
    """Count images by true and predicted class.

    Args:
        labels: int64 `[N]`, 0..K-1.
        predicted: int64 `[N]`; negative where there is no prediction, which is not counted.
        classes: K.

    Returns:
        int64 `[K, K]`; rows are true classes.
    """
    known = predicted >= 0
    cells = labels[known] * classes + predicted[known]
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)
