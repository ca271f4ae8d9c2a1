"""The plot of a calibration: its rows, and its legibility."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.text import Text

from calibration.calibration_file import Calibration
from calibration.observers import Histogram
from calibration.range_plot import COLUMNS, clipped_share, draw_ranges, row_densities, write_range_plot

HISTOGRAMS = {
    "stage0.block0.norm1": Histogram(np.array([1, 0, 5, 10, 3, 1]), -2.0, 4.0),
    "stage0.block0.act": Histogram(np.array([90, 5, 3, 1, 0, 1]), 0.0, 0.6),
    "stage0.block0.gate0": Histogram(np.array([5, 4, 1, 0, 0, 10]), -30.0, 0.0),
    "dead": Histogram(np.array([9, 0, 0, 0, 0, 0]), 0.0, 0.0),
}
CALIBRATION = Calibration(
    dataset="blobs",
    observer="percentile",
    percentile=99.9,
    seed=0,
    sha256="ab" * 32,
    ids=("1", "2", "3"),
    ranges={
        "stage0.block0.norm1": (-1.0, 3.0),
        "stage0.block0.act": (0.0, 0.3),
        "stage0.block0.gate0": (-30.0, 0.0),
        "dead": (0.0, 0.0),
    },
)


def many(layers: int) -> tuple[dict[str, Histogram], Calibration]:
    names = [f"stage0.block{index}.norm1" for index in range(layers)]
    histogram = HISTOGRAMS["stage0.block0.norm1"]
    ranges = dict.fromkeys(names, (-1.0, 3.0))
    calibration = Calibration(
        dataset="blobs", observer="mse", percentile=None, seed=0, sha256="ab" * 32, ids=("1",), ranges=ranges
    )
    return dict.fromkeys(names, histogram), calibration


def test_rows_are_the_layers_in_order_with_extremes_and_ranges() -> None:
    axes = draw_ranges(HISTOGRAMS, CALIBRATION).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(HISTOGRAMS)
    top, bottom = axes.get_ylim()[::-1]
    assert top < 0 < bottom
    seen = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    np.testing.assert_allclose(seen, [(-0.5, 1.0), (0.0, 1.0), (-1.0, 0.0), (0.0, 0.0)], atol=1e-12)
    (bracket,) = [each for each in axes.collections if each.get_label() == "chosen for int8"]
    chosen = [tuple(segment[:, 0]) for segment in bracket.get_segments()]
    np.testing.assert_allclose(chosen, [(-0.25, 0.75), (0.0, 0.5), (-1.0, 0.0), (0.0, 0.0)], atol=1e-12)


def test_the_title_names_observer_and_dataset() -> None:
    axes = draw_ranges(HISTOGRAMS, CALIBRATION).axes[0]
    assert axes.get_title(loc="left") == "observer percentile 99.9: 4 ranges over 3 images of blobs"


@pytest.mark.parametrize(
    ("layer", "ends", "share"),
    [
        ("stage0.block0.norm1", (-2.0, 4.0), 0.0),
        ("stage0.block0.norm1", (-1.0, 3.0), 2 / 20),
        ("stage0.block0.act", (0.0, 0.1), 0.1),
        ("dead", (0.0, 0.0), 0.0),
    ],
)
def test_the_clipped_share_is_counted(layer: str, ends: tuple[float, float], share: float) -> None:
    assert clipped_share(HISTOGRAMS[layer], ends) == pytest.approx(share)


def test_densities_match_the_values() -> None:
    values = np.random.default_rng(0).normal(0.3, 1.0, 50_000)
    counts, edges = np.histogram(values, 4096)
    (density,) = row_densities([Histogram(counts, edges[0], edges[-1])])
    assert density.shape == (COLUMNS,)
    expected, _ = np.histogram(values / np.abs(values).max(), COLUMNS, (-1.0, 1.0))
    # A bin may span two columns.
    assert np.abs(np.cumsum(density) - np.cumsum(expected) / len(values)).max() < 0.001
    assert density.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("layers", [1, 100])
def test_no_label_is_cut_off_or_overlaps_another(layers: int) -> None:
    figure = draw_ranges(*many(layers))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    names = [label.get_window_extent() for label in axes.get_yticklabels()]
    (right,) = axes.child_axes
    figures = [label.get_window_extent() for label in right.get_yticklabels()]
    assert len(names) == layers
    assert len(figures) == layers + 1
    for boxes in (names, figures):
        assert all(below.y1 <= above.y0 for above, below in pairwise(boxes))
    page = figure.bbox
    texts = [each.get_window_extent() for each in figure.findobj(Text) if each.get_text()]
    assert len(texts) > 2 * layers + 3
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1 for box in texts)


def test_the_image_is_written(tmp_path: Path) -> None:
    write_range_plot(tmp_path / "new" / "calibration.png", HISTOGRAMS, CALIBRATION)
    image = cv2.imread(str(tmp_path / "new" / "calibration.png"))
    assert image is not None
    assert image.std() > 5


def test_a_dataset_is_named_by_text_and_not_by_a_formula(tmp_path: Path) -> None:
    calibration = replace(CALIBRATION, dataset="US$_$1 \udcdf\nbills")
    write_range_plot(tmp_path / "calibration.png", HISTOGRAMS, calibration)
    title = draw_ranges(HISTOGRAMS, calibration).axes[0].get_title(loc="left")
    assert title.endswith(r"images of US\$_\$1 \xdf\nbills")
