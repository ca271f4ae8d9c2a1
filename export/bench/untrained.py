"""Bundle of a preset's untrained network, to measure its cost before any training."""

from __future__ import annotations

from pathlib import Path

import keras

from calibration.calibrate import calibrate_run
from export.artifacts import write_artifacts
from export.quantize.size_limit import check_parameters_fit
from export.run_files import read_run_files
from train.data.imagenet import imagenet_labels
from train.model.focalnet import build_focalnet
from train.model.fold_norms import fold_weights
from train.model.presets import find_preset
from train.model.weights import weight_arrays, write_tensors
from train.run import WEIGHTS_FILE, Run, write_run

CALIBRATION_IMAGES = 32


def make_untrained_bundle(folder: Path, name: str) -> None:
    """Write a preset's initial weights, calibrated on rendered shapes, with their artifacts.

    Args:
        folder: of the bundle; created if missing.
        name: of the preset.

    Raises:
        ConfigError: the preset is unknown, or its network is too large for an artifact.
    """
    preset = find_preset(name)
    check_parameters_fit(preset.parameters)
    keras.utils.set_random_seed(preset.train.seed)
    model = build_focalnet(preset.model, keras)
    write_tensors(folder / WEIGHTS_FILE, fold_weights(weight_arrays(model), preset.model))
    known = imagenet_labels()
    labels = known if preset.model.classes == len(known) else tuple(f"class {i}" for i in range(preset.model.classes))
    write_run(folder, Run(preset=name, model=preset.model, recipe=preset.train, dataset="shapes", labels=labels))
    calibrate_run(folder, images=CALIBRATION_IMAGES)
    write_artifacts(read_run_files(folder), folder)
