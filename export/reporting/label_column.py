"""Labels of points in a column beside a plot, where they cannot overlap."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes


def label_in_column(axes: Axes, text: str, point: tuple[float, float], height: float, colour: Any, bold: bool) -> None:
    """Write a point's label to the right of the axes, with a line to the point.

    Args:
        axes: where the point is.
        text: the label.
        point: in the axes' data coordinates.
        height: of the label, 0..1 of the axes' height.
        colour: of label and line, as matplotlib takes it.
        bold: whether the label stands out.
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
        # From the middle of the label's left edge.
        arrowprops={"arrowstyle": "-", "relpos": (0, 0.5), "color": colour, "alpha": 0.35, "linewidth": 0.8},
        annotation_clip=False,
    )
