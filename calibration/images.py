"""The images of a calibration as a split file, for `runtime.compare --calibration` on a machine without the data.

python -m calibration.images --run models/edge-nano-cifar10 --out calibration.npz
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calibration.calibration_file import Calibration, read_calibration
from calibration.representative_set import hash_of, places_of
from runtime.core.cli import run_cli
from runtime.core.errors import DataError
from runtime.evaluation.split_file import LabelledImages, write_split
from train.data.dataset import Split
from train.data.registry import add_stream_argument, load_data_of
from train.run import read_run


def find_images(calibration: Calibration, train: Split, labels: tuple[str, ...]) -> LabelledImages:
    """Find the images of a calibration in the training split that they were drawn from.

    Args:
        calibration: it names them, and has the hash over them.
        train: the training split.
        labels: class names; the index is the label.

    Returns:
        The images, in the calibration's order.

    Raises:
        DataError: an image is missing, or the pixels are not those that were calibrated on.
    """
    places = places_of(train, calibration.ids)
    missing = [name for name in calibration.ids if name not in places]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(calibration.ids)} calibration images are not in the training split of "
            f"{calibration.dataset}, e.g. {missing[0]}; give the data that the run was calibrated on"
        )
    chosen = np.array([places[name] for name in calibration.ids])
    images = train.images[chosen]
    if hash_of(calibration.ids, images) != calibration.sha256:
        raise DataError(
            f"the images of {calibration.dataset} are not those that were calibrated on, though their names are; "
            "give the data that the run was calibrated on"
        )
    return LabelledImages(images, train.labels[chosen], calibration.ids, labels, calibration.dataset, "calibration")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the calibration images of a run or a bundle to a split file."""
    parser = argparse.ArgumentParser(prog="python -m calibration.images", description=main.__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of a calibrated run, or a bundle")
    parser.add_argument("--data-dir", type=Path, help="where the images are (default: $DATA_DIR)")
    add_stream_argument(parser)
    parser.add_argument("--out", type=Path, required=True, help="the file to write, e.g. calibration.npz")
    args = parser.parse_args(argv)
    run, calibration = read_run(args.run), read_calibration(args.run)
    dataset = load_data_of(run, args.data_dir, args.stream)
    images = find_images(calibration, dataset.train, dataset.labels)
    write_split(args.out, images)
    print(f"wrote {args.out}: {len(images.ids)} images that {args.run} was calibrated on")
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
