"""How accurate a network is beside the float one that it was made from, on the same images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.evaluation.metrics import Classes, agreement, drop_pp, drop_standard_error_pp
from runtime.images.preprocess import Image
from runtime.parity.predictions import NO_CLASS


@dataclass(frozen=True)
class Accuracy:
    """Top-1 of a network, 0..1, and how it differs from the float network's on the same images."""

    top1: float
    drop_pp: float
    drop_standard_error_pp: float
    agreement: float


def classify(run: Callable[[Image], NDArray[np.float32]], images: Image, name: str) -> Classes:
    """Classify images one by one.

    Args:
        run: from an image, uint8 `[1, S, S, 3]`, to its logits, `[K]`.
        images: uint8 `[N, S, S, 3]`.
        name: for the progress bar.

    Returns:
        int64 `[N]`; -1 where a logit is not finite.
    """
    bar = tqdm(images, desc=name, unit="image", disable=None, leave=False)
    logits = np.stack([run(image[np.newaxis]) for image in bar])
    return np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), NO_CLASS)


def accuracy_of(predicted: Classes, labels: Classes, reference: Classes) -> Accuracy:
    """Compare predictions with the truth and with the float network's.

    Args:
        predicted: int64 `[N]`, -1 for none.
        labels: int64 `[N]`, the true classes.
        reference: int64 `[N]`, the float network's predictions.

    Returns:
        The figures.
    """
    right, reference_right = predicted == labels, reference == labels
    lost, gained = int((reference_right & ~right).sum()), int((right & ~reference_right).sum())
    return Accuracy(
        top1=agreement(predicted, labels),
        drop_pp=drop_pp(int(reference_right.sum()), int(right.sum()), len(labels)),
        drop_standard_error_pp=drop_standard_error_pp(lost, gained, len(labels)),
        agreement=agreement(predicted, reference),
    )
