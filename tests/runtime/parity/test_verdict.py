"""Rules and verdicts: every rule at its limit, and missing figures."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from runtime.core.errors import ConfigError
from runtime.parity.report.junit import to_junit
from runtime.parity.rules import DEFAULT_LIMITS, RULES, TABLES, Limit, read_limits, with_largest_drop
from runtime.parity.verdict import figure_at, judge


def report(figure: object, images: int = 1000) -> dict:
    return {
        "created_utc": "2026-01-01T00:00:00+00:00",
        "artifacts": {"reference": {"name": "float32"}, "candidate": {"name": "int8 <new>"}},
        "data": {"images": images},
        "accuracy": {"drop_pp": figure, "agreement": figure},
        "cost": {"speedup": figure},
        "missing": {"layer_error": "no interpreter shows tensors"},
    }


def outcome(rule: str, figure: object, limit: Limit, images: int = 1000) -> str:
    verdict = judge(report(figure, images), {rule: limit}, "tflite")
    (entry,) = verdict["rules"]
    assert verdict["passed"] is (entry["outcome"] != "fail")
    return entry["outcome"]


@pytest.mark.parametrize(
    ("figure", "expected"),
    [(-2, "pass"), (0.2, "pass"), (0.2001, "warn"), (0.3, "warn"), (0.3001, "fail"), (0.31, "fail")],
)
def test_a_maximum_at_its_limits(figure: float, expected: str) -> None:
    assert outcome("max_drop_pp", figure, Limit(0.3, 0.2)) == expected


@pytest.mark.parametrize(("figure", "expected"), [(0.99, "pass"), (0.97, "pass"), (0.96, "warn"), (0.9499, "fail")])
def test_a_minimum_at_its_limits(figure: float, expected: str) -> None:
    assert outcome("min_agreement", figure, Limit(0.95, 0.97)) == expected


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf"), "0.1", True])
def test_a_figure_that_is_missing_fails(missing: object) -> None:
    assert outcome("max_drop_pp", missing, Limit(100.0)) == "fail"
    assert outcome("min_speedup", missing, Limit(0.0)) == "fail"


def test_a_figure_that_was_not_measured_fails_with_its_reason() -> None:
    (entry,) = judge(report(0.1), {"min_layer_sqnr_db": Limit(-1000.0)}, "tflite")["rules"]
    assert entry["outcome"] == "fail"
    assert "not measured: no interpreter shows tensors" in entry["text"]


@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if rule.images])
def test_no_rule_passes_on_few_images_without_a_warning(rule: str) -> None:
    def filled(images: int) -> dict:
        content: dict = {"missing": {}}
        for path, value in ((RULES[rule].figure, 0.5), (str(RULES[rule].images), images)):
            *parents, last = path.split(".")
            place = content
            for key in parents:
                place = place.setdefault(key, {})
            place[last] = value
        return content

    limit = Limit(1.0 if RULES[rule].is_maximum else 0.0)
    outcomes = [judge(filled(images), {rule: limit}, "tflite")["outcome"] for images in (199, 200)]
    assert outcomes == ["warn", "pass"]


def test_a_rule_of_another_engine_is_skipped_but_not_all_rules() -> None:
    layers = Limit(6.0, None, ("tflite",))
    both = judge(report(0.1), {"max_drop_pp": Limit(0.5), "min_layer_sqnr_db": layers}, "ort")
    assert [each["outcome"] for each in both["rules"]] == ["pass", "skip"]
    assert both["outcome"] == "pass"
    assert judge(report(0.1), {"min_layer_sqnr_db": layers}, "ort")["passed"] is False


def test_a_figure_beyond_its_limit_does_not_read_as_the_limit() -> None:
    (entry,) = judge(report(0.5003), {"max_drop_pp": Limit(0.5)}, "tflite")["rules"]
    assert entry["text"] == "drop of top-1: 0.5003, required at most 0.50 pp"


def test_a_path_leads_to_finite_numbers_only() -> None:
    content = {"a": {"b": 1.5, "c": None, "d": True}, "e": [1]}
    assert figure_at(content, "a.b") == 1.5
    assert [figure_at(content, path) for path in ("a.c", "a.d", "a.x", "e.0", "a", "a.b.c")] == [None] * 6


@pytest.mark.parametrize("table", TABLES)
def test_the_default_limits_are_valid(table: str) -> None:
    limits = read_limits(DEFAULT_LIMITS, table)
    assert limits["min_accuracy_ratio"].fail == 0.99
    assert set(limits) <= set(RULES)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "schema_version` is None"),
        ("schema_version = 2", "reads version 1"),
        ("schema_version = 1", "table .quantization. has no rule"),
        ("schema_version = 1\n[quantization]", "all would pass"),
        ("schema_version = 1\n[quantisation]\n", "quantisation"),
        ("schema_version = 1\n[quantization]\nmax_drop = { fail = 1 }", "'max_drop'"),
        ("schema_version = 1\n[quantization]\nmax_drop_pp = 0.5", "`quantization.max_drop_pp` is 0.5"),
        ("schema_version = 1\n[quantization]\nmax_drop_pp = { warn = 0.5 }", "max_drop_pp.fail` is missing"),
        ("schema_version = 1\n[quantization]\nmax_drop_pp = { fail = nan }", "finite number"),
        ("schema_version = 1\n[quantization]\nmax_drop_pp = { fail = true }", "max_drop_pp.fail` is True"),
        ("schema_version = 1\n[quantization]\nmax_drop_pp = { fail = 1, wran = 1 }", "wran` is unknown"),
        ("schema_version = 1\n[quantization]\nmax_drop_pp = { fail = 0.2, warn = 0.3 }", "warn first"),
        ("schema_version = 1\n[quantization]\nmin_agreement = { fail = 0.9, warn = 0.8 }", "warn first"),
        ("schema_version = 1\n[quantization]\nmax_drop_pp = { fail = 1, engines = ['tpu'] }", "tflite, ort"),
        ("schema_version = 1\n[quantization", "Expected .]. at the end"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "parity.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        read_limits(path, "quantization")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_limits(tmp_path / "none.toml", "release")


def test_a_former_name_of_a_rule_is_read(tmp_path: Path) -> None:
    path = tmp_path / "parity.toml"
    path.write_text("schema_version = 1\n[release]\nmax_leaked_pictures = { fail = 3 }\n")
    assert read_limits(path, "release") == {"max_leaked_images": Limit(3.0)}


def test_the_largest_drop_may_be_given_separately() -> None:
    limits = {"max_drop_pp": Limit(0.5, 0.3), "min_agreement": Limit(0.9)}
    assert with_largest_drop(limits, 0.1) == limits | {"max_drop_pp": Limit(0.1)}
    assert with_largest_drop({}, 2.0) == {"max_drop_pp": Limit(2.0)}
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="0 or more"):
            with_largest_drop(limits, wrong)


def test_junit_has_one_case_per_rule() -> None:
    content = report(0.4)
    limits = {
        "max_drop_pp": Limit(0.5, 0.3),
        "min_agreement": Limit(0.9),
        "min_speedup": Limit(0.1),
        "min_layer_sqnr_db": Limit(6, None, ("ort",)),
    }
    content["verdict"] = judge(content, limits, "tflite")
    suites = ElementTree.fromstring(to_junit(content))
    assert {key: suites.get(key) for key in ("tests", "failures", "skipped", "errors")} == {
        "tests": "4",
        "failures": "1",
        "skipped": "1",
        "errors": "0",
    }
    cases = {case.get("name"): case for case in suites.iter("testcase")}
    assert list(cases) == list(limits)
    assert [case.find("failure") is not None for case in cases.values()] == [False, True, False, False]
    assert str(cases["max_drop_pp"].findtext("system-out")).startswith("warning: drop of top-1: 0.40 pp")
    assert cases["min_layer_sqnr_db"].find("skipped") is not None
    assert "int8 <new>" in str(suites.get("name"))


def test_junit_replaces_characters_that_xml_cannot_hold() -> None:
    content = report(0.4)
    content["artifacts"]["candidate"]["name"] = "a\x00b\x1b\udcff"
    content["verdict"] = judge(content, {"max_drop_pp": Limit(0.5)}, "tflite")
    assert "a?b??" in str(ElementTree.fromstring(to_junit(content)).get("name"))
