"""Plots of a sensitivity analysis: ranking of the products, and accuracy against latency and size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from export.reporting.figures import label_in_column
from export.sensitivity.ranking import Sensitivity
from export.sensitivity.report import Report, SearchReport
from export.sensitivity.tradeoff import Point
from runtime.core.text import plot_text

RANKING_FILE = "sensitivity.png"
CURVE_FILE = "curve.png"
DPI = 110
TEXT_PT = 7.0
WIDTH_IN, ROW_IN, MARGIN_IN = 11.0, 0.17, 1.2
CHOSEN_COLOUR, COLOUR = "#d1495b", "#30638e"
# Marker area of the largest artifact, in square points.
LARGEST_MARKER = 500.0


def draw_ranking(report: Report) -> Figure:
    """Draw SQNR, divergence and drop of top-1: one row a product, those to leave in float in red."""
    layers = report.layers
    chosen = frozenset(report.search.float_layers if report.search else ())
    colours = [CHOSEN_COLOUR if each.layer in chosen else COLOUR for each in layers]
    figure = Figure(figsize=(WIDTH_IN, len(layers) * ROW_IN + MARGIN_IN), layout="constrained")
    sqnr, divergence, drop = figure.subplots(1, 3, sharey=True)
    rows = np.arange(len(layers))
    sqnr.barh(rows, [each.sqnr_db or 0.0 for each in layers], color=colours)
    _draw_divergence(divergence, layers, colours)
    _draw_drops(drop, layers, colours)
    labels = ("SQNR of its output, dB", "divergence from the float network, nats", "drop of top-1, pp ± standard error")
    for axes, label in zip((sqnr, divergence, drop), labels, strict=True):
        axes.set_xlabel(label, fontsize=TEXT_PT + 1)
        axes.tick_params(axis="x", labelsize=TEXT_PT)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    sqnr.set_yticks(rows, [plot_text(each.layer) for each in layers], fontsize=TEXT_PT)
    sqnr.set_ylim(len(layers) - 0.4, -0.6)
    for label, each in zip(sqnr.get_yticklabels(), layers, strict=True):
        label.set_color(CHOSEN_COLOUR if each.layer in chosen else "black")
    left = (
        f"; red: left in float, for a drop of at most {report.search.max_drop_pp:g} pp"
        if report.search and chosen
        else ""
    )
    figure.suptitle(
        f"each product alone in int8: {len(layers)} of {plot_text(report.run)}, {report.data['images']:,} images of "
        f"{plot_text(report.data['dataset'])}, {report.data['split']} split{left}",
        fontsize=TEXT_PT + 3,
    )
    return figure


def _draw_divergence(axes: Axes, layers: Sequence[Sensitivity], colours: Sequence[str]) -> None:
    values = [each.effect.divergence_nats for each in layers]
    axes.barh(np.arange(len(layers)), values, color=colours)
    if min(values) > 0:
        axes.set_xscale("log")


def _draw_drops(axes: Axes, layers: Sequence[Sensitivity], colours: Sequence[str]) -> None:
    accuracies = [each.effect.accuracy for each in layers]
    for row, (accuracy, colour) in enumerate(zip(accuracies, colours, strict=True)):
        error = accuracy.drop_standard_error_pp
        axes.errorbar(accuracy.drop_pp, row, xerr=error, fmt="o", color=colour, markersize=3, linewidth=0.8)
    axes.axvline(0.0, color="0.4", linewidth=0.6, linestyle=":")


def draw_curve(report: Report, search: SearchReport) -> Figure:
    """Draw the drop of top-1 against latency, with marker areas by size.

    Args:
        report: that has the search.
        search: with the points; the chosen one is red.

    Returns:
        A figure with one labelled point an artifact.
    """
    points, chosen = search.points, search.chosen
    figure = Figure(figsize=(WIDTH_IN, 5.5), layout="constrained")
    axes = figure.subplots()
    by_count = [(point.latency.p50_ms, point.accuracy.drop_pp) for point in points]
    axes.plot(*zip(*by_count, strict=True), color="0.75", linewidth=1.0, zorder=1)
    axes.axhline(search.max_drop_pp, color="0.4", linestyle=":", label=f"largest drop, {search.max_drop_pp:g} pp")
    largest = max(point.size_bytes for point in points)
    heights = np.linspace(0.03, 0.97, len(points))
    # From the bottom up: the axis is inverted, so the largest drops are there.
    by_drop = sorted(points, key=lambda point: (-point.accuracy.drop_pp, -len(point.float_layers)))
    for point, height in zip(by_drop, heights, strict=True):
        _draw_point(axes, point, float(height), LARGEST_MARKER * point.size_bytes / largest, point is chosen)
    axes.invert_yaxis()
    axes.margins(0.1)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=TEXT_PT + 2, framealpha=1.0)
    axes.set_xlabel(f"latency p50 of one image, ms (1 thread, {search.machine['cpu']})")
    axes.set_ylabel(f"drop of top-1 on {report.data['images']:,} images, pp ± standard error")
    axes.set_title(
        f"{plot_text(report.run)}: more and fewer products in float (up and to the left is better; area: bytes)",
        fontsize=TEXT_PT + 4,
    )
    return figure


def _draw_point(axes: Axes, point: Point, height: float, area: float, chosen: bool) -> None:
    """Draw an artifact, with its label in the column at the right."""
    colour = CHOSEN_COLOUR if chosen else COLOUR
    place = (point.latency.p50_ms, point.accuracy.drop_pp)
    axes.errorbar(*place, yerr=point.accuracy.drop_standard_error_pp, color=colour, linewidth=1.0, capsize=3)
    axes.scatter(*place, s=area, color=colour, alpha=0.6, linewidths=0, zorder=3)
    figures = f"{place[0]:.2f} ms, {point.size_bytes / 1e6:.2f} MB, {place[1]:+.2f} pp"
    label_in_column(axes, f"{len(point.float_layers)} in float: {figures}", place, height, colour, bold=chosen)
