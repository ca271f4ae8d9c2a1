"""The benchmark command: figures as a table and as JSON, and what it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.benchmark import main
from runtime.core.cli import run_cli
from tests.support.clocked_engine import Clock, ClockedEngine


class SleepingEngine(ClockedEngine):
    """Takes the given times on the real clock."""

    def run(self, image: Any) -> Any:
        time.sleep(self.times_ms[0] / 1e3)
        return super().run(image)


def open_fake(_: Path, *, precision: str, engine: str | None, threads: int) -> ClockedEngine:
    times_ms: dict[str, list[float]] = {"float32": [4.0], "int8": [1.0]}
    return SleepingEngine(precision, Clock(), times_ms[precision], threads=threads)


def run(argv: Sequence[str] | None) -> int:
    return main(argv, open_with=open_fake)


def test_the_command_prints_figures_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--bundle", "b", "--rounds", "5", "--threads", "2", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["engine"], figures["threads"], figures["rounds"]) == ("clocked 1.0", 2, 5)
    for precision, least_ms in (("float32", 4.0), ("int8", 1.0)):
        latency = figures[precision]
        assert list(latency) == ["p50_ms", "p90_ms", "min_ms"]
        assert least_ms <= latency["min_ms"] <= latency["p50_ms"] <= latency["p90_ms"]
    assert figures["speedup"] == pytest.approx(figures["float32"]["p50_ms"] / figures["int8"]["p50_ms"])


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--bundle", "b", "--rounds", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "clocked 1.0, 1 thread(s), 5 rounds, ms per image"
    assert [line.split()[0] for line in lines[1:]] == ["p50", "float32", "int8", "int8"]
    assert "times as fast as float32" in lines[-1]


@pytest.mark.parametrize("wrong", [["--threads", "0"], ["--rounds", "0"]])
def test_the_command_refuses_bad_numbers(capsys: pytest.CaptureFixture[str], wrong: list[str]) -> None:
    assert run_cli(run, ["--bundle", "b", *wrong]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_the_command_names_a_bundle_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(main, ["--bundle", str(tmp_path / "none")]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err


@pytest.mark.parametrize(("what", "module"), [("pipeline", "soak"), ("cold-start", "cold_start")])
def test_the_command_measures_a_pipeline_and_a_cold_start_too(
    monkeypatch: pytest.MonkeyPatch, what: str, module: str
) -> None:
    received: list[str] = []
    monkeypatch.setattr(f"runtime.{module}.main", lambda argv: received.extend(argv) or 7)
    assert main(["--bundle", "b", "--what", what, "--engine", "ort", "--json"]) == 7
    assert received[:5] == ["--bundle", "b", "--engine", "ort", "--json"]
