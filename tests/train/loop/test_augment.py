"""Augmentation inside the step: real crops of real images, and targets that are mixed as the images are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.images.preprocess import Image
from train.loop.augment import ERASED, Augment
from train.model.recipe import TrainConfig

Array = NDArray[Any]
PLAIN: dict[str, Any] = {"resize_margin": 0, "flip": False}


def noise(count: int, height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def augmented(mixed: Image, size: int, targets: Array | None = None, **recipe: Any) -> tuple[Array, Array]:
    """A batch augmented by a fresh layer; each image has its own class unless targets are given."""
    targets = np.eye(len(mixed), dtype=np.float32) if targets is None else targets
    images, mixed = Augment(TrainConfig(**(PLAIN | recipe)), size)(mixed, targets)
    return np.asarray(images), np.asarray(mixed)


def places(image: Image, crop: Array) -> list[tuple[int, int]]:
    """Every place of `image` where `crop` lies."""
    size = crop.shape[0]
    return [
        (top, left)
        for top in range(image.shape[0] - size + 1)
        for left in range(image.shape[1] - size + 1)
        if np.array_equal(image[top : top + size, left : left + size], crop)
    ]


def test_crops_fall_on_every_place_and_a_half_is_mirrored() -> None:
    image = noise(1, 8, 7)[0]
    crops, _ = augmented(np.stack([image] * 1200), 5, np.ones((1200, 1), np.float32), flip=True)
    assert (crops.shape, crops.dtype) == ((1200, 5, 5, 3), np.float32)
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


def test_every_crop_is_of_its_own_image_and_unmirrored_when_not_asked() -> None:
    images = noise(32, 6, 9)
    crops, targets = augmented(images, 5)
    assert all(len(places(image, crop)) == 1 for image, crop in zip(images, crops, strict=True))
    np.testing.assert_array_equal(targets, np.eye(32))


def test_padding_mirrors_the_image_outwards() -> None:
    images = noise(64, 6, 6)
    crops, _ = augmented(images, 6, pad=2)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    found = [places(image, crop) for image, crop in zip(padded, crops, strict=True)]
    assert all(found)
    assert len({each[0] for each in found}) > 15  # of 5 x 5 places


def test_without_anything_images_are_only_cast() -> None:
    images = noise(4, 6, 6)
    crops, _ = augmented(images, 6)
    np.testing.assert_array_equal(crops, images.astype(np.float32))


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_a_share_of_the_images_has_a_rectangle_erased(rate: float) -> None:
    images = np.zeros((400, 12, 12, 3), np.uint8)
    erased, _ = augmented(images, 12, np.ones((400, 1), np.float32), erase_rate=rate, erase_area=0.25)
    holes = (erased == ERASED).all(axis=-1)
    assert set(np.unique(erased)) == {0.0, ERASED}
    share = holes.any(axis=(1, 2)).mean()
    assert rate - 0.12 < share <= rate + 0.08  # the smallest rectangles hold no pixel's corner
    for hole in holes:
        rows, columns = hole.any(axis=1), hole.any(axis=0)
        assert (hole == np.outer(rows, columns)).all()
        # A quarter of the area at most, up to a row and a column of rounding.
        assert rows.sum() <= 7
        assert columns.sum() <= 7


def test_randaugment_changes_images_within_their_range() -> None:
    images = noise(16, 8, 8)
    changed, targets = augmented(images, 8, rand_augment_ops=2, rand_augment_magnitude=0.6)
    assert changed.min() >= 0
    assert changed.max() <= 255.001  # up to the rounding of a bilinear interpolation
    assert not np.array_equal(changed, images)
    np.testing.assert_array_equal(targets, np.eye(16))


def test_mixup_blends_images_by_the_share_it_gives_their_targets() -> None:
    levels = np.arange(10, dtype=np.float32) * 20
    images = np.broadcast_to(levels[:, None, None, None], (10, 4, 4, 3)).astype(np.uint8)
    mixed, targets = augmented(images, 4, mixup_alpha=1.0)
    np.testing.assert_allclose(targets.sum(axis=1), 1.0, rtol=1e-5)
    assert ((targets > 0).sum(axis=1) <= 2).all()
    assert ((targets > 0.01).sum(axis=1) == 2).sum() >= 5
    np.testing.assert_allclose(mixed[:, 0, 0, 0], targets @ levels, atol=0.01)
    assert (mixed == mixed[:, :1, :1, :1]).all()


def test_cutmix_pastes_rectangles_by_the_share_it_gives_their_targets() -> None:
    levels = np.arange(1, 11, dtype=np.float32) * 20
    images = np.broadcast_to(levels[:, None, None, None], (10, 16, 16, 3)).astype(np.uint8)
    mixed, targets = augmented(images, 16, cutmix_alpha=1.0)
    assert set(np.unique(mixed)) <= set(levels)
    areas = np.stack([(mixed[..., 0] == level).mean(axis=(1, 2)) for level in levels], axis=1)
    # Keras' boxes may lie partly outside the image by a row of rounding on each side.
    np.testing.assert_allclose(targets, areas, atol=0.13)
    assert (targets.max(axis=1) < 0.99).sum() >= 4


def test_with_both_mixers_each_batch_takes_one_and_a_share_of_batches_none() -> None:
    levels = np.arange(1, 11, dtype=np.float32) * 20
    images = np.broadcast_to(levels[:, None, None, None], (10, 16, 16, 3)).astype(np.uint8)
    layer = Augment(TrainConfig(**PLAIN, mixup_alpha=1.0, cutmix_alpha=1.0, mix_rate=0.6), 16)
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    for _ in range(60):
        mixed, targets = (np.asarray(each) for each in layer(images, np.eye(10, dtype=np.float32)))
        if np.array_equal(targets, np.eye(10)):
            kinds["none"] += 1
        else:
            flat = (mixed == mixed[:, :1, :1, :1]).all()
            kinds["mixup" if flat else "cutmix"] += 1
    assert kinds["none"] == pytest.approx(24, abs=12)
    assert kinds["mixup"] == pytest.approx(18, abs=12)
    assert kinds["cutmix"] == pytest.approx(18, abs=12)


def test_the_seed_decides_and_each_batch_differs() -> None:
    images, recipe = noise(8, 8, 8), TrainConfig(resize_margin=0, pad=2, erase_rate=0.5, mixup_alpha=0.4, seed=3)
    targets = np.eye(8, dtype=np.float32)
    first, second = Augment(recipe, 8), Augment(recipe, 8)
    batches = [[np.asarray(layer(images, targets)[0]) for _ in range(3)] for layer in (first, second)]
    np.testing.assert_array_equal(batches[0], batches[1])
    assert not np.array_equal(batches[0][0], batches[0][1])
    other = Augment(TrainConfig(resize_margin=0, pad=2, erase_rate=0.5, mixup_alpha=0.4, seed=4), 8)
    assert not np.array_equal(np.asarray(other(images, targets)[0]), batches[0][0])
