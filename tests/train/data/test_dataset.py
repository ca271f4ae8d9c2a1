"""Checks of a dataset, and the division into splits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core.errors import DataError
from runtime.images.input_spec import InputSpec
from train.data.dataset import Dataset, Split, check_dataset, resize_all, stratified_split


def make_split(ids: list[str]) -> Split:
    images = np.zeros((len(ids), 4, 4, 3), dtype=np.uint8)
    return Split(images, np.arange(len(ids), dtype=np.int64) % 2, tuple(ids))


@pytest.fixture
def dataset() -> Dataset:
    return Dataset("tiny", ("a", "b"), make_split(["1", "2"]), make_split(["3"]), make_split(["4", "5"]))


def test_a_sound_data_set_passes_and_gives_its_splits_by_name(dataset: Dataset) -> None:
    check_dataset(dataset)
    assert [dataset.split(name).ids for name in ("train", "val", "test")] == [("1", "2"), ("3",), ("4", "5")]


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_an_empty_split_is_named(dataset: Dataset, name: str) -> None:
    change: dict[str, Any] = {name: make_split([])}
    with pytest.raises(DataError, match=f"the {name} split of tiny is empty"):
        check_dataset(replace(dataset, **change))


def test_an_id_in_two_splits_is_named_with_both(dataset: Dataset) -> None:
    with pytest.raises(DataError, match="image 1 is in train and again in test"):
        check_dataset(replace(dataset, test=make_split(["4", "1"])))


def test_an_id_twice_in_one_split_is_refused(dataset: Dataset) -> None:
    with pytest.raises(DataError, match="image 3 is in val and again in val"):
        check_dataset(replace(dataset, val=make_split(["3", "3"])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 2])}, r"labels 0\.\.2; expected 0\.\.1"),
        ({"labels": np.array([-1, 0])}, r"labels -1\.\.0"),
        ({"labels": np.array([0.0, 1.0])}, "dtype float64"),
        ({"labels": np.array([0])}, "2 images, 1 labels and 2 ids"),
        ({"images": np.zeros((3, 4, 4, 3), np.uint8)}, "3 images, 2 labels and 2 ids"),
        ({"images": np.zeros((2, 4, 4, 3), np.float32)}, "dtype float32"),
        ({"images": np.zeros((2, 4, 4), np.uint8)}, r"shape \(2, 4, 4\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(dataset: Dataset, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_dataset(replace(dataset, train=replace(dataset.train, **change)))


@given(
    sizes=st.lists(st.integers(3, 40), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
    fraction=st.floats(0.01, 0.3),
)
@settings(max_examples=60, deadline=None)
def test_a_division_loses_nothing_and_keeps_proportions(sizes: list[int], seed: int, fraction: float) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    np.random.default_rng(seed).shuffle(labels)
    parts = stratified_split(labels, [fraction, fraction], seed, [str(k) for k in range(len(sizes))])
    assert sorted(np.concatenate(parts).tolist()) == list(range(sum(sizes)))
    for label, size in enumerate(sizes):
        counts = [int(np.sum(labels[part] == label)) for part in parts]
        assert min(counts) >= 1
        assert all(abs(count - fraction * size) <= 1 for count in counts[1:])


def test_a_division_depends_on_the_seed_alone() -> None:
    labels = np.arange(200) % 4
    names = ["a", "b", "c", "d"]
    first, again, other = (stratified_split(labels, [0.2], seed, names)[1].tolist() for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_another_class_does_not_move_a_class() -> None:
    alone = stratified_split(np.zeros(50, dtype=np.int64), [0.2], 3, ["a"])[1]
    both = stratified_split(np.repeat([0, 1], 50), [0.2], 3, ["a", "b"])[1]
    assert alone.tolist() == [index for index in both.tolist() if index < 50]


def test_a_class_too_small_for_every_part_is_named() -> None:
    with pytest.raises(DataError, match=r"class dog has 2 different image\(s\); expected at least 3"):
        stratified_split(np.array([0, 0, 0, 1, 1]), [0.15, 0.15], 0, ["cat", "dog"])


def test_resizing_gives_each_image_in_its_place() -> None:
    images = [np.full((8, 8, 3), value, dtype=np.uint8) for value in (10, 200)]
    images[1][:, :4] = 100
    resized = resize_all(images, InputSpec(4))
    assert resized.shape == (2, 4, 4, 3)
    assert np.all(resized[0] == 10)
    assert np.array_equal(resized[1], cv2.resize(images[1], (4, 4), interpolation=cv2.INTER_AREA))
