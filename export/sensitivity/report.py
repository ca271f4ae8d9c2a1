"""What int8 costs product by product, as JSON and as Markdown.

sensitivity.json, schema version 1 (accuracies 0..1, `pp` = percentage points, positive drops: worse than float):

| field            | content                                                                                        |
|------------------|------------------------------------------------------------------------------------------------|
| `schema_version` | 1                                                                                              |
| `created_utc`    | ISO 8601 time                                                                                  |
| `run`            | its folder                                                                                     |
| `scheme`         | the scheme whose products these are                                                            |
| `data`           | `dataset`, `split`, `images`, `float_top1`                                                   |
| `layers`         | the products, the most sensitive first: `layer`, `sqnr_db` (null where nothing is lost),       |
|                  | `effect` with it alone in int8: `divergence_nats`, `accuracy` (`top1`, `drop_pp`,             |
|                  | `drop_standard_error_pp`, `agreement` with float)                                              |
| `budget`         | null without --max-drop, else as follows                                                       |
| `.max_drop_pp`   | the budget                                                                                     |
| `.tried`         | networks of the search, by simulation: `float_layers`, `effect`                               |
| `.simulated`     | the one it found                                                                               |
| `.float_layers`  | the products to leave in float: those found, and more if the artifact itself needed them       |
| `.costs`         | for each of them, alone in float against none: `layer`, `latency_p50_ms`, `size_bytes`         |
| `.points`        | of the curve, measured on artifacts: `float_layers`, `accuracy` (its drop from the float       |
|                  | artifact), `size_bytes`, `latency` (`p50_ms`, `p90_ms`, `min_ms`)                              |
| `.rounds`        | timed runs of each artifact, on one thread                                                     |
| `.machine`       | `cpu`, `cores`, `interpreter`, `load_before`, `load_after` (load averages of 1 minute)         |
| `.command`       | what exports the choice; null where the float artifact alone is within the budget              |
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.sensitivity.float_layer_search import Step
from export.sensitivity.ranking import Sensitivity
from export.sensitivity.tradeoff import LayerCost, Point

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What was found within a budget; see the table at the top of this module."""

    max_drop_pp: float
    tried: tuple[Step, ...]
    simulated: Step
    float_layers: tuple[str, ...]
    costs: tuple[LayerCost, ...]
    points: tuple[Point, ...]
    rounds: int
    machine: dict[str, Any]
    command: str | None

    @property
    def chosen(self) -> Point:
        """The point of the curve that was chosen."""
        return next(point for point in self.points if set(point.float_layers) == set(self.float_layers))


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that was measured, and on what; see the table at the top of this module."""

    created_utc: str
    run: str
    scheme: str
    data: dict[str, Any]
    layers: tuple[Sensitivity, ...]
    budget: Budget | None


def export_command(run: Path, float_layers: Sequence[str]) -> str:
    """Return the command that makes a run's artifacts with these products in float, by calibration alone."""
    words = ["python", "-m", "export", "--run", str(run), "--qat-epochs", "0"]
    return shlex.join([*words, *(["--float-layers", *float_layers] if float_layers else [])])


def to_dict(report: Report) -> dict[str, Any]:
    """Return the content of sensitivity.json."""
    return {"schema_version": SCHEMA_VERSION, **asdict(report)}


def to_markdown(report: Report) -> str:
    """Return the tables, and what was chosen."""
    data = report.data
    lines = [
        f"{len(report.layers)} int8 products of {report.run}, scheme {report.scheme}, each alone in int8: "
        f"{data['images']:,} images of {data['dataset']}, {data['split']} split, float top-1 "
        f"{data['float_top1']:.2%}",
        "",
        *_ranking(report.layers),
    ]
    if report.budget is not None:
        lines += ["", *_budget(report.budget, len(report.layers))]
    return "\n".join(lines)


def _ranking(layers: Iterable[Sensitivity]) -> list[str]:
    rows = []
    for rank, each in enumerate(layers, 1):
        accuracy = each.effect.accuracy
        sqnr = "" if each.sqnr_db is None else f"{each.sqnr_db:.1f}"
        drop = f"{accuracy.drop_pp:.2f} ± {accuracy.drop_standard_error_pp:.2f}"
        rows.append(
            (str(rank), each.layer, sqnr, f"{each.effect.divergence_nats:.1e}", drop, f"{accuracy.agreement:.2%}")
        )
    return _table(("", "product", "SQNR, dB", "divergence, nats", "drop, pp (± standard error)", "agreement"), rows)


def _budget(budget: Budget, products: int) -> list[str]:
    lines = [
        f"Ever more products in float, artifacts by the interpreter (budget: a drop of {budget.max_drop_pp:g} pp):"
    ]
    lines += ["", *_curve(budget)]
    if budget.costs:
        lines += ["", "What each of those chosen costs, alone in float against none:", "", *_costs(budget.costs)]
    return [*lines, "", *_verdict(budget, products)]


def _curve(budget: Budget) -> list[str]:
    rows = []
    for point in budget.points:
        accuracy, latency = point.accuracy, point.latency
        mark = " (chosen)" if point is budget.chosen else ""
        rows.append(
            (
                f"{len(point.float_layers)}{mark}",
                f"{accuracy.top1:.2%}",
                f"{accuracy.drop_pp:.2f} ± {accuracy.drop_standard_error_pp:.2f}",
                f"{latency.p50_ms:.3f}",
                f"{latency.p90_ms:.3f}",
                f"{point.size_bytes:,}",
            )
        )
    return _table(("in float", "top-1", "drop, pp (± standard error)", "p50, ms", "p90, ms", "size, bytes"), rows)


def _costs(costs: Iterable[LayerCost]) -> list[str]:
    rows = [(each.layer, f"{each.latency_p50_ms:+.3f}", f"{each.size_bytes:+,}") for each in costs]
    return _table(("product", "p50, ms", "size, bytes"), rows)


def _verdict(budget: Budget, products: int) -> list[str]:
    drop_pp = budget.chosen.accuracy.drop_pp
    if budget.command is None:
        return [f"No int8 artifact is within {budget.max_drop_pp:g} pp on these images: take the float one."]
    return [
        f"{len(budget.float_layers)} of {products} products in float: a drop of {drop_pp:.2f} pp on these images.",
        f"Export it with: {budget.command}",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a Markdown table so that it is legible as plain text too."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (head, *rows)]
    lines.insert(1, ["-" * width for width in widths])
    return [f"| {' | '.join(cells)} |" for cells in lines]
