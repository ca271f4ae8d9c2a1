"""Augmented batches: real crops of real pictures, the same for the same seed, epoch and batch."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.preprocess import Image
from train.augment import TrainBatches, crop_and_flip
from train.config import FocalNetConfig, TrainConfig

NETWORK = FocalNetConfig(
    input_size=8, classes=3, patch_size=4, dims=(4,), depths=(1,), focal_levels=(1,), focal_windows=(3,)
)


def noise(count: int, height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def places(picture: Image, crop: Image) -> list[tuple[int, int]]:
    """Every place of `picture` where `crop` lies."""
    size = crop.shape[0]
    return [
        (top, left)
        for top in range(picture.shape[0] - size + 1)
        for left in range(picture.shape[1] - size + 1)
        if np.array_equal(picture[top : top + size, left : left + size], crop)
    ]


@given(
    size=st.integers(3, 6),
    rows=st.integers(0, 4),
    columns=st.integers(0, 4),
    flip=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_every_crop_is_a_part_of_its_own_picture(size: int, rows: int, columns: int, flip: bool, seed: int) -> None:
    images = noise(4, size + rows, size + columns, seed)
    crops = crop_and_flip(images, size, flip, np.random.default_rng(seed))
    assert (crops.shape, crops.dtype) == ((4, size, size, 3), np.uint8)
    for image, crop in zip(images, crops, strict=True):
        assert places(image, crop) or (flip and places(image, crop[:, ::-1]))


def test_crops_fall_on_every_place_and_a_half_is_mirrored() -> None:
    image = noise(1, 8, 7)[0]
    crops = crop_and_flip(np.stack([image] * 1200), 5, True, np.random.default_rng(0))
    straight = [places(image, crop) for crop in crops]
    mirrored = [places(image, crop[:, ::-1]) for crop in crops]
    assert 550 < sum(map(len, mirrored)) < 650
    # A place and a side each: 4 x 3 x 2 of them, each 50 times on average.
    counts = [
        sum(found == [(top, left)] for found in side)
        for side in (straight, mirrored)
        for top in range(4)
        for left in range(3)
    ]
    assert sum(counts) == 1200
    assert min(counts) > 25
    assert max(counts) < 80


def test_nothing_is_mirrored_when_not_asked() -> None:
    image = noise(1, 6, 6)[0]
    crops = crop_and_flip(np.stack([image] * 64), 4, False, np.random.default_rng(0))
    assert all(places(image, crop) for crop in crops)


def batches(count: int = 22, epoch: int = 0, **changes: Any) -> TrainBatches:
    """Batches of pictures of one colour each, so that a crop tells which picture it is of."""
    images = np.repeat(np.arange(count, dtype=np.uint8), 10 * 10 * 3).reshape(count, 10, 10, 3)
    recipe = TrainConfig(**({"batch_size": 5, "resize_margin": 2, "seed": 3} | changes))
    return TrainBatches(images, np.arange(count) % 3, NETWORK, recipe, first_epoch=epoch)


def numbers(each: TrainBatches) -> list[int]:
    """The numbers of the pictures of an epoch, in order."""
    return [int(value) for index in range(len(each)) for value in each[index][0][:, 0, 0, 0]]


def textured(epoch: int = 0, seed: int = 0) -> TrainBatches:
    recipe = TrainConfig(batch_size=6, resize_margin=3, seed=seed)
    return TrainBatches(noise(12, 20, 16), np.zeros(12, dtype=np.int64), NETWORK, recipe, first_epoch=epoch)


def same(first: tuple[NDArray[Any], ...], second: tuple[NDArray[Any], ...]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_batch_is_what_the_network_takes() -> None:
    images, targets = batches()[0]
    assert (images.shape, images.dtype) == ((5, 8, 8, 3), np.float32)
    assert (targets.shape, targets.dtype) == ((5, 3), np.float32)
    # The colour is the picture's number, the label its remainder.
    assert targets.tolist() == np.eye(3)[images[:, 0, 0, 0].astype(int) % 3].tolist()


def test_pixels_keep_their_range() -> None:
    images, _ = textured()[0]
    assert images.min() >= 0
    assert images.max() <= 255
    assert images.max() > 200


def test_an_epoch_takes_each_picture_at_most_once() -> None:
    each = batches(count=22)
    assert len(each) == 4
    for _ in range(3):
        taken = numbers(each)
        assert len(taken) == len(set(taken)) == 20
        each.on_epoch_end()


def test_an_epoch_of_whole_batches_takes_every_picture() -> None:
    assert sorted(numbers(batches(count=20))) == list(range(20))


def test_fewer_pictures_than_a_batch_are_one_batch() -> None:
    each = batches(count=3)
    assert len(each) == 1
    assert sorted(numbers(each)) == [0, 1, 2]


def test_over_the_epochs_no_picture_is_left_out() -> None:
    each = batches(count=22)
    seen: set[int] = set()
    for _ in range(10):
        seen.update(numbers(each))
        each.on_epoch_end()
    assert seen == set(range(22))


def test_a_batch_depends_on_seed_epoch_and_index_alone() -> None:
    first, second = textured(), textured()
    backwards = [second[index] for index in (1, 0)]
    for _ in range(2):
        assert same(first[0], backwards[1])
        assert same(first[1], backwards[0])


@pytest.mark.parametrize("other", [textured(epoch=1), textured(seed=1)])
def test_epochs_and_seeds_differ(other: TrainBatches) -> None:
    first = textured()
    for index in range(2):
        assert not np.array_equal(first[index][0], other[index][0])


def test_a_picture_is_cropped_anew_in_every_epoch() -> None:
    recipe = TrainConfig(batch_size=1, resize_margin=8)
    each = TrainBatches(noise(1, 16, 16), np.zeros(1, dtype=np.int64), NETWORK, recipe)
    crops = set()
    for _ in range(8):
        crops.add(each[0][0].tobytes())
        each.on_epoch_end()
    assert len(crops) >= 6


def test_the_end_of_an_epoch_leads_to_the_next_one_s_batches() -> None:
    each = textured()
    for epoch in (1, 2):
        each.on_epoch_end()
        assert all(same(each[index], textured(epoch=epoch)[index]) for index in range(2))


def test_without_margin_and_flip_pictures_are_only_shuffled() -> None:
    images = noise(6, 8, 8)
    recipe = TrainConfig(batch_size=6, resize_margin=0, flip=False)
    batch, _ = TrainBatches(images, np.zeros(6, dtype=np.int64), NETWORK, recipe)[0]
    assert sorted(image.tobytes() for image in batch.astype(np.uint8)) == sorted(image.tobytes() for image in images)
