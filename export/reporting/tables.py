"""Markdown tables, and the facts that stand beside measured figures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from runtime.core.machine import cpu_model
from runtime.evaluation.metrics import RelativeAccuracy

ACCURACY_HEAD = ("top-1", "drop, pp (± standard error)", "agreement")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: bool = False) -> list[str]:
    """Return the lines of a Markdown table whose columns are also aligned as plain text.

    Args:
        head: cells of the first line.
        rows: cells of each other line.
        numeric: align all columns but the first one to the right.
    """
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (head, *rows)]
    lines.insert(1, ["-" * (width - 1) + (":" if numeric and index else "-") for index, width in enumerate(widths)])
    return [f"| {' | '.join(cells)} |" for cells in lines]


def accuracy_cells(accuracy: RelativeAccuracy) -> tuple[str, str, str]:
    """Return the cells of `ACCURACY_HEAD`."""
    drop = f"{accuracy.drop_pp:.2f} ± {accuracy.drop_standard_error_pp:.2f}"
    return f"{accuracy.top1:.2%}", drop, f"{accuracy.agreement:.2%}"


def machine_facts(load_before: float) -> dict[str, Any]:
    """Return CPU, cores and load averages of 1 minute: `load_before` and now."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
    }
