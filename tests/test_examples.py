"""The example scripts run as they are documented."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.support.paths import ROOT, SHIPPED
from tests.support.tiny_bundle import write_budget


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_classify_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "image.png"), np.full((40, 60, 3), 120, np.uint8))
    example("classify_image").main(str(tmp_path / "image.png"), str(SHIPPED))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].endswith("%")
    assert lines[-1].startswith("global gate") and lines[-1].endswith("of 8x8")


def test_stream_overlays(tmp_path: Path) -> None:
    example("stream_overlays").main("sample", str(tmp_path / "overlays.mp4"), "5", str(SHIPPED))
    video = cv2.VideoCapture(str(tmp_path / "overlays.mp4"))
    frames = 0
    while video.read()[0]:
        frames += 1
    assert frames == 5


def test_quantize_run(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_folder: Path) -> None:
    monkeypatch.setenv("DATA_DIR", str(image_folder))
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    assert example("quantize_run").main(str(run), *write_budget(tmp_path / "limits.toml", max_drop_pp=100.0)) == 0
    report = json.loads((run / "report" / "report.json").read_text())
    assert report["kind"] == "quantization"
    assert (run / "artifacts" / "int8.tflite").is_file()
