"""Train a FocalNet: `python -m train --preset edge-nano --dataset shapes --run runs/first`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# Keras prints nothing of its own; TensorFlow's start-up notes are silenced before its import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from runtime.core.cli import run_cli
from runtime.core.files import write_json
from runtime.evaluation.metrics import agreement
from runtime.evaluation.split_file import write_split
from runtime.video.writer import save_image
from train.data.dataset import Dataset, resize_all
from train.data.registry import DATASETS, add_stream_argument, labelled, load_dataset
from train.distributed.placement import (
    Placement,
    apart,
    check_batch,
    is_asked_for,
    leave,
    start_distribution,
    supervise,
    with_others,
)
from train.model.fold_norms import fold_weights
from train.model.presets import DEFAULT_PRESET, PRESETS
from train.model.recipe import (
    add_recipe_options,
    check_recipe,
    recipe_for,
    stored_image_size,
    with_recipe_options,
)
from train.model.weights import Tensors, weight_arrays, write_tensors
from train.pretrained.starting_point import StartingPoint, find_starting_point
from train.run import CHECKPOINT_FILE, SUMMARY_FILE, TEST_FILE, WEIGHTS_FILE, Run, begin_run


def main(argv: Sequence[str] | None = None) -> int:
    """Train, or go on training, and leave the run folder ready for the next stages."""
    args = _parser().parse_args(argv)
    placement = start_distribution()
    with apart(placement):
        basis = find_starting_point(args.preset, args.init, args.run, args.resume)
    image_size = stored_image_size(basis.model, with_recipe_options(basis.recipe, args))
    check_recipe(basis.model, with_recipe_options(basis.recipe, args))
    _say(args, f"data set {args.dataset}" + _shapes_note(args.dataset))
    dataset = load_dataset(
        args.dataset,
        data_dir=args.data_dir,
        image_size=image_size,
        interpolation=basis.model.interpolation,
        stream=args.stream,
    )
    if dataset.residence:
        _say(args, dataset.residence)
    for line in dataset.skipped:
        _say(args, f"skipped {line}")
    if dataset.skipped:
        _say(args, f"{len(dataset.skipped)} skipped in all")
    recipe = with_recipe_options(recipe_for(basis.recipe, len(dataset.train.labels)), args)
    model_config = dataclasses.replace(basis.model, classes=len(dataset.labels))
    run = Run(
        preset=basis.preset,
        model=model_config,
        recipe=recipe,
        dataset=args.dataset,
        labels=dataset.labels,
        init=basis.init,
    )
    check_batch(min(recipe.batch_size, len(dataset.train.labels)), placement)
    start = _start(basis, run, dataset, args, placement)
    if placement.writes:
        begin_run(args.run, run, args.resume)
        test = labelled(dataset, "test")
        write_split(args.run / TEST_FILE, test)
        if len(test.ids) < len(dataset.test.ids):
            _say(args, f"{TEST_FILE} has a sample, {len(test.ids)} of {len(dataset.test.ids)} images")
    summary = _train(run, dataset, args, placement, start)
    for line in dataset.unreadable:
        _say(args, line)
    if not placement.writes:
        return 0
    if args.json:
        print(json.dumps(summary, indent=2))
    else:
        print(
            f"{summary['images_per_s']} images/s, {summary['peak_fraction']:.1%} of the device's measured peak; "
            f"test top-1 {summary['test_top1']:.2%} on {summary['test_images']} images of {args.dataset}; "
            f"weights in {args.run / WEIGHTS_FILE}"
        )
    return 0


def _start(
    basis: StartingPoint, run: Run, dataset: Dataset, args: argparse.Namespace, placement: Placement
) -> Tensors | None:
    """Return the weights that a run starts from; `None` for drawn ones, or if it goes on."""
    if basis.pretrained is None or (args.resume and (args.run / CHECKPOINT_FILE).exists()):
        return None
    from train.pretrained.init_weights import initial_weights, statistics_indices

    with apart(placement):
        chosen = statistics_indices(len(dataset.train.labels), run.recipe.seed)
        images = resize_all(dataset.train.images[chosen], run.model.input_spec)
        start = initial_weights(basis.pretrained, run, images)
    _say(args, start.summary)
    return start.tensors


def _train(
    run: Run, dataset: Dataset, args: argparse.Namespace, placement: Placement, start: Tensors | None
) -> dict[str, object]:
    import keras

    from train.data.batches import steps_per_epoch
    from train.distributed.device import device_name
    from train.loop.confusion import confusion_matrix, write_confusion
    from train.loop.fit import classify, fit
    from train.loop.monitor import draw_panels, sample_indices, write_animation
    from train.model.cost import fraction_of_peak, measure_peak, network_cost

    device = device_name()
    _say(args, f"Keras {keras.__version__} on {keras.backend.backend()}, device {device}")
    if placement.devices > 1:
        _say(args, f"{placement.title}, {placement.devices} devices in all")
    sizes = ", ".join(f"{name} {len(dataset.split(name).labels)}" for name in ("train", "val", "test"))
    _say(args, f"images: {sizes}; {run.recipe.epochs} epochs of batch {run.recipe.batch_size}")
    began = time.perf_counter()
    with with_others(placement):
        model, history = fit(run, dataset, args.run, resume=args.resume, placement=placement, start=start)
        leave(placement)
    if not placement.writes:
        return {}
    weights = fold_weights(weight_arrays(model), run.model)
    write_tensors(args.run / WEIGHTS_FILE, weights)
    spec = run.model.input_spec
    test = dataset.test
    predictions = classify(model, test.images, spec)
    matrix = confusion_matrix(test.labels, predictions, len(run.labels))
    write_confusion(args.run / "confusion.png", matrix, run.labels)
    chosen = sample_indices(test.labels, 5)
    samples, truths = resize_all(test.images[chosen], spec), test.labels[chosen]
    panel = draw_panels(model, run.model, samples, run.labels, truths=truths, title="test images")
    save_image(args.run / "test_panel.png", panel)
    write_animation(args.run / "monitor")
    cost = network_cost(run.model)
    batches = steps_per_epoch(len(dataset.train.labels), run.recipe)
    images_per_s = batches * run.recipe.batch_size / statistics.median(row["time_s"] for row in history)
    peak = placement.devices * measure_peak("float32" if run.recipe.precision == "float32" else "bfloat16")
    summary = {
        "run": str(args.run),
        "preset": run.preset,
        "dataset": run.dataset,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "epochs": len(history),
        "device": device,
        "backend": keras.backend.backend(),
        "training_time_s": round(sum(row["time_s"] for row in history), 1),
        "wall_time_s": round(time.perf_counter() - began, 1),
        "images_per_s": round(images_per_s, 1),  # validation and images included
        "peak_flops_per_s": peak,  # of all devices
        "peak_fraction": fraction_of_peak(images_per_s, cost.macs, peak),
        "val_top1": history[-1]["val_accuracy"],
        "test_top1": agreement(test.labels, predictions),
        "test_images": len(test.labels),
    }
    write_json(args.run / SUMMARY_FILE, summary)
    return summary


def _shapes_note(dataset: str) -> str:
    return " (embedded; DATASET=cifar10, or --dataset cifar10, trains on real images)" if dataset == "shapes" else ""


def _say(args: argparse.Namespace, line: str) -> None:
    # With --json, standard output carries the JSON alone.
    print(line, file=sys.stderr if args.json else sys.stdout, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m train", description="Train a FocalNet.")
    parser.add_argument("--preset", help=f"one of {', '.join(PRESETS)} ({DEFAULT_PRESET}, or that of --init)")
    parser.add_argument(
        "--init", type=Path, metavar="FOLDER", help="start from the weights of this run or bundle, with a new head"
    )
    parser.add_argument("--dataset", default="shapes", help=f"one of {', '.join(DATASETS)} (%(default)s)")
    parser.add_argument("--data-dir", type=Path, help="where the images are (default: $DATA_DIR)")
    add_stream_argument(parser)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run, made if missing")
    parser.add_argument("--resume", action="store_true", help="go on from the run's last whole epoch, if any")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_recipe_options(parser)
    return parser


if __name__ == "__main__":
    # JAX may end a process whose run lost another one; a parent lives to say so.
    sys.exit(run_cli(supervise if is_asked_for() else main))
