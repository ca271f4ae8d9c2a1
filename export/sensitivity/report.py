"""Report of a sensitivity analysis as JSON and Markdown.

sensitivity.json, schema version 2 (accuracies 0..1, `pp` = percentage points, positive drops: worse than float;
version 1 has `answers` for `effect` and `budget` for `search`):

| field            | content                                                                                        |
|------------------|------------------------------------------------------------------------------------------------|
| `schema_version` | 2                                                                                              |
| `created_utc`    | ISO 8601 time                                                                                  |
| `run`            | its folder                                                                                     |
| `scheme`         | scheme of the products                                                                         |
| `data`           | `dataset`, `split`, `images`, `float_top1`                                                     |
| `layers`         | products, the most sensitive first: `layer`, `sqnr_db` (null if the output or its error is 0), |
|                  | `effect` of it alone in int8: `divergence_nats`, `accuracy` (`top1`, `drop_pp`,                |
|                  | `drop_standard_error_pp`, `agreement` with float)                                              |
| `search`         | null without --max-drop, else as follows                                                       |
| `.max_drop_pp`   | largest drop                                                                                   |
| `.tried`         | networks of the search, by simulation: `float_layers`, `effect`                                |
| `.simulated`     | the one it chose                                                                               |
| `.float_layers`  | products to leave in float: those chosen, and more if the artifact itself needs them           |
| `.costs`         | of each of them, alone in float against none: `layer`, `latency_p50_ms`, `size_bytes`          |
| `.points`        | of the curve, measured on artifacts: `float_layers`, `accuracy` (against the float artifact),  |
|                  | `size_bytes`, `latency` (`p50_ms`, `p90_ms`, `min_ms`)                                         |
| `.rounds`        | timed runs of each artifact, on one thread                                                     |
| `.machine`       | `cpu`, `cores`, `interpreter`, `load_before`, `load_after` (load averages of 1 minute)         |
| `.command`       | exports the choice; null if only the float artifact keeps to the largest drop                  |
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.reporting.tables import ACCURACY_HEAD, accuracy_cells, markdown_table
from export.sensitivity.float_layer_search import Trial
from export.sensitivity.ranking import Sensitivity
from export.sensitivity.tradeoff import LayerCost, Point
from runtime.core.text import markdown_text, printable_lines

SCHEMA_VERSION = 2
SENSITIVITY_FILE = "sensitivity.json"


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """Choice of products to leave in float, with its figures; see the table at the top of this module."""

    max_drop_pp: float
    tried: tuple[Trial, ...]
    simulated: Trial
    float_layers: tuple[str, ...]
    costs: tuple[LayerCost, ...]
    points: tuple[Point, ...]
    rounds: int
    machine: dict[str, Any]
    command: str | None

    @property
    def chosen(self) -> Point:
        """The chosen point of the curve."""
        return next(point for point in self.points if set(point.float_layers) == set(self.float_layers))


@dataclass(frozen=True, kw_only=True)
class Report:
    """Result of an analysis; see the table at the top of this module."""

    created_utc: str
    run: str
    scheme: str
    data: dict[str, Any]
    layers: tuple[Sensitivity, ...]
    search: SearchReport | None


def export_command(run: Path, float_layers: Sequence[str]) -> str:
    """Return the command that makes a run's artifacts with these products in float, without fine-tuning."""
    words = ["python", "-m", "export", "--run", str(run), "--qat-epochs", "0"]
    return shlex.join([*words, *(["--float-layers", *float_layers] if float_layers else [])])


def to_dict(report: Report) -> dict[str, Any]:
    """Return the content of sensitivity.json."""
    return {"schema_version": SCHEMA_VERSION, **asdict(report)}


def to_markdown(report: Report) -> str:
    """Return the tables and the choice."""
    data = report.data
    lines = [
        f"{len(report.layers)} int8 products of {markdown_text(report.run)}, scheme {report.scheme}, each alone in "
        f"int8: {data['images']:,} images of {markdown_text(data['dataset'])}, {data['split']} split, float top-1 "
        f"{data['float_top1']:.2%}",
        "",
        *_ranking(report.layers),
    ]
    if report.search is not None:
        lines += ["", *_search(report.search, len(report.layers))]
    return printable_lines("\n".join(lines))


def _ranking(layers: Iterable[Sensitivity]) -> list[str]:
    rows = []
    for rank, each in enumerate(layers, 1):
        sqnr = "" if each.sqnr_db is None else f"{each.sqnr_db:.1f}"
        _, drop, agreement = accuracy_cells(each.effect.accuracy)
        rows.append((str(rank), each.layer, sqnr, f"{each.effect.divergence_nats:.1e}", drop, agreement))
    return markdown_table(("", "product", "SQNR, dB", "divergence, nats", *ACCURACY_HEAD[1:]), rows)


def _search(search: SearchReport, products: int) -> list[str]:
    lines = [
        f"Products in float, measured on artifacts (largest drop: {search.max_drop_pp:g} pp):",
        "",
        *_curve(search),
        "",
    ]
    if search.costs:
        lines += ["Cost of each chosen product, alone in float against none:", "", *_costs(search.costs), ""]
    if search.command is None:
        return [*lines, f"No int8 artifact is within {search.max_drop_pp:g} pp on these images: take the float one."]
    return [
        *lines,
        f"{len(search.float_layers)} of {products} products in float: a drop of "
        f"{search.chosen.accuracy.drop_pp:.2f} pp on these images.",
        f"Export it with: {search.command}",
    ]


def _curve(search: SearchReport) -> list[str]:
    rows = []
    for point in search.points:
        latency, mark = point.latency, " (chosen)" if point is search.chosen else ""
        rows.append(
            (
                f"{len(point.float_layers)}{mark}",
                *accuracy_cells(point.accuracy)[:2],
                f"{latency.p50_ms:.3f}",
                f"{latency.p90_ms:.3f}",
                f"{point.size_bytes:,}",
            )
        )
    return markdown_table(("in float", *ACCURACY_HEAD[:2], "p50, ms", "p90, ms", "size, bytes"), rows)


def _costs(costs: Iterable[LayerCost]) -> list[str]:
    rows = [(each.layer, f"{each.latency_p50_ms:+.3f}", f"{each.size_bytes:+,}") for each in costs]
    return markdown_table(("product", "p50, ms", "size, bytes"), rows)
