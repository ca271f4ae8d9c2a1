"""The figures of classes and probabilities: what each artifact reaches, and what tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from runtime.evaluation.metrics import Classes, Floats, agreement, drop_pp, drop_standard_error_pp, softmax
from runtime.parity.measures.predictions import PairedPredictions
from runtime.parity.statistics import (
    CONFIDENCE,
    calibration_bins,
    confusion,
    cross_entropy_nats,
    divergence_nats,
    drop_interval_pp,
    expected_calibration_error,
    holm,
    mcnemar_p_value,
    top_k_accuracy,
    wilson_interval,
)

SIGNIFICANT = 1 - CONFIDENCE
CHANGED_CELLS = 12


def accuracy_figures(labels: Classes, answers: PairedPredictions, recorded_top1: float | None) -> dict[str, Any]:
    """Return `accuracy` of report.json.

    Args:
        labels: int64 `[N]`, the true classes.
        answers: what both said.
        recorded_top1: what the manifest vouches for of the reference on this split, 0..1, if anything.

    Returns:
        The figures; see docs/guides/parity.md.
    """
    images = len(labels)
    right, right_candidate = answers.reference == labels, answers.candidate == labels
    only_reference = int(np.count_nonzero(right & ~right_candidate))
    only_candidate = int(np.count_nonzero(right_candidate & ~right))
    reference, candidate = (
        _own_figures(labels, classes, logits)
        for classes, logits in (
            (answers.reference, answers.reference_logits),
            (answers.candidate, answers.candidate_logits),
        )
    )
    top1, agreeing = reference["top1"], int(np.count_nonzero(answers.reference == answers.candidate))
    chance = float(np.bincount(labels).max()) / images
    return {
        "reference": reference,
        "candidate": candidate,
        "drop_pp": drop_pp(int(right.sum()), int(right_candidate.sum()), images),
        "drop_standard_error_pp": drop_standard_error_pp(only_reference, only_candidate, images),
        "drop_interval_pp": asdict(drop_interval_pp(only_reference, only_candidate, images)),
        "top1_ratio": candidate["top1"] / top1 if top1 else None,
        "only_reference_correct": only_reference,
        "only_candidate_correct": only_candidate,
        "mcnemar_p_value": mcnemar_p_value(only_reference, only_candidate),
        "agreement": agreement(answers.reference, answers.candidate),
        "agreement_interval": asdict(wilson_interval(agreeing, images)),
        "ece_increase": _difference(candidate["ece"], reference["ece"]),
        "cross_entropy_increase_nats": _difference(candidate["cross_entropy_nats"], reference["cross_entropy_nats"]),
        "non_finite_images": int(np.count_nonzero(~answers.finite)),
        "reference_skill": (top1 - chance) / (1.0 - chance) if chance < 1.0 else None,
        "reference_shift_pp": None if recorded_top1 is None else abs(100.0 * (top1 - recorded_top1)),
    }


def _own_figures(labels: Classes, classes: Classes, logits: Floats) -> dict[str, Any]:
    bins = calibration_bins(logits, labels)
    return {
        "top1": agreement(classes, labels),
        "top5": top_k_accuracy(logits, labels, 5),
        "cross_entropy_nats": cross_entropy_nats(logits, labels),
        "ece": expected_calibration_error(bins),
        "calibration_bins": [asdict(each) for each in bins],
    }


def _difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def class_figures(labels: Classes, answers: PairedPredictions, names: Sequence[str]) -> dict[str, Any]:
    """Return `classes` of report.json: what each class loses, corrected for the number of classes.

    Args:
        labels: int64 `[N]`.
        answers: what both said.
        names: K class names.

    Returns:
        The classes, and how many of them the candidate is worse at beyond chance.
    """
    right, right_candidate = answers.reference == labels, answers.candidate == labels
    present = [index for index in range(len(names)) if np.any(labels == index)]
    confidence = 1.0 - SIGNIFICANT / len(present)
    tables: dict[int, tuple[int, int]] = {}
    found: list[dict[str, Any]] = []
    for index in present:
        member = labels == index
        lost = int(np.count_nonzero(member & right & ~right_candidate))
        gained = int(np.count_nonzero(member & right_candidate & ~right))
        tables[index] = (lost, gained)
    corrected = dict(zip(present, holm([mcnemar_p_value(*tables[index]) for index in present]), strict=True))
    for index, name in enumerate(names):
        member = labels == index
        entry: dict[str, Any] = {"label": name, "images": int(np.count_nonzero(member))}
        if index not in tables:
            empty = ("top1_reference", "top1_candidate", "drop_pp", "drop_interval_pp", "p_value", "worse")
            found.append(entry | dict.fromkeys(empty))
            continue
        own, other = int(right[member].sum()), int(right_candidate[member].sum())
        drop = drop_pp(own, other, entry["images"])
        interval = drop_interval_pp(*tables[index], entry["images"], confidence)
        found.append(
            entry
            | {
                "top1_reference": own / entry["images"],
                "top1_candidate": other / entry["images"],
                "drop_pp": drop,
                "drop_interval_pp": asdict(interval),
                "p_value": corrected[index],
                "worse": drop > 0 and corrected[index] < SIGNIFICANT,
            }
        )
    return {
        "confidence": confidence,
        "worse_classes": sum(bool(entry["worse"]) for entry in found),
        "largest_drop_pp": max(entry["drop_pp"] for entry in found if entry["drop_pp"] is not None),
        "list": found,
    }


def confusion_figures(labels: Classes, answers: PairedPredictions, names: Sequence[str]) -> dict[str, Any]:
    """Return `confusion` of report.json: which mistakes the candidate makes more or less often.

    Returns:
        The cells of both matrices that changed most, and how many did.
    """
    before, after = (confusion(labels, each, len(names)) for each in (answers.reference, answers.candidate))
    change = after - before
    np.fill_diagonal(change, 0)
    order = np.argsort(-np.abs(change), axis=None, kind="stable")[:CHANGED_CELLS]
    cells = [divmod(int(place), len(names)) for place in order]
    return {
        "changed_cells": int(np.count_nonzero(change)),
        "list": [
            {
                "label": names[true],
                "predicted": names[predicted],
                "reference_images": int(before[true, predicted]),
                "candidate_images": int(after[true, predicted]),
                "change_images": int(change[true, predicted]),
            }
            for true, predicted in cells
            if change[true, predicted]
        ],
    }


def largest_disagreements(answers: PairedPredictions, count: int) -> list[int]:
    """Choose the images on which the two differ most.

    Those with outputs that are not finite come first, then those of another class, then by divergence.

    Returns:
        Up to `count` indices, the worst first.
    """
    divergence = divergence_nats(answers.reference_logits, answers.candidate_logits)
    same = answers.reference == answers.candidate
    order = np.lexsort((-divergence, same))
    return [int(index) for index in order[:count]]


def disagreement_figures(
    indices: Sequence[int], labels: Classes, answers: PairedPredictions, ids: Sequence[str], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return `disagreements` of report.json: those images with what each of the two said."""
    divergence = divergence_nats(answers.reference_logits, answers.candidate_logits)
    found = []
    for index in indices:
        distance = float(divergence[index])
        found.append(
            {
                "id": ids[index],
                "label": names[labels[index]],
                "reference": _said(answers.reference_logits[index], names),
                "candidate": _said(answers.candidate_logits[index], names),
                "divergence_nats": distance if np.isfinite(distance) else None,
            }
        )
    return found


def _said(logits: Floats, names: Sequence[str]) -> dict[str, Any]:
    if not np.isfinite(logits).all():
        return {"prediction": None, "probability": None}
    best = int(logits.argmax())
    return {"prediction": names[best], "probability": float(softmax(logits)[best])}
