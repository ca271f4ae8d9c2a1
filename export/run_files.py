"""The files of a run or bundle that export reads, each loaded once."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from calibration.calibration_file import CALIBRATION_FILE, Calibration, read_calibration
from calibration.observers import Range
from export.quantize.fake_quant import build_float, build_stock
from export.quantize.network import QuantizedNetwork
from export.quantize.schemes import SCHEME_FILE, Scheme, read_scheme
from export.quantize.size_limit import check_weights_fit
from runtime.core.files import replacing
from runtime.evaluation.split_file import LabelledImages, check_class_names, read_split
from train.model.weights import read_tensors
from train.run import CONFIG_FILE, TEST_FILE, WEIGHTS_FILE, Run, read_run

QAT_WEIGHTS_FILE = "qat.safetensors"
REPORT_FILE = "report.json"
SOURCE_FILES = (CONFIG_FILE, WEIGHTS_FILE, QAT_WEIGHTS_FILE, CALIBRATION_FILE, SCHEME_FILE)
TRAINING_FILES = ("train.json", "history.csv", "curves.png", f"report/{REPORT_FILE}")


@dataclass(frozen=True, eq=False)
class RunFiles:
    """A run, or a bundle made from one; large files are loaded at first use.

    Attributes:
        folder: where the files are.
        run: the run's description.
        scheme: what is int8.
    """

    folder: Path
    run: Run
    scheme: Scheme

    @cached_property
    def calibration(self) -> Calibration | None:
        """The calibration; `None` if the scheme needs none.

        Raises:
            ArtifactError: calibration.json is missing or damaged.
        """
        return read_calibration(self.folder) if self.scheme.calibrated else None

    @property
    def ranges(self) -> Mapping[str, Range]:
        """Calibrated `(min, max)` of layers and of the tensors inside them; empty if the scheme needs none."""
        return self.calibration.ranges if self.calibration else {}

    @property
    def is_fine_tuned(self) -> bool:
        """Whether there are weights of quantization-aware training."""
        return (self.folder / QAT_WEIGHTS_FILE).exists()

    def stock_model(self) -> Any:
        """Build the trained float network of Keras' own layers; see `build_stock`."""
        path = self.folder / WEIGHTS_FILE
        return build_stock(self.run.deployed, read_tensors(path), str(path))

    @cached_property
    def float_model(self) -> Any:
        """The trained float network; see `build_float`."""
        return self._build(WEIGHTS_FILE)

    @cached_property
    def network(self) -> QuantizedNetwork:
        """The network to make int8: the fine-tuned one if there is one."""
        model = self._build(QAT_WEIGHTS_FILE) if self.is_fine_tuned else self.float_model
        return QuantizedNetwork(model, self.run.deployed, self.ranges, self.scheme)

    @cached_property
    def test_split(self) -> LabelledImages | None:
        """The test split; `None` if there is none, as for an imported network.

        Raises:
            DataError: it is damaged, or its classes are not the network's.
        """
        path = self.folder / TEST_FILE
        if not path.exists():
            return None
        images = read_split(path)
        check_class_names(images.class_names, self.run.labels, f"write {path} of images of the same classes")
        return images

    def _build(self, file: str) -> Any:
        path = self.folder / file
        return build_float(self.run.deployed, read_tensors(path), str(path))


def read_run_files(folder: Path, scheme: Scheme | None = None) -> RunFiles:
    """Open a run or bundle.

    Args:
        folder: with config.json and float.safetensors; calibration.json, qat.safetensors, scheme.json and test.npz
            are read if they are needed.
        scheme: what is int8, instead of what scheme.json says.

    Raises:
        ArtifactError: a file is missing or damaged.
        ConfigError: the network is too large for an artifact.
    """
    run = read_run(folder)
    check_weights_fit(folder / WEIGHTS_FILE)
    return RunFiles(folder, run, scheme or read_scheme(folder))


def copy_sources(source: Path, target: Path) -> None:
    """Copy what a bundle's artifacts are made from, the training's figures, and the run's report if there is one.

    Files of these names that only `target` has, such as weights of another fine-tuning, are deleted.
    """
    for name in (*SOURCE_FILES, *TRAINING_FILES):
        copy = target / Path(name).name
        if (source / name).exists():
            with replacing(copy) as temporary:
                shutil.copyfile(source / name, temporary)
        else:
            copy.unlink(missing_ok=True)
