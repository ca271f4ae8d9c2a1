"""Layouts of class folders, and the account of every file in them."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.core.errors import DataError
from train.data.dataset import Dataset
from train.data.folders.file_counts import FileCounts
from train.data.folders.folder import load_folder

SPLIT_SETS = [
    ("train", "valid", "test"),
    ("training", "validation", "testing"),
    ("Train", "Val", "Test"),
    ("TRAINING", "dev", "testing"),
]


def encoded(value: int, suffix: str = ".png") -> bytes:
    image = np.random.default_rng(value).integers(0, 256, size=(24, 24, 3)).astype(np.uint8)
    return cv2.imencode(suffix, image)[1].tobytes()


def fill(folder: Path, count: int, first: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        (folder / f"{index:02}.png").write_bytes(encoded(first + index))


def counts_of(dataset: Dataset) -> FileCounts:
    assert dataset.files is not None
    return dataset.files


def check_account(dataset: Dataset, root: Path) -> None:
    counts = asdict(counts_of(dataset))
    assert counts.pop("seen") == sum(counts.values()) == sum(len(files) for _, _, files in os.walk(root))
    assert counts["used"] == sum(len(dataset.split(name).ids) for name in ("train", "val", "test"))
    assert counts["copies"] + counts["unreadable"] == len(dataset.skipped)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    fill(tmp_path / "pets" / "cat", 20, first=0)
    fill(tmp_path / "pets" / "dog", 10, first=100)
    return tmp_path / "pets"


def test_every_file_is_accounted_for(pets: Path) -> None:
    for name in ("cat/a.jpg", "cat/day/b.JFIF", "cat/day/night/c.webp", "dog/d.jpe", "dog/f.TIF", "dog/g.bmp"):
        (pets / name).parent.mkdir(parents=True, exist_ok=True)
        (pets / name).write_bytes(encoded(len(name) + 500 + ord(name[-5]), ".jpg"))
    for name in ("readme.md", "cat/labels.csv", "dog/x.heic"):
        (pets / name).write_bytes(b"text")
    for name in ("cat/.x.jpg", "cat/Thumbs.db", "__MACOSX/cat/._a.jpg", "dog/@eaDir/a.jpg/small.jpg"):
        (pets / name).parent.mkdir(parents=True, exist_ok=True)
        (pets / name).write_bytes(b"hidden")
    (pets / "loose.png").write_bytes(encoded(900))
    (pets / "cat" / "copy.png").write_bytes(encoded(3))
    (pets / "dog" / "broken.png").write_bytes(b"broken")
    os.mkfifo(pets / "dog" / "pipe.png")
    dataset = load_folder(pets, 8, seed=0)
    check_account(dataset, pets)
    assert asdict(counts_of(dataset)) == {
        "seen": 30 + 6 + 3 + 4 + 1 + 1 + 1 + 1, "used": 36, "copies": 1, "unreadable": 1, "left_out": 0,
        "outside_classes": 1, "hidden": 4, "unknown_format": 3, "not_plain": 1,
    }  # fmt: skip
    assert counts_of(dataset).line() == (
        "files: 47 seen = 36 used, 1 copies, 1 unreadable, 1 outside classes, 4 hidden, 3 unknown format, 1 not plain"
    )
    assert dataset.notes == ("1 image(s) in no class folder, not used (loose.png)",)


def test_sub_folders_belong_to_the_class(pets: Path) -> None:
    for day in ("2024-05-01", "2024-05-02"):
        fill(pets / "dog" / day / "camera 2", 10, first=1000 + 50 * int(day[-1]))
    dataset = load_folder(pets, 8, seed=0)
    every = {
        name: label
        for split in (dataset.train, dataset.val, dataset.test)
        for name, label in zip(split.ids, split.labels.tolist(), strict=True)
    }
    assert len(every) == 50
    assert every["dog/2024-05-01/camera 2/00.png"] == 1
    assert Counter(every.values()) == {0: 20, 1: 30}


@pytest.mark.parametrize("names", SPLIT_SETS, ids="/".join)
def test_the_usual_names_of_splits_are_known_in_any_case(tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, (name, count) in enumerate(zip(names, (10, 3, 4), strict=True)):
        fill(tmp_path / name / "cat", count, first=1000 * number)
        fill(tmp_path / name / "dog", count, first=1000 * number + 100)
    dataset = load_folder(tmp_path, 8, seed=0)
    assert dataset.labels == ("cat", "dog")
    for name, split, count in zip(names, ("train", "val", "test"), (20, 6, 8), strict=True):
        assert len(dataset.split(split).ids) == count
        assert all(each.startswith(f"{name}/") for each in dataset.split(split).ids)


def test_two_names_for_one_split_are_an_error(tmp_path: Path) -> None:
    for name in ("train", "valid", "Validation"):
        fill(tmp_path / name / "cat", 5, first=0)
        fill(tmp_path / name / "dog", 5, first=100)
    with pytest.raises(DataError, match="has 'Validation' and 'valid', which all name the val split"):
        load_folder(tmp_path, 8, seed=0)


def test_splits_without_train_are_an_error(tmp_path: Path) -> None:
    for name in ("val", "test"):
        fill(tmp_path / name / "cat", 5, first=0)
    with pytest.raises(DataError, match="has val and test but no train"):
        load_folder(tmp_path, 8, seed=0)


def test_classes_named_as_splits_are_classes(tmp_path: Path) -> None:
    fill(tmp_path / "test", 4, first=0)
    fill(tmp_path / "valid", 4, first=10)
    assert load_folder(tmp_path, 8, seed=0).labels == ("test", "valid")


def test_splits_within_a_class_are_an_error(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / name / "train", 5, first=0)
        fill(tmp_path / name / "test", 5, first=10)
    with pytest.raises(DataError, match="class folder cat holds the splits test and train; expected train/cat/"):
        load_folder(tmp_path, 8, seed=0)


@pytest.mark.parametrize("inner", ["dataset", "archive/images", "dataset/train"])
def test_a_wrapper_folder_gives_an_error_that_names_the_inner_one(tmp_path: Path, inner: str) -> None:
    fill(tmp_path / inner / "cat", 5, first=0)
    fill(tmp_path / inner / "dog", 5, first=10)
    (tmp_path / "__MACOSX").mkdir()
    with pytest.raises(DataError, match=rf"has 1 class folder\(s\).*; give {tmp_path / inner}, which has cat, dog$"):
        load_folder(tmp_path, 8, seed=0)
    with pytest.raises(DataError, match=r"one class$"):
        load_folder(tmp_path / inner / "cat", 8, seed=0)


def test_a_link_to_its_own_folder_is_no_wrapper(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to(".")
    with pytest.raises(DataError, match=r"has 1 class folder\(s\)"):
        load_folder(tmp_path, 8, seed=0)


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [("caf\u00e9", "cafe\u0301", r"'cafe\\u0301' and 'caf\\xe9'"), ("Cat", "cat", "'Cat' and 'cat'")],
    ids=["normalisation", "case"],
)
@pytest.mark.parametrize("split", [False, True])
def test_class_names_that_look_the_same_are_shown(
    tmp_path: Path, one: str, other: str, shown: str, split: bool
) -> None:
    fill(tmp_path / "train" / one, 5, first=0)
    fill(tmp_path / "train" / "zebra", 5, first=50)
    fill(tmp_path / ("val" if split else "train") / other, 5, first=100)
    with pytest.raises(DataError, match=f"the class folders {shown} differ only in case or Unicode normalisation"):
        load_folder(tmp_path, 8, seed=0)


def test_each_class_has_its_own_reasons(pets: Path) -> None:
    for name in ("ant", "bee"):
        (pets / name).mkdir()
    for index in range(5):
        (pets / "cat" / f"bad{index}.png").write_bytes(b"bad")
        (pets / "bee" / f"{index}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (pets / "ant" / "notes.txt").write_bytes(b"text")
    with pytest.raises(DataError) as caught:
        load_folder(pets, 8, seed=0)
    text = str(caught.value)
    assert (
        "class ant (0 skipped; no image files: ant/notes.txt: of no known format); for class bee (5 skipped: " in text
    )
    assert text.count("bee/") == 3 and "cat/" not in text


def test_too_few_images_of_a_class_come_with_its_reasons(pets: Path) -> None:
    (pets / "emu").mkdir()
    for index, value in enumerate((700, 701, 700)):
        (pets / "emu" / f"{index}.png").write_bytes(encoded(value))
    (pets / "cat" / "bad.png").write_bytes(b"bad")
    with pytest.raises(DataError, match=r"class emu has 2 .*\(1 skipped: emu/2\.png: same image as emu/0\.png\); add"):
        load_folder(pets, 8, seed=0)


def test_a_split_of_copies_says_so(tmp_path: Path) -> None:
    for split, count in (("train", 10), ("test", 4)):
        fill(tmp_path / split / "cat", count, first=0)
        fill(tmp_path / split / "dog", count, first=100)
    expected = (
        r"the test split is empty: 8 image files, 8 of them copies of other images, 0 unreadable \(test/cat/00\.png: "
    )
    with pytest.raises(DataError, match=expected + r"same image as train/cat/00\.png, "):
        load_folder(tmp_path, 8, seed=0)


def test_a_class_that_a_split_lacks_is_said(tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "cow", "dog")):
        fill(tmp_path / "train" / name, 6, first=100 * number)
        if name != "cow":
            fill(tmp_path / "val" / name, 3, first=100 * number + 50)
    assert load_folder(tmp_path, 8, seed=0).notes == ("val has no image of 1 class(es) (cow)",)


def test_a_class_that_is_a_link_to_another_says_so(pets: Path) -> None:
    (pets / "emu").symlink_to("cat")
    with pytest.raises(DataError, match=r"class emu \(0 skipped; no image files: emu: a link to a folder already list"):
        load_folder(pets, 8, seed=0)


def test_unreadable_files_of_a_streamed_folder_are_counted_as_they_are_met(pets: Path) -> None:
    (pets / "dog" / "readme.txt").write_bytes(b"text")
    dataset = load_folder(pets, 8, seed=0, stream=True)
    check_account(dataset, pets)
    (pets / dataset.train.ids[0]).write_bytes(b"bad")
    assert counts_of(dataset).unreadable == 0
    dataset.train.images[[0]]
    counts = asdict(counts_of(dataset))
    assert (counts["used"], counts["unreadable"]) == (29, 1)
    assert counts.pop("seen") == sum(counts.values())


NAMES = st.sampled_from(
    ["cat", "dog", "Cat", "train", "val", "test", "Valid", "a.png", "b.jpg", "c.txt", ".h", "Thumbs.db", "é", "e\u0301"]
) | st.text(st.characters(blacklist_characters="/\0"), min_size=1, max_size=6).filter(lambda name: name not in "..")
CONTENTS = st.integers(0, 6).map(encoded) | st.binary(max_size=40) | st.just(encoded(0, ".jpg")[:-90])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    files=st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=4), CONTENTS), max_size=30),
    streamed=st.booleans(),
    plain=st.booleans(),
)
def test_any_tree_gives_a_dataset_whose_account_adds_up_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[list[str], bytes]], streamed: bool, plain: bool
) -> None:
    root = tmp_path_factory.mktemp("any")
    if plain:
        fill(root / "ant", 4, first=100)
        fill(root / "bee", 4, first=200)
    for parts, content in files:
        path = root.joinpath(*(os.fsencode(part.encode("utf-8", "replace").decode()).decode() for part in parts))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except OSError:  # a file or folder of that name is there
            continue
    try:
        dataset = load_folder(root, 8, seed=0, stream=streamed, allow_conflicts=True)
    except DataError as error:
        assert str(error)
    else:
        check_account(dataset, root)
