"""The cold start command: its figures, as text and as JSON, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.cold_start import ColdStart, main, measure_cold_start
from runtime.core.cli import run_cli
from runtime.core.errors import ConfigError
from runtime.evaluation.fresh_process import FreshProcess
from tests.support.paths import SHIPPED


def test_figures_are_of_the_measured_starts() -> None:
    measured = (FreshProcess("", 100.0 * i, 10.0 * i, (50 + i) * 10**6) for i in range(1, 6))
    starts = iter([FreshProcess("", 9_000.0, 800.0, 900 * 10**6), *measured])
    assert measure_cold_start([], 5, run=lambda *_: next(starts)) == ColdStart(5, 100.0, 300.0, 460.0, 30.0, 55.0)
    with pytest.raises(ConfigError, match="received 0 starts"):
        measure_cold_start([], 0)


def test_json_has_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Any] = []

    def measure(arguments: Sequence[str], starts: int) -> ColdStart:
        seen.append((Path(arguments[0]).is_file(), arguments[1:], starts))
        return ColdStart(starts, 200.0, 250.0, 300.0, 150.0, 80.0)

    assert main(["--bundle", "b", "--engine", "ort", "--starts", "3", "--json"], measure=measure) == 0
    assert json.loads(capsys.readouterr().out) == {
        "starts": 3,
        "first_min_ms": 200.0,
        "first_p50_ms": 250.0,
        "first_p90_ms": 300.0,
        "cpu_p50_ms": 150.0,
        "peak_rss_mb": 80.0,
    }
    assert seen == [(True, ["--bundle", "b", "--precision", "int8", "--engine", "ort"], 3)]


@pytest.mark.parametrize("option", ["--image", "--picture"])
def test_a_missing_image_is_one_line(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert run_cli(main, [option, "/nowhere.png"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no image /nowhere.png")


def test_the_command_measures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(SHIPPED), "--starts", "1"]) == 0
    out = capsys.readouterr().out
    assert "first classification p50" in out
    assert "MB" in out
