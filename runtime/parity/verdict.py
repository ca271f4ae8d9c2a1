"""The verdict: every rule with its figure, its limit and its outcome."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from runtime.parity.rules import RULES, Limit, Limits, Rule

PASS, WARN, FAIL, SKIP = "pass", "warn", "fail", "skip"
# With fewer images, half a percentage point is less than one image.
FEWEST_IMAGES = 200


def judge(report: Mapping[str, Any], limits: Limits, engine: str) -> dict[str, Any]:
    """Judge a report.

    Args:
        report: the content of report.json.
        limits: the limits by rule.
        engine: the candidate's.

    Returns:
        `verdict` of report.json: the outcome, whether it passed, and one entry a rule.
    """
    rules = [_apply(report, name, limit, engine) for name, limit in limits.items()]
    outcomes = {rule["outcome"] for rule in rules}
    outcome = next((each for each in (FAIL, WARN) if each in outcomes), PASS)
    # All rules are for other engines, so nothing was checked.
    if outcomes == {SKIP}:
        outcome = FAIL
    return {"outcome": outcome, "passed": outcome != FAIL, "rules": rules}


def figure_at(report: Mapping[str, Any], path: str) -> float | None:
    """Return the finite number at a path such as `"accuracy.drop_pp"`, else `None`."""
    value: Any = report
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def not_measured(report: Mapping[str, Any], path: str) -> str:
    """Return "not measured: " and the reason that the report gives for a figure or its section."""
    reasons, parts = report.get("missing", {}), path.split(".")
    places = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    reason = next((reasons[place] for place in places if place in reasons), "the comparison did not give it")
    return f"not measured: {reason}"


def _apply(report: Mapping[str, Any], name: str, limit: Limit, engine: str) -> dict[str, Any]:
    rule = RULES[name]
    figure = figure_at(report, rule.figure)
    entry = {"rule": name, "figure": figure, "figure_at": rule.figure, "fail": limit.fail, "warn": limit.warn}
    if engine not in limit.engines:
        return entry | {"outcome": SKIP, "text": f"{rule.title}: not required of {engine}"}
    required = f"{'at most' if rule.is_maximum else 'at least'} {rule.form.format(limit.fail)}"
    if figure is None:
        text = f"{rule.title}: {not_measured(report, rule.figure)}; required {required}"
        return entry | {"outcome": FAIL, "text": text}
    outcome, text = _outcome(rule, figure, limit), f"{rule.title}: {_written(rule, figure, limit)}, required {required}"
    if outcome == WARN and limit.warn is not None:
        text += f", better {'at most' if rule.is_maximum else 'at least'} {rule.form.format(limit.warn)}"
    images = None if rule.images is None else figure_at(report, rule.images)
    if outcome == PASS and rule.images is not None and (images or 0) < FEWEST_IMAGES:
        outcome, text = WARN, f"{text}; on {images or 0} images only, expected {FEWEST_IMAGES} or more"
    return entry | {"outcome": outcome, "text": text}


def _outcome(rule: Rule, figure: float, limit: Limit) -> str:
    if _beyond(rule, figure, limit.fail):
        return FAIL
    return WARN if limit.warn is not None and _beyond(rule, figure, limit.warn) else PASS


def _beyond(rule: Rule, figure: float, limit: float) -> bool:
    return figure > limit if rule.is_maximum else figure < limit


def _written(rule: Rule, figure: float, limit: Limit) -> str:
    """Write a figure, with more digits where it would read as a limit that it is beyond."""
    text = rule.form.format(figure)
    limits = [each for each in (limit.fail, limit.warn) if each is not None]
    hides = any(text == rule.form.format(each) and figure != each for each in limits)
    return f"{figure:.6g}" if hides else text
