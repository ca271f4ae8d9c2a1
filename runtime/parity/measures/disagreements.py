"""Disagreements: the images on which the two artifacts differ most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.evaluation.metrics import Floats, divergence_nats, softmax
from runtime.parity.measure import Context

DISAGREEMENTS = 6


def measure_disagreements(context: Context) -> list[dict[str, Any]]:
    """Measure `disagreements`: the images on which the two differ most.

    Non-finite outputs come first, then other classes, then the largest divergence.
    """
    predictions = context.predictions
    reference, candidate = predictions.reference_logits, predictions.candidate_logits
    divergence = divergence_nats(reference, candidate)
    order = np.lexsort((-divergence, predictions.reference == predictions.candidate))
    return [
        {
            "id": context.ids[index],
            "label": context.class_names[context.labels[index]],
            "reference": _prediction(reference[index], context.class_names),
            "candidate": _prediction(candidate[index], context.class_names),
            "divergence_nats": float(divergence[index]) if np.isfinite(divergence[index]) else None,
        }
        for index in order[:DISAGREEMENTS].tolist()
    ]


def _prediction(logits: Floats, names: Sequence[str]) -> dict[str, Any]:
    if not np.isfinite(logits).all():
        return {"prediction": None, "probability": None}
    best = int(logits.argmax())
    return {"prediction": names[best], "probability": float(softmax(logits)[best])}
