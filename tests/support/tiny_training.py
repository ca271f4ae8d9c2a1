"""Training runs of seconds, for tests: a tiny FocalNet with all that draws or averages, on plain colours."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np

from train.data.dataset import Dataset, Split
from train.model.config import FocalNetConfig
from train.model.recipe import TrainConfig
from train.run import Run

LABELS = ("red", "green", "blue")
NETWORK = FocalNetConfig(
    input_size=8,
    classes=len(LABELS),
    patch_size=4,
    dims=(8,),
    depths=(2,),
    focal_levels=(1,),
    focal_windows=(3,),
    norm="batch",
    drop_rate=0.1,
    drop_path_rate=0.2,
)
RECIPE = TrainConfig(
    epochs=4,
    batch_size=16,
    learning_rate=0.02,
    ema_momentum=0.5,
    resize_margin=2,
    mixup_alpha=0.2,
    mix_rate=0.5,
    monitor_every=2,
    seed=5,
)
# Every augmentation there is; its graph takes TensorFlow long to trace.
FULL_RECIPE = dataclasses.replace(RECIPE, pad=2, rand_augment_ops=1, erase_rate=0.5, cutmix_alpha=1.0, mix_rate=0.8)
RUN = Run(preset="tiny", model=NETWORK, recipe=RECIPE, dataset="folder", labels=LABELS)
TRAIN_IMAGES = 72


def easy_dataset() -> Dataset:
    """Make three splits of images in which the colour of the label is the strongest."""
    counts = {"train": TRAIN_IMAGES, "val": 15, "test": 12}
    splits = {name: _split(name, count, seed) for seed, (name, count) in enumerate(counts.items())}
    return Dataset(name="colours", labels=LABELS, **splits)


def write_easy_images(folder: Path) -> None:
    """Write the training images of the easy dataset as PNG files, a sub-folder per class."""
    train = easy_dataset().train
    for index in range(TRAIN_IMAGES):
        path = folder / LABELS[train.labels[index]] / f"{index:03}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), train.images[index][..., ::-1])


def _split(name: str, count: int, seed: int) -> Split:
    labels = np.arange(count, dtype=np.int64) % len(LABELS)
    images = np.random.default_rng(seed).integers(0, 100, (count, 12, 12, 3))
    images[np.arange(count), :, :, labels] += 120
    return Split(images.astype(np.uint8), labels, tuple(f"{name}:{index}" for index in range(count)))
