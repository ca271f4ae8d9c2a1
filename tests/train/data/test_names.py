"""Folders of images whose files, classes and root have names that are no text, or are commands to a terminal."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime.core.errors import DataError
from runtime.core.text import printable
from runtime.evaluation.split_file import read_split, write_split
from train.data.dataset import labelled
from train.data.registry import load_dataset

# The last two are shown alike; their identifiers differ.
ODD_NAMES = (
    b"Stra\xdfe M\xfcnchen", b"line\nbreak", "caf\u00e9 \U0001f408".encode(), b"x" * 250, b"-rf", b"100%d [1]",
    b"'\"$x`id`", b"\xff", b"\\xff",
)  # fmt: skip
IDS = ("Stra\\xdfe M\\xfcnchen", "line\\nbreak", "caf\u00e9 \U0001f408", "\\xff", "\\\\xff")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of 12 images, and one of each of `ODD_NAMES`; the root's own name is no text."""
    root = tmp_path / os.fsdecode(b"pets \xdf\x1b[31m")
    noise = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for name in (*(f"{index}".encode() for index in range(12)), *ODD_NAMES):
            image = noise.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            (root / label / f"{os.fsdecode(name)}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return root


@pytest.mark.parametrize("stream", ["false", "true"])
def test_all_files_are_read_and_have_identifiers_of_their_own(root: Path, tmp_path: Path, stream: str) -> None:
    dataset = load_dataset("folder", data_dir=root, image_size=8, stream=stream)
    assert dataset.name == r"pets \xdf\x1b[31m"
    ids = [name for split in ("train", "val", "test") for name in dataset.split(split).ids]
    assert len(set(ids)) == len(ids) == 2 * (12 + len(ODD_NAMES))
    assert all(printable(name) == name for name in ids)
    assert {f"{label}/{name}.png" for label in ("cat", "dog") for name in IDS} <= set(ids)
    for split in ("train", "val", "test"):
        images = labelled(dataset, split)
        write_split(tmp_path / "split.npz", images)
        assert read_split(tmp_path / "split.npz").ids == images.ids
        assert np.asarray(dataset.split(split).images[: len(images.ids)]).std() > 0


@pytest.mark.parametrize(
    ("name", "shown"),
    [(b"c\xdft", r"c\xdft"), (b"c\x1b[31mt", r"c\x1b[31mt"), (b"c\nt", r"c\nt"), ("c\u202et".encode(), r"c\u202et")],
)
def test_a_class_folder_that_is_no_text_is_refused_by_name(root: Path, name: bytes, shown: str) -> None:
    shutil.copytree(root / "cat", root / os.fsdecode(name))
    with pytest.raises(DataError, match="rename the folder") as refused:
        load_dataset("folder", data_dir=root, image_size=8)
    assert f"the class folder '{shown}' " in str(refused.value)


@pytest.mark.parametrize(
    "name", ["US$_$1 bill", "<script>alert(1)", "a | b", "`id`", "]]>", "&amp;", "'\"", "猫", "-x"]
)
def test_markup_in_a_class_folder_is_a_label(root: Path, name: str) -> None:
    (root / "cat").rename(root / name)
    assert set(load_dataset("folder", data_dir=root, image_size=8).labels) == {name, "dog"}
