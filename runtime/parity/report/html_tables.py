"""Figures and tables of report.html, as HTML.

Each figure is read from the report's JSON content by its path, and has that path in a `data-figure` attribute. So a
test can hold the page to the JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from runtime.parity.report.summary import NO_FIGURE, value_at
from runtime.parity.verdict import not_measured


@dataclass(frozen=True)
class Column:
    """A column of figures.

    Attributes:
        title: its heading.
        key: path of the figure inside its row's entry of the report.
        form: a format specification, e.g. `".2f"`.
        scale: the factor to multiply by, e.g. 100 for percent.
    """

    title: str
    key: str
    form: str = ""
    scale: float = 1.0


def figure(report: Mapping[str, Any], path: str, form: str = "", scale: float = 1.0) -> str:
    """Show a figure of the report, or an interval.

    Args:
        report: the content of report.json.
        path: of the figure, e.g. `"map_similarity.maps.0.cosine.mean"`.
        form: a format specification, e.g. `".2f"`.
        scale: the factor to multiply by, e.g. 100 for percent.

    Returns:
        HTML: an element with the path and the scale; "low to high" for an interval; a dash for `None`.

    Raises:
        KeyError: the report has no such figure.
    """
    value = value_at(report, path)
    if value is None:
        return NO_FIGURE
    if isinstance(value, Mapping):
        return " to ".join(figure(report, f"{path}.{end}", form, scale) for end in ("low", "high"))
    shown = format(value, form) if scale == 1.0 else format(value * scale, form)
    return f'<span data-figure="{escape(path)}" data-scale="{scale!r}">{escape(shown)}</span>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], style: str = "") -> str:
    """Write an HTML table.

    Args:
        header: the titles of the columns, as text; empty for a table without a header.
        rows: the cells, as HTML; the first of a row is its heading.
        style: CSS classes.

    Returns:
        HTML; each cell has its column's title, which narrow screens show in place of the header.
    """
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    head = f"<thead><tr>{head}</tr></thead>" if header else ""
    titles = [f' data-title="{escape(title)}"' if title else "" for title in header] or [""] * 2
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td{title}>{cell}</td>" for title, cell in zip(titles[1:], row[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<table class="{style}">{head}<tbody>{body}</tbody></table>'


def list_table(
    report: Mapping[str, Any],
    path: str,
    titles: Sequence[str],
    texts: Callable[[Mapping[str, Any]], Sequence[str]],
    columns: Sequence[Column],
    *,
    limit: int | None = None,
    style: str = "",
) -> str:
    """Write a list of the report as a table, one row an entry.

    Args:
        report: the content of report.json.
        path: of the list.
        titles: of the columns of text, which come first.
        texts: returns their cells for an entry, as text.
        columns: the columns of figures.
        limit: shows the first entries only.
        style: CSS classes.
    """
    rows = [
        [
            *map(escape, texts(entry)),
            *(figure(report, f"{path}.{index}.{each.key}", each.form, each.scale) for each in columns),
        ]
        for index, entry in enumerate(value_at(report, path)[:limit])
    ]
    return table([*titles, *(each.title for each in columns)], rows, style)


def missing(report: Mapping[str, Any], path: str) -> str:
    """Say in a paragraph why a figure or section was not measured."""
    reason = not_measured(report, path)
    return f'<p class="missing">{escape(reason[0].upper() + reason[1:])}.</p>'
