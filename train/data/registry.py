"""The datasets by name, one row each."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.core.errors import ConfigError
from runtime.images.input_spec import Interpolation
from train.data.cifar10 import load_cifar10
from train.data.dataset import Dataset, check_dataset
from train.data.folder import load_folder
from train.data.shapes import load_shapes
from train.run import Run

STREAM: dict[str, bool | None] = {"auto": None, "true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class DatasetRequest:
    """What a loader is given; each uses what applies to it.

    Args:
        data_dir: folder of the images; `None` takes $DATA_DIR.
        image_size: side of the stored images, in pixels, 1 or more.
        interpolation: how images are resized to that side, see `runtime.images.input_spec.InputSpec`.
        seed: seed of the splits, 0 or more.
        stream: whether the images stay on disk; `None` decides by their size.

    Raises:
        ConfigError: the image size or the seed is out of range.
    """

    data_dir: Path | None
    image_size: int
    interpolation: Interpolation = "area"
    seed: int = 0
    stream: bool | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.image_size < 1:
            raise ConfigError(f"received image size {self.image_size}; expected at least 1 pixel")
        if self.seed < 0:
            raise ConfigError(f"received seed {self.seed}; expected 0 or more")


@dataclass(frozen=True)
class DatasetKind:
    """A row of the registry.

    Attributes:
        load: loads the dataset.
        help: what it is, a few words.
        note: what a training run says about it.
    """

    load: Callable[[DatasetRequest], Dataset]
    help: str
    note: str = ""


DATASETS: dict[str, DatasetKind] = {
    "cifar10": DatasetKind(
        lambda asked: load_cifar10(asked.data_dir, asked.seed), "ten classes at 32 px, downloaded if missing"
    ),
    "folder": DatasetKind(
        lambda asked: load_folder(asked.data_dir, asked.image_size, asked.seed, asked.interpolation, asked.stream),
        "your images, a sub-folder a class",
    ),
    "shapes": DatasetKind(
        lambda asked: load_shapes(asked.seed),
        "ten embedded classes at 64 px",
        note=" (embedded; DATASET=cifar10, or --dataset cifar10, trains on real images)",
    ),
}


def load_dataset(
    name: str,
    *,
    data_dir: Path | None,
    image_size: int,
    interpolation: Interpolation = "area",
    seed: int = 0,
    stream: str = "auto",
) -> Dataset:
    """Load a dataset and check it.

    Args:
        name: a key of `DATASETS`.
        data_dir: see `DatasetRequest`, as for the others.
        image_size: used by "folder", whose images differ in size.
        interpolation: used by "folder".
        seed: seed of the splits, and of the images of "shapes".
        stream: used by "folder": "true", "false" or, by size, "auto".

    Returns:
        The dataset; its splits are not empty and share no image.

    Raises:
        ConfigError: the name is unknown, or the image size or seed is out of range.
        DataError: the images are missing, damaged or too few.
    """
    request = DatasetRequest(
        data_dir=data_dir, image_size=image_size, interpolation=interpolation, seed=seed, stream=STREAM[stream]
    )
    dataset = find_dataset(name).load(request)
    check_dataset(dataset)
    return dataset


def find_dataset(name: str) -> DatasetKind:
    """Return the row of a name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in DATASETS:
        raise ConfigError(f"received dataset {name!r}; the known ones are {', '.join(DATASETS)}")
    return DATASETS[name]


def load_data_of(run: Run, data_dir: Path | None, stream: str = "auto") -> Dataset:
    """Load the dataset that a run names, at the run's image size; see `load_dataset`."""
    return load_dataset(
        run.dataset, data_dir=data_dir, image_size=run.image_size, interpolation=run.model.interpolation, stream=stream
    )


def add_dataset_argument(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add `--dataset` to a command; it is required if it has no default."""
    kinds = "; ".join(f"{name}: {kind.help}" for name, kind in DATASETS.items())
    parser.add_argument("--dataset", metavar="NAME", default=default, required=default is None, help=kinds)


def add_stream_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--stream`, for `load_dataset`, to a command."""
    parser.add_argument(
        "--stream",
        choices=STREAM,
        default="auto",
        help="leave a folder's images on disk and read them as needed; auto: if they would take more than a quarter "
        "of the memory (default: %(default)s)",
    )
