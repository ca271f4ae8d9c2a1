"""Split files: written files are read, and damaged or foreign ones refused."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.core.errors import DataError, FocalEdgeError
from runtime.evaluation.split_file import LabelledImages, read_split, write_split


@pytest.fixture
def images() -> LabelledImages:
    pixels = np.random.default_rng(0).integers(0, 256, size=(5, 6, 6, 3)).astype(np.uint8)
    ids = ("a:0", "a:1", "katze/ä b.jpg", "c:3", "犬/4.png")
    return LabelledImages(pixels, np.array([0, 1, 2, 1, 0]), ids, ("Katze", "犬", "c"), "my pets", "test")


def saved(tmp_path: Path, split: LabelledImages, /, **changes: Any) -> Path:
    """Write a split file with NumPy alone, some of its arrays changed, or left out by `None`."""
    arrays: dict[str, Any] = {
        "images": split.images,
        "labels": split.labels,
        "ids": np.array(split.ids),
        "class_names": np.array(split.class_names),
        "dataset": np.array(split.dataset),
        "split": np.array(split.split),
    } | changes
    path = tmp_path / "changed.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_a_written_file_is_read(tmp_path: Path, images: LabelledImages) -> None:
    write_split(tmp_path / "new" / "test.npz", images)
    read = read_split(tmp_path / "new" / "test.npz")
    assert np.array_equal(read.images, images.images)
    assert read.images.dtype == np.uint8
    assert read.labels.tolist() == [0, 1, 2, 1, 0]
    assert read.labels.dtype == np.int64
    assert (read.ids, read.class_names) == (images.ids, images.class_names)
    assert (read.dataset, read.split) == ("my pets", "test")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["test.npz"]


def test_the_file_is_plain_numpy_without_pickles(tmp_path: Path, images: LabelledImages) -> None:
    write_split(tmp_path / "test.npz", images)
    with np.load(tmp_path / "test.npz", allow_pickle=False) as archive:
        assert sorted(archive.files) == ["class_names", "dataset", "ids", "images", "labels", "split"]
        assert {name: archive[name].dtype.kind for name in archive.files} == {
            "images": "u", "labels": "i", "ids": "U", "class_names": "U", "dataset": "U", "split": "U",
        }  # fmt: skip


def test_a_file_by_numpy_alone_is_read(tmp_path: Path, images: LabelledImages) -> None:
    assert read_split(saved(tmp_path, images)).ids == images.ids


def test_the_name_given_is_the_name_written(tmp_path: Path, images: LabelledImages) -> None:
    write_split(tmp_path / "test.split", images)
    assert [path.name for path in tmp_path.iterdir()] == ["test.split"]
    assert read_split(tmp_path / "test.split").split == "test"


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path, images: LabelledImages) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FocalEdgeError, match="cannot write"):
        write_split(tmp_path / "file" / "test.npz", images)


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.npz does not exist; rebuild it with `python -m train\.data`"):
        read_split(tmp_path / "none.npz")


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, images: LabelledImages, kept: float) -> None:
    path = saved(tmp_path, images)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match="not a readable split file"):
        read_split(path)


def test_a_flipped_pixel_is_noticed(tmp_path: Path, images: LabelledImages) -> None:
    path = saved(tmp_path, images)
    content = bytearray(path.read_bytes())
    at = content.index(images.images.tobytes()) + 100
    content[at] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="CRC"):
        read_split(path)


def test_a_pickle_is_not_opened(tmp_path: Path, images: LabelledImages) -> None:
    path = saved(tmp_path, images, ids=np.array([{"id": 1}, *"bcde"], dtype=object))
    with pytest.raises(DataError, match="not a readable split file"):
        read_split(path)
    (tmp_path / "plain.npz").write_bytes(pickle.dumps({"images": 1}))
    with pytest.raises(DataError, match="not a readable split file"):
        read_split(tmp_path / "plain.npz")


def test_a_single_array_or_a_foreign_zip_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match="not a readable split file"):
        read_split(tmp_path / "one.npy")
    with zipfile.ZipFile(tmp_path / "foreign.npz", "w") as archive:
        for name in ("images", "labels", "ids", "class_names", "dataset", "split"):
            archive.writestr(name, "text")
    with pytest.raises(DataError, match="images, labels, ids, class_names, dataset, split is not an array"):
        read_split(tmp_path / "foreign.npz")


@pytest.mark.parametrize("name", ["images", "labels", "ids", "class_names", "dataset", "split"])
def test_a_missing_array_is_named(tmp_path: Path, images: LabelledImages, name: str) -> None:
    with pytest.raises(DataError, match=f"has no array {name};"):
        read_split(saved(tmp_path, images, **{name: None}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((5, 6, 6, 3), np.float32)}, "images of dtype float32"),
        ({"images": np.zeros((5, 6, 6, 1), np.uint8)}, r"shape \(5, 6, 6, 1\)"),
        ({"images": np.zeros((5, 0, 0, 3), np.uint8)}, "expected non-empty"),
        ({"labels": np.zeros(4, np.int64)}, r"expected int64 \[5\]"),
        ({"labels": np.zeros(5, np.int32)}, "labels of dtype int32"),
        ({"labels": np.array([0, 1, 2, 3, 0])}, r"labels 0\.\.3; expected 0\.\.2"),
        ({"labels": np.array([0, 1, 2, -1, 0])}, r"labels -1\.\.2"),
        ({"ids": np.array(list("abcd"))}, "4 ids, 4 different; expected 5"),
        ({"ids": np.array(list("abcda"))}, "5 ids, 4 different"),
        ({"ids": np.arange(5)}, "ids has dtype int64"),
        ({"class_names": np.array(["a"])}, "at least 2"),
        ({"class_names": np.array(["a", "b", "a"])}, r"labels\[2\]='a'; expected a name of its own"),
        ({"class_names": np.array(["a", "b", ""])}, r"labels\[2\]=''; expected a class name that is not empty"),
        ({"class_names": np.array(["a", "b\x1b", "c"])}, "without control characters"),
        ({"class_names": np.array(["a", "\udcdf", "c"])}, r"='\\udcdf'; expected a class name in Unicode"),
        ({"ids": np.array([0x110000, *range(97, 101)], np.uint32).view("U1")}, "ids is not Unicode text"),
        ({"class_names": np.array("abc")}, "class_names has dtype"),
        ({"dataset": np.array(["x"])}, r"dataset has dtype <U1 and shape \(1,\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_the_file_named(
    tmp_path: Path, images: LabelledImages, changes: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(DataError, match=rf"changed\.npz: .*{message}"):
        read_split(saved(tmp_path, images, **changes))


def test_images_are_checked_before_they_are_written(images: LabelledImages) -> None:
    with pytest.raises(DataError, match="2 class names"):
        replace(images, class_names=("a", "b"))
