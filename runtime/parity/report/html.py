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

from runtime.parity.measures.map_similarity import FIGURES
from runtime.parity.report.svg_charts import (
    NO_FIGURE,
    BarPair,
    Estimate,
    estimates,
    histogram,
    paired_bars,
    reliability,
    two_lines,
    value_range,
)
from runtime.parity.verdict import figure_at, why_missing

TEMPLATE = Path(__file__).with_name("report.html.template")
MAX_CHARTED_CLASSES = 30
LISTED_LAYERS = 15
WORDS = {
    "pass": "Pass: {candidate} is as good as {reference}",
    "warn": "Pass with warnings: look at them before you ship {candidate}",
    "fail": "Fail: do not ship {candidate}",
}
SIGNS = {"pass": "✓ pass", "warn": "! warn", "fail": "✗ fail", "skip": "not required"}


@dataclass(frozen=True)
class ImagePanel:
    """One image with both networks' gates drawn over it, as JPEG files."""

    image_id: str
    reason: str
    label: str
    reference_jpeg: bytes
    candidate_jpeg: bytes


def render_report(report: Mapping[str, Any], panels: Mapping[str, Sequence[ImagePanel]]) -> str:
    """Draw the page.

    Args:
        report: the content of report.json; see docs/guides/parity.md.
        panels: the images to show, `"disagreements"` and `"sight"`; may be none.

    Returns:
        HTML with inline styles, charts and images.
    """
    reference, candidate = names(report)
    data = report["data"]
    title = f"{report['subjects']['candidate']['preset']}: {candidate} against {reference}"
    subtitle = f"{data['dataset']}, {data['split']} split, {data['sampling']} · {report['created_utc']}"
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        reference=escape(reference),
        candidate=escape(candidate),
        verdict=_verdict(report),
        charts="\n".join(_glance_charts(report)),
        summary_table=_summary_table(report),
        reliability=_reliability(report),
        class_note=_class_note(report),
        class_chart=_class_chart(report),
        class_table=_class_table(report),
        confusion=_confusion(report),
        overlay_layer=escape(report["subjects"]["reference"]["overlay_layer"]),
        sight=_sight(report),
        sight_panels=_panels(panels.get("sight", ())),
        corruptions=_corruptions(report),
        blame=_blame(report),
        cost=_cost(report),
        disagreement_table=_disagreement_table(report),
        disagreement_panels=_panels(panels.get("disagreements", ())),
        facts_table=_facts_table(report),
    )


def names(report: Mapping[str, Any]) -> tuple[str, str]:
    """Return what the reference and the candidate are called."""
    return report["subjects"]["reference"]["name"], report["subjects"]["candidate"]["name"]


def figure(report: Mapping[str, Any], path: str, form: str = "", scale: float = 1.0) -> str:
    """Show one figure of the report.

    Args:
        report: the content of report.json.
        path: where the figure is, e.g. `"sight.maps.0.cosine.mean"`.
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


def interval(report: Mapping[str, Any], path: str, form: str, scale: float = 1.0) -> str:
    """Show both ends of an interval of the report."""
    return f"{figure(report, f'{path}.low', form, scale)} to {figure(report, f'{path}.high', form, scale)}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], style: str = "") -> str:
    """Write an HTML table.

    Args:
        header: the titles of the columns, as text; none for a table without a header.
        rows: the cells, as HTML; the first of a row is its heading.
        style: a CSS class.

    Returns:
        HTML, in an element that scrolls where the table is wider than the page.
    """
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    content = f'<table class="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll" tabindex="0">{content}</div>'


def _missing(report: Mapping[str, Any], part: str) -> str:
    return f'<p class="missing">Not measured: {escape(why_missing(report, part))}.</p>'


def _verdict(report: Mapping[str, Any]) -> str:
    verdict = report["verdict"]
    reference, candidate = names(report)
    word = WORDS[verdict["outcome"]].format(reference=reference, candidate=candidate)
    rows = []
    for rule in verdict["rules"]:
        sign = f'<span class="sign {rule["outcome"]}">{SIGNS[rule["outcome"]]}</span>'
        rows.append((sign, escape(rule["text"]), f"<code>{escape(rule['rule'])}</code>"))
    head = ("", "requirement, with figure and limit", "rule")
    return f'<div class="verdict {verdict["outcome"]}"><strong>{escape(word)}</strong></div>' + table(
        head, rows, "rules"
    )


def _glance_charts(report: Mapping[str, Any]) -> list[str]:
    accuracy, cost = report["accuracy"], report["cost"]
    top1 = BarPair("top-1", 100 * accuracy["reference"]["top1"], 100 * accuracy["candidate"]["top1"])
    times = [
        BarPair(
            f"p50, {_threads(each['threads'])}",
            each["reference"]["p50_ms"],
            each["candidate"]["p50_ms"],
        )
        for each in cost["threads"]
    ]
    files = BarPair("artifact", cost["reference"]["size_bytes"] / 1024, cost["candidate"]["size_bytes"] / 1024)
    return [
        paired_bars("Top-1 accuracy", [top1], ".2f", "percent"),
        paired_bars("Latency", times, ".3f", "milliseconds"),
        paired_bars("Size", [files], ".1f", "KiB"),
    ]


def _summary_table(report: Mapping[str, Any]) -> str:
    def row(title: str, key: str, form: str, scale: float, note: str) -> tuple[str, ...]:
        shown = (figure(report, f"accuracy.{role}.{key}", form, scale) for role in ("reference", "candidate"))
        return (title, *shown, note)

    def noted(words: str, path: str, form: str, scale: float = 1.0, unit: str = "") -> str:
        return f"{words} {figure(report, f'accuracy.{path}', form, scale)}{unit}"

    drop = (
        f"{noted('drop', 'drop_pp', '.2f', unit=' pp')}; 95% interval "
        f"{interval(report, 'accuracy.drop_interval_pp', '.2f')}"
    )
    agreement = (
        f"{noted('agreement', 'agreement', '.2f', 100, '%')}; 95% interval "
        f"{interval(report, 'accuracy.agreement_interval', '.2f', 100)}"
    )
    only = (
        "Right where the other is wrong, images",
        figure(report, "accuracy.only_reference_correct"),
        figure(report, "accuracy.only_candidate_correct"),
        noted("McNemar's test: p =", "mcnemar_p_value", ".2g"),
    )
    rows = [
        row("Top-1 accuracy, %", "top1", ".2f", 100, drop),
        row("Top-5 accuracy, %", "top5", ".2f", 100, agreement),
        only,
        row("Cross-entropy, nats", "cross_entropy_nats", ".4f", 1.0, ""),
        row("Expected calibration error", "ece", ".4f", 1.0, noted("growth", "ece_increase", "+.4f")),
        *_fake_quant_rows(report),
    ]
    return table(["", *names(report), ""], rows)


def _fake_quant_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    if report["subjects"]["candidate"]["fake_quant_agreement"] is None:
        return []
    share = figure(report, "subjects.candidate.fake_quant_agreement", ".2f", 100)
    images = figure(report, "subjects.candidate.fake_quant_images", ",")
    return [("Same prediction as its fake-quantized network, %", "", share, f"{images} images, at export")]


def _reliability(report: Mapping[str, Any]) -> str:
    series: dict[str, Sequence[tuple[float, float]]] = {
        role: [
            (each["confidence"], each["accuracy"])
            for each in report["accuracy"][role]["calibration_bins"]
            if each["images"]
        ]
        for role in ("reference", "candidate")
    }
    return reliability("Accuracy against confidence", series)


def _class_note(report: Mapping[str, Any]) -> str:
    worse = [entry["label"] for entry in report["classes"]["list"] if entry["worse"]]
    if worse:
        return f"Beyond chance, {escape(names(report)[1])} is worse at {escape(', '.join(worse))} (diamonds)."
    return "No class loses more than chance explains."


def _class_chart(report: Mapping[str, Any]) -> str:
    known = [entry for entry in report["classes"]["list"] if entry["drop_pp"] is not None]
    title = "Drop of each class"
    if len(known) > MAX_CHARTED_CLASSES:
        title = f"Drop of the {MAX_CHARTED_CLASSES} classes that change most"
        known = sorted(known, key=lambda entry: -abs(entry["drop_pp"]))[:MAX_CHARTED_CLASSES]
    rows = [
        Estimate(
            entry["label"],
            entry["drop_pp"],
            entry["drop_interval_pp"]["low"],
            entry["drop_interval_pp"]["high"],
            bool(entry["worse"]),
        )
        for entry in known
    ]
    return estimates(title, rows, "+.1f", "percentage points, to the right: worse")


def _class_table(report: Mapping[str, Any]) -> str:
    rows = []
    for index, entry in enumerate(report["classes"]["list"]):
        at = f"classes.list.{index}"
        ends = NO_FIGURE if entry["drop_pp"] is None else interval(report, f"{at}.drop_interval_pp", ".2f")
        rows.append(
            (
                escape(entry["label"]),
                figure(report, f"{at}.images"),
                figure(report, f"{at}.top1_reference", ".2f", 100),
                figure(report, f"{at}.top1_candidate", ".2f", 100),
                figure(report, f"{at}.drop_pp", ".2f"),
                ends,
                figure(report, f"{at}.p_value", ".2g"),
            )
        )
    reference, candidate = names(report)
    head = ["class", "images", f"{reference}, %", f"{candidate}, %", "drop, pp", "interval, pp", "p"]
    return table(head, rows)


def _confusion(report: Mapping[str, Any]) -> str:
    rows = []
    for index, entry in enumerate(report["confusion"]["list"]):
        at = f"confusion.list.{index}"
        counts = [f"{role}_images" for role in ("reference", "candidate")]
        rows.append(
            (
                escape(entry["label"]),
                escape(entry["predicted"]),
                *(figure(report, f"{at}.{key}") for key in counts),
                figure(report, f"{at}.change_images", "+d"),
            )
        )
    if not rows:
        return "<p>Both make the same mistakes.</p>"
    return table(["true class", "taken for", *names(report), "change"], rows, "words")


def _sight(report: Mapping[str, Any]) -> str:
    sight = report["sight"]
    if sight is None:
        return _missing(report, "sight")
    titles = {"cosine": "cosine", "ssim": "SSIM", "rank_correlation": "rank correlation"}
    head, rows = ["map"], []
    for key in FIGURES:
        head += [f"{titles[key]}, mean", "5th pct.", "min"]
    for index, entry in enumerate(sight["maps"]):
        places = [f"sight.maps.{index}.{key}.{part}" for key in FIGURES for part in ("mean", "p5", "min")]
        cells = [figure(report, place, ".4f") for place in places]
        rows.append((escape(entry["map"]), *cells))
    charts = [
        histogram(f"{entry['map'].capitalize()}: {titles['cosine']}", sight["edges"], entry["cosine"]["histogram"])
        for entry in sight["maps"]
    ]
    note = "<p>How the images spread over cosine similarity; the intervals narrow towards 1.</p>"
    return f'{table(head, rows, "dense")}{note}<div class="charts">{"".join(charts)}</div>'


def _corruptions(report: Mapping[str, Any]) -> str:
    corruptions = report["corruptions"]
    if corruptions is None:
        return _missing(report, "corruptions")
    reference, candidate = (escape(name) for name in names(report))
    clean, cells = corruptions["clean"], corruptions["list"]
    shares = [cell[f"top1_{role}"] for cell in [clean, *cells] for role in ("reference", "candidate")]
    # To the next tenth, so that the axis is legible.
    ends = (int(10 * min(shares)) / 10, min(1.0, (int(10 * max(shares)) + 1) / 10))
    kinds = list(dict.fromkeys(cell["kind"] for cell in cells))
    charts = []
    for kind in kinds:
        steps = [clean, *(cell for cell in cells if cell["kind"] == kind)]
        ticks = ["clean", *(str(cell["severity"]) for cell in steps[1:])]
        reference_line, candidate_line = (
            [float(step[f"top1_{role}"]) for step in steps] for role in ("reference", "candidate")
        )
        charts.append(two_lines(kind[0].upper() + kind[1:], ticks, reference_line, candidate_line, ends))
    rows = []
    for index, cell in enumerate(cells):
        at = f"corruptions.list.{index}"
        rows.append(
            (
                f"{escape(cell['kind'])}, {cell['severity']}",
                figure(report, f"{at}.top1_reference", ".2f", 100),
                figure(report, f"{at}.top1_candidate", ".2f", 100),
                figure(report, f"{at}.drop_pp", ".2f"),
                interval(report, f"{at}.drop_interval_pp", ".2f"),
                figure(report, f"{at}.agreement", ".2f", 100),
                figure(report, f"{at}.lowest_mean_cosine", ".4f"),
            )
        )
    head = ["corruption, severity", f"{reference}, %", f"{candidate}, %", "drop, pp", "95% interval", "agreement, %"]
    note = (
        f"<p>On average over these corruptions, the drop grows by "
        f"{figure(report, 'corruptions.extra_drop_pp', '.2f')} percentage points (95% interval "
        f"{interval(report, 'corruptions.extra_drop_interval_pp', '.2f')}), on "
        f"{figure(report, 'corruptions.images', ',')} images.</p>"
    )
    details = f"<details><summary>All figures</summary>{table([*head, 'least similar map'], rows)}</details>"
    return f'{note}{_legend(report)}<div class="charts small">{"".join(charts)}</div>{details}'


def _legend(report: Mapping[str, Any]) -> str:
    reference, candidate = (escape(name) for name in names(report))
    return (
        '<p class="legend"><svg viewBox="0 0 40 12" width="40" height="12" aria-hidden="true">'
        '<line class="line reference-line" x1="0" y1="6" x2="40" y2="6"/>'
        f'<circle class="reference" cx="20" cy="6" r="3.6"/></svg> {reference} '
        '<svg viewBox="0 0 40 12" width="40" height="12" aria-hidden="true">'
        '<line class="line candidate-line" x1="0" y1="6" x2="40" y2="6"/>'
        f'<rect class="candidate" x="16.8" y="2.8" width="6.4" height="6.4"/></svg> {candidate}; '
        "top-1 accuracy, clean and at severities 1 to 3</p>"
    )


def _blame(report: Mapping[str, Any]) -> str:
    blame = report["blame"]
    if blame is None:
        return _missing(report, "blame")
    rows = []
    for index, entry in enumerate(blame["layers"][:LISTED_LAYERS]):
        at = f"blame.layers.{index}"
        rows.append(
            (
                escape(entry["layer"]),
                figure(report, f"{at}.sqnr_db", ".1f"),
                figure(report, f"{at}.own_sqnr_db", ".1f"),
                figure(report, f"{at}.channel_sqnr_db", ".1f"),
                figure(report, f"{at}.channel"),
                figure(report, f"{at}.clipped_share", ".3f", 100),
                figure(report, f"{at}.sensitivity_rank"),
            )
        )
    head = ["layer", "SQNR, dB", "its own, dB", "worst channel, dB", "channel", "clipped, %", "sensitivity rank"]
    clipped = {entry["layer"]: entry["clipped_share"] for entry in blame["layers"]}
    charts = [
        value_range(
            each["layer"],
            f"clipped {clipped[each['layer']]:.3%}",
            each["span"],
            (each["low"], each["high"]),
            each["histogram"],
        )
        for each in blame["ranges"]
    ]
    noisiest = escape(blame["noisiest_layer"] or "none")
    note = (
        f"<p>On {figure(report, 'blame.images', ',')} images ({escape(blame['source'])}). "
        f"Most noise is added by <code>{noisiest}</code>. Of {len(blame['layers'])} layers, the {len(rows)} worst:</p>"
    )
    ranking = ""
    if not blame["ranked_products"]:
        ranking = f"<p class='missing'>No sensitivity rank: {escape(why_missing(report, 'blame.ranked_products'))}.</p>"
    ranges = (
        "<p>How the reference's values of the worst layers lie in the candidate's ranges. What lies beyond (hatched) "
        "is clipped to the ends; bars are as high as the root of their counts, so that tails are seen.</p>"
        f'<div class="charts">{"".join(charts)}</div>'
        if charts
        else ""
    )
    return note + table(head, rows) + ranking + ranges


def _cost(report: Mapping[str, Any]) -> str:
    cost = report["cost"]
    rows, bars = [], []
    for index, each in enumerate(cost["threads"]):
        at = f"cost.threads.{index}"
        for role, name in zip(("reference", "candidate"), names(report), strict=True):
            times = (figure(report, f"{at}.{role}.{key}_ms", ".3f") for key in ("p50", "p90", "p99", "min"))
            speed = ""
            if role == "candidate":
                ends = interval(report, f"{at}.speedup_interval", ".2f")
                speed = f"{figure(report, f'{at}.speedup', '.2f')} times ({ends})"
            rows.append((f"{escape(name)}, {_threads(each['threads'])}", *times, speed))
            label = f"{name}, {each['threads']} thr."
            latency = each[role]
            bars.append(
                Estimate(label, latency["p50_ms"], latency["min_ms"], latency["p99_ms"], stands_out=role == "candidate")
            )
    chart = estimates("Latency: median, from the least to the 99th percentile", bars, ".2f", "milliseconds")
    latencies = table(["", "p50, ms", "p90, ms", "p99, ms", "min, ms", "speed-up"], rows)
    return f'<div class="charts">{chart}</div>{latencies}{_resources(report)}{_peaks(report)}'


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _resources(report: Mapping[str, Any]) -> str:
    kinds = (
        ("Size, bytes", "size_bytes", ",", 1.0),
        ("Cold start, ms", "cold_start_ms", ".0f", 1.0),
        ("Memory of model and interpreter, MiB", "model_memory_bytes", ".1f", 2.0**-20),
        ("Peak memory of the process, MiB", "peak_memory_bytes", ".1f", 2.0**-20),
        ("Operators", "operators", "", 1.0),
        ("Delegate partitions", "delegate_partitions", "", 1.0),
        ("Multiply-accumulates, millions", "macs", ".2f", 1e-6),
        ("Energy of an image, mJ", "energy_mj", ".3f", 1.0),
    )
    rows = []
    for title, key, form, scale in kinds:
        shown = [figure(report, f"cost.{role}.{key}", form, scale) for role in ("reference", "candidate")]
        reasons = {
            why_missing(report, f"cost.{role}.{key}")
            for role in ("reference", "candidate")
            if figure_at(report, f"cost.{role}.{key}") is None
        }
        rows.append((title, *shown, escape("; ".join(sorted(reasons)))))
    return table(["", *names(report), ""], rows, "resources")


def _peaks(report: Mapping[str, Any]) -> str:
    if not report["cost"]["peaks"]:
        return _missing(report, "cost.peaks")
    rows = []
    for index, each in enumerate(report["cost"]["peaks"]):
        at = f"cost.peaks.{index}"
        rows.append(
            (
                _threads(each["threads"]),
                *(figure(report, f"{at}.{key}_macs_per_s", ".1f", 1e-9) for key in ("float32", "int8")),
                *(figure(report, f"{at}.{role}_share_of_peak", ".1f", 100) for role in ("reference", "candidate")),
            )
        )
    reference, candidate = names(report)
    head = ["peak", "float32, GMAC/s", "int8, GMAC/s", f"{reference} reaches, %", f"{candidate} reaches, %"]
    return table(head, rows)


def _disagreement_table(report: Mapping[str, Any]) -> str:
    rows = []
    for index, entry in enumerate(report["disagreements"]):
        at = f"disagreements.{index}"
        said = [
            f"{escape(entry[role]['prediction'] or 'not finite')} "
            f"{figure(report, f'{at}.{role}.probability', '.1f', 100)}%"
            for role in ("reference", "candidate")
        ]
        divergence = figure(report, f"{at}.divergence_nats", ".3f")
        rows.append((escape(entry["id"]), escape(entry["label"]), *said, divergence))
    return table(["image", "true class", *names(report), "divergence, nats"], rows)


def _panels(panels: Sequence[ImagePanel]) -> str:
    return "\n".join(_panel(panel) for panel in panels) or "<p>No image is shown.</p>"


def _panel(panel: ImagePanel) -> str:
    caption = f"{panel.image_id}, labelled {panel.label} ({panel.reason})"
    images = "".join(
        f'<img src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode("ascii")}" '
        f'alt="{escape(f"{role}: prediction and gates of {panel.image_id}")}">'
        for role, jpeg in (("reference", panel.reference_jpeg), ("candidate", panel.candidate_jpeg))
    )
    return (
        f'<figure class="image"><figcaption>{escape(caption)}</figcaption>'
        f'<div class="scroll" tabindex="0">{images}</div></figure>'
    )


def _facts_table(report: Mapping[str, Any]) -> str:
    data, cost = report["data"], report["cost"]
    rows = [
        ("Data", f"{escape(data['dataset'])}, {escape(data['split'])} split, {escape(data['sampling'])}"),
        ("Images compared", figure(report, "data.images")),
        ("Images with non-finite outputs", figure(report, "accuracy.non_finite_images")),
        ("Calibration images among them", _leaks(report)),
        ("Processor", escape(cost["cpu"])),
        ("Latency", f"{figure(report, 'cost.rounds')} runs each, all taking turns"),
        ("Load average", _load(report)),
        ("Date", escape(report["created_utc"])),
    ]
    for role in ("reference", "candidate"):
        subject = report["subjects"][role]
        scheme = f", scheme {escape(subject['scheme'])}" if subject["scheme"] else ""
        name = f"{subject['file']} ({subject['precision']}, {subject['interpreter']})"
        rows.append((escape(name), f"SHA-256 <code>{escape(subject['sha256'])}</code>{scheme}"))
    return table([], rows, "facts")


def _leaks(report: Mapping[str, Any]) -> str:
    if report["calibration"]["leaked_images"] is None:
        return escape(f"not known: {why_missing(report, 'calibration.leaked_images')}")
    return figure(report, "calibration.leaked_images")


def _load(report: Mapping[str, Any]) -> str:
    return f"{figure(report, 'cost.load_before', '.1f')} before, {figure(report, 'cost.load_after', '.1f')} after"
