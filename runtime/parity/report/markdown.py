"""The report as text: Markdown for a pull request, and one screen for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.core.text import markdown_text
from runtime.parity.report.summary import names, show_plain, summary_rows
from runtime.parity.verdict import SKIP, not_measured

WORDS = {"pass": "PASS", "warn": "WARN", "fail": "FAIL", "skip": "skip"}
SIGNS = {"pass": "✅ pass", "warn": "⚠️ warn", "fail": "❌ fail", "skip": "not required"}
SHOWN_LAYERS = 3
LONGEST_NAME = 24


def to_screen(report: Mapping[str, Any]) -> str:
    """Return the report as one screen of plain text."""
    data, verdict = report["data"], report["verdict"]
    reference, candidate = names(report)
    engines = dict.fromkeys(each["interpreter"] for each in report["artifacts"].values())
    columns = [
        name if len(name) <= LONGEST_NAME else f"..{name[2 - LONGEST_NAME :]}" for name in (reference, candidate)
    ]
    width = max(11, *map(len, columns))
    rows = [("", *columns, ""), *(row.cells(report, show_plain) for row in summary_rows(report))]
    lines = [
        f"{WORDS[verdict['outcome']]}: {candidate} against {reference}",
        f"data: {data['dataset']}, {data['split']} split, {data['sampling']}",
        f"engine: {' and '.join(engines)}, {report['cost']['cpu']}",
        "",
        *(f"{WORDS[rule['outcome']]}  {rule['text']}" for rule in verdict["rules"]),
        "",
        *(f"{title:20} {one:>{width}} {two:>{width}}   {note}".rstrip() for title, one, two, note in rows),
        *_notes(report),
    ]
    return "\n".join(lines)


def to_markdown(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown, for a pull request."""
    data, verdict = report["data"], report["verdict"]
    reference, candidate = (markdown_text(name) for name in names(report))
    lines = [
        f"### {SIGNS[verdict['outcome']]}: {candidate} against {reference}",
        "",
        markdown_text(
            f"{data['images']:,} images of {data['dataset']}, {data['split']} split; "
            f"{report['artifacts']['candidate']['interpreter']} on {report['cost']['cpu']}"
        ),
        "",
        *_table(
            ("verdict", "rule"), [(SIGNS[rule["outcome"]], markdown_text(rule["text"])) for rule in verdict["rules"]]
        ),
        "",
        *_table(("", reference, candidate, ""), [row.cells(report, show_plain) for row in summary_rows(report)]),
        "",
        *(f"- {markdown_text(note)}" for note in _notes(report)),
        *(f"- {markdown_text(path)}: {markdown_text(not_measured(report, path))}" for path in report["missing"]),
    ]
    if worse := [entry for entry in report["classes"]["list"] if entry["worse"]]:
        lost = ", ".join(f"{markdown_text(each['label'])} ({each['drop_pp']:.2f} pp)" for each in worse)
        lines.append(f"- classes that lose beyond chance: {lost}")
    if skipped := [rule["rule"] for rule in verdict["rules"] if rule["outcome"] == SKIP]:
        lines.append(f"- not required of this engine: {', '.join(skipped)}")
    return "\n".join(lines) + "\n"


def _notes(report: Mapping[str, Any]) -> list[str]:
    """Return a sentence each on maps, corruptions and layers, if they were measured."""
    notes = []
    if similarity := report["map_similarity"]:
        lowest = min(similarity["maps"], key=lambda entry: entry["cosine"]["mean"])
        notes.append(
            f"maps: the least similar is the {lowest['map']}, cosine {lowest['cosine']['mean']:.4f} "
            f"(5th percentile {lowest['cosine']['p5']:.4f}), SSIM {lowest['ssim']['mean']:.4f}, "
            f"rank correlation {lowest['rank_correlation']['mean']:.4f}"
        )
    if corruptions := report["corruptions"]:
        interval = corruptions["extra_drop_interval_pp"]
        notes.append(
            f"corruptions: the drop grows by {corruptions['extra_drop_pp']:.2f} pp "
            f"({interval['low']:.2f} to {interval['high']:.2f}) over {len(corruptions['list'])} corruptions of "
            f"{corruptions['images']} images"
        )
    if layers := report["layer_error"]:
        places = [f"layer_error.layers.{index}" for index in range(min(SHOWN_LAYERS, len(layers["layers"])))]
        worst = [
            f"{show_plain(report, f'{at}.layer', '')} {show_plain(report, f'{at}.sqnr_db', '.1f')} dB" for at in places
        ]
        notes.append(f"layers: {', '.join(worst)}; {layers['noisiest_layer'] or 'none'} adds most noise")
    return notes


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
