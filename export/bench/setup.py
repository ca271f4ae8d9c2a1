"""Setup: the float network, calibration images and test images that all contenders share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.calibration_file import Calibration, read_calibration
from calibration.representative_set import RepresentativeSet, draw_representative_set, named_representative_set
from export.bench.contender import FloatNetwork
from export.quantize.qat import logits
from export.run_files import read_run_files
from runtime.evaluation.metrics import Classes, agreement
from runtime.evaluation.sampling import SAMPLE_SEED, class_balanced_indices
from runtime.images.preprocess import Image
from train.data.dataset import Split, resize_all
from train.data.registry import load_data_of


@dataclass(frozen=True, eq=False)
class Setup:
    """What all contenders share.

    Attributes:
        network: the float network and its calibration images.
        images: uint8 `[N, S, S, 3]`, of the test split.
        labels: int64 `[N]`, true classes.
        reference: int64 `[N]`, the float network's predictions in Keras.
        data: `data` of bench.json.
    """

    network: FloatNetwork
    images: Image
    labels: Classes
    reference: Classes
    data: dict[str, Any]


def load_setup(bundle: Path, data_dir: Path | None, count: int) -> Setup:
    """Read a bundle's weights and its dataset.

    Args:
        bundle: with weights and calibration.
        data_dir: folder of the images; `None` takes the dataset's default.
        count: number of test images, a class-balanced sample.
    """
    files, calibration = read_run_files(bundle), read_calibration(bundle)
    spec = files.run.deployed.input_spec
    dataset = load_data_of(files.run, data_dir, folder=files.folder)
    representative = find_or_draw(calibration, dataset.train)
    model = files.stock_model()
    chosen = class_balanced_indices(dataset.test.labels, count, SAMPLE_SEED)
    images, labels = resize_all(dataset.test.images[chosen], spec), dataset.test.labels[chosen]
    reference = logits(model, images).argmax(axis=-1)
    data = {
        "dataset": dataset.name,
        "split": "test",
        "images": len(labels),
        "float_top1": agreement(reference, labels),
        "representative": len(representative.ids),
        "representative_is_the_bundles": representative.sha256 == calibration.sha256,
    }
    return Setup(FloatNetwork(model, resize_all(representative.images, spec)), images, labels, reference, data)


def find_or_draw(calibration: Calibration, train: Split) -> RepresentativeSet:
    """Return the images of a calibration, found by name; if one is missing, as many newly drawn ones."""
    named = named_representative_set(train, calibration.ids)
    return named or draw_representative_set(train, len(calibration.ids), calibration.seed)
