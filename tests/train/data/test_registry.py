"""Loading a dataset by name, and the command that writes a split."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime.core.cli import run_cli
from runtime.core.errors import ConfigError, DataError
from runtime.evaluation.split_file import read_split
from runtime.images.formats import NAMES
from tests.support.paths import ROOT
from train.data.__main__ import main
from train.data.dataset import Dataset, Split
from train.data.registry import DATASETS, DatasetKind, load_dataset
from train.data.shapes import load_shapes

BAD = f"cat/bad.png: not an image of a known format ({', '.join(NAMES)})"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATA_DIR", raising=False)


@pytest.fixture
def few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `shapes` a small dataset, for speed."""
    small = DatasetKind(lambda asked: load_shapes(asked.seed, train=30, val=10, test=20), "few shapes")
    monkeypatch.setitem(DATASETS, "shapes", small)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index in range(4):
            image = rng.integers(0, 256, size=(9, 9, 3)).astype(np.uint8)
            cv2.imwrite(str(tmp_path / "pets" / name / f"{index}.png"), image)
    (tmp_path / "pets" / "cat" / "bad.png").write_bytes(b"bad")
    return tmp_path / "pets"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="received dataset 'cifar100'; the known ones are cifar10, folder, shapes"):
        load_dataset("cifar100", data_dir=None, image_size=48)


@pytest.mark.parametrize(("image_size", "seed"), [(0, 0), (-48, 0), (48, -1)])
def test_a_size_or_seed_out_of_range_is_refused(image_size: int, seed: int) -> None:
    with pytest.raises(ConfigError, match="expected"):
        load_dataset("shapes", data_dir=None, image_size=image_size, seed=seed)


def test_shapes_need_no_folder(few_shapes: None) -> None:
    dataset = load_dataset("shapes", data_dir=None, image_size=16)
    assert dataset.name == "shapes"
    assert dataset.train.images.shape == (30, 64, 64, 3)
    assert not set(dataset.train.ids) & set(dataset.test.ids)


def test_the_default_shapes_have_the_stated_sizes() -> None:
    dataset = load_dataset("shapes", data_dir=None, image_size=16)
    assert [len(dataset.split(name).ids) for name in ("train", "val", "test")] == [4000, 800, 1000]
    every = {image.tobytes() for name in ("train", "val", "test") for image in dataset.split(name).images}
    assert len(every) == 5800


def test_a_folder_is_loaded_from_its_place(pets: Path) -> None:
    dataset = load_dataset("folder", data_dir=pets, image_size=9)
    assert (dataset.name, dataset.labels) == ("pets", ("cat", "dog"))
    assert dataset.skipped == (BAD,)


def test_cifar10_is_looked_for_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no data_batch_1\.bin"):
        load_dataset("cifar10", data_dir=tmp_path, image_size=32)


def test_splits_with_an_image_in_common_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    split = Split(np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, np.int64), ("same",))
    monkeypatch.setitem(
        DATASETS, "bad", DatasetKind(lambda _: Dataset("bad", ("a", "b"), split, split, split), "one image")
    )
    with pytest.raises(DataError, match="image same is in train and again in val"):
        load_dataset("bad", data_dir=None, image_size=8)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_command_writes_the_split_it_is_asked_for(few_shapes: None, tmp_path: Path, split: str) -> None:
    out = tmp_path / "out.npz"
    arguments = ["--dataset", "shapes", "--image-size", "16", "--split", split, "--seed", "3", "--out", str(out)]
    assert main(arguments) == 0
    written = read_split(out)
    expected = load_dataset("shapes", data_dir=None, image_size=16, seed=3)
    assert np.array_equal(written.images, expected.split(split).images)
    assert written.labels.tolist() == expected.split(split).labels.tolist()
    assert written.ids == expected.split(split).ids
    assert (written.class_names, written.dataset, written.split) == (expected.labels, "shapes", split)


def test_the_command_names_and_counts_the_skipped(
    pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", "folder", "--data-dir", str(pets), "--image-size", "9", "--out", f"{tmp_path}/t.npz"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"skipped {BAD}" in printed
    assert "2 images of 2 classes, test split of pets, 1 skipped" in printed
    assert main([*arguments, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == 2
    assert figures["class_names"] == ["cat", "dog"]
    assert figures["skipped"] == [BAD]


def test_an_error_leaves_the_old_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "old.npz"
    out.write_bytes(b"old")
    arguments = ["--dataset", "mnist", "--image-size", "9", "--out", str(out)]
    assert run_cli(main, arguments) == 2
    assert capsys.readouterr().err.startswith("error: received dataset 'mnist'")
    assert out.read_bytes() == b"old"


def test_the_module_is_a_command(pets: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "train.data", "--dataset", "folder", "--image-size", "9", "--out"]
    root = ROOT
    good = subprocess.run(
        [*command, str(tmp_path / "t.npz"), "--data-dir", str(pets)], cwd=root, capture_output=True, text=True
    )
    assert good.returncode == 0
    assert read_split(tmp_path / "t.npz").dataset == "pets"
    bad = subprocess.run(
        [*command, str(tmp_path / "u.npz"), "--data-dir", str(tmp_path / "none")],
        cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    assert bad.returncode == 2
    assert len(bad.stderr.splitlines()) == 1
    assert "is not a folder" in bad.stderr
    assert not (tmp_path / "u.npz").exists()
