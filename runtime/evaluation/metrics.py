"""Accuracy, agreement, divergence and similarity: pure functions on NumPy arrays.

Unless they say otherwise they refuse empty and non-finite input: a NaN compares false with everything, and would pass
as "no drop".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.core.errors import FocalEdgeError

Floats = NDArray[np.float64]
Classes = NDArray[np.int64]


@dataclass(frozen=True)
class RelativeAccuracy:
    """Top-1 of a network, and how it differs from a reference network's on the same images.

    Attributes:
        top1: 0..1.
        drop_pp: what it loses, in percentage points; negative where it gains.
        drop_standard_error_pp: of that, in percentage points.
        agreement: share of images with the reference's class, 0..1.
    """

    top1: float
    drop_pp: float
    drop_standard_error_pp: float
    agreement: float


def finite_array(values: Any, name: str) -> Floats:
    """Return `values` as a float64 array after checking that it has elements and all are finite.

    Args:
        values: numbers of any shape.
        name: of the values, for the error.

    Returns:
        float64, of the same shape.

    Raises:
        FocalEdgeError: `values` is empty or not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise FocalEdgeError(f"received no {name} (shape {array.shape}); give at least one")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise FocalEdgeError(
            f"{bad} of {array.size} {name} are NaN or infinite; expected finite numbers: export the network again"
        )
    return array


def softmax(logits: Any) -> Floats:
    """Turn logits into probabilities over the last axis.

    Args:
        logits: `[..., K]`, finite.

    Returns:
        float64 `[..., K]`, 0..1, summing to 1 over the last axis.

    Raises:
        FocalEdgeError: `logits` is empty or not finite.
    """
    array = finite_array(logits, "logits")
    # The largest exponent is 0, and nothing overflows.
    exponentials = np.exp(array - array.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True), dtype=np.float64)


def top1(logits: Any) -> Classes:
    """Return the class with the largest logit; the lowest index wins a tie.

    Args:
        logits: `[..., K]`, finite.

    Returns:
        int64 `[...]`, 0..K-1.

    Raises:
        FocalEdgeError: `logits` is empty or not finite.
    """
    return np.asarray(finite_array(logits, "logits").argmax(axis=-1), dtype=np.int64)


def agreement(first: Classes, second: Classes) -> float:
    """Return the share of images with the same class in both lists; with labels as one list, top-1 accuracy.

    Args:
        first: int64 `[N]`, classes.
        second: int64 `[N]`, classes of the same images.

    Returns:
        0..1.

    Raises:
        FocalEdgeError: the lists are empty or differ in length.
    """
    first, second = _paired(first, second, "predictions")
    return int(np.count_nonzero(first == second)) / len(first)


def drop_pp(correct_float32: int, correct_int8: int, images: int) -> float:
    """Return the percentage points of top-1 that int8 loses; negative when it gains.

    Args:
        correct_float32: images that the float network predicts right.
        correct_int8: images that the int8 network predicts right.
        images: all images, the same for both, 1 or more.

    Returns:
        -100..100, the double nearest to the exact quotient: a drop of exactly 0.3 equals the literal `0.3`. The
        difference of two rounded accuracies would not.

    Raises:
        FocalEdgeError: `images` is not positive.
    """
    if images < 1:
        raise FocalEdgeError(f"received {images} images; a drop needs at least one")
    return 100 * (int(correct_float32) - int(correct_int8)) / int(images)


def drop_standard_error_pp(only_float32: int, only_int8: int, images: int) -> float:
    """Return the standard error of a paired drop, over draws of images.

    Only images that one network alone predicts right add to it (McNemar's table).

    Args:
        only_float32: images that only float predicts right.
        only_int8: images that only int8 predicts right.
        images: all images, 1 or more.

    Returns:
        Percentage points, >= 0.

    Raises:
        FocalEdgeError: `images` is not positive.
    """
    if images < 1:
        raise FocalEdgeError(f"received {images} images; a standard error needs at least one")
    spread = only_float32 + only_int8 - (only_float32 - only_int8) ** 2 / images
    return 100 * math.sqrt(spread) / images


def accuracy_of(predicted: Classes, labels: Classes, reference: Classes) -> RelativeAccuracy:
    """Compare predictions with the labels and with a reference's predictions.

    Args:
        predicted: int64 `[N]`, -1 for none.
        labels: int64 `[N]`, the true classes.
        reference: int64 `[N]`, the reference's predictions.
    """
    right, reference_right = predicted == labels, reference == labels
    lost, gained = int((reference_right & ~right).sum()), int((right & ~reference_right).sum())
    return RelativeAccuracy(
        top1=agreement(predicted, labels),
        drop_pp=drop_pp(int(reference_right.sum()), int(right.sum()), len(labels)),
        drop_standard_error_pp=drop_standard_error_pp(lost, gained, len(labels)),
        agreement=agreement(predicted, reference),
    )


def divergence_nats(reference: Any, candidate: Any) -> Floats:
    """Return the Kullback-Leibler divergence of the candidate's probabilities from the reference's, image by image.

    Args:
        reference: finite logits `[N, K]`.
        candidate: logits `[N, K]` of the same images.

    Returns:
        float64 `[N]`, sum p log(p / q) in nats, >= 0; infinity where the candidate's logits are not finite.
    """
    reference, candidate = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    finite = np.isfinite(candidate).all(axis=1)
    found = np.full(len(reference), np.inf)
    if finite.any():
        p, q = _log_softmax(reference[finite]), _log_softmax(candidate[finite])
        found[finite] = np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)
    return found


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def cosine_similarity(first: Any, second: Any) -> Floats:
    """Return the cosine similarity of each pair of maps.

    Two maps of zeros are the same map: 1. A map of zeros and another map have nothing in common: 0.

    Args:
        first: `[..., P]`, flattened maps of P pixels, finite.
        second: the same shape.

    Returns:
        float64 `[...]`, -1..1; 1 for the same map up to a positive factor.

    Raises:
        FocalEdgeError: the shapes differ, or an array is empty or not finite.
    """
    first, second = finite_array(first, "map values"), finite_array(second, "map values")
    if first.shape != second.shape:
        raise FocalEdgeError(
            f"received maps of shapes {first.shape} and {second.shape}; expected one shape: "
            "compare networks with the same overlay layer"
        )
    first_unit, second_unit = _unit(first), _unit(second)
    cosine = np.clip((first_unit * second_unit).sum(axis=-1), -1.0, 1.0)
    both_zero = ~first.any(axis=-1) & ~second.any(axis=-1)
    return np.asarray(np.where(both_zero, 1.0, cosine), dtype=np.float64)


def _unit(maps: Floats) -> Floats:
    """Scale maps to length 1 over the last axis; maps of zeros stay zeros."""
    # First by the largest value: squares neither overflow nor vanish.
    largest = np.abs(maps).max(axis=-1, keepdims=True)
    scaled = maps / np.where(largest == 0, 1.0, largest)
    length = np.sqrt((scaled**2).sum(axis=-1, keepdims=True))
    return np.asarray(scaled / np.where(length == 0, 1.0, length), dtype=np.float64)


def percentile(values: Any, percent: float) -> float:
    """Return a percentile, interpolating linearly between neighbours.

    Args:
        values: `[N]`, in any unit and order.
        percent: 0..100; 50 is the median.

    Returns:
        The percentile, in the unit of `values`.

    Raises:
        FocalEdgeError: there is no value, or one is not finite.
    """
    return float(np.percentile(finite_array(values, "values"), percent))


def _paired(first: Classes, second: Classes, name: str) -> tuple[Classes, Classes]:
    first, second = np.asarray(first), np.asarray(second)
    if first.ndim != 1 or first.shape != second.shape or first.size == 0:
        raise FocalEdgeError(
            f"received {name} of shapes {first.shape} and {second.shape}; "
            "expected two lists [N] of the same images, N at least 1"
        )
    return first, second
