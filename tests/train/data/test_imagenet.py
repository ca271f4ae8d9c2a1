"""ImageNet's classes: all there, in the usual order, and no two called alike."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime.core.errors import DataError
from train.data.imagenet import CLASSES_FILE, imagenet_labels, readable_label, readable_labels
from train.data.registry import load_dataset


def test_the_classes_are_a_thousand_in_the_order_of_their_numbers() -> None:
    rows = [line.split("\t") for line in CLASSES_FILE.read_text(encoding="utf-8").splitlines()]
    assert rows.pop(0) == ["wnid", "name"]
    wnids = [wnid for wnid, _ in rows]
    assert len(rows) == 1000 and wnids == sorted(set(wnids))
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in wnids)
    assert imagenet_labels() == tuple(name for _, name in rows)


def test_no_two_names_are_alike() -> None:
    names = [name.lower() for name in imagenet_labels()]
    assert len(set(names)) == len(names)
    assert all(name == name.strip() and re.fullmatch(r"[a-z' ()-]+", name) for name in names)


# Indices that are widely published with networks and tutorials.
@pytest.mark.parametrize(
    ("index", "name"),
    [
        (0, "tench"),
        (1, "goldfish"),
        (134, "crane (bird)"),
        (207, "golden retriever"),
        (264, "Cardigan Welsh corgi"),
        (281, "tabby"),
        (474, "cardigan"),
        (517, "crane (machine)"),
        (638, "maillot"),
        (639, "tank suit"),
        (999, "toilet tissue"),
    ],
)
def test_well_known_indices(index: int, name: str) -> None:
    assert imagenet_labels()[index] == name


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("n01440764", "tench"),
        ("n02012849", "crane (bird)"),
        ("n00000000", "n00000000"),
        ("N01440764",) * 2,
        ("cat",) * 2,
    ],
)
def test_a_known_number_has_a_name_and_any_other_folder_keeps_its_own(folder: str, label: str) -> None:
    assert readable_label(folder) == label


def test_two_folders_of_one_class_are_refused() -> None:
    assert readable_labels(["n01440764", "trout"]) == ("tench", "trout")
    with pytest.raises(DataError, match="n01440764 and tench are both of class tench"):
        readable_labels(["n01440764", "tench"])


def test_a_tree_of_numbered_folders_has_the_labels_of_an_imagenet_network(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0)
    for wnid in ("n01443537", "n01440764"):
        (tmp_path / wnid).mkdir()
        for index in range(8):
            image = drawn.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / wnid / f"{index}.png"), image)
    dataset = load_dataset("folder", data_dir=tmp_path, image_size=8)
    assert dataset.labels == imagenet_labels()[:2] == ("tench", "goldfish")
    for name, label in zip(dataset.train.ids, dataset.train.labels, strict=True):
        assert name.startswith(("n01440764", "n01443537")[label])
