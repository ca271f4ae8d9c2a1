"""A bundle of an untrained network: what a preset costs on a device, before anyone has trained it."""

from __future__ import annotations

from contextlib import redirect_stdout
from os import devnull
from pathlib import Path

import keras

from calibration.__main__ import main as calibrate
from export.bundle import write_artifacts
from export.quantize.size_limit import check_parameters_fit
from train.data.imagenet import imagenet_labels
from train.model.focalnet import build_focalnet
from train.model.fold_norms import fold_weights
from train.model.presets import find_preset
from train.model.weights import weight_arrays, write_tensors
from train.run import WEIGHTS_FILE, Run, write_run

CALIBRATION_IMAGES = 32


def make_untrained_bundle(folder: Path, name: str) -> None:
    """Write a preset's network as it is initialised, calibrated on rendered shapes, with its artifacts.

    Args:
        folder: the bundle's, made if missing.
        name: the preset's.

    Raises:
        ConfigError: there is no preset of that name, or its network is too large for an artifact.
    """
    preset = find_preset(name)
    check_parameters_fit(preset.parameters)
    keras.utils.set_random_seed(preset.train.seed)
    model = build_focalnet(preset.model, keras)
    write_tensors(folder / WEIGHTS_FILE, fold_weights(weight_arrays(model), preset.model))
    known = imagenet_labels()
    labels = known if preset.model.classes == len(known) else tuple(f"class {i}" for i in range(preset.model.classes))
    write_run(folder, Run(preset=name, model=preset.model, recipe=preset.train, dataset="shapes", labels=labels))
    with Path(devnull).open("w") as nowhere, redirect_stdout(nowhere):
        calibrate(["--run", str(folder), "--images", str(CALIBRATION_IMAGES)])
    write_artifacts(folder, folder)
