"""The comparison in the light that a camera gives: does the candidate degrade faster than the reference?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.engines.engine import Engine
from runtime.evaluation.metrics import Classes, Floats, agreement, drop_pp
from runtime.images.preprocess import Image
from runtime.parity.measures.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from runtime.parity.measures.predictions import PairedPredictions, predict_pair
from runtime.parity.statistics import drop_interval_pp, mean_interval


def corruption_figures(
    reference: Engine, candidate: Engine, images: Sequence[Image], labels: Classes, classes: int, seed: int
) -> dict[str, Any]:
    """Return `corruptions` of report.json.

    Args:
        reference: the engine that is compared with.
        candidate: the engine in question.
        images: uint8 `[H, W, 3]` RGB each, the same ones for every corruption.
        labels: int64 `[N]`.
        classes: the number of logits.
        seed: of the corruptions; image i is corrupted by seed + i.

    Returns:
        Both accuracies clean and under each corruption and severity, and by how much the candidate's drop grows.
    """
    clean = predict_pair(reference, candidate, images, classes, "clean")
    losses = _losses(labels, clean)
    cells, extra = [], np.zeros(len(images))
    grid = [(kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES]
    for kind, severity in tqdm(grid, desc="corruptions", unit="setting", disable=None, leave=False):
        corrupted = [corrupt(image, kind, severity, seed + index) for index, image in enumerate(images)]
        answers = predict_pair(reference, candidate, corrupted, classes, f"{kind} {severity}")
        cells.append({"kind": kind, "severity": severity, **_cell(labels, answers)})
        extra += (_losses(labels, answers) - losses) / len(grid)
    return {
        "images": len(images),
        "seed": seed,
        "severities": list(SEVERITIES),
        "clean": _cell(labels, clean),
        "extra_drop_pp": float(100.0 * extra.mean()),
        "extra_drop_interval_pp": asdict(mean_interval(100.0 * extra)),
        "list": cells,
    }


def _losses(labels: Classes, answers: PairedPredictions) -> Floats:
    """Return 1 where the reference alone is right, -1 where the candidate alone is: float64 `[N]`."""
    right, right_candidate = answers.reference == labels, answers.candidate == labels
    return right.astype(np.float64) - right_candidate


def _cell(labels: Classes, answers: PairedPredictions) -> dict[str, Any]:
    right, right_candidate = answers.reference == labels, answers.candidate == labels
    counts = _count(right & ~right_candidate), _count(right_candidate & ~right)
    similarity = answers.similarity
    return {
        "top1_reference": agreement(answers.reference, labels),
        "top1_candidate": agreement(answers.candidate, labels),
        "drop_pp": drop_pp(_count(right), _count(right_candidate), len(labels)),
        "drop_interval_pp": asdict(drop_interval_pp(*counts, len(labels))),
        "agreement": agreement(answers.reference, answers.candidate),
        "lowest_mean_cosine": None if similarity is None else float(similarity.cosine.mean(axis=0).min()),
    }


def _count(which: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(which))
