"""Accuracy: top-1, top-5, probabilities, classes, and what tells the two artifacts apart."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from runtime.evaluation.metrics import Classes, Floats, agreement, drop_standard_error_pp
from runtime.parity.measure import Context
from runtime.parity.statistics import (
    CONFIDENCE,
    calibration_bins,
    confusion,
    cross_entropy_nats,
    expected_calibration_error,
    holm,
    top_k_accuracy,
    wilson_interval,
)

SIGNIFICANT = 1 - CONFIDENCE
CHANGED_CELLS = 12
CLASS_FIGURES = ("top1_reference", "top1_candidate", "drop_pp", "drop_interval_pp", "p_value", "worse")


def measure_accuracy(context: Context) -> dict[str, Any]:
    """Measure `accuracy`: the figures of each artifact, and their differences."""
    labels, predictions = context.labels, context.predictions
    images, table = len(labels), predictions.table(labels)
    reference = _own_figures(labels, predictions.reference, predictions.reference_logits)
    candidate = _own_figures(labels, predictions.candidate, predictions.candidate_logits)
    top1, chance = reference["top1"], float(np.bincount(labels).max()) / images
    agreeing = int(np.count_nonzero(predictions.reference == predictions.candidate))
    return {
        "reference": reference,
        "candidate": candidate,
        "drop_pp": table.drop_pp,
        "drop_standard_error_pp": drop_standard_error_pp(table.only_reference, table.only_candidate, images),
        "drop_interval_pp": asdict(table.interval_pp()),
        "top1_ratio": candidate["top1"] / top1 if top1 else None,
        "only_reference_correct": table.only_reference,
        "only_candidate_correct": table.only_candidate,
        "mcnemar_p_value": table.p_value,
        "agreement": agreeing / images,
        "agreement_interval": asdict(wilson_interval(agreeing, images)),
        "ece_increase": _difference(candidate["ece"], reference["ece"]),
        "cross_entropy_increase_nats": _difference(candidate["cross_entropy_nats"], reference["cross_entropy_nats"]),
        "non_finite_images": int(np.count_nonzero(~predictions.finite)),
        "reference_skill": (top1 - chance) / (1.0 - chance) if chance < 1.0 else None,
        "reference_shift_pp": _reference_shift_pp(context, top1),
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


def _reference_shift_pp(context: Context, top1: float) -> float | None:
    """Return how far the reference's top-1 is from its manifest's; `None` for another split."""
    recorded = context.pair.reference.artifact.accuracy
    if recorded is None or (recorded.dataset, recorded.split) != (context.split.dataset, context.split.split):
        return None
    return abs(100.0 * (top1 - recorded.top1))


def measure_classes(context: Context) -> dict[str, Any]:
    """Measure `classes`: each class's drop, with intervals and p-values corrected for the number of classes."""
    labels, predictions = context.labels, context.predictions
    tables = {index: predictions.table(labels, labels == index) for index in np.unique(labels).tolist()}
    confidence = 1.0 - SIGNIFICANT / len(tables)
    p_values = dict(zip(tables, holm([table.p_value for table in tables.values()]), strict=True))
    found: list[dict[str, Any]] = []
    for index, name in enumerate(context.class_names):
        if index not in tables:
            found.append({"label": name, "images": 0, **dict.fromkeys(CLASS_FIGURES)})
            continue
        table = tables[index]
        worse = table.drop_pp > 0 and p_values[index] < SIGNIFICANT
        figures = (
            table.reference / table.images,
            table.candidate / table.images,
            table.drop_pp,
            asdict(table.interval_pp(confidence)),
            p_values[index],
            worse,
        )
        found.append({"label": name, "images": table.images, **dict(zip(CLASS_FIGURES, figures, strict=True))})
    return {
        "confidence": confidence,
        "worse_classes": sum(bool(entry["worse"]) for entry in found),
        "largest_drop_pp": max(table.drop_pp for table in tables.values()),
        "list": found,
    }


def measure_confusion(context: Context) -> dict[str, Any]:
    """Measure `confusion`: the mistakes of which the number changed most, and how many changed."""
    names, predictions = context.class_names, context.predictions
    before, after = (
        confusion(context.labels, each, len(names)) for each in (predictions.reference, predictions.candidate)
    )
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
