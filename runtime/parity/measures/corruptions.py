"""Corruptions: both accuracies on images with noise, blur and other camera faults, at three severities.

Lengths in pixels are shares of the image's side, so that a severity means the same for every size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from tqdm import tqdm

from runtime.core.errors import ConfigError
from runtime.evaluation.metrics import Classes, Floats, agreement
from runtime.evaluation.sampling import SAMPLE_SEED, class_balanced_indices
from runtime.images.preprocess import Image
from runtime.parity.measure import NOT_REQUESTED, Context, Missing
from runtime.parity.predictions import PairedPredictions, predict_pair
from runtime.parity.statistics import mean_interval

SEVERITIES = (1, 2, 3)
Corruption = Callable[[Image, int, Generator], Image]


def measure_corruptions(context: Context) -> dict[str, Any] | Missing:
    """Measure `corruptions`: both accuracies under each corruption, and the growth of the drop.

    Image i of the sample is corrupted by the seed `SAMPLE_SEED` + i.
    """
    if not context.effort.corrupted_images:
        return NOT_REQUESTED
    chosen = class_balanced_indices(context.labels, context.effort.corrupted_images, SAMPLE_SEED)
    images, labels = [context.images[index] for index in chosen], context.labels[chosen]

    def predict(images: list[Image], task: str) -> PairedPredictions:
        pair = context.pair
        return predict_pair(pair.reference.engine, pair.candidate.engine, images, len(context.class_names), task)

    clean = predict(images, "clean")
    cells, extra = [], np.zeros(len(images))
    grid = [(kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES]
    for kind, severity in tqdm(grid, desc="corruptions", unit="setting", disable=None, leave=False):
        corrupted = [corrupt(image, kind, severity, SAMPLE_SEED + index) for index, image in enumerate(images)]
        predictions = predict(corrupted, f"{kind} {severity}")
        cells.append({"kind": kind, "severity": severity, **_cell(labels, predictions)})
        extra += (_losses(labels, predictions) - _losses(labels, clean)) / len(grid)
    return {
        "images": len(images),
        "seed": SAMPLE_SEED,
        "severities": list(SEVERITIES),
        "clean": _cell(labels, clean),
        "extra_drop_pp": float(100.0 * extra.mean()),
        "extra_drop_interval_pp": asdict(mean_interval(100.0 * extra)),
        "list": cells,
    }


def _losses(labels: Classes, predictions: PairedPredictions) -> Floats:
    """Return 1 where the reference alone is right, -1 where the candidate alone is: float64 `[N]`."""
    return (predictions.reference == labels).astype(np.float64) - (predictions.candidate == labels)


def _cell(labels: Classes, predictions: PairedPredictions) -> dict[str, Any]:
    table, similarity = predictions.table(labels), predictions.similarity
    return {
        "top1_reference": table.reference / table.images,
        "top1_candidate": table.candidate / table.images,
        "drop_pp": table.drop_pp,
        "drop_interval_pp": asdict(table.interval_pp()),
        "agreement": agreement(predictions.reference, predictions.candidate),
        "lowest_mean_cosine": None if similarity is None else float(similarity.cosine.mean(axis=0).min()),
    }


def corrupt(image: Image, kind: str, severity: int, seed: int) -> Image:
    """Corrupt an image.

    Args:
        image: uint8 `[H, W, 3]` RGB; it is not changed.
        kind: one of `CORRUPTIONS`.
        severity: 1, 2 or 3.
        seed: of its noise, 0 or more.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        ConfigError: the corruption or the severity is unknown.
    """
    if kind not in CORRUPTIONS or severity not in SEVERITIES:
        raise ConfigError(
            f"received corruption {kind!r} of severity {severity}; expected one of {', '.join(CORRUPTIONS)}, "
            f"and a severity of {SEVERITIES[0]} to {SEVERITIES[-1]}"
        )
    place = list(CORRUPTIONS).index(kind)
    return CORRUPTIONS[kind](image, severity - 1, np.random.default_rng((seed, place, severity)))


def _sensor_noise(image: Image, level: int, generator: Generator) -> Image:
    """Add what grows with light (photons) and what does not (the read-out)."""
    photons, read_out = ((300.0, 2.0), (100.0, 4.0), (40.0, 8.0))[level]
    counted = generator.poisson(image / 255.0 * photons) / photons * 255.0
    return _pixels(counted + generator.normal(0.0, read_out, image.shape))


def _blur(image: Image, level: int, generator: Generator) -> Image:
    sigma_px = _side(image) * (0.015, 0.03, 0.05)[level]
    return _pixels(cv2.GaussianBlur(image, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT_101))


def _motion(image: Image, level: int, generator: Generator) -> Image:
    """Blur along a line, like a camera that moves during the exposure."""
    length_px = max(3, round(_side(image) * (0.09, 0.16, 0.25)[level]) | 1)
    middle = length_px // 2
    angle = generator.uniform(0.0, np.pi)
    reach = middle * np.array([np.cos(angle), np.sin(angle)])
    start, end = (tuple(np.rint(middle + sign * reach).astype(int).tolist()) for sign in (-1, 1))
    kernel = cv2.line(np.zeros((length_px, length_px), np.float32), start, end, 1.0)
    return _pixels(cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101))


def _brightness(image: Image, level: int, generator: Generator) -> Image:
    """Expose too long or too short, at random."""
    factor = (1.25, 1.5, 1.9)[level]
    return _pixels(image * (factor if generator.random() < 0.5 else 1.0 / factor))


def _contrast(image: Image, level: int, generator: Generator) -> Image:
    mean = image.mean(axis=(0, 1), keepdims=True)
    return _pixels(mean + (image - mean) * (0.7, 0.5, 0.3)[level])


def _jpeg(image: Image, level: int, generator: Generator) -> Image:
    quality = (60, 35, 15)[level]
    encoded, content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise ConfigError("OpenCV cannot encode JPEG; reinstall opencv-python")
    decoded: Any = cv2.imdecode(content, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(decoded[..., ::-1])


def _fog(image: Image, level: int, generator: Generator) -> Image:
    """Add bright clouds: smooth noise of several scales."""
    density = (0.3, 0.45, 0.6)[level]
    height, width = image.shape[:2]
    clouds = np.zeros((height, width), np.float32)
    for octave in range(3):
        coarse = generator.random((2 ** (octave + 1) + 1,) * 2, dtype=np.float32)
        clouds += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    clouds = np.clip((clouds - clouds.min()) / max(float(np.ptp(clouds)), 1e-6), 0.0, 1.0)
    veil = (density * (0.6 + 0.4 * clouds))[..., np.newaxis]
    return _pixels(image * (1.0 - veil) + 235.0 * veil)


def _pixelation(image: Image, level: int, generator: Generator) -> Image:
    height, width = image.shape[:2]
    share = (0.75, 0.55, 0.4)[level]
    small = cv2.resize(
        image, (max(1, round(width * share)), max(1, round(height * share))), interpolation=cv2.INTER_AREA
    )
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


def _rotation(image: Image, level: int, generator: Generator) -> Image:
    """Rotate the image a little, to either side."""
    degrees = (4.0, 8.0, 15.0)[level] * (1 if generator.random() < 0.5 else -1)
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    turned = cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(turned, dtype=np.uint8)


def _side(image: Image) -> int:
    return min(image.shape[:2])


def _pixels(values: Any) -> Image:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


CORRUPTIONS: dict[str, Corruption] = {
    "sensor noise": _sensor_noise,
    "blur": _blur,
    "motion": _motion,
    "brightness": _brightness,
    "contrast": _contrast,
    "JPEG": _jpeg,
    "fog": _fog,
    "pixelation": _pixelation,
    "rotation": _rotation,
}
