"""The confusion matrix and its image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from runtime.core.errors import FocalEdgeError
from runtime.core.files import replacing
from runtime.core.text import plot_text

Counts = NDArray[np.int64]

MAX_CLASSES_WITH_COUNTS = 20
MAX_NAMED_CLASSES = 150
CELL_IN, SMALL_CELL_IN = 0.5, 0.13
MIN_SIDE_IN, MAX_SIDE_IN = 3.0, 16.0


def confusion_matrix(labels: Counts, predictions: Counts, classes: int) -> Counts:
    """Count how often each class is predicted for each true class.

    Args:
        labels: int64 `[N]`, the true classes, 0..classes-1.
        predictions: int64 `[N]`, the predicted classes of the same images, 0..classes-1.
        classes: the number of classes K.

    Returns:
        int64 `[K, K]`; row i, column j counts the images of class i that were predicted as class j.

    Raises:
        FocalEdgeError: the lists differ in shape, or a class is out of range.
    """
    if labels.ndim != 1 or labels.shape != predictions.shape:
        raise FocalEdgeError(
            f"received labels of shape {labels.shape} and predictions of shape {predictions.shape}; "
            "expected two lists [N] of the same images"
        )
    for name, values in (("labels", labels), ("predictions", predictions)):
        if values.size and (values.min() < 0 or values.max() >= classes):
            raise FocalEdgeError(
                f"received {name} {values.min()}..{values.max()}; expected 0..{classes - 1} for {classes} classes: "
                "give the labels and the predictions of one dataset"
            )
    pairs = labels.astype(np.int64) * classes + predictions
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def write_confusion(path: Path, matrix: Counts, labels: Sequence[str]) -> None:
    """Write the image of a confusion matrix.

    Args:
        path: the PNG.
        matrix: int64 `[K, K]`, of `confusion_matrix`.
        labels: K class names.

    Raises:
        FocalEdgeError: matrix and names differ in size, or the file cannot be written.
    """
    with replacing(path) as temporary:
        draw_confusion(matrix, labels).savefig(temporary, dpi=110, format="png")


def draw_confusion(matrix: Counts, labels: Sequence[str]) -> Figure:
    """Return the figure of `write_confusion`: each row's colours are shares of that class's images.

    Args:
        matrix: int64 `[K, K]`, of `confusion_matrix`.
        labels: K class names.

    Returns:
        A figure; up to 20 classes have their counts in the cells, up to 150 their names on the axes.

    Raises:
        FocalEdgeError: matrix and names differ in size.
    """
    classes = len(labels)
    if matrix.shape != (classes, classes):
        raise FocalEdgeError(
            f"received a confusion matrix of shape {matrix.shape} and {classes} class names; "
            f"expected {(classes, classes)}: give the names of the dataset that was counted"
        )
    counted = classes <= MAX_CLASSES_WITH_COUNTS
    side_in = float(np.clip(classes * (CELL_IN if counted else SMALL_CELL_IN), MIN_SIDE_IN, MAX_SIDE_IN))
    figure = Figure(figsize=(side_in + 2.4, side_in + 1.6), layout="constrained")
    axes = figure.subplots()
    shares = row_shares(matrix)
    # The square root of a share keeps a confusion of one image in fifty visible.
    colours = PowerNorm(0.5, vmin=0.0, vmax=1.0)
    drawn = axes.imshow(shares, cmap=colormaps["Blues"].with_extremes(bad="lightgrey"), norm=colours)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, aspect=30, pad=0.02, ticks=(0, 0.02, 0.1, 0.25, 0.5, 1))
    bar.ax.set_yticklabels(("0", "2%", "10%", "25%", "50%", "100%"))
    bar.set_label("share of the true class's images")
    if classes <= MAX_NAMED_CLASSES:
        size_pt, names = 9.0 if counted else 6.0, list(map(plot_text, labels))
        axes.set_xticks(range(classes), names, rotation=90, fontsize=size_pt)
        axes.set_yticks(range(classes), names, fontsize=size_pt)
    if counted:
        for i, j in np.argwhere(matrix):
            colour = "white" if colours(shares[i, j]) > 0.6 else "black"
            axes.text(j, i, f"{matrix[i, j]:,}", ha="center", va="center", color=colour, fontsize=8)
    images = int(matrix.sum())
    right = f", {np.trace(matrix) / images:.2%} right" if images else ""
    axes.set(xlabel="predicted", ylabel="true", title=f"{images:,} images{right}")
    return figure


def row_shares(matrix: Counts) -> NDArray[np.float64]:
    """Divide each row of a confusion matrix, int64 `[K, K]`, by its sum; a class without images gets NaN."""
    sums = matrix.sum(axis=1, keepdims=True)
    return np.divide(matrix, sums, out=np.full(matrix.shape, np.nan), where=sums > 0)
