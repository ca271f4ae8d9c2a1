"""Write one split of a dataset to a file, or measure how fast a folder is read.

python -m train.data --dataset shapes --split test --out test.npz
python -m train.data --dataset folder --data-dir /data/imagenet --image-size 256 --measure
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.core.cli import command_parser, run_cli, say, shared_options
from runtime.core.errors import ConfigError
from runtime.core.files import json_text
from runtime.core.machine import usable_cores
from runtime.evaluation.split_file import write_split
from runtime.images.input_spec import INTERPOLATIONS, InputSpec
from train.data.dataset import SPLITS, labelled
from train.data.folders.near_copies import near_copies
from train.data.read_benchmark import describe_speed, measure_folder
from train.data.registry import (
    add_conflicts_argument,
    add_dataset_argument,
    add_stream_argument,
    describe_files,
    load_dataset,
)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "python -m train.data",
        "Write one split of a dataset to a split file, or measure how fast a folder's images are read.",
        parents=[
            shared_options("--data-dir", "--seed", "--json", seed="seed of the splits", json="print figures as JSON")
        ],
    )
    add_dataset_argument(parser)
    parser.add_argument(
        "--image-size", type=int, default=64, metavar="PX", help="side that a folder's images are resized to, in pixels"
    )
    parser.add_argument("--interpolation", choices=INTERPOLATIONS, default="area", help="how they are resized")
    parser.add_argument("--split", choices=SPLITS, default="test", help="split to write")
    add_stream_argument(parser)
    add_conflicts_argument(parser)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--out", type=Path, metavar="FILE", help="split file to write, e.g. test.npz")
    task.add_argument("--measure", action="store_true", help="measure how fast a folder is listed and read at random")
    parser.add_argument(
        "--threads",
        type=int,
        default=usable_cores(),
        metavar="N",
        help="threads of --measure (default: all cores)",
    )
    parser.add_argument(
        "--images", "--pictures", type=int, default=2000, metavar="N", help="images that --measure reads, 1 or more"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write one split of a dataset to a split file, and print what it holds."""
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
        allow_conflicts=args.allow_conflicts,
    )
    split, whole = labelled(dataset, args.split), dataset.split(args.split)
    write_split(args.out, split)
    if args.json:
        figures = {
            "file": str(args.out),
            "dataset": dataset.name,
            "split": args.split,
            "images": len(split.ids),
            "class_names": list(dataset.labels),
            "images_in_split": len(whole.ids),
            "skipped": list(dataset.skipped),
            "notes": [*dataset.notes, *near_copies(dataset)],
        } | ({"files": dataclasses.asdict(dataset.files)} if dataset.files else {})
        print(json_text(figures))
        return 0
    for line in describe_files(dataset):
        say(line)
    sample = f", a sample of {len(whole.ids)}" if len(split.ids) < len(whole.ids) else ""
    say(
        f"wrote {args.out}: {len(split.ids)} images of {len(dataset.labels)} classes, "
        f"{args.split} split of {dataset.name}, {len(dataset.skipped)} skipped{sample}"
    )
    return 0


def _measure(args: argparse.Namespace) -> int:
    if args.dataset != "folder":
        raise ConfigError(f"received --measure of {args.dataset}; expected --dataset folder, which has files to read")
    stored = InputSpec(args.image_size, interpolation=args.interpolation)
    speed = measure_folder(args.data_dir, stored, count=args.images, threads=args.threads, seed=args.seed)
    print(json_text(dataclasses.asdict(speed)) if args.json else describe_speed(speed))
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
