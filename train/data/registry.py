"""The datasets by name."""

from __future__ import annotations

import argparse
from pathlib import Path

from runtime.core.errors import ConfigError
from runtime.evaluation.split_file import LabelledImages
from runtime.images.input_spec import Interpolation
from train.data.cifar10 import load_cifar10
from train.data.dataset import Dataset, Split, check_dataset, resident
from train.data.folder import load_folder
from train.data.shapes import load_shapes
from train.run import Run

__all__ = ["DATASETS", "Dataset", "Split", "add_stream_argument", "labelled", "load_dataset"]

DATASETS = ("cifar10", "folder", "shapes")


# How `load_folder` is asked, by what the commands call it.
STREAM: dict[str, bool | None] = {"auto": None, "true": True, "false": False}


def load_dataset(
    name: str,
    *,
    data_dir: Path | None,
    image_size: int,
    interpolation: Interpolation = "area",
    seed: int = 0,
    stream: str = "auto",
) -> Dataset:
    """Load a data set and check it.

    Args:
        name: "cifar10", "folder" or "shapes".
        data_dir: where the images are; `None` takes the environment variable DATA_DIR. Without
            either, "cifar10" comes from the cache or is downloaded. "shapes" takes no notice of it.
        image_size: the side that a folder's images, which differ in size, are resized to, in pixels;
            "cifar10" (32 px) and "shapes" (64 px) keep their own.
        interpolation: how those are resized, see `runtime.images.input_spec.InputSpec`.
        seed: draws the splits (and the images, for "shapes"); not negative.
        stream: whether a folder's images stay on disk: "true", "false" or, by their size, "auto".

    Returns:
        The data set; its splits are not empty and have no image in common.

    Raises:
        ConfigError: an unknown name, or an image size or seed out of range.
        DataError: the images are missing, damaged or too few.
    """
    if image_size < 1:
        raise ConfigError(f"received image size {image_size}; expected at least 1 pixel")
    if seed < 0:
        raise ConfigError(f"received seed {seed}; expected 0 or more")
    if name == "cifar10":
        dataset = load_cifar10(data_dir, seed)
    elif name == "folder":
        dataset = load_folder(data_dir, image_size, seed, interpolation, STREAM[stream])
    elif name == "shapes":
        dataset = load_shapes(seed)
    else:
        raise ConfigError(f"unknown data set {name!r}; the known ones are {', '.join(DATASETS)}")
    check_dataset(dataset)
    return dataset


def load_data_of(run: Run, data_dir: Path | None, stream: str = "auto") -> Dataset:
    """Load the data set that a run names, stored as the run's images are; see `load_dataset`."""
    return load_dataset(
        run.dataset, data_dir=data_dir, image_size=run.image_size, interpolation=run.model.interpolation, stream=stream
    )


def add_stream_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--stream`, for `load_dataset`, to a command's arguments."""
    parser.add_argument(
        "--stream",
        choices=STREAM,
        default="auto",
        help="whether a folder's images stay on disk and are read as they are needed; auto: if they would take more "
        "than a quarter of the memory (%(default)s)",
    )


def labelled(dataset: Dataset, name: str) -> LabelledImages:
    """Return a split as a split file has it; a class-balanced sample of one that stays on disk."""
    split = resident(dataset.split(name))
    return LabelledImages(split.images, split.labels, split.ids, dataset.labels, dataset.name, name)
