"""`--engine ort` in all commands that open an artifact, on an exported bundle."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import runtime.benchmark
import runtime.camera_demo
import runtime.compare
from runtime.bundle.manifest import read_manifest, write_manifest
from runtime.core.cli import run_cli
from runtime.core.files import sha256_of
from tests.support.tiny_bundle import write_budget


def negate_the_heads_kernel(bundle: Path) -> None:
    """Damage int8.onnx, and update the manifest to it."""
    path = bundle / "int8.onnx"
    model = onnx.load(str(path))
    makers = {node.output[0]: node for node in model.graph.node}
    (head,) = [node for node in model.graph.node if node.name == "logits/Gemm"]
    (kernel,) = [each for each in model.graph.initializer if each.name == makers[head.input[1]].input[0]]
    kernel.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(kernel), kernel.name))
    onnx.save(model, str(path))
    manifest = read_manifest(bundle)
    artifacts = tuple(
        dataclasses.replace(each, sha256=sha256_of(bundle / each.file), size_bytes=(bundle / each.file).stat().st_size)
        for each in manifest.artifacts
    )
    write_manifest(bundle, dataclasses.replace(manifest, artifacts=artifacts))


@pytest.mark.parametrize("damaged", [False, True])
def test_compare_passes_a_sound_artifact_and_fails_a_damaged_one(
    damaged: bool, tiny_export: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(tiny_export / "artifacts", tmp_path / "bundle"))
    if damaged:
        negate_the_heads_kernel(bundle)
    options = ["--bundle", str(bundle), "--data", str(tiny_export / "test.npz"), "--out", str(tmp_path / "report")]
    options += write_budget(tmp_path / "parity.toml", max_drop_pp=0.5, max_non_finite=0)
    assert run_cli(runtime.compare.main, [*options, "--engine", "ort"]) == int(damaged)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    reference, candidate = (report["artifacts"][role] for role in ("reference", "candidate"))
    assert candidate["interpreter"].startswith("onnxruntime ")
    assert (reference["file"], candidate["file"]) == ("float.onnx", "int8.onnx")
    assert report["cost"]["candidate"]["size_bytes"] == (bundle / "int8.onnx").stat().st_size
    assert report["accuracy"]["reference"]["top1"] == 1.0
    assert "TFLite" in report["missing"]["layer_error"]
    assert (report["accuracy"]["drop_pp"] > 5.0) is damaged
    assert run_cli(runtime.compare.main, options) == 0, "TFLite's artifacts are sound"


def test_benchmark(tiny_export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--bundle", str(tiny_export / "artifacts"), "--rounds", "3", "--json", "--engine", "ort"]
    assert run_cli(runtime.benchmark.main, options) == 0
    assert json.loads(capsys.readouterr().out)["engine"].startswith("onnxruntime ")


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_camera_demo(precision: str, tiny_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--bundle", str(tiny_export / "artifacts"), "--source", "sample", "--headless", "--max-frames", "3"]
    output = tmp_path / "panel.png"
    options += ["--output", str(output), "--json", "--precision", precision, "--engine", "ort"]
    assert run_cli(runtime.camera_demo.main, options) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["engine"].startswith("onnxruntime ") and summary["precision"] == precision
    assert summary["non_finite_frames"] == 0 and output.stat().st_size > 0


def test_the_manifest_describes_both_formats(tiny_export: Path) -> None:
    manifest = read_manifest(tiny_export / "artifacts")
    floats = [manifest.artifact("float32", engine).accuracy for engine in ("tflite", "ort")]
    assert floats[0] == floats[1]
    int8 = manifest.artifact("int8", "ort").accuracy
    assert int8 is not None and int8.fake_quant_agreement is not None
    assert int8.top1 == pytest.approx(manifest.artifact("int8").accuracy.top1, abs=0.02)  # type: ignore[union-attr]
    assert int8.fake_quant_agreement >= 0.97
    assert np.isfinite(int8.top1)
