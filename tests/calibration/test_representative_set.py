"""The representative set: balanced, drawn from its split, identified by its hash."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from calibration.representative_set import draw_representative_set
from runtime.core.errors import ConfigError
from train.data.dataset import Split


def split(count: int = 40, classes: int = 4, name: str = "p") -> Split:
    images = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % classes
    return Split(images, labels, tuple(f"{name}{index}" for index in range(count)))


@pytest.mark.parametrize("images", [1, 4, 10, 39, 40])
def test_classes_are_equal_within_one(images: int) -> None:
    train = split()
    sample = draw_representative_set(train, images, seed=3)
    labels = [train.labels[train.ids.index(name)] for name in sample.ids]
    counts = np.bincount(labels, minlength=4)
    assert len(sample.images) == len(sample.ids) == len(set(sample.ids)) == images
    assert counts.max() - counts.min() <= 1


def test_images_belong_to_their_ids() -> None:
    train = split()
    sample = draw_representative_set(train, 12, seed=3)
    places = [train.ids.index(name) for name in sample.ids]
    assert places == sorted(places)
    np.testing.assert_array_equal(sample.images, train.images[places])


def test_the_hash_is_over_ids_and_pixels() -> None:
    sample = draw_representative_set(split(), 12, seed=3)
    content = "\n".join(sample.ids).encode() + b"".join(image.tobytes() for image in sample.images)
    assert sample.sha256 == hashlib.sha256(content).hexdigest()


def test_the_same_seed_draws_the_same() -> None:
    first, second = (draw_representative_set(split(), 12, seed=3) for _ in range(2))
    assert (first.ids, first.sha256) == (second.ids, second.sha256)


def test_the_hash_changes_with_seed_ids_and_pixels() -> None:
    train = split()
    first = draw_representative_set(train, 12, seed=3)
    assert draw_representative_set(train, 12, seed=4).sha256 != first.sha256
    assert draw_representative_set(split(name="q"), 12, seed=3).sha256 != first.sha256
    images = train.images.copy()
    images[train.ids.index(first.ids[5]), 2, 3, 1] ^= 1
    changed = draw_representative_set(Split(images, train.labels, train.ids), 12, seed=3)
    assert changed.ids == first.ids
    assert changed.sha256 != first.sha256


@pytest.mark.parametrize("images", [0, -1, 41])
def test_refuses_a_number_out_of_range(images: int) -> None:
    with pytest.raises(ConfigError, match=rf"received {images} calibration images; expected 1 to 40"):
        draw_representative_set(split(), images, seed=0)
