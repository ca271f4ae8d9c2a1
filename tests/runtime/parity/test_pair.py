"""Names of two compared artifacts."""

from __future__ import annotations

import shutil
from pathlib import Path

from runtime.parity.pair import open_any
from tests.support.paths import SHIPPED


def test_two_artifacts_are_named_by_the_first_difference(tmp_path: Path) -> None:
    def names(first: Path, second: Path, engine: str | None = None) -> list[str]:
        return [each.name for each in open_any(first, second, engine, 1).artifacts.values()]

    copies = [Path(shutil.copytree(SHIPPED, tmp_path / folder)) for folder in ("old", "new", "other/new")]
    assert names(copies[0], copies[0] / "float.tflite") == ["int8.tflite", "float.tflite"]
    assert names(copies[0], copies[1]) == ["old", "new"]
    assert names(copies[0], copies[1] / "int8.onnx") == ["old/int8.tflite", "new/int8.onnx"]
    assert names(copies[1], copies[2]) == [str(copies[1] / "int8.tflite"), str(copies[2] / "int8.tflite")]
    assert names(copies[0], copies[1] / "int8.onnx", "ort") == ["old", "new"]
