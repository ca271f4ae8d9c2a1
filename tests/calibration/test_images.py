"""Finding the images of a calibration in the training split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from calibration import images, pictures
from calibration.calibration_file import Calibration
from calibration.images import find_images
from calibration.representative_set import draw_representative_set
from runtime.core.cli import run_cli
from runtime.core.errors import DataError
from train.data.dataset import Split

LABELS = ("a", "b", "c", "d")


@pytest.fixture
def train() -> Split:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 3), dtype=np.uint8)
    return Split(pixels, np.arange(40, dtype=np.int64) % 4, tuple(f"p{index}" for index in range(40)))


@pytest.fixture
def calibration(train: Split) -> Calibration:
    sample = draw_representative_set(train, 12, seed=3)
    return Calibration(
        dataset="toys", observer="minmax", percentile=None, seed=3, sha256=sample.sha256, ids=sample.ids, ranges={}
    )


def test_the_images_are_found_in_a_reordered_split(train: Split, calibration: Calibration) -> None:
    order = np.random.default_rng(1).permutation(40)
    shuffled = Split(train.images[order], train.labels[order], tuple(train.ids[index] for index in order))
    found = find_images(calibration, shuffled, LABELS)
    assert found.ids == calibration.ids
    for name, image, label in zip(found.ids, found.images, found.labels, strict=True):
        index = train.ids.index(name)
        np.testing.assert_array_equal(image, train.images[index])
        assert label == train.labels[index]


def test_other_pixels_and_missing_images_are_refused(train: Split, calibration: Calibration) -> None:
    place = train.ids.index(calibration.ids[0])
    other = train.images.copy()
    other[place, 0, 0, 0] ^= 1
    with pytest.raises(DataError, match="the names but not the pixels that were calibrated on"):
        find_images(calibration, Split(other, train.labels, train.ids), LABELS)
    renamed = dataclasses.replace(calibration, ids=("stranger", *calibration.ids[1:]))
    with pytest.raises(DataError, match=r"1 of 12 calibration images are not .* e\.g\. stranger"):
        find_images(renamed, train, LABELS)


@pytest.mark.parametrize("command", [images.main, pictures.main])
def test_a_folder_without_a_run_is_one_line(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(command, ["--run", str(tmp_path), "--out", str(tmp_path / "c.npz")]) == 2
    assert "config.json does not exist" in capsys.readouterr().err
