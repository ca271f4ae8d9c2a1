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
from train.data.folders.folder import load_folder
from train.data.folders.near_copies import near_copies
from train.data.folders.split_record import SplitRecord, read_record
from train.data.shapes import load_shapes
from train.run import SPLIT_FILE, Run

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
        record: the splits of a folder that a run was trained on, which are kept.
        grow: images that are not in `record` go to `train`; otherwise they are left out.
        allow_conflicts: keep the first label of an image that is in two classes.

    Raises:
        ConfigError: the image size or the seed is out of range.
    """

    data_dir: Path | None
    image_size: int
    interpolation: Interpolation = "area"
    seed: int = 0
    stream: bool | None = None
    record: SplitRecord | None = None
    grow: bool = True
    allow_conflicts: bool = False

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
        lambda asked: load_folder(
            asked.data_dir,
            asked.image_size,
            asked.seed,
            asked.interpolation,
            asked.stream,
            record=asked.record,
            grow=asked.grow,
            allow_conflicts=asked.allow_conflicts,
        ),
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
    record: SplitRecord | None = None,
    grow: bool = True,
    allow_conflicts: bool = False,
) -> Dataset:
    """Load a dataset and check it.

    Args:
        name: a key of `DATASETS`.
        data_dir: see `DatasetRequest`, as for the others.
        image_size: used by "folder", whose images differ in size.
        interpolation: used by "folder".
        seed: seed of the splits, and of the images of "shapes".
        stream: used by "folder": "true", "false" or, by size, "auto".
        record: used by "folder".
        grow: used by "folder".
        allow_conflicts: used by "folder".

    Returns:
        The dataset; its splits are not empty and share no image.

    Raises:
        ConfigError: the name is unknown, or the image size or seed is out of range.
        DataError: the images are missing, damaged or too few.
    """
    request = DatasetRequest(
        data_dir=data_dir,
        image_size=image_size,
        interpolation=interpolation,
        seed=seed,
        stream=STREAM[stream],
        record=record,
        grow=grow,
        allow_conflicts=allow_conflicts,
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


def load_data_of(run: Run, data_dir: Path | None, stream: str = "auto", *, folder: Path) -> Dataset:
    """Load the dataset that a run names, at the run's image size; see `load_dataset`.

    Images that came to a folder after the training are left out, and each other one is in the split that it was in.

    Args:
        run: the run's description.
        data_dir: folder of the images.
        stream: see `load_dataset`.
        folder: folder of the run, or of a bundle.
    """
    path = folder / SPLIT_FILE
    return load_dataset(
        run.dataset,
        data_dir=data_dir,
        image_size=run.image_size,
        interpolation=run.model.interpolation,
        stream=stream,
        record=read_record(path) if path.exists() else None,
        grow=False,
        allow_conflicts=True,  # the training has refused or accepted them
    )


def describe_files(dataset: Dataset) -> list[str]:
    """Return lines on a dataset's files: where they are, what is not used and why, near copies, and the account."""
    lines = [dataset.residence] if dataset.residence else []
    lines += [f"skipped {line}" for line in dataset.skipped]
    lines += [f"{len(dataset.skipped)} images skipped"] if dataset.skipped else []
    lines += dataset.notes
    if dataset.files:
        lines += [*near_copies(dataset), dataset.files.line()]
    return lines


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


def add_conflicts_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--allow-conflicts`, for `load_dataset`, to a command."""
    parser.add_argument(
        "--allow-conflicts",
        action="store_true",
        help="go on if the same image is in two class folders, and keep the first; otherwise that is an error",
    )
