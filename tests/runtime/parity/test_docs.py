"""The parity guide documents every rule and every field of report.json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.parity.rules import RULES
from tests.support.paths import ROOT

WORDS = set(re.findall(r"`([a-z0-9_.\[\]]+)`", (ROOT / "docs" / "guides" / "parity.md").read_text(encoding="utf-8")))
NAMES = {part for word in WORDS for part in re.split(r"[.\[\]]+", word)}
REPORTS = sorted((ROOT / "models").glob("*/report.json"))


def keys(value: Any, at: str = "") -> Iterator[str]:
    if isinstance(value, list):
        for each in value:
            yield from keys(each, at)
    elif isinstance(value, dict) and at != "missing":
        for key, each in value.items():
            yield key
            yield from keys(each, key)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_documented(rule: str) -> None:
    assert rule in WORDS


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.parent.name)
def test_every_field_of_a_report_is_documented(path: Path) -> None:
    report = json.loads(path.read_text())
    assert {*keys(report)} - NAMES - {"low", "high"} == set()


def test_an_undocumented_field_would_be_found() -> None:
    assert set(keys({"accuracy": [{"undocumented": 1}], "missing": {"cost.x": "y"}})) - NAMES == {"undocumented"}
