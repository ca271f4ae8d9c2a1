"""Plot of a calibration: the values of every layer's output, and the chosen range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from calibration.calibration_file import Calibration, describe_observer
from calibration.histogram import Histogram
from calibration.observers import Range
from calibration.quantization_error import Floats
from runtime.core.files import replacing
from runtime.core.text import plot_text

RANGE_PLOT_FILE = "calibration.png"
WIDTH_IN, ROW_IN, MARGIN_IN = 11.0, 0.17, 1.2
DPI = 110
TEXT_PT = 7.0
COLUMNS = 600
SEEN_COLOUR, CHOSEN_COLOUR = "0.87", "tab:red"
# Rarer values are drawn as this share, to differ from values that were never seen.
RAREST_SHARE = 1e-7


def write_range_plot(path: Path, histograms: Mapping[str, Histogram], calibration: Calibration) -> None:
    """Write the plot of a calibration.

    Args:
        path: the PNG file.
        histograms: of every layer's output, in network order.
        calibration: with the range of each.
    """
    with replacing(path) as temporary:
        draw_ranges(histograms, calibration).savefig(temporary, dpi=DPI, format="png")


def draw_ranges(histograms: Mapping[str, Histogram], calibration: Calibration) -> Figure:
    """Return the figure of `write_range_plot`: one row a layer, its values as a strip, its range as a bracket.

    Each row has its own scale: 0 in the middle, the value furthest from 0 at one end.
    """
    seen = np.array([(histogram.low, histogram.high) for histogram in histograms.values()])
    chosen = np.array([calibration.ranges[layer] for layer in histograms])
    furthest = np.abs(seen).max(axis=1, keepdims=True)
    furthest[furthest == 0.0] = 1.0

    figure = Figure(figsize=(WIDTH_IN, len(seen) * ROW_IN + MARGIN_IN), layout="constrained")
    axes = figure.subplots()
    _draw_strips(axes, row_densities(list(histograms.values())), seen / furthest)
    _draw_brackets(axes, chosen / furthest)
    _label_rows(axes, histograms, calibration)
    axes.set(xlim=(-1.02, 1.02), ylim=(len(seen) - 0.4, -1.6), xticks=(-1.0, -0.5, 0.0, 0.5, 1.0))
    axes.set_xlabel(
        "value / the layer's value furthest from 0 (the darker, the more values: logarithmic)", fontsize=TEXT_PT + 1
    )
    axes.set_title(
        f"observer {describe_observer(calibration)}: {len(seen)} ranges over "
        f"{len(calibration.ids)} images of {plot_text(calibration.dataset)}",
        fontsize=TEXT_PT + 3,
        loc="left",
    )
    axes.legend(loc="lower left", bbox_to_anchor=(1.0, 1.0), ncols=2, fontsize=TEXT_PT + 1, frameon=False)
    return figure


def clipped_share(histogram: Histogram, ends: Range) -> float:
    """Return the share of a layer's values outside a range, 0..1; a bin's values count at its centre."""
    outside = (histogram.middles < ends[0]) | (histogram.middles > ends[1])
    return float(histogram.shares[outside].sum())


def row_densities(histograms: Sequence[Histogram]) -> Floats:
    """Return the distribution of layers' values over the columns of a row, from -1 to 1 of the value furthest from 0.

    Args:
        histograms: of N layers.

    Returns:
        float64 `[N, COLUMNS]`: share of the values in each column; each row sums to 1.
    """
    densities = []
    for histogram in histograms:
        furthest = max(-histogram.low, histogram.high) or 1.0
        columns = ((histogram.middles / furthest + 1.0) / 2.0 * COLUMNS).astype(np.int64)
        densities.append(np.bincount(columns, histogram.shares, minlength=COLUMNS))
    return np.stack(densities)


def _draw_strips(axes: Axes, densities: Floats, seen: Floats) -> None:
    """Draw the densities, darker where values are more frequent, over a grey bar between the extremes."""
    rows = np.arange(len(seen))
    axes.barh(rows, seen[:, 1] - seen[:, 0], left=seen[:, 0], height=1.0, color=SEEN_COLOUR, label="seen, min to max")
    axes.imshow(
        np.ma.masked_equal(densities, 0.0).clip(RAREST_SHARE),
        extent=(-1.0, 1.0, len(rows) - 0.5, -0.5),
        aspect="auto",
        interpolation="nearest",
        cmap="Blues",
        norm=LogNorm(RAREST_SHARE / 10.0, 1.0),
        zorder=2,
    )
    axes.hlines(np.arange(len(rows) + 1) - 0.5, -1.0, 1.0, color="white", linewidth=3.0)


def _draw_brackets(axes: Axes, chosen: Floats) -> None:
    rows = np.arange(len(chosen))
    axes.hlines(rows + 0.36, *chosen.T, color=CHOSEN_COLOUR, linewidth=1.6, label="chosen for int8")
    for ends in chosen.T:
        axes.vlines(ends, rows - 0.42, rows + 0.42, color=CHOSEN_COLOUR, linewidth=1.6)
    axes.axvline(0.0, color="0.4", linewidth=0.6, linestyle=":")


def _label_rows(axes: Axes, histograms: Mapping[str, Histogram], calibration: Calibration) -> None:
    """Write layer names at the left and figures at the right."""
    rows = np.arange(len(histograms))
    axes.set_yticks(rows, list(map(plot_text, histograms)), fontsize=TEXT_PT)
    figures = []
    for layer, histogram in histograms.items():
        ends = calibration.ranges[layer]
        numbers = "".join(f"{value:>9.3g}" for value in (histogram.low, histogram.high, *ends))
        figures.append(f"{numbers}{clipped_share(histogram, ends):>9.4%}")
    right = axes.secondary_yaxis("right")
    heading = "".join(f"{word:>9}" for word in ("min", "max", "low", "high", "clipped"))
    right.set_yticks([-1.0, *rows], [heading, *figures], fontsize=TEXT_PT, family="monospace")
    right.tick_params(length=0)
    axes.tick_params(axis="x", labelsize=TEXT_PT)
