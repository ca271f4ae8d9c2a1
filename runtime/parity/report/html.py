"""The report as one HTML page that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from runtime.parity.maps import FIGURES
from runtime.parity.pair import ROLES
from runtime.parity.report.html_tables import Column, figure, list_table, missing, table
from runtime.parity.report.panels import ImagePanel
from runtime.parity.report.summary import names, summary_rows, threads_of
from runtime.parity.report.svg_charts import (
    BarPair,
    Estimate,
    estimates,
    histogram,
    paired_bars,
    reliability,
    two_lines,
    value_range,
)
from runtime.parity.verdict import figure_at, not_measured

TEMPLATE = Path(__file__).with_name("report.html.template")
MAX_CHARTED_CLASSES = 30
LISTED_LAYERS = 15
WORDS = {
    "pass": "Pass: {candidate} is as good as {reference}",
    "warn": "Pass with warnings: look at them before you ship {candidate}",
    "fail": "Fail: do not ship {candidate}",
}
SIGNS = {"pass": "✓ pass", "warn": "! warn", "fail": "✗ fail", "skip": "not required"}
MAP_FIGURES = dict(zip(FIGURES, ("cosine", "SSIM", "rank correlation"), strict=True))
RESOURCES = (
    ("Size, bytes", "cost.{}.size_bytes", ",", 1.0),
    ("Cold start, ms", "cost.{}.cold_start_ms", ".0f", 1.0),
    ("Memory of model and interpreter, MiB", "cost.{}.model_memory_bytes", ".1f", 2.0**-20),
    ("Peak memory of the process, MiB", "cost.{}.peak_memory_bytes", ".1f", 2.0**-20),
    ("Operators", "cost.{}.operators", "", 1.0),
    ("Delegate partitions", "cost.{}.delegate_partitions", "", 1.0),
    ("Multiply-accumulates, millions", "cost.{}.macs", ".2f", 1e-6),
    ("Energy of an image, mJ", "energy.{}_mj", ".3f", 1.0),
)


def render_report(report: Mapping[str, Any], panels: Mapping[str, Sequence[ImagePanel]]) -> str:
    """Draw the page.

    Args:
        report: the content of report.json; see docs/guides/parity.md.
        panels: the images to show, by section: `"disagreements"` and `"map_similarity"`; may be empty.

    Returns:
        HTML with inline styles, charts and images.
    """
    reference, candidate = names(report)
    data = report["data"]
    title = f"{report['artifacts']['candidate']['preset']}: {candidate} against {reference}"
    subtitle = f"{data['dataset']}, {data['split']} split, {data['sampling']} · {report['created_utc']}"
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        reference=escape(reference),
        candidate=escape(candidate),
        verdict=_verdict(report),
        rules=_rules(report),
        charts=_glance_charts(report),
        summary=table(["", *names(report), ""], [row.cells(report, figure) for row in summary_rows(report)], "notes"),
        reliability=_reliability(report),
        class_note=_class_note(report),
        class_chart=_class_chart(report),
        class_table=_class_table(report),
        confusion=_confusion(report),
        overlay_layer=escape(report["artifacts"]["reference"]["overlay_layer"]),
        map_similarity=_map_similarity(report),
        map_panels=_panels(panels.get("map_similarity", ())),
        corruptions=_corruptions(report),
        layer_error=_layer_error(report),
        latency_chart=_latency_chart(report),
        latencies=_latencies(report),
        resources=_resources(report),
        peaks=_peaks(report),
        disagreements=_disagreements(report),
        disagreement_panels=_panels(panels.get("disagreements", ())),
        facts=_facts(report),
    )


def _verdict(report: Mapping[str, Any]) -> str:
    outcome, (reference, candidate) = report["verdict"]["outcome"], names(report)
    word = WORDS[outcome].format(reference=reference, candidate=candidate)
    return f'<div class="verdict {outcome}"><strong>{escape(word)}</strong></div>'


def _rules(report: Mapping[str, Any]) -> str:
    rows = [
        (
            f'<span class="sign {rule["outcome"]}">{SIGNS[rule["outcome"]]}</span>',
            escape(rule["text"]),
            f"<code>{escape(rule['rule'])}</code>",
        )
        for rule in report["verdict"]["rules"]
    ]
    return table(("", "requirement, with figure and limit", "rule"), rows, "rules")


def _glance_charts(report: Mapping[str, Any]) -> str:
    accuracy, cost = report["accuracy"], report["cost"]
    top1 = BarPair("top-1", *(100 * accuracy[role]["top1"] for role in ROLES))
    times = [
        BarPair(f"p50, {threads_of(each['threads'])}", *(each[role]["p50_ms"] for role in ROLES))
        for each in cost["threads"]
    ]
    files = BarPair("artifact", *(cost[role]["size_bytes"] / 1024 for role in ROLES))
    charts = (
        paired_bars("Top-1 accuracy", [top1], ".2f", "percent"),
        paired_bars("Size", [files], ".1f", "KiB"),
        paired_bars("Latency", times, ".3f", "milliseconds"),
    )
    return "\n".join(charts)


def _reliability(report: Mapping[str, Any]) -> str:
    series = {
        role: [
            (each["confidence"], each["accuracy"])
            for each in report["accuracy"][role]["calibration_bins"]
            if each["images"]
        ]
        for role in ROLES
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
        Estimate(entry["label"], entry["drop_pp"], interval["low"], interval["high"], bool(entry["worse"]))
        for entry in known
        for interval in [entry["drop_interval_pp"]]
    ]
    return estimates(title, rows, "+.1f", "percentage points, to the right: worse")


def _class_table(report: Mapping[str, Any]) -> str:
    columns = (
        Column("images", "images"),
        *_role_columns(report, "{}, %", "top1_{}", ".2f", 100),
        Column("drop, pp", "drop_pp", ".2f"),
        Column("interval, pp", "drop_interval_pp", ".2f"),
        Column("p", "p_value", ".2g"),
    )
    return list_table(report, "classes.list", ["class"], lambda entry: [entry["label"]], columns)


def _role_columns(report: Mapping[str, Any], title: str, key: str, form: str = "", scale: float = 1.0) -> list[Column]:
    """Return a column of the reference's figures and one of the candidate's."""
    return [
        Column(title.format(name), key.format(role), form, scale)
        for role, name in zip(ROLES, names(report), strict=True)
    ]


def _confusion(report: Mapping[str, Any]) -> str:
    if not report["confusion"]["list"]:
        return "<p>Both make the same mistakes.</p>"
    columns = (*_role_columns(report, "{}", "{}_images"), Column("change", "change_images", "+d"))
    return list_table(
        report,
        "confusion.list",
        ["true class", "taken for"],
        lambda entry: [entry["label"], entry["predicted"]],
        columns,
        style="words",
    )


def _map_similarity(report: Mapping[str, Any]) -> str:
    similarity = report["map_similarity"]
    if similarity is None:
        return missing(report, "map_similarity")
    columns = [
        Column(f"{title}, {word}", f"{key}.{part}", ".4f")
        for key, title in MAP_FIGURES.items()
        for part, word in (("mean", "mean"), ("p5", "5th pct."), ("min", "min"))
    ]
    charts = [
        histogram(f"{entry['map'].capitalize()}: cosine", similarity["edges"], entry["cosine"]["histogram"])
        for entry in similarity["maps"]
    ]
    maps = list_table(report, "map_similarity.maps", ["map"], lambda entry: [entry["map"]], columns, style="dense")
    note = "<p>The distribution of the images over cosine similarity; the intervals narrow towards 1.</p>"
    return f'{maps}{note}<div class="charts">{"".join(charts)}</div>'


def _corruptions(report: Mapping[str, Any]) -> str:
    if report["corruptions"] is None:
        return missing(report, "corruptions")
    columns = (
        *_role_columns(report, "{}, %", "top1_{}", ".2f", 100),
        Column("drop, pp", "drop_pp", ".2f"),
        Column("95% interval", "drop_interval_pp", ".2f"),
        Column("agreement, %", "agreement", ".2f", 100),
        Column("least similar map", "lowest_mean_cosine", ".4f"),
    )
    cells = list_table(
        report,
        "corruptions.list",
        ["corruption, severity"],
        lambda entry: [f"{entry['kind']}, {entry['severity']}"],
        columns,
    )
    note = (
        f"<p>On average over these corruptions, the drop grows by "
        f"{figure(report, 'corruptions.extra_drop_pp', '.2f')} percentage points (95% interval "
        f"{figure(report, 'corruptions.extra_drop_interval_pp', '.2f')}), on "
        f"{figure(report, 'corruptions.images', ',')} images.</p>"
    )
    charts = "".join(_corruption_charts(report["corruptions"]))
    details = f"<details><summary>All figures</summary>{cells}</details>"
    return f'{note}{_legend(report)}<div class="charts small">{charts}</div>{details}'


def _corruption_charts(corruptions: Mapping[str, Any]) -> list[str]:
    clean, cells = corruptions["clean"], corruptions["list"]
    shares = [cell[f"top1_{role}"] for cell in [clean, *cells] for role in ROLES]
    # To the next tenth, so that the axis is legible.
    ends = (int(10 * min(shares)) / 10, min(1.0, (int(10 * max(shares)) + 1) / 10))
    charts = []
    for kind in dict.fromkeys(cell["kind"] for cell in cells):
        steps = [clean, *(cell for cell in cells if cell["kind"] == kind)]
        ticks = ["clean", *(str(cell["severity"]) for cell in steps[1:])]
        reference, candidate = ([float(step[f"top1_{role}"]) for step in steps] for role in ROLES)
        charts.append(two_lines(kind[0].upper() + kind[1:], ticks, reference, candidate, ends))
    return charts


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


def _layer_error(report: Mapping[str, Any]) -> str:
    error = report["layer_error"]
    if error is None:
        return missing(report, "layer_error")
    columns = (
        Column("SQNR, dB", "sqnr_db", ".1f"),
        Column("its own, dB", "own_sqnr_db", ".1f"),
        Column("worst channel, dB", "channel_sqnr_db", ".1f"),
        Column("channel", "channel"),
        Column("clipped, %", "clipped_share", ".3f", 100),
        Column("sensitivity rank", "sensitivity_rank"),
    )
    layers = list_table(
        report, "layer_error.layers", ["layer"], lambda entry: [entry["layer"]], columns, limit=LISTED_LAYERS
    )
    total = len(error["layers"])
    note = (
        f"<p>On {figure(report, 'layer_error.images', ',')} images ({escape(error['source'])}). "
        f"<code>{escape(error['noisiest_layer'] or 'none')}</code> adds most noise. "
        f"The {min(total, LISTED_LAYERS)} worst of {total} layers:</p>"
    )
    ranking = "" if error["ranked_products"] else missing(report, "layer_error.ranked_products")
    return note + layers + ranking + _range_charts(error)


def _range_charts(error: Mapping[str, Any]) -> str:
    clipped = {entry["layer"]: entry["clipped_share"] for entry in error["layers"]}
    charts = [
        value_range(
            each["layer"],
            f"clipped {clipped[each['layer']]:.3%}",
            each["span"],
            (each["low"], each["high"]),
            each["histogram"],
        )
        for each in error["ranges"]
    ]
    if not charts:
        return ""
    return (
        "<p>The reference's values of the worst layers over the candidate's ranges. Values in the hatched parts are "
        "clipped. The bars' heights are square roots of counts, so that tails are visible.</p>"
        f'<div class="charts">{"".join(charts)}</div>'
    )


def _latency_chart(report: Mapping[str, Any]) -> str:
    bars = [
        Estimate(f"{name}, {each['threads']} thr.", times["p50_ms"], times["min_ms"], times["p99_ms"], role == ROLES[1])
        for each in report["cost"]["threads"]
        for role, name in zip(ROLES, names(report), strict=True)
        for times in [each[role]]
    ]
    return estimates("Latency: median, from the minimum to the 99th percentile", bars, ".2f", "milliseconds")


def _latencies(report: Mapping[str, Any]) -> str:
    rows = []
    for index, each in enumerate(report["cost"]["threads"]):
        at = f"cost.threads.{index}"
        speedup = f"{figure(report, f'{at}.speedup', '.2f')} times ({figure(report, f'{at}.speedup_interval', '.2f')})"
        for role, name, speed in zip(ROLES, names(report), ("", speedup), strict=True):
            times = (figure(report, f"{at}.{role}.{key}_ms", ".3f") for key in ("p50", "p90", "p99", "min"))
            rows.append((f"{escape(name)}, {threads_of(each['threads'])}", *times, speed))
    return table(["", "p50, ms", "p90, ms", "p99, ms", "min, ms", "speed-up"], rows)


def _resources(report: Mapping[str, Any]) -> str:
    rows = []
    for title, path, form, scale in RESOURCES:
        places = [path.format(role) for role in ROLES]
        shown = [figure(report, place, form, scale) for place in places]
        reasons = {not_measured(report, place) for place in places if figure_at(report, place) is None}
        rows.append((title, *shown, escape("; ".join(sorted(reasons)))))
    return table(["", *names(report), ""], rows, "notes")


def _peaks(report: Mapping[str, Any]) -> str:
    if not report["peak_throughput"]:
        return missing(report, "peak_throughput")
    columns = [Column(f"{key}, GMAC/s", f"{key}_macs_per_s", ".1f", 1e-9) for key in ("float32", "int8")]
    columns += _role_columns(report, "{} reaches, %", "{}_share_of_peak", ".1f", 100)
    return list_table(report, "peak_throughput", ["peak"], lambda entry: [threads_of(entry["threads"])], columns)


def _disagreements(report: Mapping[str, Any]) -> str:
    rows = []
    for index, entry in enumerate(report["disagreements"]):
        at = f"disagreements.{index}"
        predictions = [
            f"{escape(entry[role]['prediction'] or 'not finite')} "
            f"{figure(report, f'{at}.{role}.probability', '.1f', 100)}%"
            for role in ROLES
        ]
        divergence = figure(report, f"{at}.divergence_nats", ".3f")
        rows.append((escape(entry["id"]), escape(entry["label"]), *predictions, divergence))
    return table(["image", "true class", *names(report), "divergence, nats"], rows)


def _panels(panels: Sequence[ImagePanel]) -> str:
    return "\n".join(map(_panel, panels)) or "<p>No image is shown.</p>"


def _panel(panel: ImagePanel) -> str:
    images = "".join(
        f'<img src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode("ascii")}" '
        f'alt="{escape(f"{role}: prediction and gates of {panel.image_id}")}">'
        for role, jpeg in zip(ROLES, (panel.reference_jpeg, panel.candidate_jpeg), strict=True)
    )
    caption = escape(f"{panel.image_id}, labelled {panel.label} ({panel.reason})")
    return f'<figure class="image"><figcaption>{caption}</figcaption>{images}</figure>'


def _facts(report: Mapping[str, Any]) -> str:
    data, cost = report["data"], report["cost"]
    leaked = "calibration_leak.leaked_images"
    load = " before, ".join(figure(report, f"cost.{key}", ".1f") for key in ("load_before", "load_after"))
    rows = [
        ("Data", escape(f"{data['dataset']}, {data['split']} split, {data['sampling']}")),
        ("Images compared", figure(report, "data.images")),
        ("Images with non-finite outputs", figure(report, "accuracy.non_finite_images")),
        (
            "Images in the calibration set",
            escape(not_measured(report, leaked)) if figure_at(report, leaked) is None else figure(report, leaked),
        ),
        ("Processor", escape(cost["cpu"])),
        ("Latency", f"{figure(report, 'cost.rounds')} runs each, taking turns"),
        ("Load average", f"{load} after"),
        ("Date", escape(report["created_utc"])),
    ]
    for each in report["artifacts"].values():
        scheme = f", scheme {escape(each['scheme'])}" if each["scheme"] else ""
        name = f"{each['file']} ({each['precision']}, {each['interpreter']})"
        rows.append((escape(name), f"SHA-256 <code>{escape(each['sha256'])}</code>{scheme}"))
    return table([], rows, "facts")
