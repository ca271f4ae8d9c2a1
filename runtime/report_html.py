"""Draws a comparison as one HTML page that needs no other file: pure functions from figures to text.

Every figure shown comes from the report's JSON content by its path, and carries that path in a
`data-figure` attribute, so that page and JSON cannot tell different stories unnoticed.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

TEMPLATE = Path(__file__).with_name("report.html.template")
NO_FIGURE = "-"
MAX_CHARTED_CLASSES = 30

CHART_WIDTH = 440
LABEL_WIDTH = 120
VALUE_WIDTH = 76
BAR_HEIGHT = 14
GROUP_GAP = 12
HISTOGRAM_HEIGHT = 110
HISTOGRAM_TOP = 18


@dataclass(frozen=True)
class PicturePanel:
    """One picture with both networks' gates drawn over it, as PNG files."""

    picture_id: str
    reason: str
    label: str
    float32_png: bytes
    int8_png: bytes


@dataclass(frozen=True)
class BarPair:
    """A float32 and an int8 value of one thing, in one unit; `None` where there is no figure."""

    label: str
    float32: float | None
    int8: float | None


def render_report(report: Mapping[str, Any], panels: Sequence[PicturePanel]) -> str:
    """Draw the page.

    Args:
        report: the content of report.json; see `runtime.compare`.
        panels: the pictures to show, may be none.

    Returns:
        HTML with inline styles, charts and pictures.
    """
    preset = report["bundle"]["preset"]
    title = f"{preset}: int8 against float32"
    data = report["data"]
    subtitle = f"{data['dataset']}, {data['split']} split, {data['sampling']} · {report['created_utc']}"
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        verdict=_verdict(report),
        charts="\n".join(_glance_charts(report)),
        summary_table=_summary_table(report),
        class_note=_class_note(report),
        class_chart=_class_chart(report),
        class_table=_class_table(report),
        overlay_layer=escape(report["bundle"]["overlay_layer"]),
        similarity_table=_similarity_table(report),
        histograms="\n".join(_histograms(report)),
        panel_note=_panel_note(panels),
        panels="\n".join(_panel(panel) for panel in panels),
        facts_table=_facts_table(report),
    )


def figure(report: Mapping[str, Any], path: str, form: str = "", scale: float = 1.0) -> str:
    """Show one figure of the report.

    Args:
        report: the content of report.json.
        path: where the figure is, e.g. `"gate_similarity.maps.0.mean"`.
        form: a format specification, e.g. `".2f"`.
        scale: what to multiply by first, e.g. 100 to show a share in percent.

    Returns:
        HTML: the figure in an element that names its path and scale; a dash for `None`.

    Raises:
        KeyError: there is no such figure.
    """
    value: Any = report
    for key in path.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    if value is None:
        return NO_FIGURE
    shown = format(value, form) if scale == 1.0 else format(value * scale, form)
    return f'<span data-figure="{escape(path)}" data-scale="{scale!r}">{escape(shown)}</span>'


def paired_bars(title: str, pairs: Sequence[BarPair], form: str, unit: str) -> str:
    """Draw horizontal bars, float32 (solid) above int8 (striped) in each group.

    Args:
        title: what is shown, for the caption and for those who do not see the chart.
        pairs: the groups, from the top, values >= 0.
        form: the format of a value, e.g. `".1f"`.
        unit: the unit of all values, for the caption.

    Returns:
        An HTML figure with an SVG chart; all bars share one scale that starts at 0.
    """
    largest = max((value for pair in pairs for value in (pair.float32, pair.int8) if value), default=1.0)
    room = CHART_WIDTH - LABEL_WIDTH - VALUE_WIDTH
    group_height = 2 * BAR_HEIGHT + 2 + GROUP_GAP
    parts = []
    for row, pair in enumerate(pairs):
        top = row * group_height + GROUP_GAP / 2
        parts.append(
            f'<text x="0" y="{top + BAR_HEIGHT + 5:.1f}"><title>{escape(pair.label)}</title>'
            f"{escape(_shortened(pair.label))}</text>"
        )
        parts.append(_bar("float32", pair.float32, largest, room, top, form))
        parts.append(_bar("int8", pair.int8, largest, room, top + BAR_HEIGHT + 2, form))
    return _figure(title, unit, CHART_WIDTH, len(pairs) * group_height, parts)


def _bar(precision: str, value: float | None, largest: float, room: float, top: float, form: str) -> str:
    baseline = top + BAR_HEIGHT - 3
    if value is None:
        return f'<text x="{LABEL_WIDTH}" y="{baseline:.1f}">{NO_FIGURE}</text>'
    width = room * value / largest
    box = f'x="{LABEL_WIDTH}" y="{top:.1f}" width="{width:.1f}" height="{BAR_HEIGHT}"'
    stripes = f'<rect {box} fill="url(#stripes)"/>' if precision == "int8" else ""
    text = f'<text x="{LABEL_WIDTH + width + 6:.1f}" y="{baseline:.1f}">{value:{form}}</text>'
    return f'<rect class="{precision}" {box}><title>{precision}</title></rect>{stripes}{text}'


def _shortened(label: str, longest: int = 17) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "…"


def histogram(title: str, edges: Sequence[float], counts: Sequence[int]) -> str:
    """Draw a distribution as the share of pictures in each interval.

    Args:
        title: what is shown.
        edges: the B+1 ends of the intervals, ascending.
        counts: how many pictures each of the B intervals holds, >= 0.

    Returns:
        An HTML figure with an SVG chart; the intervals are drawn equally wide and are labelled.
    """
    total, largest = max(sum(counts), 1), max(*counts, 1)
    step = CHART_WIDTH / len(counts)
    floor = HISTOGRAM_TOP + HISTOGRAM_HEIGHT
    parts = [f'<line class="baseline" x1="0" y1="{floor}" x2="{CHART_WIDTH}" y2="{floor}"/>']
    for index, count in enumerate(counts):
        height = HISTOGRAM_HEIGHT * count / largest
        left, middle = index * step, (index + 0.5) * step
        bound = f"≥{edges[index]:g}" if index else f"&lt;{edges[1]:g}"
        box = f'x="{left + 2:.1f}" y="{floor - height:.1f}" width="{step - 4:.1f}" height="{height:.1f}"'
        parts.append(f'<rect class="int8" {box}/>')
        if count:
            text = _percent(count / total)
            parts.append(f'<text text-anchor="middle" x="{middle:.1f}" y="{floor - height - 4:.1f}">{text}</text>')
        parts.append(f'<text class="axis" text-anchor="middle" x="{middle:.1f}" y="{floor + 15}">{bound}</text>')
    return _figure(title, "share of pictures", CHART_WIDTH, floor + 20, parts)


def _percent(share: float) -> str:
    # A few pictures must not read as none, nor nearly all as all.
    if share < 0.01:
        return "&lt;1%"
    return "&gt;99%" if 0.99 < share < 1 else f"{share:.0%}"


def _figure(title: str, unit: str, width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f"<figure><figcaption>{escape(title)}, {escape(unit)}</figcaption>"
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], style: str = "") -> str:
    """Write an HTML table.

    Args:
        header: the titles of the columns, as text; none for a table without a header.
        rows: the cells, as HTML; the first of a row is its heading.
        style: a CSS class.

    Returns:
        HTML.
    """
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    return f'<table class="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _verdict(report: Mapping[str, Any]) -> str:
    passed = report["verdict"]["passed"]
    style, word = (
        ("passed", "Pass: int8 keeps the accuracy of float32") if passed else ("failed", "Fail: do not ship int8")
    )
    reasons = "".join(f"<p>{escape(reason)}.</p>" for reason in report["verdict"]["reasons"])
    gains = (
        f"<p>It runs {figure(report, 'latency.speedup', '.2f')} times as fast as float32 and is "
        f"{figure(report, 'size.ratio', '.2f')} times smaller.</p>"
    )
    return f'<div class="verdict {style}"><strong>{word}</strong>{reasons}{gains}</div>'


def _glance_charts(report: Mapping[str, Any]) -> list[str]:
    accuracy, latency, size = report["accuracy"], report["latency"], report["size"]
    times = [
        BarPair(name, latency["float32"][key], latency["int8"][key])
        for name, key in (("p50 (median)", "p50_ms"), ("p90", "p90_ms"))
    ]
    top1 = BarPair("all classes", 100 * accuracy["top1_float32"], 100 * accuracy["top1_int8"])
    files = BarPair("artifact", size["float32_bytes"] / 1024, size["int8_bytes"] / 1024)
    return [
        paired_bars("Top-1 accuracy", [top1], ".2f", "percent"),
        paired_bars("Latency", times, ".3f", "milliseconds"),
        paired_bars("Size", [files], ".1f", "KiB"),
    ]


def _summary_table(report: Mapping[str, Any]) -> str:
    accuracy, latency, size = "accuracy.", "latency.", "size."
    drop = (
        f"drop {figure(report, accuracy + 'drop_pp', '.2f')} ± "
        f"{figure(report, accuracy + 'drop_standard_error_pp', '.2f')} pp"
    )
    rows = [
        (
            "Top-1 accuracy, %",
            figure(report, accuracy + "top1_float32", ".2f", 100),
            figure(report, accuracy + "top1_int8", ".2f", 100),
            drop,
        ),
        (
            "Right where the other is wrong, pictures",
            figure(report, accuracy + "only_float32_correct"),
            figure(report, accuracy + "only_int8_correct"),
            f"agreement {figure(report, accuracy + 'agreement', '.2f', 100)}%",
        ),
        *[
            (
                f"Latency {key.removesuffix('_ms')}, ms",
                figure(report, f"{latency}float32.{key}", ".3f"),
                figure(report, f"{latency}int8.{key}", ".3f"),
                f"{figure(report, latency + 'speedup', '.2f')} times as fast" if key == "p50_ms" else "",
            )
            for key in ("p50_ms", "p90_ms", "min_ms")
        ],
        (
            "Size, bytes",
            figure(report, size + "float32_bytes", ","),
            figure(report, size + "int8_bytes", ","),
            f"{figure(report, size + 'ratio', '.2f')} times smaller",
        ),
        *_fake_quant_rows(report),
    ]
    return table(["", "float32", "int8", ""], rows)


def _fake_quant_rows(report: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    if report["bundle"]["fake_quant_agreement"] is None:
        return []
    share = figure(report, "bundle.fake_quant_agreement", ".2f", 100)
    pictures = figure(report, "bundle.fake_quant_pictures", ",")
    return [("Same prediction as its fake-quantized network, %", "", share, f"{pictures} pictures, at export")]


def _class_note(report: Mapping[str, Any]) -> str:
    known = [entry for entry in report["classes"] if entry["drop_pp"] is not None]
    worst = max(known, key=lambda entry: entry["drop_pp"])
    if worst["drop_pp"] <= 0:
        return "No class loses accuracy in int8."
    return (
        f"The class that loses most is {escape(worst['label'])}: {worst['drop_pp']:.2f} percentage points, "
        f"on {worst['pictures']} pictures. With few pictures in a class, one more mistake is a large drop."
    )


def _class_chart(report: Mapping[str, Any]) -> str:
    known = [entry for entry in report["classes"] if entry["drop_pp"] is not None]
    title = "Top-1 accuracy of each class"
    if len(known) > MAX_CHARTED_CLASSES:
        title = f"Top-1 accuracy of the {MAX_CHARTED_CLASSES} classes that change most"
        known = sorted(known, key=lambda entry: -abs(entry["drop_pp"]))[:MAX_CHARTED_CLASSES]
    pairs = [BarPair(entry["label"], 100 * entry["top1_float32"], 100 * entry["top1_int8"]) for entry in known]
    return paired_bars(title, pairs, ".1f", "percent")


def _class_table(report: Mapping[str, Any]) -> str:
    rows = [
        (
            escape(entry["label"]),
            figure(report, f"classes.{index}.pictures"),
            figure(report, f"classes.{index}.top1_float32", ".2f", 100),
            figure(report, f"classes.{index}.top1_int8", ".2f", 100),
            figure(report, f"classes.{index}.drop_pp", ".2f"),
        )
        for index, entry in enumerate(report["classes"])
    ]
    return table(["class", "pictures", "float32, %", "int8, %", "drop, pp"], rows)


def _similarity_table(report: Mapping[str, Any]) -> str:
    rows = [
        (
            escape(entry["map"]),
            *(figure(report, f"gate_similarity.maps.{index}.{key}", ".4f") for key in ("mean", "p5", "min")),
        )
        for index, entry in enumerate(report["gate_similarity"]["maps"])
    ]
    return table(["map", "mean", "5th percentile", "minimum"], rows)


def _histograms(report: Mapping[str, Any]) -> list[str]:
    edges = report["gate_similarity"]["edges"]
    return [
        histogram(entry["map"].capitalize(), edges, entry["histogram"]) for entry in report["gate_similarity"]["maps"]
    ]


def _panel_note(panels: Sequence[PicturePanel]) -> str:
    if not panels:
        return "No picture is shown."
    return (
        "The worst pictures and a few at random, float32 above int8. Gates are signed: blue is negative, "
        "dark is 0, orange is positive. Each map has its own scale, written below it."
    )


def _panel(panel: PicturePanel) -> str:
    caption = f"{panel.picture_id}, labelled {panel.label} ({panel.reason})"
    images = "".join(
        f'<img src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}" '
        f'alt="{escape(f"{precision}: gates of {panel.picture_id}")}">'
        for precision, png in (("float32", panel.float32_png), ("int8", panel.int8_png))
    )
    return f'<figure class="picture"><figcaption>{escape(caption)}</figcaption>{images}</figure>'


def _facts_table(report: Mapping[str, Any]) -> str:
    data, machine = report["data"], report["machine"]
    rows = [
        ("Data", f"{escape(data['dataset'])}, {escape(data['split'])} split, {escape(data['sampling'])}"),
        ("Pictures compared", figure(report, "data.pictures")),
        ("Largest drop allowed, pp", figure(report, "verdict.max_drop_pp")),
        ("Pictures with non-finite int8 outputs", figure(report, "accuracy.non_finite_int8")),
        ("Engine", escape(machine["engine"])),
        ("Threads", figure(report, "machine.threads")),
        ("Processor", escape(machine["cpu"])),
        ("Latency", f"{figure(report, 'latency.rounds')} runs each, the two taking turns"),
        ("Date", escape(report["created_utc"])),
    ]
    for artifact in report["bundle"]["artifacts"]:
        name = f"{artifact['file']} ({artifact['precision']}, {artifact['engine']})"
        rows.append((escape(name), f"SHA-256 <code>{escape(artifact['sha256'])}</code>"))
    return table([], rows, "facts")
