"""Fixtures that several test files share."""

from __future__ import annotations

import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_bundle import TINY_MODEL, write_bundle


@pytest.fixture(scope="session")
def tiny_model() -> bytes:
    """The tiny model as a .tflite file's content."""
    return TINY_MODEL.read_bytes()


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle to read only; tests that damage one write their own with `write_bundle`."""
    folder = tmp_path_factory.mktemp("bundle")
    write_bundle(folder, tiny_model)
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PNGs for the dataset `folder`, to read only."""
    from tests.support.tiny_run import write_image_folder

    folder = tmp_path_factory.mktemp("images")
    write_image_folder(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_run(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated run to read only; tests that change one copy it."""
    from calibration.calibrate import calibrate_run
    from tests.support.tiny_run import write_tiny_run

    folder = tmp_path_factory.mktemp("run")
    write_tiny_run(folder)
    calibrate_run(folder, data_dir=image_folder, images=36)
    return folder


@pytest.fixture(scope="session")
def tiny_export(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run with its artifacts, without quantization-aware training, to read only.

    What the command printed is in `stdout.txt`.
    """
    from export.__main__ import main

    folder = tmp_path_factory.mktemp("export") / "run"
    shutil.copytree(tiny_run, folder)
    with redirect_stdout(StringIO()) as stdout:
        assert main(["--run", str(folder), "--qat-epochs", "0", "--json"]) == 0
    (folder / "stdout.txt").write_text(stdout.getvalue())
    return folder


@pytest.fixture(scope="session")
def tiny_float(tiny_run: Path) -> Any:
    """The tiny run's network in `tf_keras`, to read only."""
    from export.quantize.fake_quant import build_float
    from tests.support.tiny_run import CONFIG
    from train.model.weights import read_tensors

    return build_float(CONFIG, read_tensors(tiny_run / "float.safetensors"), "the tiny run")


@pytest.fixture(scope="session")
def tiny_network(tiny_run: Path, tiny_float: Any) -> Any:
    """The tiny run's network with its calibration and the selective scheme, to read only."""
    from calibration.calibration_file import read_calibration
    from export.quantize.network import QuantizedNetwork
    from export.quantize.schemes import SELECTIVE
    from tests.support.tiny_run import CONFIG

    return QuantizedNetwork(tiny_float, CONFIG, read_calibration(tiny_run).ranges, SELECTIVE)


@pytest.fixture(scope="session")
def tiny_fake_quant(tiny_network: Any) -> Any:
    """The tiny run's network, fake-quantized, to read only."""
    return tiny_network.fake_quant
