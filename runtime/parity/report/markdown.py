"""The report as text: Markdown for a pull request, and one screen for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.parity.verdict import SKIP

NONE = "-"
WORDS = {"pass": "PASS", "warn": "WARN", "fail": "FAIL", "skip": "skip"}
SIGNS = {"pass": "✅ pass", "warn": "⚠️ warn", "fail": "❌ fail", "skip": "not required"}
SHOWN_LAYERS = 3


def written(value: float | None, form: str) -> str:
    """Write a figure by a form such as `"{:.2f}"`; a dash where there is none."""
    return NONE if value is None else form.format(value)


def headline(report: Mapping[str, Any]) -> str:
    """Return the verdict and what was compared, in one line."""
    names = [report["subjects"][role]["name"] for role in ("reference", "candidate")]
    return f"{WORDS[report['verdict']['outcome']]}: {names[1]} against {names[0]}"


def _rows(report: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return what both texts show as a table: title, reference, candidate, note."""
    accuracy, cost = report["accuracy"], report["cost"]
    reference, candidate = accuracy["reference"], accuracy["candidate"]
    interval = accuracy["drop_interval_pp"]
    rows = [
        (
            "top-1",
            f"{reference['top1']:.2%}",
            f"{candidate['top1']:.2%}",
            f"drop {accuracy['drop_pp']:.2f} pp, 95% interval {interval['low']:.2f} to {interval['high']:.2f}, "
            f"McNemar p = {accuracy['mcnemar_p_value']:.2g}",
        ),
        (
            "top-5",
            written(reference["top5"], "{:.2%}"),
            written(candidate["top5"], "{:.2%}"),
            f"agreement {accuracy['agreement']:.2%}",
        ),
        (
            "cross-entropy, nats",
            written(reference["cross_entropy_nats"], "{:.4f}"),
            written(candidate["cross_entropy_nats"], "{:.4f}"),
            "",
        ),
        ("calibration error", written(reference["ece"], "{:.4f}"), written(candidate["ece"], "{:.4f}"), ""),
    ]
    for each in cost["threads"]:
        low, high = each["speedup_interval"]["low"], each["speedup_interval"]["high"]
        rows.append(
            (
                f"p50, ms, {each['threads']} thread{'s' if each['threads'] > 1 else ''}",
                f"{each['reference']['p50_ms']:.3f}",
                f"{each['candidate']['p50_ms']:.3f}",
                f"{each['speedup']:.2f} times as fast ({low:.2f} to {high:.2f}); "
                f"p99 {each['reference']['p99_ms']:.3f} and {each['candidate']['p99_ms']:.3f}",
            )
        )
    sides = cost["reference"], cost["candidate"]
    rows.append(
        (
            "size, KiB",
            *(f"{side['size_bytes'] / 1024:.1f}" for side in sides),  # type: ignore[arg-type]
            f"{cost['size_ratio']:.2f} times smaller",
        )
    )
    memory = [written(_mebi(side["model_memory_bytes"]), "{:.1f}") for side in sides]
    starts = [written(side["cold_start_ms"], "{:.0f}") for side in sides]
    rows.append(("memory, MiB", memory[0], memory[1], f"cold start {starts[0]} and {starts[1]} ms"))
    return rows


def _mebi(value: int | None) -> float | None:
    return None if value is None else value / 2**20


def _notes(report: Mapping[str, Any]) -> list[str]:
    """Return a sentence each on sight, light and layers, so far as they were measured."""
    notes = []
    if sight := report["sight"]:
        lowest = min(sight["maps"], key=lambda entry: entry["cosine"]["mean"])
        notes.append(
            f"maps: least similar is the {lowest['map']}, cosine {lowest['cosine']['mean']:.4f} "
            f"(5th percentile {lowest['cosine']['p5']:.4f}), SSIM {lowest['ssim']['mean']:.4f}, "
            f"rank correlation {lowest['rank_correlation']['mean']:.4f}"
        )
    if corruptions := report["corruptions"]:
        interval = corruptions["extra_drop_interval_pp"]
        notes.append(
            f"bad light: the drop grows by {corruptions['extra_drop_pp']:.2f} pp "
            f"({interval['low']:.2f} to {interval['high']:.2f}) over {len(corruptions['list'])} corruptions of "
            f"{corruptions['images']} images"
        )
    if blame := report["blame"]:
        worst = ", ".join(
            f"{each['layer']} {written(each['sqnr_db'], '{:.1f}')} dB" for each in blame["layers"][:SHOWN_LAYERS]
        )
        notes.append(f"layers: {worst}; most noise is added by {blame['noisiest_layer'] or 'none'}")
    return notes


def to_screen(report: Mapping[str, Any]) -> str:
    """Return the report as one screen of plain text."""
    data, subjects = report["data"], report["subjects"]
    engines = dict.fromkeys(subjects[role]["interpreter"] for role in ("reference", "candidate"))
    names = [_cut(subjects[role]["name"]) for role in ("reference", "candidate")]
    width = max(11, *map(len, names))
    lines = [
        headline(report),
        f"data: {data['dataset']}, {data['split']} split, {data['sampling']}",
        f"engine: {' and '.join(engines)}, {report['cost']['cpu']}",
        "",
        *(f"{WORDS[rule['outcome']]}  {rule['text']}" for rule in report["verdict"]["rules"]),
        "",
        f"{'':20} {names[0]:>{width}} {names[1]:>{width}}",
        *(f"{title:20} {one:>{width}} {two:>{width}}   {note}".rstrip() for title, one, two, note in _rows(report)),
        *_notes(report),
    ]
    return "\n".join(lines)


def _cut(name: str, longest: int = 24) -> str:
    return name if len(name) <= longest else f"..{name[-longest + 2 :]}"


def to_markdown(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown, for a pull request."""
    data, verdict = report["data"], report["verdict"]
    names = [report["subjects"][role]["name"] for role in ("reference", "candidate")]
    lines = [
        f"### {SIGNS[verdict['outcome']]}: {_plain(names[1])} against {_plain(names[0])}",
        "",
        _plain(
            f"{data['images']:,} images of {data['dataset']}, {data['split']} split; "
            f"{report['subjects']['candidate']['interpreter']} on {report['cost']['cpu']}"
        ),
        "",
        *_table(("verdict", "rule"), [(SIGNS[rule["outcome"]], _plain(rule["text"])) for rule in verdict["rules"]]),
        "",
        *_table(("", _plain(names[0]), _plain(names[1]), ""), _rows(report)),
        "",
        *(f"- {_plain(note)}" for note in _notes(report)),
    ]
    worse = [entry for entry in report["classes"]["list"] if entry["worse"]]
    if worse:
        lost = ", ".join(f"{_plain(each['label'])} ({each['drop_pp']:.2f} pp)" for each in worse)
        lines.append(f"- classes that lose beyond chance: {lost}")
    skipped = [rule["rule"] for rule in verdict["rules"] if rule["outcome"] == SKIP]
    if skipped:
        lines.append(f"- not required of this engine: {', '.join(skipped)}")
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _plain(text: str) -> str:
    """Escape what Markdown would take for its own, and join lines."""
    escaped = "".join(f"\\{sign}" if sign in "\\`*_|<>[]#" else sign for sign in text)
    return " ".join(escaped.split())
