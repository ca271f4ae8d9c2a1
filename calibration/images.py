"""Write the images of a calibration to a split file, for `runtime.compare --calibration` on another machine.

python -m calibration.images --run models/edge-nano-cifar10 --out calibration.npz
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calibration.calibration_file import Calibration, read_calibration
from calibration.representative_set import hash_of, indices_of
from runtime.core.cli import command_parser, run_cli, say, shared_options
from runtime.core.errors import DataError
from runtime.evaluation.split_file import LabelledImages, write_split
from train.data.dataset import Split
from train.data.registry import add_stream_argument, load_data_of
from train.run import read_run


def find_images(calibration: Calibration, train: Split, labels: tuple[str, ...]) -> LabelledImages:
    """Find the images of a calibration in its training split.

    Args:
        calibration: has the images' names, and the hash over names and pixels.
        train: the training split.
        labels: class names; the index is the label.

    Returns:
        The images, in the calibration's order.

    Raises:
        DataError: an image is missing, or its pixels differ from those that were calibrated on.
    """
    remedy = "give the data that the run was calibrated on"
    indices = indices_of(train, calibration.ids)
    if missing := [name for name in calibration.ids if name not in indices]:
        raise DataError(
            f"{len(missing)} of {len(calibration.ids)} calibration images are not in the training split of "
            f"{calibration.dataset}, e.g. {missing[0]}; {remedy}"
        )
    chosen = np.array([indices[name] for name in calibration.ids])
    images = train.images[chosen]
    if hash_of(calibration.ids, images) != calibration.sha256:
        raise DataError(
            f"the images of {calibration.dataset} have the names but not the pixels that were calibrated on; {remedy}"
        )
    return LabelledImages(images, train.labels[chosen], calibration.ids, labels, calibration.dataset, "calibration")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`."""
    parser = command_parser(
        "python -m calibration.images",
        "Write the images that a run or a bundle was calibrated on to a split file.",
        parents=[shared_options("--run", "--data-dir", run="folder of a calibrated run, or a bundle")],
    )
    add_stream_argument(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="split file to write, e.g. calibration.npz"
    )
    args = parser.parse_args(argv)
    run, calibration = read_run(args.run), read_calibration(args.run)
    dataset = load_data_of(run, args.data_dir, args.stream, folder=args.run)
    images = find_images(calibration, dataset.train, dataset.labels)
    write_split(args.out, images)
    say(f"wrote {args.out}: {len(images.ids)} images that {args.run} was calibrated on")
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
