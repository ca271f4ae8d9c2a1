"""Measure the activation ranges of a trained run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from calibration.calibration_file import Calibration, write_calibration
from calibration.histogram import Activations, collect_histograms
from calibration.inner_tensors import inner_tensors
from calibration.observers import DEFAULT_OBSERVER, OBSERVERS, choose_ranges, find_observer
from calibration.range_plot import RANGE_PLOT_FILE, write_range_plot
from calibration.representative_set import draw_representative_set
from runtime.core.cli import say
from train.data.batches import batch_within
from train.data.dataset import resize_all
from train.data.registry import load_data_of
from train.model.focalnet import build_focalnet
from train.model.weights import load_weights
from train.run import WEIGHTS_FILE, Run, read_run

MAX_BATCH_SIZE = 64
# Limit on the outputs of all layers at once: at 224 px one image takes hundreds of megabytes.
ACTIVATION_BYTES = 1 << 30
DEFAULT_IMAGES = 512


def calibrate_run(
    folder: Path,
    *,
    data_dir: Path | None = None,
    stream: str = "auto",
    images: int | None = None,
    observer: str = DEFAULT_OBSERVER,
    percentile: float | None = None,
    seed: int = 0,
) -> Calibration:
    """Observe every layer's output on training images, and write calibration.json and calibration.png.

    Args:
        folder: of the trained run; both files go there.
        data_dir: folder of the images; `None` takes the dataset's default.
        stream: "true" reads images from disk as they are needed, "false" loads all, "auto" decides by size.
        images: size of the representative set, 1 to the training split's; `None` takes 512, or all if fewer.
        observer: name in `OBSERVERS`.
        percentile: percent of the values kept, for observer percentile alone; `None` takes its default.
        seed: of the draw of images.

    Returns:
        The calibration as written.

    Raises:
        ConfigError: the observer, the percentile or the number of images is invalid.
        DataError: the dataset cannot be loaded, or an activation is not finite.
    """
    if percentile is None and observer in OBSERVERS:
        percentile = OBSERVERS[observer].default_percent
    choose = find_observer(observer, percentile)
    run = read_run(folder)
    dataset = load_data_of(run, data_dir, stream, folder=folder)
    if dataset.train.streamed:
        say(dataset.residence, sys.stderr)
    count = min(DEFAULT_IMAGES, len(dataset.train.labels)) if images is None else images
    representative = draw_representative_set(dataset.train, count, seed)
    model = _observed_model(run, folder / WEIGHTS_FILE)
    inputs = resize_all(representative.images, run.deployed.input_spec)
    with tqdm(total=2 * len(inputs), desc="calibrate", unit="image", disable=None) as bar:
        histograms = collect_histograms(lambda: _activations(model, inputs, bar))
    calibration = Calibration(
        dataset=dataset.name,
        observer=observer,
        percentile=percentile,
        seed=seed,
        sha256=representative.sha256,
        ids=representative.ids,
        ranges=choose_ranges(histograms, choose),
    )
    write_calibration(folder, calibration)
    write_range_plot(folder / RANGE_PLOT_FILE, histograms, calibration)
    return calibration


def _observed_model(run: Run, weights: Path) -> Any:
    """Build the trained network with all layer outputs and inner tensors as named outputs."""
    import keras

    model = build_focalnet(run.deployed, keras)
    load_weights(model, weights)
    passive = (keras.layers.InputLayer, keras.layers.Dropout)
    outputs = {layer.name: layer.output for layer in model.layers if not isinstance(layer, passive)}
    return keras.Model(model.input, outputs | inner_tensors(model, run.deployed))


def _activations(model: Any, images: NDArray[np.uint8], bar: tqdm) -> Iterator[Activations]:
    size = batch_within(model.outputs, ACTIVATION_BYTES, MAX_BATCH_SIZE)
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        yield model.predict_on_batch(batch.astype(np.float32))
        bar.update(len(batch))
