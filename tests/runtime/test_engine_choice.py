"""The engine_choice command on a real bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.core.cli import run_cli
from runtime.engine_choice import choose_engine, main
from tests.support.tiny_bundle import write_bundle


@pytest.fixture
def bundle(tiny_model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_bundle(tmp_path / "real", tiny_model)
    return tmp_path / "real"


def test_the_command_measures_once(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(bundle), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["cached"] is False
    assert {row["precision"] for row in content["measured"]} == {"float32", "int8"}
    assert all(0 < row["min_ms"] <= row["p50_ms"] <= row["p90_ms"] for row in content["measured"])
    assert main(["--bundle", str(bundle)]) == 0
    text = capsys.readouterr().out
    assert "measured earlier on this machine" in text
    assert text.count("tflite") >= len(content["measured"])


def test_the_choice_is_logged(bundle: Path) -> None:
    logged: list[str] = []
    engine, precision, threads = choose_engine(bundle, log=logged.append)
    chosen = f"{precision} {engine}, {threads} thread{'s' if threads > 1 else ''}"
    assert logged[-1] == f"chosen: {chosen}"
    assert any(line.startswith(f"{chosen}: p50 ") for line in logged)


def test_a_missing_bundle_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(main, ["--bundle", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
