"""Sensitivity analysis of a run: ranking, search of products to leave in float, and measured artifacts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from export.quantize.schemes import SELECTIVE
from export.reporting.tables import machine_facts
from export.run_files import RunFiles, read_run_files
from export.sensitivity.float_layer_search import SearchResult, search_float_layers
from export.sensitivity.ranking import SimulatedEvaluator, rank_products
from export.sensitivity.report import Report, SearchReport, export_command
from export.sensitivity.switchable import build_switchable
from export.sensitivity.tradeoff import (
    ArtifactBuilder,
    ArtifactEvaluator,
    LayerCost,
    Point,
    curve_selections,
    extend_to_max_drop,
    measure_latencies,
)
from runtime.engines.tflite import load_interpreter
from runtime.evaluation.metrics import Classes, agreement
from runtime.evaluation.sampling import SAMPLE_SEED, class_balanced_indices
from runtime.evaluation.split_file import check_class_names
from runtime.images.preprocess import Image
from train.data.dataset import resize_all
from train.data.registry import load_data_of

LATENCY_ROUNDS = 100


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs of an analysis.

    Attributes:
        files: the trained and calibrated run.
        images: uint8 `[N, S, S, 3]`, of the validation split.
        labels: int64 `[N]`, their classes.
        data: `data` of sensitivity.json, without the accuracy.
    """

    files: RunFiles
    images: Image
    labels: Classes
    data: dict[str, Any]


def load_inputs(folder: Path, data_dir: Path | None, count: int) -> Inputs:
    """Read a run and a class-balanced sample of its validation images.

    Args:
        folder: of a trained and calibrated run.
        data_dir: folder of the images; `None` takes the dataset's default.
        count: number of images.

    Raises:
        ArtifactError: a file of the run is missing or damaged.
        DataError: the dataset cannot be loaded, or its classes are not the run's.
    """
    files = read_run_files(folder, SELECTIVE)
    run = files.run
    dataset = load_data_of(run, data_dir, folder=folder)
    check_class_names(dataset.labels, run.labels, f"give the dataset that {folder} was trained on ({run.dataset})")
    chosen = class_balanced_indices(dataset.val.labels, count, SAMPLE_SEED)
    images, labels = resize_all(dataset.val.images[chosen], run.deployed.input_spec), dataset.val.labels[chosen]
    return Inputs(files, images, labels, {"dataset": dataset.name, "split": "val", "images": len(labels)})


def analyse(inputs: Inputs, max_drop_pp: float | None) -> Report:
    """Rank the products and, given a largest drop in percentage points, search and measure a choice within it."""
    files = inputs.files
    network = build_switchable(files.float_model, files.run.deployed, files.ranges, files.scheme.rules)
    evaluate = SimulatedEvaluator(network, inputs.images, inputs.labels)
    layers = rank_products(network, inputs.images, evaluate)
    search = None
    if max_drop_pp is not None:
        ranked = [each.layer for each in layers]
        search = measure_search(inputs, ranked, search_float_layers(evaluate, ranked, max_drop_pp), max_drop_pp)
    return Report(
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        run=str(files.folder),
        scheme=files.scheme.name,
        data=inputs.data | {"float_top1": agreement(evaluate.predicted, inputs.labels)},
        layers=tuple(layers),
        search=search,
    )


def measure_search(inputs: Inputs, ranked: Sequence[str], result: SearchResult, max_drop_pp: float) -> SearchReport:
    """Make and measure artifacts with none, the chosen and more of the products in float.

    Args:
        inputs: of the analysis.
        ranked: all products, the most sensitive first.
        result: of the search, by simulation.
        max_drop_pp: largest drop, in percentage points.

    Returns:
        The figures, and the choice with which the artifact itself keeps to the largest drop.
    """
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        builder = ArtifactBuilder(inputs.files, ranked, Path(folder))
        evaluate = ArtifactEvaluator(builder, ranked, inputs.images, inputs.labels)
        chosen = extend_to_max_drop(evaluate, result.chosen.float_layers, ranked, max_drop_pp)
        selections = curve_selections(chosen, ranked)
        alone = [(name,) for name in chosen] if len(chosen) < len(ranked) else []
        for selection in tqdm({*selections, *alone}, desc="artifacts", unit="artifact", disable=None):
            builder.path(selection)
        accuracies = {selection: evaluate(selection) for selection in selections}
        latencies = measure_latencies(builder, [*selections, *alone], inputs.images, LATENCY_ROUNDS)
        sizes = {selection: builder.path(selection).stat().st_size for selection in latencies}
    return SearchReport(
        max_drop_pp=max_drop_pp,
        tried=result.tried,
        simulated=result.chosen,
        float_layers=chosen,
        costs=tuple(
            LayerCost(
                layer=name,
                latency_p50_ms=latencies[(name,)].p50_ms - latencies[()].p50_ms,
                size_bytes=sizes[(name,)] - sizes[()],
            )
            for (name,) in alone
        ),
        points=tuple(
            Point(float_layers=each, accuracy=accuracies[each], size_bytes=sizes[each], latency=latencies[each])
            for each in selections
        ),
        rounds=LATENCY_ROUNDS,
        machine=machine_facts(load_before) | {"interpreter": load_interpreter()[0]},
        command=export_command(inputs.files.folder, chosen) if len(chosen) < len(ranked) else None,
    )
