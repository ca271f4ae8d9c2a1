"""Near copies across splits are found, and others are not."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime.images.preprocess import Image
from train.data.dataset import Dataset
from train.data.folders import near_copies as module
from train.data.folders.folder import load_folder
from train.data.folders.near_copies import near_copies


def photo(seed: int, side: int = 96) -> Image:
    """Draw soft blobs, another image for each seed."""
    blobs = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(blobs, (side, side), interpolation=cv2.INTER_CUBIC))


def jpeg(image: Image, quality: int = 92) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


VARIANTS = {
    "a byte more": lambda seed: jpeg(photo(seed)) + b"\0",
    "another quality": lambda seed: jpeg(photo(seed), 60),
    "smaller": lambda seed: jpeg(cv2.resize(photo(seed), (48, 48), interpolation=cv2.INTER_AREA)),
    "larger": lambda seed: jpeg(cv2.resize(photo(seed), (150, 150))),
    "as PNG": lambda seed: cv2.imencode(".png", photo(seed))[1].tobytes(),
}


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    for number, (split, count) in enumerate([("train", 20), ("val", 6), ("test", 6)]):
        for label in range(2):
            folder = tmp_path / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index:02}.jpg").write_bytes(jpeg(photo(1000 * number + 100 * label + index)))
    return tmp_path


def load(root: Path) -> Dataset:
    return load_folder(root, 36, seed=0, stream=False)


def test_different_images_are_no_near_copies(divided: Path) -> None:
    assert near_copies(load(divided)) == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_changed_copy_is_found(divided: Path, variant: str) -> None:
    (divided / "test" / "class1" / "zz.jpg").write_bytes(VARIANTS[variant](105))
    assert near_copies(load(divided)) == [
        "warning: 1 of 13 test images are near copies of train images (test/class1/zz.jpg of train/class1/05.jpg); "
        "accuracy on test may be too high"
    ]


def test_each_pair_of_splits_is_compared(divided: Path) -> None:
    for index in range(5):
        (divided / "val" / "class0" / f"z{index}.jpg").write_bytes(jpeg(photo(index), 70))
    (divided / "test" / "class0" / "zz.jpg").write_bytes(jpeg(photo(1100), 70))
    first, second = near_copies(load(divided))
    assert first.startswith(
        "warning: 5 of 17 val images are near copies of train images (val/class0/z0.jpg of train/cl"
    )
    assert ", ...)" in first
    assert "1 of 13 test images are near copies of val images" in second


def test_flat_images_of_other_colours_are_no_near_copies(divided: Path) -> None:
    for split, value in (("train", 40), ("val", 90), ("test", 200)):
        flat = np.full((50, 50, 3), value, np.uint8)
        (divided / split / "class0" / "flat.png").write_bytes(cv2.imencode(".png", flat)[1].tobytes())
    assert near_copies(load(divided)) == []


def test_images_on_disk_are_not_compared(divided: Path) -> None:
    (divided / "test" / "class1" / "zz.jpg").write_bytes(jpeg(photo(105), 70))
    assert near_copies(load_folder(divided, 36, seed=0, stream=True)) == []


def test_hashes_within_the_radius_are_found_and_none_else() -> None:
    rng = np.random.default_rng(0)
    ours = rng.integers(0, 1 << 63, 500, dtype=np.uint64)
    theirs = ours[:60].copy()
    for row in range(60):
        for bit in rng.choice(64, row % 7, replace=False):
            theirs[row] ^= np.uint64(1) << np.uint64(bit)
    blank = {count: np.zeros((count, 8, 8, 3), np.uint8) for count in (500, 60)}
    pairs, whole = module._nearest(
        module._Described(blank[500], ours, blank[500]), module._Described(blank[60], theirs, blank[60])
    )
    assert whole
    assert pairs == [(row, row) for row in range(60) if row % 7 <= module.RADIUS]


def test_a_search_in_part_says_so(divided: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_describe", lambda images, name: _alike(images))
    monkeypatch.setattr(module, "MAX_PAIRS", 100)
    lines = near_copies(load(divided))
    assert "near copies of train images in test were searched in part: too many look alike" in lines


def _alike(images: Image) -> module._Described:
    return module._Described(images, np.zeros(len(images), np.uint64), images[:, :8, :8])
