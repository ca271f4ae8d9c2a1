"""Load a data set by name; as a command, write one of its splits to a file, or measure how fast a folder is read.

    python -m train.data --dataset shapes --split test --out test.npz
    python -m train.data --dataset folder --data-dir /data/imagenet --image-size 256 --measure

The data sets: `cifar10`, `folder` (a folder of your own pictures) and `shapes` (rendered, needs no file).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.errors import ConfigError, run_cli
from runtime.input_spec import INTERPOLATIONS, InputSpec, Interpolation
from runtime.machine import usable_cores
from runtime.split_file import LabelledPictures, write_split
from train.cifar10 import load_cifar10
from train.folder import load_folder
from train.folder_speed import describe_speed, measure_folder
from train.run import Run
from train.shapes import load_shapes
from train.splits import SPLITS, Dataset, Split, check_dataset, resident

__all__ = ["DATASETS", "Dataset", "Split", "add_stream_argument", "labelled", "load_dataset", "main"]

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
        data_dir: where the pictures are; `None` takes the environment variable DATA_DIR. Without
            either, "cifar10" comes from the cache or is downloaded. "shapes" takes no notice of it.
        image_size: the side that a folder's pictures, which differ in size, are resized to, in pixels;
            "cifar10" (32 px) and "shapes" (64 px) keep their own.
        interpolation: how those are resized, see `runtime.input_spec.InputSpec`.
        seed: draws the splits (and the pictures, for "shapes"); not negative.
        stream: whether a folder's pictures stay on disk: "true", "false" or, by their size, "auto".

    Returns:
        The data set; its splits are not empty and have no picture in common.

    Raises:
        ConfigError: an unknown name, or an image size or seed out of range.
        DataError: the pictures are missing, damaged or too few.
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
    """Load the data set that a run names, stored as the run's pictures are; see `load_dataset`."""
    return load_dataset(
        run.dataset, data_dir=data_dir, image_size=run.image_size, interpolation=run.model.interpolation, stream=stream
    )


def add_stream_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--stream`, for `load_dataset`, to a command's arguments."""
    parser.add_argument(
        "--stream",
        choices=STREAM,
        default="auto",
        help="whether a folder's pictures stay on disk and are read as they are needed; auto: if they would take more "
        "than a quarter of the memory (%(default)s)",
    )


def labelled(dataset: Dataset, name: str) -> LabelledPictures:
    """Return a split as a split file has it; a class-balanced sample of one that stays on disk."""
    split = resident(dataset.split(name))
    return LabelledPictures(split.images, split.labels, split.ids, dataset.labels, dataset.name, name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.data",
        description="Write one split of a data set to a split file, or measure how fast a folder's pictures are read.",
    )
    parser.add_argument("--dataset", required=True, help=f"one of {', '.join(DATASETS)}")
    parser.add_argument("--data-dir", type=Path, help="where the pictures are (default: $DATA_DIR)")
    parser.add_argument(
        "--image-size", type=int, default=64, help="side of a folder's pictures, in pixels (%(default)s)"
    )
    parser.add_argument(
        "--interpolation", choices=INTERPOLATIONS, default="area", help="how those are resized (%(default)s)"
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="which split (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws the splits (default: %(default)s)")
    add_stream_argument(parser)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--out", type=Path, help="the file to write, e.g. test.npz")
    task.add_argument(
        "--measure", action="store_true", help="list a folder and read pictures of it at random, and say how fast"
    )
    parser.add_argument(
        "--threads", type=int, default=usable_cores(), help="with --measure, that decode (%(default)s, all cores)"
    )
    parser.add_argument("--pictures", type=int, default=2000, help="with --measure, how many are read (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write one split of a data set to a split file, and print what it holds."""
    args = _parser().parse_args(argv)
    if args.measure:
        return _measure(args)
    dataset = load_dataset(
        args.dataset,
        data_dir=args.data_dir,
        image_size=args.image_size,
        interpolation=args.interpolation,
        seed=args.seed,
        stream=args.stream,
    )
    split, whole = labelled(dataset, args.split), dataset.split(args.split)
    write_split(args.out, split)
    if args.json:
        figures = {
            "file": str(args.out),
            "dataset": dataset.name,
            "split": args.split,
            "pictures": len(split.ids),
            "class_names": list(dataset.labels),
            "pictures_in_split": len(whole.ids),
            "skipped": list(dataset.skipped),
        }
        print(json.dumps(figures, indent=2))
        return 0
    for line in dataset.skipped:
        print(f"skipped {line}")
    if dataset.residence:
        print(dataset.residence)
    sample = f", a sample of {len(whole.ids)}" if len(split.ids) < len(whole.ids) else ""
    print(
        f"wrote {args.out}: {len(split.ids)} pictures of {len(dataset.labels)} classes, "
        f"{args.split} split of {dataset.name}, {len(dataset.skipped)} skipped{sample}"
    )
    return 0


def _measure(args: argparse.Namespace) -> int:
    if args.dataset != "folder":
        raise ConfigError(f"received --measure of {args.dataset}; expected --dataset folder, which has files to read")
    stored = InputSpec(args.image_size, interpolation=args.interpolation)
    speed = measure_folder(args.data_dir, stored, pictures=args.pictures, threads=args.threads, seed=args.seed)
    print(json.dumps(dataclasses.asdict(speed), indent=2) if args.json else describe_speed(speed))
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
