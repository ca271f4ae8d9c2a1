"""Preprocessing: area resizing against OpenCV, bicubic resizing against Pillow and torchvision's crop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core.errors import ConfigError
from runtime.images.decode import read_image
from runtime.images.input_spec import InputSpec
from runtime.images.preprocess import Image, centre_square, preprocess, resize_square
from train.data.dataset import resize_all
from train.data.folders.folder import load_folder

IMAGENET = InputSpec(224, 0.875, "bicubic")


def noise(height: int, width: int, seed: int = 0, *, binary: bool = False) -> Image:
    drawn = np.random.default_rng(seed).integers(0, 2 if binary else 256, (height, width, 3))
    return (drawn * 255 if binary else drawn).astype(np.uint8)


def pillow(image: Image, spec: InputSpec) -> Image:
    """torchvision's `Resize(floor(size / crop_fraction), BICUBIC)` and `CenterCrop(size)`, by Pillow.

    Columns first, then rows: one call up to version 12, and from 13 on unless an image is very tall.
    """
    height, width = image.shape[:2]
    short = math.floor(spec.size / spec.crop_fraction)
    resized = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    opened = PIL.Image.fromarray(image)
    for size in ((resized[0], height), resized):
        if size != opened.size:
            opened = opened.resize(size, PIL.Image.Resampling[spec.interpolation.upper()])
    left, top = (round((side - spec.size) / 2.0) for side in resized)
    return np.asarray(opened.crop((left, top, left + spec.size, top + spec.size)))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    size=st.integers(1, 120),
    crop_fraction=st.sampled_from([1.0, 0.875, 0.9, 0.5, 0.3]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    binary=st.booleans(),
)
def test_bicubic_and_bilinear_are_pillows_to_the_bit(
    height: int, width: int, size: int, crop_fraction: float, interpolation: Any, binary: bool
) -> None:
    spec, image = InputSpec(size, crop_fraction, interpolation), noise(height, width, binary=binary)
    np.testing.assert_array_equal(resize_square(image, spec), pillow(image, spec))


@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (720, 1280), (375, 500), (256, 256), (224, 224), (100, 150)])
def test_bicubic_input_is_that_of_imagenet_evaluations(shape: tuple[int, int]) -> None:
    image = noise(*shape)
    found = preprocess(image, IMAGENET)
    assert (found.shape, found.dtype, found.flags.c_contiguous) == ((1, 224, 224, 3), np.uint8, True)
    np.testing.assert_array_equal(found[0], pillow(image, IMAGENET))


def test_the_result_is_one_call_of_pillow_and_a_crop_at_known_places() -> None:
    image = noise(480, 640)
    whole = np.asarray(PIL.Image.fromarray(image).resize((341, 256), PIL.Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize_square(image, IMAGENET), whole[16 : 16 + 224, 58 : 58 + 224])


def test_a_view_that_is_not_contiguous_gives_the_same() -> None:
    image = noise(90, 120)
    mirrored = image[:, ::-1]
    spec = InputSpec(32, 0.875, "bicubic")
    np.testing.assert_array_equal(resize_square(mirrored, spec), resize_square(mirrored.copy(), spec))


@pytest.mark.parametrize("spec", [InputSpec(32, 0.875, "bicubic"), InputSpec(32, 0.5), InputSpec(32)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (31, 33), (500, 37)])
def test_a_plain_image_stays_plain(spec: InputSpec, shape: tuple[int, int]) -> None:
    found = resize_square(np.full((*shape, 3), (3, 128, 255), np.uint8), spec)
    assert (found == (3, 128, 255)).all()


@pytest.mark.parametrize(("shape", "way"), [((90, 70), cv2.INTER_AREA), ((20, 30), cv2.INTER_LINEAR)])
def test_area_with_no_crop_is_the_centred_square(shape: tuple[int, int], way: int) -> None:
    image, side = noise(*shape), min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    square = image[top : top + side, left : left + side]
    np.testing.assert_array_equal(resize_square(image, InputSpec(48)), cv2.resize(square, (48, 48), interpolation=way))
    np.testing.assert_array_equal(resize_square(image, InputSpec(side)), square)


def test_area_with_a_crop_is_that_share_of_the_short_side() -> None:
    image = noise(480, 640)
    expected = cv2.resize(image[30:450, 110:530], (224, 224), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(resize_square(image, InputSpec(224, 0.875)), expected)


@pytest.mark.parametrize("interpolation", ["area", "bicubic", "bilinear"])
def test_a_stored_image_with_a_margin_is_cropped_and_not_resized(interpolation: Any) -> None:
    stored = noise(256, 256)
    found = resize_square(stored, InputSpec(224, 0.875, interpolation))
    np.testing.assert_array_equal(found, stored[16:-16, 16:-16])


@pytest.mark.parametrize("shape", [(60, 80), (81, 60), (45, 45), (40, 111)])
def test_images_stored_for_training_give_the_same_input_as_their_files(tmp_path: Path, shape: tuple[int, int]) -> None:
    """A folder's images, stored whole at 64 pixels, against the files."""
    spec = InputSpec(56, 0.875, "bicubic")
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for index in range(4):
            cv2.imwrite(str(tmp_path / name / f"{index}.png"), noise(*shape, seed=10 * number + index))
    dataset = load_folder(tmp_path, 64, seed=0, interpolation="bicubic")
    for split in (dataset.train, dataset.val, dataset.test):
        assert split.images.shape[1:] == (64, 64, 3)
        for found, name in zip(resize_all(split.images, spec), split.ids, strict=True):
            np.testing.assert_array_equal(found, preprocess(read_image(tmp_path / name), spec)[0])


@pytest.mark.parametrize(
    ("spec", "fraction"),
    [(InputSpec(224), 1.0), (InputSpec(224, 0.9), 0.9), (IMAGENET, 0.875), (InputSpec(224, 0.9, "bicubic"), 224 / 248)],
)
def test_the_network_sees_a_share_of_the_short_side(spec: InputSpec, fraction: float) -> None:
    assert spec.seen_fraction == pytest.approx(fraction)
    # A square of that share fills the input, apart from the kernel's reach at the edges; a smaller one does not.
    for share, filled in ((spec.seen_fraction, True), (0.95 * spec.seen_fraction, False)):
        image = np.zeros((480, 640, 3), np.uint8)
        centre_square(image, share)[:] = 255
        edges = resize_square(image, spec)[[1, -2], 2:-2]
        assert (edges > 200).all() if filled else (edges < 20).all()


@pytest.mark.parametrize("change", [{"size": 0}, {"crop_fraction": 0.0}, {"crop_fraction": 1.5}])
def test_values_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"received .*(size 0|=0\.0|=1\.5)"):
        InputSpec(**({"size": 48} | change))


@pytest.mark.parametrize("value", ["nearest", "", None, 3])
def test_an_unknown_interpolation_lists_the_known_ones(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"area or bicubic or bilinear"):
        InputSpec(48, interpolation=value)
