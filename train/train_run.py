"""A training run: prepare, fit, evaluate, summarise."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.core.cli import say
from runtime.core.errors import DataError
from runtime.core.files import json_text, write_json
from runtime.evaluation.metrics import agreement
from runtime.evaluation.sampling import class_balanced_indices
from runtime.evaluation.split_file import LabelledImages, read_split, write_split
from runtime.images.listing import first_few
from runtime.video.writer import save_image
from train.data.dataset import Dataset, labelled, resize_all
from train.data.folders.split_record import SplitRecord, read_record, write_record
from train.data.registry import describe_files, find_dataset, load_dataset
from train.distributed.placement import (
    Placement,
    apart,
    check_batch,
    device_name,
    leave,
    start_distribution,
    with_others,
)
from train.model.fold_norms import fold_weights
from train.model.recipe import TrainConfig, check_recipe, recipe_for, stored_image_size, with_recipe_options
from train.model.weights import Tensors, weight_arrays, write_tensors
from train.pretrained.starting_point import StartingPoint, find_starting_point
from train.run import CHECKPOINT_FILE, SPLIT_FILE, SUMMARY_FILE, TEST_FILE, WEIGHTS_FILE, Run, begin_run

PANEL_IMAGES = 5


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of a training run.

    Attributes:
        folder: folder of the run.
        dataset: name of the dataset.
        recipe: options that change the preset's recipe, as `with_recipe_options` takes them.
        preset: name of the preset; `None` takes that of `init`, or the default.
        init: folder of the run or bundle whose weights the run starts from.
        data_dir: folder of the images; `None` takes $DATA_DIR.
        stream: whether images stay on disk, as `load_dataset` takes it.
        resume: continue from the checkpoint, if there is one.
        allow_conflicts: go on if an image is in two classes.
        json: print the summary as JSON, and everything else on stderr.
    """

    folder: Path
    dataset: str
    recipe: argparse.Namespace
    preset: str | None = None
    init: Path | None = None
    data_dir: Path | None = None
    stream: str = "auto"
    resume: bool = False
    allow_conflicts: bool = False
    json: bool = False

    def log(self, line: str) -> None:
        """Print a line; with `json`, stdout carries the JSON alone."""
        say(line, sys.stderr if self.json else sys.stdout)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A run that is ready to be fitted.

    Attributes:
        run: its description.
        dataset: its images.
        placement: this process' place in it.
        start: weights to start from; `None` for random ones, or if the run is resumed.
    """

    run: Run
    dataset: Dataset
    placement: Placement
    start: Tensors | None


def train(request: Request) -> int:
    """Train or resume a run, and write all files of its folder.

    Returns:
        The exit code, 0.

    Raises:
        FocalEdgeError: the options, the images or the weights cannot be used, or training failed.
    """
    prepared = prepare(request, start_distribution())
    summary = _train(prepared, request)
    if unreadable := prepared.dataset.unreadable:
        for line in unreadable:
            request.log(line)
        if files := prepared.dataset.files:
            request.log(files.line())
    if not prepared.placement.writes:
        return 0
    if request.json:
        print(json_text(summary))
    else:
        say(
            f"{summary['images_per_s']} images/s, {summary['peak_fraction']:.1%} of the device's measured peak; "
            f"test top-1 {summary['test_top1']:.2%} on {summary['test_images']} images of {request.dataset}; "
            f"weights in {request.folder / WEIGHTS_FILE}"
        )
    return 0


def prepare(request: Request, placement: Placement) -> Prepared:
    """Load the images, describe the run, read its starting weights and begin its folder.

    Raises:
        FocalEdgeError: the options, the images or the weights cannot be used.
    """
    with apart(placement):
        origin = find_starting_point(request.preset, request.init, request.folder, request.resume)
    recipe = with_recipe_options(origin.recipe, request.recipe)
    check_recipe(origin.model, recipe)
    dataset = _load(request, origin, recipe)
    images = len(dataset.train.labels)
    run = Run(
        preset=origin.preset,
        model=dataclasses.replace(origin.model, classes=len(dataset.labels)),
        recipe=with_recipe_options(recipe_for(origin.recipe, images), request.recipe),
        dataset=request.dataset,
        labels=dataset.labels,
        init=origin.init,
    )
    check_batch(min(run.recipe.batch_size, images), placement)
    start = _starting_weights(request, origin, run, dataset, placement)
    if placement.writes:
        trained_on = _trained_on(request.folder)
        begin_run(request.folder, run, request.resume)
        _write_test_split(request, dataset, trained_on)
    return Prepared(run, dataset, placement, start)


def _load(request: Request, origin: StartingPoint, recipe: TrainConfig) -> Dataset:
    request.log(f"dataset {request.dataset}{find_dataset(request.dataset).note}")
    dataset = load_dataset(
        request.dataset,
        data_dir=request.data_dir,
        image_size=stored_image_size(origin.model, recipe),
        interpolation=origin.model.interpolation,
        stream=request.stream,
        record=_earlier_splits(request.folder),
        allow_conflicts=request.allow_conflicts,
    )
    for line in describe_files(dataset):
        request.log(line)
    return dataset


def _trained_on(folder: Path) -> bool:
    """Return whether a run has weights that have learnt from images."""
    return any((folder / name).exists() for name in (CHECKPOINT_FILE, WEIGHTS_FILE))


def _earlier_splits(folder: Path) -> SplitRecord | None:
    path = folder / SPLIT_FILE
    return read_record(path) if path.exists() and _trained_on(folder) else None


def _starting_weights(
    request: Request, origin: StartingPoint, run: Run, dataset: Dataset, placement: Placement
) -> Tensors | None:
    if origin.pretrained is None or (request.resume and (request.folder / CHECKPOINT_FILE).exists()):
        return None
    from train.pretrained.init_weights import initial_weights, statistics_indices

    with apart(placement):
        chosen = statistics_indices(len(dataset.train.labels), run.recipe.seed)
        images = resize_all(dataset.train.images[chosen], run.model.input_spec)
        start = initial_weights(origin.pretrained, run, images)
    request.log(start.summary)
    return start.tensors


def _write_test_split(request: Request, dataset: Dataset, trained_on: bool) -> None:
    test = labelled(dataset, "test")
    path = request.folder / SPLIT_FILE
    if trained_on and not path.exists() and (request.folder / TEST_FILE).exists():
        _check_test_split(request.folder, test)
    if dataset.record is not None:
        write_record(path, dataset.record())
    write_split(request.folder / TEST_FILE, test)
    if len(test.ids) < len(dataset.test.ids):
        request.log(f"{TEST_FILE} holds a sample, {len(test.ids)} of {len(dataset.test.ids)} images")


def _check_test_split(folder: Path, test: LabelledImages) -> None:
    """Check that a run of an earlier version, without a record of its splits, keeps its test images.

    Raises:
        DataError: it does not.
    """
    before = read_split(folder / TEST_FILE).ids
    new = [name for name in test.ids if name not in set(before)]
    if new:
        raise DataError(
            f"the images have changed since {folder} was trained: {len(new)} of {len(test.ids)} test images are not in "
            f"its {TEST_FILE} ({first_few(new)}), and it may have learnt from them; give its images, or name another "
            "--run"
        )


def _train(prepared: Prepared, request: Request) -> dict[str, Any]:
    """Fit and evaluate a run; return its summary, or nothing in a process that writes no files."""
    from train.loop.fit import fit

    run, placement, folder = prepared.run, prepared.placement, request.folder
    _log_setup(prepared, request)
    began_s = time.perf_counter()
    with with_others(placement):
        model, history = fit(
            run, prepared.dataset, folder, resume=request.resume, placement=placement, start=prepared.start
        )
        leave(placement)
    if not placement.writes:
        return {}
    write_tensors(folder / WEIGHTS_FILE, fold_weights(weight_arrays(model), run.model))
    test_top1 = evaluate(model, run, prepared.dataset, folder)
    summary = summarise(prepared, request, history, test_top1, began_s)
    write_json(folder / SUMMARY_FILE, summary)
    return summary


def _log_setup(prepared: Prepared, request: Request) -> None:
    import keras

    recipe, placement = prepared.run.recipe, prepared.placement
    request.log(f"Keras {keras.__version__} on {keras.backend.backend()}, device {device_name()}")
    if placement.devices > 1:
        request.log(f"{placement.title}, {placement.devices} devices in all")
    sizes = ", ".join(f"{name} {len(prepared.dataset.split(name).labels)}" for name in ("train", "val", "test"))
    request.log(f"images: {sizes}; {recipe.epochs} epochs of batch {recipe.batch_size}")


def evaluate(model: Any, run: Run, dataset: Dataset, folder: Path) -> float:
    """Classify the test images, and write the confusion matrix, a panel of samples and the animation.

    Args:
        model: the trained network.
        run: its description.
        dataset: its images.
        folder: folder of the run.

    Returns:
        The top-1 accuracy, 0..1.
    """
    from train.loop.confusion import confusion_matrix, write_confusion
    from train.loop.fit import predict
    from train.loop.monitor import draw_panels, write_animation

    test, spec = dataset.test, run.model.input_spec
    predictions = predict(model, test.images, spec)
    write_confusion(folder / "confusion.png", confusion_matrix(test.labels, predictions, len(run.labels)), run.labels)
    chosen = class_balanced_indices(test.labels, PANEL_IMAGES, seed=None)
    samples, truths = resize_all(test.images[chosen], spec), test.labels[chosen]
    panel = draw_panels(model, run.model, samples, run.labels, truths=truths, title="test images")
    save_image(folder / "test_panel.png", panel)
    write_animation(folder / "monitor")
    return agreement(test.labels, predictions)


def summarise(
    prepared: Prepared, request: Request, history: list[dict[str, float]], test_top1: float, began_s: float
) -> dict[str, Any]:
    """Return the figures of a finished run, as the summary file holds them.

    Args:
        prepared: the run.
        request: its options.
        history: one row an epoch.
        test_top1: top-1 accuracy on the test images, 0..1.
        began_s: `time.perf_counter()` before the first epoch.
    """
    import keras

    from train.data.batches import steps_per_epoch
    from train.model.cost import fraction_of_peak, measure_peak, network_cost

    run, dataset = prepared.run, prepared.dataset
    cost = network_cost(run.model)
    steps = steps_per_epoch(len(dataset.train.labels), run.recipe)
    images_per_s = steps * run.recipe.batch_size / statistics.median(row["time_s"] for row in history)
    peak = prepared.placement.devices * measure_peak("float32" if run.recipe.precision == "float32" else "bfloat16")
    return {
        "run": str(request.folder),
        "preset": run.preset,
        "dataset": run.dataset,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "epochs": len(history),
        "device": device_name(),
        "backend": keras.backend.backend(),
        "training_time_s": round(sum(row["time_s"] for row in history), 1),
        "wall_time_s": round(time.perf_counter() - began_s, 1),
        "images_per_s": round(images_per_s, 1),  # validation and images included
        "peak_flops_per_s": peak,  # of all devices
        "peak_fraction": fraction_of_peak(images_per_s, cost.macs, peak),
        "val_top1": history[-1]["val_accuracy"],
        "test_top1": test_top1,
        "test_images": len(dataset.test.labels),
    } | ({"files": dataclasses.asdict(dataset.files)} if dataset.files else {})
