"""What all rows of the benchmark have in common: a float network, and the images it is calibrated and tried on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.calibration_file import Calibration, read_calibration
from calibration.representative_set import RepresentativeSet, draw_representative_set, named_representative_set
from export.bench.contender import FloatNetwork
from export.quantize.fake_quant import build_stock
from export.quantize.qat import logits
from runtime.evaluation.metrics import Classes, agreement
from runtime.evaluation.sampling import SAMPLE_SEED, class_balanced_indices
from runtime.images.preprocess import Image
from train.data.dataset import Split, resize_all
from train.data.registry import load_data_of
from train.model.weights import read_tensors
from train.run import WEIGHTS_FILE, read_run


@dataclass(frozen=True, eq=False)
class Setup:
    """What all rows have in common.

    Attributes:
        network: the float network, and the images to calibrate by.
        images: uint8 `[N, S, S, 3]`, of the test split.
        labels: int64 `[N]`, their true classes.
        reference: int64 `[N]`, the float network's predictions, by Keras.
        data: `data` of bench.json.
    """

    network: FloatNetwork
    images: Image
    labels: Classes
    reference: Classes
    data: dict[str, Any]


def load_setup(bundle: Path, data_dir: Path | None, count: int) -> Setup:
    """Read a bundle's weights and its data set.

    Args:
        bundle: with weights and calibration.
        data_dir: where the data set is.
        count: how many of the test split to classify, a class-balanced sample.

    Returns:
        The network and its images; those to calibrate by are the bundle's, or as many where these are not all there.
    """
    run, calibration = read_run(bundle), read_calibration(bundle)
    spec = run.deployed.input_spec
    dataset = load_data_of(run, data_dir)
    sample = representative_set(calibration, dataset.train)
    model = build_stock(run.deployed, read_tensors(bundle / WEIGHTS_FILE), str(bundle / WEIGHTS_FILE))
    chosen = class_balanced_indices(dataset.test.labels, count, SAMPLE_SEED)
    images, labels = resize_all(dataset.test.images[chosen], spec), dataset.test.labels[chosen]
    reference = logits(model, images).argmax(axis=-1)
    data = {
        "dataset": dataset.name,
        "split": "test",
        "images": len(labels),
        "float_top1": agreement(reference, labels),
        "representative": len(sample.ids),
        "representative_is_the_bundles": sample.sha256 == calibration.sha256,
    }
    return Setup(FloatNetwork(model, resize_all(sample.images, spec)), images, labels, reference, data)


def representative_set(calibration: Calibration, train: Split) -> RepresentativeSet:
    """Find the images of a calibration by their names or, where one is missing, draw as many."""
    named = named_representative_set(train, calibration.ids)
    return named or draw_representative_set(train, len(calibration.ids), calibration.seed)
