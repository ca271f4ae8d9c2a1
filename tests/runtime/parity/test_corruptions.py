"""Corruptions are seeded and pure, grow with severity, and take images of any size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from runtime.core.errors import ConfigError
from runtime.parity.measures.corruptions import CORRUPTIONS, SEVERITIES, corrupt


def drawn(height: int, width: int) -> np.ndarray:
    """Draw shapes and a gradient, as corruptions change nothing in flat images."""
    image = np.linspace(40, 200, height * width * 3).reshape(height, width, 3).astype(np.uint8)
    cv2.circle(image, (width // 2, height // 2), height // 3, (220, 60, 30), -1)
    cv2.rectangle(image, (2, 3), (width // 3, height // 4), (10, 90, 230), -1)
    return image


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("size", [(32, 32), (90, 120), (224, 224), (3, 5)])
def test_a_corruption_keeps_shape_and_type_and_leaves_the_image_alone(kind: str, size: tuple[int, int]) -> None:
    image = drawn(*size)
    before = image.copy()
    for severity in SEVERITIES:
        found = corrupt(image, kind, severity, 0)
        assert (found.shape, found.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_severities_grow(kind: str) -> None:
    image = drawn(64, 64)
    distances = [
        np.mean([np.abs(corrupt(image, kind, severity, seed).astype(float) - image).mean() for seed in range(12)])
        for severity in SEVERITIES
    ]
    assert 0.5 < distances[0] < distances[1] < distances[2]


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_same_seed_gives_the_same_image(kind: str) -> None:
    image = drawn(48, 48)
    np.testing.assert_array_equal(corrupt(image, kind, 2, 5), corrupt(image, kind, 2, 5))
    others = [corrupt(image, kind, 2, seed) for seed in range(8)]
    random = any((other != others[0]).any() for other in others)
    assert random is (kind in ("sensor noise", "motion", "brightness", "fog", "rotation"))


def test_noise_differs_between_severities_by_more_than_its_strength() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    first, second = (corrupt(image, "sensor noise", severity, 0).astype(float) - 128 for severity in (1, 2))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1


def test_sensor_noise_grows_with_light() -> None:
    spreads = [corrupt(np.full((64, 64, 3), level, np.uint8), "sensor noise", 1, 0).std() for level in (10, 200)]
    assert spreads[1] > 2 * spreads[0]


@pytest.mark.parametrize(("kind", "severity"), [("rain", 1), ("blur", 0), ("blur", 4)])
def test_unknown_corruptions_are_refused(kind: str, severity: int) -> None:
    with pytest.raises(ConfigError, match="expected one of sensor noise"):
        corrupt(drawn(8, 8), kind, severity, 0)
