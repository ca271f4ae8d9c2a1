"""Measure activation ranges of a trained run: `python -m calibration --run runs/first`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from calibration.calibration_file import CALIBRATION_FILE, Calibration, describe_observer, write_calibration
from calibration.histogram import Activations, collect_histograms
from calibration.inner_tensors import inner_tensors
from calibration.observers import DEFAULT_PERCENTILE, OBSERVERS, choose_ranges, find_observer
from calibration.range_plot import RANGE_PLOT_FILE, write_range_plot
from calibration.representative_set import draw_representative_set
from runtime.core.cli import run_cli
from train.data.dataset import resize_all
from train.data.registry import add_stream_argument, load_data_of
from train.loop.batch_memory import batch_within
from train.model.focalnet import build_focalnet
from train.model.weights import load_weights
from train.run import WEIGHTS_FILE, Run, read_run

MAX_BATCH_SIZE = 64
# What the outputs of all layers may take at once; of an image of 224 px they take hundreds of megabytes.
ACTIVATION_BYTES = 1 << 30
DEFAULT_IMAGES = 512


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the representative set, observe every layer's output, write calibration.json and calibration.png."""
    args = _parser().parse_args(argv)
    default = DEFAULT_PERCENTILE if args.observer == "percentile" else None
    percent = default if args.percentile is None else args.percentile
    observer = find_observer(args.observer, percent)
    run = read_run(args.run)
    dataset = load_data_of(run, args.data_dir, args.stream)
    if dataset.train.streamed:
        print(dataset.residence, file=sys.stderr)
    count = min(DEFAULT_IMAGES, len(dataset.train.labels)) if args.images is None else args.images
    sample = draw_representative_set(dataset.train, count, args.seed)
    views = _layer_views(run, args.run / WEIGHTS_FILE)
    images = resize_all(sample.images, run.deployed.input_spec)
    with tqdm(total=2 * len(images), desc="calibrate", unit="image", disable=None) as bar:
        histograms = collect_histograms(lambda: _activations(views, images, bar))
    ranges = choose_ranges(histograms, observer)
    calibration = Calibration(
        dataset=dataset.name,
        observer=args.observer,
        percentile=percent,
        seed=args.seed,
        sha256=sample.sha256,
        ids=sample.ids,
        ranges=ranges,
    )
    write_calibration(args.run, calibration)
    write_range_plot(args.run / RANGE_PLOT_FILE, histograms, calibration)
    if args.json:
        print(json.dumps(_figures(calibration), indent=2))
    else:
        print(
            f"{len(ranges)} ranges over {len(sample.ids)} images of {dataset.name} "
            f"({describe_observer(calibration)}): {args.run / CALIBRATION_FILE}, drawn in {RANGE_PLOT_FILE}"
        )
    return 0


def _figures(calibration: Calibration) -> dict[str, Any]:
    return {
        "observer": calibration.observer,
        "percentile": calibration.percentile,
        "images": len(calibration.ids),
        "sha256": calibration.sha256,
        "ranges": calibration.ranges,
    }


def _layer_views(run: Run, weights: Path) -> Any:
    """Build the trained network with every layer's output, and every step inside one, as an output by its name."""
    import keras

    model = build_focalnet(run.deployed, keras)
    load_weights(model, weights)
    outputs = {layer.name: layer.output for layer in model.layers if not _is_passive(layer, keras)}
    return keras.Model(model.input, outputs | inner_tensors(model, run.deployed))


def _is_passive(layer: Any, keras: Any) -> bool:
    return isinstance(layer, (keras.layers.InputLayer, keras.layers.Dropout))


def _activations(views: Any, images: NDArray[np.uint8], bar: Any) -> Iterator[Activations]:
    size = batch_within(views.outputs, ACTIVATION_BYTES, MAX_BATCH_SIZE)
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        yield views.predict_on_batch(batch.astype(np.float32))
        bar.update(len(batch))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m calibration", description="Measure activation ranges.")
    parser.add_argument("--run", type=Path, required=True, help="folder of a trained run")
    parser.add_argument("--data-dir", type=Path, help="where the images are (default: $DATA_DIR)")
    add_stream_argument(parser)
    parser.add_argument(
        "--images", type=int, help=f"size of the representative set ({DEFAULT_IMAGES}, or all if there are fewer)"
    )
    parser.add_argument(
        "--observer",
        choices=OBSERVERS,
        default="percentile",
        help="how a range is chosen. minmax: nothing is clipped, and outliers cost resolution; percentile: the rarest "
        "values are clipped; mse: least squared error, for PTQ above all; entropy: as TensorRT, to compare with it "
        "(%(default)s)",
    )
    parser.add_argument(
        "--percentile", type=float, help=f"with observer percentile, the share of values kept ({DEFAULT_PERCENTILE})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the ranges as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
