"""Parity measures that start no process and measure no peak."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from runtime.evaluation.split_file import LabelledImages
from runtime.parity.measure import Context, Effort, Extras, Measure
from runtime.parity.measures import MEASURES
from runtime.parity.measures.cost import PROBE_FIGURES
from runtime.parity.pair import Pair
from runtime.parity.predictions import predict_pair

STARTED = dict(zip(PROBE_FIGURES, (90.0, 80.0, 10.0, 80_000_000, 40_000_000), strict=True))
PEAKS = {"float32": 1e9, "int8": 4e9}


def quick_measures() -> tuple[Measure, ...]:
    """Return all measures, with fixed figures for fresh processes and peaks."""
    fakes: dict[str, dict[str, Any]] = {
        "cost": {"probe": lambda *_: STARTED},
        "peak_throughput": {"measure": lambda threads: PEAKS},
    }
    return tuple(replace(each, measure=partial(each.measure, **fakes.get(each.section, {}))) for each in MEASURES)


def context_of(pair: Pair, effort: Effort | None = None) -> Context:
    """Return a context of two grey images, and a report without sections."""
    side, names = pair.reference.engine.input_spec.size, pair.reference.manifest.labels
    images, labels = np.full((2, side, side, 3), 128, np.uint8), np.array([0, 1], dtype=np.int64)
    return Context(
        pair=pair,
        split=LabelledImages(images, labels, ("a", "b"), names, "grey", "test"),
        images=list(images),
        labels=labels,
        ids=("a", "b"),
        class_names=names,
        predictions=predict_pair(pair.reference.engine, pair.candidate.engine, list(images), len(names)),
        effort=effort or Effort(),
        extras=Extras(),
        report={},
    )
