"""Fixtures of the tiny run that export's tests share, to read only."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.calibration_file import read_calibration
from calibration.observers import Range
from runtime.evaluation.split_file import read_split
from runtime.images.preprocess import Image


@pytest.fixture(scope="session")
def ranges(tiny_run: Path) -> dict[str, Range]:
    """The calibrated ranges of the tiny run."""
    return read_calibration(tiny_run).ranges


@pytest.fixture(scope="session")
def images(tiny_run: Path) -> Image:
    """The 200 test images of the tiny run."""
    return read_split(tiny_run / "test.npz").images
