"""Predictions over many images."""

from __future__ import annotations

import math

import numpy as np

from runtime.engines.outputs import Outputs
from runtime.evaluation.predict import finite_logits, predict, predicted_classes


class Fixed:
    """A classifier whose logits are selected by an image's first pixel."""

    def __init__(self, logits: list[list[float]]) -> None:
        self._logits = np.asarray(logits, np.float32)

    def run(self, image: np.ndarray, /) -> np.ndarray:
        assert image.shape == (1, 2, 2, 3)
        return self._logits[image[0, 0, 0, 0]]


def test_a_non_finite_logit_is_no_prediction() -> None:
    images = np.zeros((4, 2, 2, 3), np.uint8)
    images[:, 0, 0, 0] = range(4)
    classifier = Fixed([[1, 2, 3], [1, math.nan, 0], [5, 4, math.inf], [-1, -math.inf, -2]])
    assert predict(classifier.run, images, "fixed").tolist() == [2, -1, -1, -1]


def test_the_first_of_equal_logits_is_the_class() -> None:
    assert predicted_classes(np.array([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0]])).tolist() == [1, 0]


def test_logits_count_only_where_every_output_is_finite() -> None:
    logits, maps = np.array([1, 2], np.float32), np.zeros((1, 1, 2), np.float32)
    assert finite_logits(Outputs(logits, maps, maps[..., 0])).tolist() == [1, 2]
    assert np.isnan(finite_logits(Outputs(logits, maps, np.full((1, 1), math.inf, np.float32)))).all()
