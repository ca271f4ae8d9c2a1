"""The rows of the summary, which HTML, Markdown and the terminal show as a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from runtime.parity.pair import ROLES

# A figure in a text: its path, its format and, after "*", the factor to multiply it by.
FIGURE = re.compile(r"\{([\w.]+):([^}*]*)(?:\*([\d.e-]+))?\}")
NO_FIGURE = "-"

ShowFigure = Callable[[Mapping[str, Any], str, str, float], str]


@dataclass(frozen=True)
class Row:
    """One row; the texts hold figures such as `{accuracy.drop_pp:.2f}`.

    Attributes:
        title: the name of the figure, with its unit.
        reference: the reference's.
        candidate: the candidate's.
        note: what else to say, "" for nothing.
    """

    title: str
    reference: str
    candidate: str
    note: str = ""

    def cells(self, report: Mapping[str, Any], show: ShowFigure) -> tuple[str, str, str, str]:
        """Return the four texts with their figures.

        Args:
            report: the content of report.json.
            show: writes the figure at a path by a format, multiplied by a factor.
        """

        def fill(text: str) -> str:
            return FIGURE.sub(lambda found: show(report, found[1], found[2], float(found[3] or 1)), text)

        return self.title, fill(self.reference), fill(self.candidate), fill(self.note)


def value_at(report: Mapping[str, Any], path: str) -> Any:
    """Return the value at a path such as `"map_similarity.maps.0.map"`; `None` inside a missing section."""
    value: Any = report
    for key in path.split("."):
        if value is None:
            return None
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def show_plain(report: Mapping[str, Any], path: str, form: str, scale: float = 1.0) -> str:
    """Write a figure as text."""
    value = value_at(report, path)
    if value is None:
        return NO_FIGURE
    return format(value if scale == 1.0 else value * scale, form)


def names(report: Mapping[str, Any]) -> tuple[str, str]:
    """Return the names of the reference and the candidate."""
    return report["artifacts"]["reference"]["name"], report["artifacts"]["candidate"]["name"]


def threads_of(count: int) -> str:
    """Return e.g. `"2 threads"`."""
    return f"{count} thread{'s' if count > 1 else ''}"


def summary_rows(report: Mapping[str, Any]) -> list[Row]:
    """Return the rows, of accuracy and cost."""
    drop = "{accuracy.drop_interval_pp.low:.2f} to {accuracy.drop_interval_pp.high:.2f}"
    agreement = "{accuracy.agreement_interval.low:.2f*100} to {accuracy.agreement_interval.high:.2f*100}"
    return [
        _row("top-1, %", "accuracy.{}.top1:.2f*100", f"drop {{accuracy.drop_pp:.2f}} pp, 95% interval {drop}"),
        _row(
            "top-5, %",
            "accuracy.{}.top5:.2f*100",
            f"agreement {{accuracy.agreement:.2f*100}}%, 95% interval {agreement}",
        ),
        _row("only this one right", "accuracy.only_{}_correct:", "images; McNemar p = {accuracy.mcnemar_p_value:.2g}"),
        _row("cross-entropy, nats", "accuracy.{}.cross_entropy_nats:.4f"),
        _row("calibration error", "accuracy.{}.ece:.4f", "growth {accuracy.ece_increase:+.4f}"),
        *_fake_quant_rows(report),
        *(_latency_row(index, each["threads"]) for index, each in enumerate(report["cost"]["threads"])),
        _row("size, KiB", f"cost.{{}}.size_bytes:.1f*{2**-10}", "{cost.size_ratio:.2f} times smaller"),
        _row(
            "memory, MiB",
            f"cost.{{}}.model_memory_bytes:.1f*{2**-20}",
            "cold start {cost.reference.cold_start_ms:.0f} and {cost.candidate.cold_start_ms:.0f} ms",
        ),
    ]


def _row(title: str, figure: str, note: str = "") -> Row:
    reference, candidate = (f"{{{figure.format(role)}}}" for role in ROLES)
    return Row(title, reference, candidate, note)


def _latency_row(index: int, threads: int) -> Row:
    at = f"cost.threads.{index}"
    note = (
        f"{{{at}.speedup:.2f}} times as fast ({{{at}.speedup_interval.low:.2f}} to "
        f"{{{at}.speedup_interval.high:.2f}}); p99 {{{at}.reference.p99_ms:.3f}} and {{{at}.candidate.p99_ms:.3f}}"
    )
    return _row(f"p50, ms, {threads_of(threads)}", f"{at}.{{}}.p50_ms:.3f", note)


def _fake_quant_rows(report: Mapping[str, Any]) -> list[Row]:
    if report["artifacts"]["candidate"]["fake_quant_agreement"] is None:
        return []
    note = (
        "same prediction as its fake-quantized network, of {artifacts.candidate.fake_quant_images:,} images at export"
    )
    return [Row("fake-quant match, %", "", "{artifacts.candidate.fake_quant_agreement:.2f*100}", note)]
