"""A folder of images: its layouts, its splits and everything that can be wrong with it."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from runtime.core.errors import ConfigError, DataError
from runtime.images.formats import NAMES
from train.data.dataset import Dataset, check_dataset
from train.data.folders.folder import load_folder


def encoded(value: int, suffix: str = ".png", side: int = 8) -> bytes:
    """Encode an image of noise, another for each value."""
    image = np.random.default_rng(value).integers(0, 256, size=(side, side, 3)).astype(np.uint8)
    return cv2.imencode(suffix, image)[1].tobytes()


def fill(folder: Path, count: int, first: int) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        (folder / f"{index:02}.png").write_bytes(encoded(first + index))


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATA_DIR", raising=False)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    fill(tmp_path / "pets" / "cat", 20, first=0)
    fill(tmp_path / "pets" / "dog", 10, first=100)
    return tmp_path / "pets"


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    for number, (split, count) in enumerate([("train", 10), ("val", 2), ("test", 3)]):
        fill(tmp_path / "divided" / split / "cat", count, first=1000 * number)
        fill(tmp_path / "divided" / split / "dog", count, first=1000 * number + 100)
    return tmp_path / "divided"


def by_split(dataset: Dataset) -> list[tuple[str, ...]]:
    return [dataset.train.ids, dataset.val.ids, dataset.test.ids]


def test_a_plain_folder_is_divided_class_by_class(pets: Path) -> None:
    dataset = load_folder(pets, 8, seed=0)
    check_dataset(dataset)
    assert (dataset.name, dataset.labels, dataset.skipped) == ("pets", ("cat", "dog"), ())
    assert sorted(sum(by_split(dataset), ())) == sorted(
        [*(f"cat/{index:02}.png" for index in range(20)), *(f"dog/{index:02}.png" for index in range(10))]
    )
    counts = [Counter(split.labels.tolist()) for split in (dataset.train, dataset.val, dataset.test)]
    assert counts == [{0: 14, 1: 6}, {0: 3, 1: 2}, {0: 3, 1: 2}]


def test_images_stay_with_their_ids_and_labels(pets: Path) -> None:
    dataset = load_folder(pets, 8, seed=0)
    for split in (dataset.train, dataset.val, dataset.test):
        for image, label, name in zip(split.images, split.labels, split.ids, strict=True):
            bgr = np.asarray(cv2.imdecode(np.fromfile(pets / name, dtype=np.uint8), cv2.IMREAD_COLOR))
            assert np.array_equal(image, bgr[..., ::-1])
            assert label == ("cat", "dog").index(name.split("/")[0])


def test_the_division_depends_on_the_seed_and_not_on_the_file_system(
    pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = by_split(load_folder(pets, 8, seed=0))
    assert by_split(load_folder(pets, 8, seed=1)) != first
    scandir = os.scandir

    def backwards(path: Path) -> Any:
        with scandir(path) as entries:
            return contextlib.nullcontext(sorted(entries, key=lambda each: each.name, reverse=True))

    monkeypatch.setattr(os, "scandir", backwards)
    assert by_split(load_folder(pets, 8, seed=0)) == first
    renamed = pets.rename(pets.parent / "elsewhere")
    assert by_split(load_folder(renamed, 8, seed=0)) == first


def test_three_images_a_class_are_enough_and_two_are_not(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 3, first=0)
    fill(tmp_path / "dog", 3, first=10)
    dataset = load_folder(tmp_path, 8, seed=0)
    assert [split.labels.tolist() for split in (dataset.train, dataset.val, dataset.test)] == [[0, 1]] * 3
    (tmp_path / "dog" / "02.png").unlink()
    with pytest.raises(DataError, match=r"class dog has 2 different image\(s\); expected at least 3"):
        load_folder(tmp_path, 8, seed=0)


def test_images_of_any_shape_are_cropped_and_resized(tmp_path: Path, pets: Path) -> None:
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = (255, 0, 0)  # blue, in OpenCV's order
    cv2.imwrite(str(pets / "cat" / "wide.png"), wide)
    grey = np.full((6, 6), 77, dtype=np.uint8)
    cv2.imwrite(str(pets / "cat" / "grey.png"), grey)
    dataset = load_folder(pets, 5, seed=0)
    images = {
        name: image
        for split in (dataset.train, dataset.val, dataset.test)
        for name, image in zip(split.ids, split.images, strict=True)
    }
    assert images["cat/wide.png"].shape == (5, 5, 3)
    assert np.all(images["cat/wide.png"] == (0, 0, 255))
    assert np.all(images["cat/grey.png"] == 77)


def test_suffixes_of_any_case_are_read_and_others_and_hidden_files_are_not(pets: Path) -> None:
    for value, name in enumerate(["a.JPG", "b.Jpeg", "c.WEBP", "d.jpg"], start=500):
        (pets / "cat" / name).write_bytes(encoded(value, Path(name).suffix.lower(), side=32))
    for value, name in enumerate([".hidden.png", "._d.jpg", "notes.txt", "e.png.part"], start=600):
        (pets / "cat" / name).write_bytes(encoded(value))
    (pets / "cat" / "folder.png").mkdir()
    (pets / ".git").mkdir()
    (pets / "readme.md").write_text("two classes")
    dataset = load_folder(pets, 8, seed=0)
    names = set(sum(by_split(dataset), ()))
    assert {name for name in names if not name.endswith(".png")} == {
        "cat/a.JPG", "cat/b.Jpeg", "cat/c.WEBP", "cat/d.jpg",
    }  # fmt: skip
    assert len(names) == 34
    assert dataset.labels == ("cat", "dog")
    assert dataset.skipped == ()


def test_given_splits_are_kept(divided: Path) -> None:
    dataset = load_folder(divided, 8, seed=0)
    check_dataset(dataset)
    assert [len(ids) for ids in by_split(dataset)] == [20, 4, 6]
    for split, ids in zip(("train", "val", "test"), by_split(dataset), strict=True):
        assert all(name.startswith(f"{split}/") for name in ids)


@pytest.mark.parametrize(
    ("absent", "sizes"), [(["val"], [16, 4, 6]), (["test"], [16, 4, 4]), (["val", "test"], [12, 4, 4])]
)
def test_an_absent_split_is_taken_from_train(divided: Path, absent: list[str], sizes: list[int]) -> None:
    for split in absent:
        (divided / split).rename(divided.parent / split)
    dataset = load_folder(divided, 8, seed=0)
    check_dataset(dataset)
    assert [len(ids) for ids in by_split(dataset)] == sizes
    for split in absent:
        assert all(name.startswith("train/") for name in dataset.split(split).ids)
        assert Counter(dataset.split(split).labels.tolist()) == {0: 2, 1: 2}


def test_a_folder_beside_the_splits_is_listed(divided: Path) -> None:
    fill(divided / "extra" / "cat", 2, first=7000)
    dataset = load_folder(divided, 8, seed=0)
    assert dataset.notes == ("extra: neither train, val nor test, 2 image(s) not used",)
    assert dataset.files is not None and dataset.files.outside_classes == 2


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    fill(tmp_path / "train", 4, first=0)
    fill(tmp_path / "bus", 4, first=10)
    assert load_folder(tmp_path, 8, seed=0).labels == ("bus", "train")


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_train_has_not_is_named(divided: Path, split: str) -> None:
    fill(divided / split / "bird", 2, first=5000)
    with pytest.raises(DataError, match=rf"{split} has the class\(es\) bird, which train has not"):
        load_folder(divided, 8, seed=0)


def test_corrupt_images_are_listed_and_skipped(pets: Path) -> None:
    (pets / "cat" / "empty.png").write_bytes(b"")
    (pets / "cat" / "half.png").write_bytes(encoded(900, side=64)[:6000])
    (pets / "cat" / "text.jpg").write_text("no image")
    (pets / "dog" / "half.webp").write_bytes(encoded(901, ".webp", side=64)[:1000])
    (pets / "dog" / "link.png").symlink_to(pets / "gone.png")
    dataset = load_folder(pets, 8, seed=0)
    assert dataset.skipped == (
        "cat/empty.png: empty file",
        "cat/half.png: cut short",
        f"cat/text.jpg: not an image of a known format ({', '.join(NAMES)})",
        "dog/half.webp: cut short",
        "dog/link.png: no such file",
    )
    assert len(sum(by_split(dataset), ())) == 30


def with_thumbnail(jpeg: bytes) -> bytes:
    """Put a whole small JPEG into an APP1 segment, as cameras do."""
    thumbnail = encoded(950, ".jpg")
    length = (len(thumbnail) + 2).to_bytes(2, "big")
    return jpeg[:2] + b"\xff\xe1" + length + thumbnail + jpeg[2:]


def test_a_jpeg_cut_short_is_skipped_although_it_decodes(pets: Path) -> None:
    whole = encoded(902, ".jpg", side=64)
    (pets / "cat" / "cut.jpg").write_bytes(whole[:-500])
    (pets / "cat" / "cut with thumbnail.jpg").write_bytes(with_thumbnail(whole)[:-500])
    (pets / "cat" / "trailing.jpg").write_bytes(encoded(903, ".jpg", side=64) + b"appended by the camera")
    (pets / "cat" / "whole with thumbnail.jpg").write_bytes(with_thumbnail(encoded(904, ".jpg", side=64)))
    assert cv2.imread(str(pets / "cat" / "cut.jpg")) is not None
    dataset = load_folder(pets, 8, seed=0)
    assert dataset.skipped == ("cat/cut with thumbnail.jpg: cut short", "cat/cut.jpg: cut short")
    assert {"cat/trailing.jpg", "cat/whole with thumbnail.jpg"} <= set(sum(by_split(dataset), ()))


def test_the_same_image_is_kept_once_in_a_plain_folder(pets: Path) -> None:
    for name in ("cat/z1.png", "cat/z2.png", "dog/z.png"):
        (pets / name).write_bytes(encoded(3))
    with pytest.raises(
        DataError, match=r"1 image\(s\) are in two classes \(cat/03\.png and dog/z\.png\); .*--allow-con"
    ):
        load_folder(pets, 8, seed=0)
    dataset = load_folder(pets, 8, seed=0, allow_conflicts=True)
    assert dataset.notes == ("1 image(s) are in two classes, and keep the first (cat/03.png and dog/z.png)",)
    assert dataset.skipped == tuple(
        f"{name}: same image as cat/03.png" for name in ("cat/z1.png", "cat/z2.png", "dog/z.png")
    )
    assert len(sum(by_split(dataset), ())) == 30


def test_the_same_image_stays_in_the_earlier_split(divided: Path) -> None:
    (divided / "test/cat/leak1.png").write_bytes(encoded(3))  # train/cat/03.png
    (divided / "test/dog/leak2.png").write_bytes(encoded(1101))  # val/dog/01.png
    (divided / "val/cat/leak3.png").write_bytes(encoded(4))  # train/cat/04.png
    dataset = load_folder(divided, 8, seed=0)
    assert dataset.skipped == (
        "val/cat/leak3.png: same image as train/cat/04.png",
        "test/cat/leak1.png: same image as train/cat/03.png",
        "test/dog/leak2.png: same image as val/dog/01.png",
    )
    assert [len(ids) for ids in by_split(dataset)] == [20, 4, 6]


def test_copies_do_not_make_a_class_large_enough(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 3, first=0)
    fill(tmp_path / "dog", 2, first=10)
    (tmp_path / "dog" / "copy.png").write_bytes(encoded(10))
    with pytest.raises(DataError, match=r"class dog has 2 different image\(s\)"):
        load_folder(tmp_path, 8, seed=0)


@pytest.mark.parametrize("classes", [0, 1])
def test_fewer_than_two_classes_are_refused(tmp_path: Path, classes: int) -> None:
    for number in range(classes):
        fill(tmp_path / str(number), 5, first=0)
    with pytest.raises(DataError, match=rf"has {classes} class folder\(s\); expected at least 2"):
        load_folder(tmp_path, 8, seed=0)


def test_an_empty_class_is_named(pets: Path) -> None:
    (pets / "bird").mkdir()
    with pytest.raises(DataError, match=r"no readable training image for class bird \(0 skipped\)"):
        load_folder(pets, 8, seed=0)


def test_a_class_of_corrupt_images_alone_is_named_with_the_first(pets: Path) -> None:
    (pets / "bird").mkdir()
    (pets / "bird" / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"class bird \(1 skipped: bird/a\.png: not an image of a known format"):
        load_folder(pets, 8, seed=0)


def test_no_folder_or_a_missing_one_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set DATA_DIR"):
        load_folder(None, 8, seed=0)
    with pytest.raises(DataError, match="none is not a folder"):
        load_folder(tmp_path / "none", 8, seed=0)


def test_the_environment_names_the_folder(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(pets))
    assert load_folder(None, 8, seed=0).name == "pets"
