"""Make a calibrated run int8 and write its artifacts: `python -m export --run runs/first`."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.audit import layer_names
from export.bundle import (
    ARTIFACTS_FOLDER,
    QAT_WEIGHTS_FILE,
    measure_accuracy,
    print_closing_lines,
    ranges_for,
    write_artifacts,
)
from export.quantize.fake_quant import build_fake_quant, build_float, fake_quant_weights
from export.quantize.float_layers import check_float_layers
from export.quantize.qat import (
    STEP_BYTES,
    LazyBatches,
    QatConfig,
    Validator,
    best_epoch,
    finetune,
    fitting_batch_size,
)
from export.quantize.scheme_file import write_scheme
from export.quantize.schemes import SCHEMES, SELECTIVE, Scheme, find_scheme, match_rules
from export.quantize.size_limit import check_weights_fit
from runtime.core.cli import run_cli
from runtime.core.files import write_json
from runtime.evaluation.split_file import LabelledImages, check_class_names, read_split
from train.data.dataset import Dataset, resident, resize_all
from train.data.registry import add_stream_argument, load_data_of
from train.model.weights import read_tensors, write_tensors
from train.run import TEST_FILE, WEIGHTS_FILE, Run, read_run

QAT_FILE = "qat.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Fine-tune with fake quantization if asked for, then convert, describe and measure the artifacts."""
    args = _parser().parse_args(argv)
    config = QatConfig(epochs=args.qat_epochs, learning_rate=args.qat_learning_rate)
    run = read_run(args.run)
    check_weights_fit(args.run / WEIGHTS_FILE)
    test = _test_images(args.run, run)
    scheme = find_scheme(args.scheme).leaving_float(args.float_layers)
    check_float_layers(scheme.float_layers, match_rules(scheme.rules, layer_names(run.deployed)))
    if config.epochs:
        dataset = load_data_of(run, args.data_dir, args.stream)
        if dataset.train.streamed:
            print(dataset.residence, file=sys.stderr)
        figures = quantization_aware_training(run, args.run, dataset, config, scheme)
        write_json(args.run / QAT_FILE, figures)
        print(describe_qat(figures), file=sys.stderr)
    else:
        # Weights of an earlier fine-tuning would make this run's artifacts something else than PTQ.
        (args.run / QAT_WEIGHTS_FILE).unlink(missing_ok=True)
        (args.run / QAT_FILE).unlink(missing_ok=True)
    write_scheme(args.run, scheme)
    bundle = args.run / ARTIFACTS_FOLDER
    manifest = write_artifacts(args.run, bundle)
    if test is None:
        print(_how_to_measure(run, args.run / TEST_FILE, args.data_dir), file=sys.stderr)
    else:
        manifest = measure_accuracy(args.run, bundle, test)
    print_closing_lines(bundle, manifest, sys.stderr if args.json else sys.stdout)
    if args.json:
        print((bundle / "manifest.json").read_text())
    return 0


def _test_images(folder: Path, run: Run) -> LabelledImages | None:
    """Read the run's test split; `None` if it has none, as an imported network comes without images.

    Raises:
        DataError: it is damaged, or has other classes than the network.
    """
    if not (folder / TEST_FILE).exists():
        return None
    images = read_split(folder / TEST_FILE)
    check_class_names(images.class_names, run.labels, f"write {folder / TEST_FILE} of images of the same classes")
    return images


def _how_to_measure(run: Run, path: Path, data_dir: Path | None) -> str:
    """Say how to write the images that an imported network's accuracy is measured on."""
    # Of a published data set that has no test split with labels, the network was trained on all but its val.
    options = ["--dataset", run.dataset, "--split", "val" if run.dataset == "folder" else "test"]
    options += ["--data-dir", str(data_dir)] if data_dir else []
    options += ["--image-size", str(run.image_size), "--interpolation", run.model.interpolation, "--out", str(path)]
    return (
        f"no accuracy measured, as there is no {path}; write it of images that the network was not trained on, "
        f"`python -m train.data {shlex.join(options)}`, and export again"
    )


def quantization_aware_training(
    run: Run, folder: Path, dataset: Dataset, config: QatConfig, scheme: Scheme
) -> dict[str, Any]:
    """Fine-tune a run's network under fake quantization, and keep its weights as qat.safetensors.

    Args:
        run: the run.
        folder: its folder, with float.safetensors and calibration.json.
        dataset: its images.
        config: the recipe.
        scheme: what is int8.

    Returns:
        What qat.json holds: the recipe, the `batch_size` in images, every epoch as a `QatEpoch`, and `chosen_epoch`,
        whose weights are kept.
    """
    weights = read_tensors(folder / WEIGHTS_FILE)
    teacher = build_float(run.deployed, weights, str(folder / WEIGHTS_FILE))
    student = build_fake_quant(teacher, run.deployed, ranges_for(scheme, folder), scheme)
    validate = Validator(teacher, resize_all(resident(dataset.val).images, run.deployed.input_spec))
    recipe = dataclasses.replace(run.recipe, batch_size=fitting_batch_size(student, run.recipe.batch_size))
    if recipe.batch_size < run.recipe.batch_size:
        print(
            f"batches of {recipe.batch_size} instead of {run.recipe.batch_size} images, so that a step fits into "
            f"{STEP_BYTES >> 30} GiB",
            file=sys.stderr,
        )
    batches = LazyBatches(dataset.train, run.deployed, recipe)
    epochs = finetune(student, teacher, batches, validate, config)
    write_tensors(folder / QAT_WEIGHTS_FILE, fake_quant_weights(student))
    return {
        "recipe": dataclasses.asdict(config),
        "batch_size": recipe.batch_size,
        "epochs": [dataclasses.asdict(each) for each in epochs],
        "chosen_epoch": best_epoch(epochs).epoch,
    }


def describe_qat(figures: dict[str, Any]) -> str:
    """Return a line on what fine-tuning was worth, of qat.json's content."""
    epochs, chosen = figures["epochs"], figures["chosen_epoch"]
    before, after = (epochs[index]["val"]["agreement"] for index in (0, chosen))
    kept = f"{after:.2%} after QAT (epoch {chosen} of {len(epochs) - 1})" if chosen else "and no epoch of QAT is nearer"
    return f"validation predictions equal to the float network's: {before:.2%} calibrated, {kept}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export", description="Quantize a run and write its artifacts.")
    parser.add_argument("--run", type=Path, required=True, help="folder of a trained and calibrated run")
    parser.add_argument("--data-dir", type=Path, help="where the images are (default: $DATA_DIR)")
    add_stream_argument(parser)
    parser.add_argument(
        "--scheme",
        choices=SCHEMES,
        default=SELECTIVE.name,
        help="what is int8, see export.quantize.schemes",
    )
    parser.add_argument(
        "--float-layers",
        nargs="+",
        default=(),
        metavar="LAYER",
        help="int8 products to leave in float; `python -m export.sensitivity` finds out which (none)",
    )
    parser.add_argument("--qat-epochs", type=int, default=1, help="0 is calibration alone, PTQ (%(default)s)")
    parser.add_argument("--qat-learning-rate", type=float, default=2e-5, help="Adam's first rate (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the manifest")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
