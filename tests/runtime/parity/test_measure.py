"""Missing sections and figures: one reason, in every form of the report."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from runtime.parity.measure import Measure, Missing, run_measures
from runtime.parity.measures import MEASURES
from runtime.parity.report.html import render_report
from runtime.parity.report.junit import to_junit
from runtime.parity.report.markdown import to_markdown
from tests.support.paths import SHIPPED

CONTEXT: Any = None
REASON = "no sensor <here> & now"


def test_missing_is_replaced_and_its_reason_noted() -> None:
    figures = {"a": Missing("no a"), "list": [{"b": 1}, Missing("no second"), {"b": Missing("no b")}]}
    measures = [Measure("first", lambda _: figures), Measure("second", lambda _: Missing("no second"))]
    report: dict[str, Any] = {}
    run_measures([*measures, Measure("third", lambda _: {"c": 1}, needs=("first", "second"))], CONTEXT, report)
    assert report["first"] == {"a": None, "list": [{"b": 1}, {"b": None}]}
    assert report["second"] is None and report["third"] is None
    reasons = {"first.a": "no a", "first.list.1": "no second", "first.list.2.b": "no b", "second": "no second"}
    assert report["missing"] == reasons | {"third": "it needs second"}


def test_every_form_says_why_a_section_was_not_measured() -> None:
    report = json.loads((SHIPPED / "report.json").read_text())
    for section in ("map_similarity", "corruptions", "layer_error", "energy", "peak_throughput"):
        report[section], report["missing"][section] = None, REASON
    assert render_report(report, {}).lower().count(f"not measured: {escape(REASON)}") == 5
    assert to_markdown(report).count(r"not measured: no sensor \<here\> \& now") == 5
    assert to_junit(report).count(f'value="not measured: {escape(REASON)}"') == 5


def test_a_section_has_one_measure_and_its_needs_come_before_it() -> None:
    sections = [each.section for each in MEASURES]
    assert len(set(sections)) == len(sections)
    assert all(set(each.needs) <= set(sections[:index]) for index, each in enumerate(MEASURES))
