"""The ONNX Runtime engine: outputs equal NumPy's, and one clear error for each bad file."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from runtime.bundle.manifest import read_manifest, write_manifest
from runtime.core.errors import ArtifactError, DataError
from runtime.engines.engine import open_engine
from runtime.engines.onnx_runtime import may_saturate
from runtime.images.input_spec import InputSpec
from tests.support.tiny_bundle import LABELS, OUTPUTS, SIDE, expected_outputs, tiny_onnx, write_bundle

TFLITE = b"unused"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path, TFLITE, tiny_onnx())
    return tmp_path


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_outputs_are_the_models(bundle: Path, precision: str) -> None:
    engine = open_engine(bundle, precision=precision, engine="ort", threads=2)
    exact = ", exact int8 products" if may_saturate() else ""
    assert engine.name.startswith("onnxruntime ") and engine.name.endswith(f" (all graph optimizations{exact})")
    assert (engine.kind, engine.precision, engine.threads, engine.input_spec) == ("ort", precision, 2, InputSpec(SIDE))
    for seed in range(3):
        image = np.random.default_rng(seed).integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8)
        outputs = engine.run(image[:, :, ::-1])  # not contiguous
        for name, expected in expected_outputs(image[:, :, ::-1]).items():
            received = getattr(outputs, name)
            assert received.dtype == np.float32
            np.testing.assert_allclose(received, expected, atol=1e-5)


def test_a_bundle_may_have_a_name_that_is_not_utf_8(bundle: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"Stra\xdfe\n")
    shutil.copytree(bundle, odd)
    image = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    expected = open_engine(bundle, engine="ort").run(image)
    np.testing.assert_array_equal(open_engine(odd, engine="ort").run(image).logits, expected.logits)


def test_outputs_stay_valid_after_the_next_run(bundle: Path) -> None:
    engine = open_engine(bundle, engine="ort")
    outputs = engine.run(np.zeros((1, SIDE, SIDE, 3), np.uint8))
    kept = outputs.gates.copy()
    engine.run(np.full((1, SIDE, SIDE, 3), 255, np.uint8))
    np.testing.assert_array_equal(outputs.gates, kept)


@pytest.mark.parametrize("image", [np.zeros((1, SIDE, SIDE, 3), np.float32), np.zeros((1, SIDE, 8, 3), np.uint8)])
def test_refuses_another_shape_or_dtype(bundle: Path, image: Any) -> None:
    with pytest.raises(DataError, match=r"expected uint8 \[1, 16, 16, 3\]"):
        open_engine(bundle, engine="ort").run(image)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not a model " * 50, "cannot be opened as an ONNX model"),
        (tiny_onnx()[:300], "cannot be opened as an ONNX model"),
        (tiny_onnx(opset=99), "upgrade onnxruntime"),
        (tiny_onnx(image="frame"), "no tensor named 'image', only frame"),
        (tiny_onnx(gates="doors"), "no tensor named 'gates', only doors, logits, modulator"),
    ],
    ids=["text", "half", "opset", "input", "output"],
)
def test_refuses_a_bad_file_with_the_right_hash(content: bytes, reason: str, tmp_path: Path) -> None:
    write_bundle(tmp_path, TFLITE, content)
    with pytest.raises(ArtifactError, match=reason) as caught:
        open_engine(tmp_path, engine="ort")
    assert "\n" not in str(caught.value)


def test_refuses_shapes_that_contradict_the_manifest(tmp_path: Path) -> None:
    changes = {"labels": (*LABELS, "white"), "outputs": OUTPUTS | {"logits": (1, 4)}}
    write_bundle(tmp_path, TFLITE, tiny_onnx(), **changes)
    with pytest.raises(ArtifactError, match=r"tensor 'logits' is tensor\(float\) \[1, 3\], the manifest expects"):
        open_engine(tmp_path, engine="ort")


def test_refuses_a_bundle_without_onnx(tmp_path: Path) -> None:
    write_bundle(tmp_path, TFLITE)
    with pytest.raises(ArtifactError, match="no int8 artifact for ort; choose one of: float32 tflite, int8 tflite"):
        open_engine(tmp_path, engine="ort")


def test_the_manifests_first_artifact_is_the_default(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    onnx_alone = tuple(artifact for artifact in manifest.artifacts if artifact.engine == "ort")
    write_manifest(bundle, dataclasses.replace(manifest, artifacts=onnx_alone))
    assert open_engine(bundle).kind == "ort"
    with pytest.raises(ArtifactError, match="no int8 artifact for tflite; choose one of: float32 ort, int8 ort"):
        open_engine(bundle, engine="tflite")


def test_a_missing_package_names_what_to_install(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ArtifactError, match="pip install onnxruntime"):
        open_engine(bundle, engine="ort")


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "expected"),
    [
        ("x86_64", "flags\t\t: fpu avx2 avx512_vnni", False),
        ("x86_64", "flags\t\t: fpu avx2 avx_vnni", False),
        ("AMD64", "flags\t\t: fpu avx2", True),
        ("x86_64", None, True),
        ("aarch64", "Features\t: asimd", False),
    ],
)
def test_products_may_saturate_on_x86_without_vnni(
    machine: str, cpuinfo: str | None, expected: bool, tmp_path: Path
) -> None:
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert may_saturate(machine, tmp_path / "cpuinfo") is expected
