"""Make a calibrated run int8 and write its artifacts: `python -m export --run runs/first`."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from export.artifacts import ARTIFACTS_FOLDER, measure_accuracy, print_closing_lines, write_artifacts
from export.quantize.fake_quant import build_fake_quant, fake_quant_weights
from export.quantize.float_layers import check_float_layers
from export.quantize.qat import (
    STEP_BYTES,
    LazyBatches,
    QatConfig,
    QatEpoch,
    Validator,
    best_epoch,
    finetune,
    fitting_batch_size,
)
from export.quantize.schemes import SCHEMES, SELECTIVE, find_scheme, match_rules, write_scheme
from export.run_files import QAT_WEIGHTS_FILE, RunFiles, read_run_files
from export.tflite.operators import layer_names
from runtime.core.cli import command_parser, run_cli, say, shared_options
from runtime.core.files import write_json
from train.data.dataset import Dataset, resident, resize_all
from train.data.registry import add_stream_argument, load_data_of
from train.model.weights import write_tensors
from train.run import TEST_FILE, Run

QAT_FILE = "qat.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Fine-tune with fake quantization unless --qat-epochs is 0, then write and measure the artifacts."""
    args = _parser().parse_args(argv)
    config = QatConfig(epochs=args.qat_epochs, learning_rate=args.qat_learning_rate)
    scheme = find_scheme(args.scheme).leaving_float(args.float_layers)
    files = read_run_files(args.run, scheme)
    test = files.test_split
    check_float_layers(scheme.float_layers, match_rules(scheme.rules, layer_names(files.run.deployed)))
    if config.epochs:
        dataset = load_data_of(files.run, args.data_dir, args.stream, folder=args.run)
        if dataset.train.streamed:
            say(dataset.residence, sys.stderr)
        figures = quantization_aware_training(files, dataset, config)
        write_json(args.run / QAT_FILE, figures)
        print(describe_qat(figures), file=sys.stderr)
    else:
        # Weights of an earlier fine-tuning would make this run's artifacts something other than PTQ.
        (args.run / QAT_WEIGHTS_FILE).unlink(missing_ok=True)
        (args.run / QAT_FILE).unlink(missing_ok=True)
    write_scheme(args.run, scheme)
    bundle = args.run / ARTIFACTS_FOLDER
    manifest = write_artifacts(files, bundle)
    if test is None:
        say(_how_to_measure(files.run, args.run / TEST_FILE, args.data_dir), sys.stderr)
    else:
        manifest = measure_accuracy(files, bundle, test)
    print_closing_lines(bundle, manifest, sys.stderr if args.json else sys.stdout)
    if args.json:
        print((bundle / "manifest.json").read_text(encoding="utf-8"))
    return 0


def _how_to_measure(run: Run, path: Path, data_dir: Path | None) -> str:
    """Return how to write a test split for an imported network."""
    # A public dataset without labelled test images: the network was trained on all of it but `val`.
    options = ["--dataset", run.dataset, "--split", "val" if run.dataset == "folder" else "test"]
    options += ["--data-dir", str(data_dir)] if data_dir else []
    options += ["--image-size", str(run.image_size), "--interpolation", run.model.interpolation, "--out", str(path)]
    return (
        f"no accuracy measured, as there is no {path}; write it from images that the network was not trained on, "
        f"`python -m train.data {shlex.join(options)}`, and export again"
    )


def quantization_aware_training(
    files: RunFiles,
    dataset: Dataset,
    config: QatConfig,
    *,
    batch_size_for: Callable[[Any, int], int] = fitting_batch_size,
    fine_tune: Callable[..., Sequence[QatEpoch]] = finetune,
) -> dict[str, Any]:
    """Fine-tune a run's network under fake quantization, and write its weights as qat.safetensors.

    Args:
        files: the run, calibrated.
        dataset: its images.
        config: the recipe.
        batch_size_for: returns the images per step for a network, at most a wanted number.
        fine_tune: trains the network.

    Returns:
        The content of qat.json: the recipe, the `batch_size` in images, all epochs as `QatEpoch`s, and
        `chosen_epoch`, whose weights are kept.
    """
    run, teacher = files.run, files.float_model
    student = build_fake_quant(teacher, run.deployed, files.ranges, files.scheme)
    validate = Validator(teacher, resize_all(resident(dataset.val).images, run.deployed.input_spec))
    recipe = dataclasses.replace(run.recipe, batch_size=batch_size_for(student, run.recipe.batch_size))
    if recipe.batch_size < run.recipe.batch_size:
        print(
            f"batches of {recipe.batch_size} instead of {run.recipe.batch_size} images, so that a step fits into "
            f"{STEP_BYTES >> 30} GiB",
            file=sys.stderr,
        )
    batches = LazyBatches(dataset.train, run.deployed, recipe)
    epochs = fine_tune(student, teacher, batches, validate, config)
    write_tensors(files.folder / QAT_WEIGHTS_FILE, fake_quant_weights(student))
    return {
        "recipe": dataclasses.asdict(config),
        "batch_size": recipe.batch_size,
        "epochs": [dataclasses.asdict(each) for each in epochs],
        "chosen_epoch": best_epoch(epochs).epoch,
    }


def describe_qat(figures: dict[str, Any]) -> str:
    """Return a line on the effect of fine-tuning, from qat.json's content."""
    epochs, chosen = figures["epochs"], figures["chosen_epoch"]
    before, after = (epochs[index]["val"]["agreement"] for index in (0, chosen))
    kept = f"{after:.2%} after QAT (epoch {chosen} of {len(epochs) - 1})" if chosen else "and no epoch of QAT is nearer"
    return f"validation predictions equal to the float network's: {before:.2%} calibrated, {kept}"


def _parser() -> argparse.ArgumentParser:
    shared = shared_options(
        "--run", "--data-dir", "--json", run="folder of a trained and calibrated run", json="print the manifest as JSON"
    )
    parser = command_parser("python -m export", "Make a calibrated run int8 and write its artifacts.", parents=[shared])
    add_stream_argument(parser)
    parser.add_argument("--scheme", choices=SCHEMES, default=SELECTIVE.name, help="what is int8")
    parser.add_argument(
        "--float-layers",
        nargs="+",
        default=(),
        metavar="LAYER",
        help="int8 products to leave in float, as `python -m export.sensitivity` suggests (default: none)",
    )
    parser.add_argument(
        "--qat-epochs",
        type=int,
        default=QatConfig.epochs,
        metavar="N",
        help="epochs of quantization-aware training, 0 or more; 0 is calibration alone (PTQ)",
    )
    parser.add_argument(
        "--qat-learning-rate",
        type=float,
        default=QatConfig.learning_rate,
        metavar="RATE",
        help="Adam's first rate, above 0",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
