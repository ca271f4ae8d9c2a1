"""What int8 costs, product by product: `python -m export.sensitivity --run runs/first`.

Each product of the scheme is quantized alone, all others float: how far its own output moves (SQNR), and what that does
to the network's effect. With --max-drop the fewest products are left in float that keep the drop of top-1 within a
budget, and artifacts are made and measured with none, with those and with more of them in float. All of it on
validation images, and on the trained weights, by calibration alone.
Exit code: 0; 1 if only the float artifact is within the budget; 2 for bad input.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from calibration.calibration_file import read_calibration
from calibration.observers import Range
from export.quantize.fake_quant import build_float
from export.quantize.schemes import SELECTIVE
from export.sensitivity.float_layer_search import Search, check_max_drop, search_float_layers
from export.sensitivity.plot import CURVE_FILE, RANKING_FILE, draw_curve, draw_ranking, write_figure
from export.sensitivity.ranking import EffectMeter, Sensitivity, rank_products
from export.sensitivity.report import Budget, Report, export_command, to_dict, to_markdown
from export.sensitivity.switchable import build_switchable
from export.sensitivity.tradeoff import (
    AccuracyMeter,
    ArtifactBuilder,
    LayerCost,
    Point,
    curve_selections,
    extend_to_limit,
    measure_latencies,
)
from runtime.core.cli import run_cli
from runtime.core.errors import ConfigError
from runtime.core.files import write_json
from runtime.core.machine import cpu_model
from runtime.engines.tflite import load_interpreter
from runtime.evaluation.metrics import Classes, agreement
from runtime.evaluation.sampling import class_balanced_indices
from runtime.evaluation.split_file import check_class_names
from runtime.images.preprocess import Image
from train.data.dataset import resize_all
from train.data.registry import load_data_of
from train.model.weights import read_tensors
from train.run import WEIGHTS_FILE, Run, read_run

FOLDER = "sensitivity"
SENSITIVITY_FILE = "sensitivity.json"
DEFAULT_IMAGES = 1000
SAMPLE_SEED = 0
LATENCY_ROUNDS = 100


@dataclass(frozen=True, eq=False)
class Inputs:
    """What is examined.

    Attributes:
        folder: the run's.
        run: its description.
        ranges: calibrated `(min, max)` of every layer's output.
        model: the trained float `tf_keras` network.
        images: uint8 `[N, S, S, 3]`, of the validation split.
        labels: int64 `[N]`, their classes.
        data: `data` of sensitivity.json, less the accuracy.
    """

    folder: Path
    run: Run
    ranges: dict[str, Range]
    model: Any
    images: Image
    labels: Classes
    data: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Rank a run's products, search within a budget if there is one, and write and print what was found.

    Returns:
        0, or 1 if only the float artifact is within the budget.
    """
    args = _parser().parse_args(argv)
    if args.images < 1:
        raise ConfigError(f"received --images {args.images}; expected 1 or more")
    if args.max_drop is not None:
        check_max_drop(args.max_drop)
    with redirect_stdout(sys.stderr):  # for the converter, which prints
        report = examine(load_inputs(args.run, args.data_dir, args.images), args.max_drop)
    write_reports(args.run / FOLDER, report)
    print(json.dumps(to_dict(report), indent=2) if args.json else to_markdown(report))
    return 1 if report.budget is not None and report.budget.command is None else 0


def load_inputs(folder: Path, data_dir: Path | None, count: int) -> Inputs:
    """Read a trained and calibrated run, and a class-balanced sample of its validation images."""
    run, calibration = read_run(folder), read_calibration(folder)
    model = build_float(run.deployed, read_tensors(folder / WEIGHTS_FILE), str(folder / WEIGHTS_FILE))
    dataset = load_data_of(run, data_dir)
    check_class_names(dataset.labels, run.labels, f"give the data set that {folder} was trained on ({run.dataset})")
    chosen = class_balanced_indices(dataset.val.labels, count, SAMPLE_SEED)
    images, labels = resize_all(dataset.val.images[chosen], run.deployed.input_spec), dataset.val.labels[chosen]
    data = {"dataset": dataset.name, "split": "val", "images": len(labels)}
    return Inputs(folder, run, calibration.ranges, model, images, labels, data)


def examine(inputs: Inputs, max_drop_pp: float | None) -> Report:
    """Rank the products and, with a budget in percentage points, search and measure within it."""
    network = build_switchable(inputs.model, inputs.run.deployed, inputs.ranges, SELECTIVE.rules)
    judge = EffectMeter(network, inputs.images, inputs.labels)
    layers = rank_products(network, inputs.images, judge)
    budget = None
    if max_drop_pp is not None:
        search = search_float_layers(judge, [each.layer for each in layers], max_drop_pp)
        budget = measure_budget(inputs, layers, search, max_drop_pp)
    return Report(
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        run=str(inputs.folder),
        scheme=SELECTIVE.name,
        data=inputs.data | {"float_top1": agreement(judge.predicted, inputs.labels)},
        layers=tuple(layers),
        budget=budget,
    )


def measure_budget(inputs: Inputs, layers: Sequence[Sensitivity], search: Search, max_drop_pp: float) -> Budget:
    """Make artifacts with none, the products found, and more of them in float, and measure them.

    Args:
        inputs: what is examined.
        layers: all products, the costliest first.
        search: what the search found.
        max_drop_pp: its budget, in percentage points.

    Returns:
        The artifacts' figures, and the choice, which the artifact itself keeps to the budget with.
    """
    load_before = os.getloadavg()[0]
    ranked = [each.layer for each in layers]
    with tempfile.TemporaryDirectory() as folder:
        builder = ArtifactBuilder(inputs.model, inputs.run, inputs.ranges, SELECTIVE, ranked, Path(folder))
        examine_artifact = AccuracyMeter(builder, ranked, inputs.images, inputs.labels)
        chosen = extend_to_limit(examine_artifact, search.chosen.float_layers, ranked, max_drop_pp)
        selections = curve_selections(chosen, ranked)
        alone = [(name,) for name in chosen] if len(chosen) < len(ranked) else []
        for selection in tqdm({*selections, *alone}, desc="artifacts", unit="artifact", disable=None):
            builder.path(selection)
        accuracies = {selection: examine_artifact(selection) for selection in selections}
        latencies = measure_latencies(builder, [*selections, *alone], inputs.images, LATENCY_ROUNDS)
        sizes = {selection: builder.path(selection).stat().st_size for selection in latencies}
    return Budget(
        max_drop_pp=max_drop_pp,
        tried=search.tried,
        simulated=search.chosen,
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
            Point(
                float_layers=selection,
                accuracy=accuracies[selection],
                size_bytes=sizes[selection],
                latency=latencies[selection],
            )
            for selection in selections
        ),
        rounds=LATENCY_ROUNDS,
        machine={
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "interpreter": load_interpreter()[0],
            "load_before": load_before,
            "load_after": os.getloadavg()[0],
        },
        command=export_command(inputs.folder, chosen) if len(chosen) < len(ranked) else None,
    )


def write_reports(folder: Path, report: Report) -> None:
    """Write sensitivity.json, sensitivity.png and, of a report with a budget, curve.png."""
    write_json(folder / SENSITIVITY_FILE, to_dict(report))
    write_figure(folder / RANKING_FILE, draw_ranking(report))
    if report.budget is None:
        (folder / CURVE_FILE).unlink(missing_ok=True)
    else:
        write_figure(folder / CURVE_FILE, draw_curve(report, report.budget))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.sensitivity",
        description="Rank a run's products by what quantizing each alone costs.",
        epilog="Exit code: 0; 1 if only the float artifact is within the budget; 2 for bad input.",
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a trained and calibrated run")
    parser.add_argument("--data-dir", type=Path, help="where the images are (default: $DATA_DIR)")
    parser.add_argument(
        "--images", type=int, default=DEFAULT_IMAGES, help="class-balanced validation images (%(default)s)"
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        metavar="PP",
        help="search the fewest products to leave in float that keep the drop of top-1 to so many percentage points",
    )
    parser.add_argument("--json", action="store_true", help="print sensitivity.json instead of the tables")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
