"""Figures: PNG files, and point labels in a column where they cannot overlap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from runtime.core.files import replacing


def write_figure(path: Path, figure: Figure, dpi: int) -> None:
    """Write a figure as PNG.

    Raises:
        FocalEdgeError: the file cannot be written.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")


def label_in_column(axes: Axes, text: str, point: tuple[float, float], height: float, colour: Any, bold: bool) -> None:
    """Write a point's label to the right of the axes, with a line to the point.

    Args:
        axes: the axes of the point.
        text: the label.
        point: in the axes' data coordinates.
        height: of the label, 0..1 of the axes' height.
        colour: of label and line, as matplotlib takes it.
        bold: emphasise the label.
    """
    axes.annotate(
        text,
        point,
        xytext=(1.04, height),
        textcoords="axes fraction",
        va="center",
        color=colour,
        fontsize=9,
        fontweight="bold" if bold else "normal",
        # The line starts at the middle of the label's left edge.
        arrowprops={"arrowstyle": "-", "relpos": (0, 0.5), "color": colour, "alpha": 0.35, "linewidth": 0.8},
        annotation_clip=False,
    )
