"""Networks too large for an artifact are refused before any work."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import export.__main__
import export.bench.__main__
import export.bundle
import export.run_files
from export.quantize import size_limit
from export.quantize.size_limit import check_parameters_fit, check_weights_fit, count_parameters
from runtime.core.cli import run_cli
from runtime.core.errors import ArtifactError, ConfigError
from train.model.weights import read_tensors, write_tensors


def test_two_gib_of_float32_is_the_limit() -> None:
    check_parameters_fit(1 << 29)
    with pytest.raises(ConfigError, match=r"700,000,000 parameters, 2\.80 GB as float32; expected at most 2\.15 GB"):
        check_parameters_fit(700_000_000)
    with pytest.raises(ConfigError):
        check_parameters_fit((1 << 29) + 1)


def test_parameters_are_counted_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "float.safetensors"
    write_tensors(path, {"a/kernel": np.zeros((2, 3, 5), np.float32), "a/bias": np.zeros(5, np.float32)})
    assert count_parameters(path) == 35


@pytest.mark.parametrize("content", [None, b"", b"no safetensors"])
def test_a_damaged_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "float.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"float\.safetensors (does not exist|is not a whole safetensors file)"):
        check_weights_fit(path)


@pytest.mark.parametrize("command", ["export", "bundle"])
def test_the_commands_refuse_before_any_work(
    command: str, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    count = sum(value.size for value in read_tensors(run / "float.safetensors").values())
    monkeypatch.setattr(size_limit, "LIMIT_BYTES", 1000)
    monkeypatch.setattr(export.run_files, "build_float", None)
    if command == "export":  # refused before it reads images
        assert run_cli(export.__main__.main, ["--run", str(run), "--data-dir", "/nowhere"]) == 2
    else:
        assert run_cli(export.bundle.main, ["--source", str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: received a network of {count:,} parameters, ")
    assert line.endswith("at most 0.00 GB, as neither a TFLite nor an ONNX file can be larger: take a smaller network")
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_the_benchmark_refuses_a_large_preset_before_building_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(export.bench.__main__.main, ["--preset", "focalnet_huge_fl3", "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: received a network of ")
    assert not list(tmp_path.iterdir())
