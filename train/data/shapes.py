"""The embedded dataset: ten filled shapes on cluttered, unevenly lit, noisy backgrounds, rendered on demand.

It needs no file and no network, so that every stage can be run and tested anywhere. Each image is drawn by
its own generator, seeded by (seed, split, index): the splits differ, and an image does not depend on how
many others there are.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.core.errors import ConfigError
from runtime.images.preprocess import Image
from train.data.dataset import SPLITS, Dataset, Split

# In the order of the hues that they lean to, from red over green and blue.
CLASS_NAMES = (
    "circle", "arrow", "star", "cross", "triangle", "ring", "square", "crescent", "pentagon", "heart",
)  # fmt: skip
SIDE_PX = 64
# Drawn larger and shrunk by area, so that edges are smooth.
CANVAS_PX = 2 * SIDE_PX
# fillPoly takes fixed-point coordinates with this many fractional bits.
FRACTION_BITS = 4
# How much lighter than what lies behind it a shape is, summed over R, G and B.
CONTRAST_RANGE = (180.0, 480.0)
MAX_TURN_RAD = np.pi / 6
# Classes lean to a hue, but so loosely that hue alone would name two images of three at best.
# It gives a small network something to begin with: from shape alone it learns nothing in its first minutes.
HUE_SPREAD_DEG = 20.0

Points = NDArray[np.float64]


def load_shapes(seed: int, train: int = 4_000, val: int = 800, test: int = 1_000) -> Dataset:
    """Render the dataset.

    Args:
        seed: another seed gives other images.
        train: training images.
        val: validation images.
        test: test images.

    Returns:
        The dataset, its classes as even as the sizes allow; an id is "split:index".

    Raises:
        ConfigError: a split has fewer images than there are classes.
    """
    sizes = dict(zip(SPLITS, (train, val, test), strict=True))
    for name, size in sizes.items():
        if size < len(CLASS_NAMES):
            raise ConfigError(f"received {size} {name} images; expected at least {len(CLASS_NAMES)}")
    with tqdm(total=sum(sizes.values()), desc="rendering shapes", unit="image", disable=None) as bar:
        splits = {name: _render_split(name, size, seed, bar) for name, size in sizes.items()}
    return Dataset("shapes", CLASS_NAMES, splits["train"], splits["val"], splits["test"])


def _render_split(split: str, size: int, seed: int, bar: tqdm) -> Split:
    images = np.empty((size, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    labels = np.arange(size, dtype=np.int64) % len(CLASS_NAMES)
    for index, label in enumerate(labels):
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        images[index] = render(CLASS_NAMES[label], rng)
        bar.update()
    return Split(images, labels, tuple(f"{split}:{index}" for index in range(size)))


def render(shape: str, rng: np.random.Generator) -> Image:
    """Draw one image: background, clutter, the shape, thin lines over it, light and noise.

    Args:
        shape: one of `CLASS_NAMES`.
        rng: draws everything else.

    Returns:
        uint8 `[64, 64, 3]` RGB.
    """
    canvas = _surface(rng, rng.uniform(15, 130, size=3), rng.uniform(5, 20))
    _draw_clutter(canvas, rng)

    mask = np.zeros((CANVAS_PX, CANVAS_PX), dtype=np.uint8)
    pose = _pose(rng)
    _fill(mask, [_place(contour, pose) for contour in outline(shape)], (255,))
    behind = np.array(cv2.mean(canvas, mask)[:3])
    paint = _surface(rng, _lighter_colour(behind, shape, rng), rng.uniform(0, 12))
    cv2.copyTo(paint, mask, canvas)

    _draw_lines(canvas, rng, count=int(rng.integers(0, 3)))
    small = cv2.resize(canvas, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    noise = rng.standard_normal(small.shape, dtype=np.float32) * rng.uniform(2, 10)
    return np.clip(small * _light(rng) + noise, 0, 255).astype(np.uint8)


def outline(shape: str) -> list[Points]:
    """Return the closed contours `[P, 2]` of a shape, within about the unit circle, y pointing down.

    Where two contours overlap is a hole.
    """
    match shape:
        case "circle":
            return [_polygon(48)]
        case "square":
            return [_polygon(4)]
        case "triangle":
            return [_polygon(3)]
        case "pentagon":
            return [_polygon(5)]
        case "star":
            radii = np.tile([1.0, 0.42], 5)[:, np.newaxis]
            return [_polygon(10) * radii]
        case "cross":
            a, b = 0.95, 0.3
            corners = [(b, a), (b, b), (a, b), (a, -b), (b, -b), (b, -a)]
            return [np.array([*corners, *((-x, -y) for x, y in corners)])]
        case "ring":
            return [_polygon(48), 0.58 * _polygon(48)]
        case "crescent":
            # The outer arc is of the unit circle; the inner one, of a circle moved right, goes back.
            outer = np.linspace(np.radians(48), np.radians(312), 40)
            shift = 0.52
            tip = np.array([np.cos(outer[0]), np.sin(outer[0])])
            radius = np.hypot(tip[0] - shift, tip[1])
            start = np.arctan2(tip[1], tip[0] - shift)
            inner = np.linspace(2 * np.pi - start, start, 40)
            back = np.stack([shift + radius * np.cos(inner), radius * np.sin(inner)], axis=1)
            arcs = np.concatenate([np.stack([np.cos(outer), np.sin(outer)], axis=1), back])
            return [arcs + np.array([0.2, 0.0])]
        case "arrow":
            half = [(0.0, -1.0), (0.72, -0.2), (0.27, -0.2), (0.27, 0.95)]
            return [np.array([*half, *((-x, y) for x, y in reversed(half[1:]))])]
        case "heart":
            t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
            x = 16 * np.sin(t) ** 3
            y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
            return [np.stack([x, -y - 2.5], axis=1) / 16.5]
        case _:
            raise ConfigError(f"unknown shape {shape!r}; the known ones are {', '.join(CLASS_NAMES)}")


def _polygon(corners: int) -> Points:
    """Return a regular polygon on the unit circle, its first corner at the top."""
    angles = 2 * np.pi * np.arange(corners) / corners - np.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _pose(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw an affine map `[2, 3]` from the unit circle to canvas pixels that keeps the shape in view."""
    radius = rng.uniform(0.4, 0.85) * CANVAS_PX / 2
    angle = rng.uniform(-MAX_TURN_RAD, MAX_TURN_RAD)
    stretch = np.exp(rng.uniform(-0.16, 0.16))
    tilt = rng.uniform(-np.pi, np.pi)
    # Stretched along a random direction, as a flat shape is when seen from the side.
    matrix = radius * _rotation(tilt) @ np.diag([stretch, 1 / stretch]) @ _rotation(angle - tilt)
    margin = min(1.05 * radius, CANVAS_PX / 2)
    centre = rng.uniform(margin, CANVAS_PX - margin, size=2)
    return np.column_stack([matrix, centre])


def _rotation(angle: float) -> NDArray[np.float64]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _place(contour: Points, pose: NDArray[np.float64]) -> Points:
    return contour @ pose[:, :2].T + pose[:, 2]


def _fill(canvas: Image, contours: list[Points], colour: tuple[float, ...]) -> None:
    fixed = [np.rint(contour * 2**FRACTION_BITS).astype(np.int32) for contour in contours]
    cv2.fillPoly(canvas, fixed, colour, shift=FRACTION_BITS)


def _surface(rng: np.random.Generator, colour: NDArray[np.float64], roughness: float) -> Image:
    """Return a `[CANVAS_PX, CANVAS_PX, 3]` surface of about one colour, with a gradient and blotches."""
    cells = int(rng.integers(3, 12))
    slope = rng.uniform(-25, 25, size=(2, 3))
    axis = np.linspace(-1, 1, cells)
    gradient = axis[:, np.newaxis, np.newaxis] * slope[0] + axis[np.newaxis, :, np.newaxis] * slope[1]
    blotches = rng.normal(0, roughness, size=(cells, cells, 1)) + rng.normal(0, 4, size=(cells, cells, 3))
    coarse = np.clip(colour + gradient + blotches, 0, 255).astype(np.uint8)
    surface = cv2.resize(coarse, (CANVAS_PX, CANVAS_PX), interpolation=cv2.INTER_LINEAR)
    return np.asarray(surface, dtype=np.uint8)


def _draw_clutter(canvas: Image, rng: np.random.Generator) -> None:
    """Draw lines and small irregular blobs."""
    _draw_lines(canvas, rng, count=int(rng.integers(1, 8)))
    for _ in range(int(rng.integers(0, 7))):
        corners = int(rng.integers(4, 9))
        angles = np.sort(rng.uniform(0, 2 * np.pi, size=corners))
        radii = rng.uniform(2, 11, size=(corners, 1))
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii
        _fill(canvas, [points + rng.uniform(0, CANVAS_PX, size=2)], _near_colour(canvas, rng, 60))


def _draw_lines(canvas: Image, rng: np.random.Generator, count: int) -> None:
    for _ in range(count):
        start, end = rng.integers(-20, CANVAS_PX + 20, size=(2, 2)).tolist()
        colour = _near_colour(canvas, rng, 70)
        cv2.line(canvas, start, end, colour, int(rng.integers(1, 4)), cv2.LINE_AA)


def _near_colour(canvas: Image, rng: np.random.Generator, spread: float) -> tuple[float, ...]:
    """Draw a colour around that of a random pixel."""
    row, column = rng.integers(0, CANVAS_PX, size=2)
    return tuple(np.clip(canvas[row, column] + rng.normal(0, spread, size=3), 0, 255).tolist())


def _lighter_colour(behind: NDArray[np.float64], shape: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a colour that is lighter than what lies behind, in a hue around that of the class."""
    typical_deg = 360.0 * CLASS_NAMES.index(shape) / len(CLASS_NAMES)
    hue_deg = rng.normal(typical_deg, HUE_SPREAD_DEG) % 360.0
    hsv = np.array([[[hue_deg, rng.uniform(0.3, 0.9), 1.0]]], dtype=np.float32)
    tint = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float64)
    return np.asarray(np.clip(behind + rng.uniform(*CONTRAST_RANGE) * tint / tint.sum(), 0, 255))


def _light(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a `[SIDE_PX, SIDE_PX, 1]` gain that falls off in one direction."""
    direction = rng.uniform(-np.pi, np.pi)
    axis = np.linspace(-0.5, 0.5, SIDE_PX, dtype=np.float32)
    ramp = np.cos(direction) * axis[np.newaxis, :] + np.sin(direction) * axis[:, np.newaxis]
    gain = rng.uniform(0.65, 1.1) + rng.uniform(0, 0.6) * ramp
    return np.asarray(gain, dtype=np.float32)[..., np.newaxis]
