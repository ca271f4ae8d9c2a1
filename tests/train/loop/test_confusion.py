"""Which class is taken for which: counted, and drawn."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime.core.errors import FocalEdgeError
from train.loop.confusion import confusion_matrix, draw_confusion, row_shares, write_confusion

# A cat is taken for a dog once, a dog never; of the bird there is no image.
MATRIX = np.array([[3, 1, 0], [0, 1000, 0], [0, 0, 0]])
NAMES = ("cat", "dog", "bird")


def test_pairs_are_counted_true_class_first() -> None:
    labels, predictions = np.random.default_rng(0).integers(0, 5, (2, 300))
    pairs = Counter(zip(labels.tolist(), predictions.tolist(), strict=True))
    found = confusion_matrix(labels, predictions, 6)
    assert found.dtype == np.int64
    assert found.tolist() == [[pairs[i, j] for j in range(6)] for i in range(6)]


def test_small_label_types_do_not_overflow() -> None:
    found = confusion_matrix(np.array([99], dtype=np.uint8), np.array([98], dtype=np.uint8), 100)
    assert np.argwhere(found).tolist() == [[99, 98]]


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 1], [0], "expected two lists"),
        ([[0, 1]], [[0, 1]], "expected two lists"),
        ([0, 3], [0, 1], r"labels 0\.\.3; expected 0\.\.2"),
        ([0, 1], [-1, 1], r"predictions -1\.\.1; expected 0\.\.2"),
    ],
)
def test_what_cannot_be_counted_is_refused(labels: list[int], predictions: list[int], message: str) -> None:
    with pytest.raises(FocalEdgeError, match=message):
        confusion_matrix(np.array(labels), np.array(predictions), 3)


def test_rows_are_shares_of_their_class() -> None:
    np.testing.assert_array_equal(row_shares(MATRIX), [[0.75, 0.25, 0], [0, 1, 0], [np.nan] * 3])


def test_cells_have_their_share_s_colour_and_their_count() -> None:
    axes = draw_confusion(MATRIX, NAMES).axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array().filled(np.nan), row_shares(MATRIX))
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "3", (1, 0): "1", (1, 1): "1,000"}
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list(NAMES)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == list(NAMES)
    assert axes.get_title() == "1,004 images, 99.90% right"


@pytest.mark.parametrize(("classes", "counts", "names"), [(20, 20, 20), (21, 0, 21), (151, 0, 0)])
def test_what_would_not_be_legible_is_left_out(classes: int, counts: int, names: int) -> None:
    axes = draw_confusion(np.eye(classes, dtype=np.int64), [f"class {i}" for i in range(classes)]).axes[0]
    assert len(axes.texts) == counts
    named = [tick.get_text() for tick in axes.get_yticklabels() if tick.get_text().startswith("class")]
    assert len(named) == names


def test_names_of_a_hundred_classes_do_not_run_into_each_other() -> None:
    figure = draw_confusion(np.eye(100, dtype=np.int64), [f"class {i}" for i in range(100)])
    figure.draw_without_rendering()
    boxes = [tick.get_window_extent() for tick in figure.axes[0].get_yticklabels()]
    assert all(below.y1 <= above.y0 for above, below in pairwise(boxes))


@pytest.mark.parametrize("matrix", [MATRIX, np.zeros((3, 3), dtype=np.int64)])
def test_the_image_is_written(tmp_path: Path, matrix: np.ndarray) -> None:
    write_confusion(tmp_path / "new" / "confusion.png", matrix, NAMES)
    image = cv2.imread(str(tmp_path / "new" / "confusion.png"))
    assert image is not None
    assert image.std() > 5


def test_names_of_another_data_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FocalEdgeError, match=r"shape \(3, 3\) and 2 class names"):
        write_confusion(tmp_path / "confusion.png", MATRIX, NAMES[:2])
    assert list(tmp_path.iterdir()) == []


def test_names_are_text_and_no_formulas(tmp_path: Path) -> None:
    names = ("US$_$1 bill", r"CA\$^$5 \bill", "x" * 20_000)
    write_confusion(tmp_path / "confusion.png", MATRIX, names)
    figure = draw_confusion(MATRIX, names)
    figure.draw_without_rendering()
    shown = [tick._preprocess_math(tick.get_text()) for tick in figure.axes[0].get_yticklabels()]
    assert shown == [(names[0], False), (names[1], False), (f"{'x' * 37}...", False)]
