"""Report of a benchmark: Markdown table, JSON, and a plot of accuracy against latency.

bench.json, schema version 1 (accuracies 0..1, `pp` = percentage points):

| field            | content                                                                                    |
|------------------|--------------------------------------------------------------------------------------------|
| `schema_version` | 1                                                                                          |
| `created_utc`    | ISO 8601 time                                                                              |
| `bundle`         | name of its folder                                                                         |
| `data`           | `dataset`, `split`, `images`, `float_top1` (of the Keras network), `representative`        |
|                  | (images), `representative_is_the_bundles` (true: same images as the bundle's calibration)  |
| `machine`        | `cpu`, `cores`, `load_before`, `load_after` (load averages of 1 minute, ours included)     |
| `versions`       | by package                                                                                 |
| `rounds`         | timed runs of each row and number of threads                                               |
| `threads`        | list                                                                                       |
| `rows`           | list: `name`, `what`, `size_bytes`, `accuracy` (`top1`, `drop_pp` from the Keras network,  |
|                  | positive: worse, `drop_standard_error_pp`, `agreement` with it), both null for the lower   |
|                  | bound; `latency` by threads: `p50_ms`, `p90_ms`, `min_ms`, `times_ours` (of medians)       |
| `not_measured`   | list: `name`, `reason`, `failed` (false: a package is missing)                             |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from export.bench.contender import LOWER_BOUND, OURS, OURS_PREFIX, NotMeasured
from export.reporting.figures import label_in_column, write_figure
from export.reporting.tables import ACCURACY_HEAD, accuracy_cells, markdown_table
from runtime.core.files import replacing, write_json
from runtime.core.text import markdown_text, plot_text, printable_lines
from runtime.evaluation.metrics import RelativeAccuracy
from runtime.evaluation.timing import Latency, speedup

SCHEMA_VERSION = 1
DPI = 120
OURS_COLOUR, PEER_COLOUR, LOWER_BOUND_COLOUR = "#d1495b", "#30638e", "#6c757d"


@dataclass(frozen=True)
class Row:
    """One line of the table; `latency` is by CPU threads. The lower bound has no size and no accuracy."""

    name: str
    what: str
    size_bytes: int | None
    accuracy: RelativeAccuracy | None
    latency: dict[int, Latency]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Result of a benchmark; see the table at the top of this module."""

    created_utc: str
    bundle: str
    data: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    rounds: int
    threads: tuple[int, ...]
    rows: tuple[Row, ...]
    not_measured: tuple[NotMeasured, ...]


def times_ours(rows: Sequence[Row], threads: int) -> dict[str, float]:
    """Return each row's median latency divided by that of row `OURS`, by name; 2: twice as slow as ours."""
    (ours,) = (row.latency[threads] for row in rows if row.name == OURS)
    return {row.name: speedup(row.latency[threads], ours) for row in rows}


def to_dict(result: Benchmark) -> dict[str, Any]:
    """Return the content of bench.json."""
    ratios = {threads: times_ours(result.rows, threads) for threads in result.threads}
    content: dict[str, Any] = {"schema_version": SCHEMA_VERSION, **asdict(result)}
    for row in content["rows"]:
        row["latency"] = {
            str(threads): {**latency, "times_ours": ratios[threads][row["name"]]}
            for threads, latency in row["latency"].items()
        }
    return content


def to_markdown(result: Benchmark) -> str:
    """Return the content of bench.md."""
    lines = [
        f"# {markdown_text(result.bundle)} and its alternatives",
        "",
        *_circumstances(result),
        "",
        *_table(result),
        "",
        *(f"- **{row.name}**: {row.what}." for row in result.rows),
    ]
    if result.not_measured:
        lines += ["", "Not measured:", ""]
        lines += [f"- **{each.name}**: {each.reason}" for each in result.not_measured]
    return printable_lines("\n".join(lines)) + "\n"


def _circumstances(result: Benchmark) -> list[str]:
    data, machine = result.data, result.machine
    own = "the bundle's own" if data["representative_is_the_bundles"] else "not the bundle's own"
    return [
        f"- {data['images']:,} images of {markdown_text(data['dataset'])}, {data['split']} split, class-balanced; "
        f"the float Keras network classifies {data['float_top1']:.2%} of them correctly; drops are from that",
        f"- calibrated on {data['representative']:,} images of the training split, {own}",
        f"- {machine['cpu']}, {machine['cores']} cores, load average {machine['load_before']:.2f} before and "
        f"{machine['load_after']:.2f} after",
        f"- {result.rounds} timed runs of each row and number of threads, interleaved; each is preceded by a pause and "
        "a few runs that warm the caches",
        f"- {', '.join(f'{package} {version}' for package, version in result.versions.items())}",
    ]


def _table(result: Benchmark) -> list[str]:
    head = ["", *ACCURACY_HEAD]
    for threads in result.threads:
        head += [f"{_counted(threads)}: p50, ms", "p90, ms", "times ours"]
    ratios = {threads: times_ours(result.rows, threads) for threads in result.threads}
    rows = []
    for row in result.rows:
        bold = "**" if row.name == OURS else ""
        cells = [f"{bold}{row.name}{bold}", *(accuracy_cells(row.accuracy) if row.accuracy else ("", "", ""))]
        for threads, latency in row.latency.items():
            cells += [f"{latency.p50_ms:.3f}", f"{latency.p90_ms:.3f}", f"{ratios[threads][row.name]:.2f}"]
        rows.append([*cells, "" if row.size_bytes is None else f"{row.size_bytes:,}"])
    return markdown_table([*head, "size, bytes"], rows, numeric=True)


def _counted(threads: int) -> str:
    return f"{threads} {'thread' if threads == 1 else 'threads'}"


def draw(result: Benchmark) -> Figure:
    """Plot accuracy against latency at the smallest number of threads.

    Returns:
        A figure with one labelled point a row, ours in red, and a vertical line for the lower bound.
    """
    threads = min(result.threads)
    shown = [(row, row.accuracy) for row in result.rows if row.accuracy is not None]
    figure = Figure(figsize=(12, 0.32 * len(shown) + 2.2), layout="constrained")
    axes = figure.subplots()
    by_accuracy = sorted(shown, key=lambda pair: (pair[1].top1, -pair[0].latency[threads].p50_ms))
    for (row, accuracy), height in zip(by_accuracy, np.linspace(0.02, 0.98, len(by_accuracy)), strict=True):
        ours = row.name.startswith(OURS_PREFIX)
        colour = OURS_COLOUR if ours else PEER_COLOUR
        point = (row.latency[threads].p50_ms, 100 * accuracy.top1)
        axes.plot(*point, "*" if ours else "o", color=colour, markersize=13 if ours else 7, zorder=3)
        label = f"{row.name}  {point[0]:.2f} ms, {point[1]:.2f}%"
        label_in_column(axes, label, point, float(height), colour, bold=row.name == OURS)
    for row in result.rows:
        if row.name == LOWER_BOUND:
            p50_ms = row.latency[threads].p50_ms
            axes.axvline(p50_ms, color=LOWER_BOUND_COLOUR, linestyle=":", label=f"{LOWER_BOUND}, {p50_ms:.2f} ms")
            axes.legend(loc="lower left", framealpha=1.0, fontsize=9)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(0.08)
    axes.grid(alpha=0.3)
    axes.set(
        xlabel=f"latency p50 of one image, ms ({_counted(threads)}, {result.machine['cpu']})",
        ylabel=f"top-1 on {result.data['images']:,} images, %",
        title=f"{plot_text(result.bundle)}: accuracy against latency (up and to the left is better)",
    )
    return figure


def write_reports(folder: Path, result: Benchmark) -> list[Path]:
    """Write bench.md, bench.json and bench.png, and return their paths.

    Args:
        folder: created if missing.
        result: of the benchmark.

    Raises:
        FocalEdgeError: a file cannot be written.
    """
    markdown, figures, plot = (folder / f"bench.{suffix}" for suffix in ("md", "json", "png"))
    with replacing(markdown) as temporary:
        temporary.write_text(to_markdown(result), encoding="utf-8")
    write_json(figures, to_dict(result))
    write_figure(plot, draw(result), DPI)
    return [markdown, figures, plot]
