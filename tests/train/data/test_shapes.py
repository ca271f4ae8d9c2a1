"""The rendered dataset: the same everywhere, balanced, without an image in two splits."""

from __future__ import annotations

import hashlib
import itertools

import cv2
import numpy as np
import pytest

from runtime.core.errors import ConfigError
from train.data.dataset import Dataset, Split
from train.data.shapes import CLASS_NAMES, HUE_SPREAD_DEG, load_shapes, outline, render


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_shapes(seed=0, train=400, val=100, test=205)


def digests(split: Split) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in split.images]


def test_the_sizes_are_those_asked_for_and_classes_are_balanced(dataset: Dataset) -> None:
    assert dataset.labels == CLASS_NAMES
    for name, size in (("train", 400), ("val", 100), ("test", 205)):
        split = dataset.split(name)
        assert split.images.shape == (size, 64, 64, 3)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert split.ids[size - 1] == f"{name}:{size - 1}"
        counts = np.bincount(split.labels, minlength=10)
        assert counts.sum() == size
        assert counts.max() - counts.min() <= 1


def test_no_image_comes_twice(dataset: Dataset) -> None:
    every = [digest for name in ("train", "val", "test") for digest in digests(dataset.split(name))]
    assert len(set(every)) == len(every) == 705


def test_a_image_depends_on_seed_split_and_index_alone(dataset: Dataset) -> None:
    fewer = load_shapes(seed=0, train=20, val=10, test=10)
    assert digests(fewer.train) == digests(dataset.train)[:20]
    assert digests(fewer.test) == digests(dataset.test)[:10]
    other = load_shapes(seed=1, train=20, val=10, test=10)
    assert not set(digests(other.train)) & set(digests(dataset.train))


@pytest.mark.parametrize("sizes", [(9, 10, 10), (10, 9, 10), (10, 10, 0)])
def test_a_split_without_every_class_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="expected at least 10"):
        load_shapes(0, *sizes)


def filled(shape: str) -> np.ndarray:
    """Draw a shape alone, large, in white on black."""
    canvas = np.zeros((200, 200), dtype=np.uint8)
    cv2.fillPoly(canvas, [np.rint(90 * contour + 100).astype(np.int32) for contour in outline(shape)], 255)
    return canvas


@pytest.mark.parametrize(
    ("shape", "area", "holes", "convex"),
    [
        # Areas by geometry, of a unit circle or of what is drawn in it.
        ("circle", np.pi, 0, True),
        ("square", 2.0, 0, True),
        ("triangle", 3 * np.sqrt(3) / 4, 0, True),
        ("pentagon", 2.5 * np.sin(np.radians(72)), 0, True),
        ("star", 10 * 0.5 * 0.42 * np.sin(np.radians(36)), 0, False),
        ("cross", 2 * 1.9 * 0.6 - 0.6**2, 0, False),
        ("ring", np.pi * (1 - 0.58**2), 1, False),
        ("crescent", None, 0, False),
        ("arrow", 0.5 * 1.44 * 0.8 + 0.54 * 1.15, 0, False),
        ("heart", None, 0, False),
    ],
)
def test_an_outline_is_the_shape_of_its_name(shape: str, area: float | None, holes: int, convex: bool) -> None:
    canvas = filled(shape)
    contours, hierarchy = cv2.findContours(canvas, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    assert len(contours) == 1 + holes
    outer = contours[int(np.flatnonzero(hierarchy[0, :, 3] == -1)[0])]
    assert (cv2.contourArea(outer) > 0.97 * cv2.contourArea(cv2.convexHull(outer)) and not holes) == convex
    if area is not None:
        assert np.count_nonzero(canvas) / 90**2 == pytest.approx(area, rel=0.05)


def centred(shape: str, angle_deg: float) -> np.ndarray:
    """Turn a filled shape about its centre of mass, there at the middle of the canvas and of area 6,000."""
    canvas = filled(shape)
    moments = cv2.moments(canvas, binaryImage=True)
    x, y = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    matrix = cv2.getRotationMatrix2D((x, y), angle_deg, float(np.sqrt(6_000 / moments["m00"])))
    matrix[:, 2] += (100 - x, 100 - y)
    return cv2.warpAffine(canvas, matrix, (200, 200)) > 127


def test_no_turn_makes_one_outline_another() -> None:
    turned = {shape: [centred(shape, angle) for angle in range(0, 360, 6)] for shape in CLASS_NAMES}
    for first, second in itertools.combinations(CLASS_NAMES, 2):
        upright = turned[first][0]
        overlaps = [np.sum(upright & other) / np.sum(upright | other) for other in turned[second]]
        assert max(overlaps) < 0.93, (first, second)


def test_a_shape_stands_out_from_its_background() -> None:
    """The same draws with two shapes differ where the shapes do, by what a person can see."""
    for index in range(20):
        circle = render("circle", np.random.default_rng(index)).astype(int)
        star = render("star", np.random.default_rng(index)).astype(int)
        difference = np.abs(circle - star).sum(axis=2) > 30
        assert 10 < np.count_nonzero(difference) < 0.7 * 64 * 64


def test_colour_alone_does_not_tell_the_class(dataset: Dataset) -> None:
    # A guess is right in 0.1; the nearest class mean of the average colour must stay far from sure.
    colours = [dataset.split(name).images.mean(axis=(1, 2)) for name in ("train", "test")]
    means = np.array([colours[0][dataset.train.labels == label].mean(axis=0) for label in range(10)])
    guesses = np.linalg.norm(colours[1][:, np.newaxis] - means, axis=2).argmin(axis=1)
    assert np.mean(guesses == dataset.test.labels) < 0.5


def test_hue_alone_does_not_tell_the_class() -> None:
    # Classes are 36 degrees of hue apart: the nearest one is right where the hue strays by less than half of that.
    strays = np.abs(np.random.default_rng(0).normal(0.0, HUE_SPREAD_DEG, 100_000))
    assert np.mean(strays < 18.0) < 0.7


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown shape 'hexagon'; the known ones are circle"):
        outline("hexagon")
