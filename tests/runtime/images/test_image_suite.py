"""The command behind `make test-images`: counts, and the faults that it is for."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.core.cli import run_cli
from tests.support import image_suite
from tests.support.image_files import encode, scene


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "sound.jpg").write_bytes(encode(scene(), "JPEG"))
    (tmp_path / "cut.jpg").write_bytes(encode(scene(), "JPEG")[:1500])
    (tmp_path / "text").write_text("no image")
    return tmp_path


def test_sound_and_refused_files_are_counted(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert image_suite.main([str(files)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "3 files: 1 equal, 2 refused, 0 differs, 0 crashed"
    assert sorted(lines[:-1]) == ["    1 cut short", "    1 not an image of a known format"]


def _crash(*_: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)  # SIGSEGV would print the stack of pytest


def _raise(*_: Any) -> Any:
    raise ValueError("a traceback")


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        (_crash, "crashed: {path}: signal 9"),
        (_raise, "crashed: {path}: exit code 1"),
        (lambda *_: np.zeros((32, 32, 3), np.uint8), "differs: {path}: training pixels"),
        (lambda *_: "cut short", "differs: {path}: training refused: cut short, classify pixels"),
    ],
)
def test_a_crash_and_a_difference_are_found(
    fault: Any, verdict: str, files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_suite, "by_training", fault)
    assert image_suite.main([str(files / "deep")]) == 1
    assert verdict.format(path=files / "deep" / "sound.jpg") in capsys.readouterr().out


def test_a_folder_without_files_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(image_suite.main, [str(tmp_path)]) == 2
    assert "has no files; give a folder of image files" in capsys.readouterr().err
