"""Read and write manifest.json; every wrong field is named."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.bundle.manifest import (
    SCHEMA_VERSION,
    AppliedScheme,
    Artifact,
    Audit,
    Manifest,
    Overlay,
    read_manifest,
    verified_file,
    write_manifest,
)
from runtime.core.errors import ArtifactError, ConfigError
from runtime.images.input_spec import InputSpec

SHA256 = hashlib.sha256(b"model").hexdigest()
# Written by hand from the contract, so that the reader is not only tested against the writer.
CONTENT: dict[str, Any] = {
    "schema_version": 3,
    "preset": "edge-nano",
    "config": {"image_size": 48},
    "input": {
        "name": "image",
        "shape": [1, 48, 48, 3],
        "dtype": "uint8",
        "colour": "RGB",
        "crop_fraction": 0.875,
        "interpolation": "bicubic",
    },
    "labels": ["cat", "dog"],
    "outputs": {"logits": [1, 2], "gates": [1, 6, 6, 3], "modulator": [1, 6, 6]},
    "overlay": {"layer": "stage1.block2", "stride_px": 8, "focal_levels": 2},
    "dataset": "pets",
    "calibration_sha256": SHA256,
    "artifacts": [
        {
            "file": "float.tflite",
            "precision": "float32",
            "engine": "tflite",
            "sha256": SHA256,
            "size_bytes": 5,
            "accuracy": {
                "dataset": "pets",
                "split": "test",
                "images": 100,
                "top1": 1,
                "fake_quant_agreement": 0.99,
            },
            "audit": {
                "interpreter": "interpreter 1.0",
                "operators": {
                    "CAST": {"uint8 -> float32": 1},
                    "CONV_2D": {"int8": 2},
                    "MUL": {"float32": 2, "int8": 1},
                },
                "delegate_partitions": 1,
                "outside_delegate": {"face": "CAST"},
                "float_operators": {"face": "CAST MUL", "stage0.block0.gated0": "MUL"},
            },
        },
        {
            "file": "int8.tflite",
            "precision": "int8",
            "engine": "tflite",
            "sha256": SHA256,
            "size_bytes": 5,
            "accuracy": None,
            "audit": None,
        },
    ],
    "tools": {"tensorflow": "2.21.0"},
    "scheme": {"name": "selective", "float_layers": ["logits"]},
}
MISSING = object()


def write_content(folder: Path, content: Any) -> None:
    (folder / "manifest.json").write_text(json.dumps(content))


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return CONTENT with the field at `path` ("artifacts.0.sha256") set to `value`, or without it."""
    content = copy.deepcopy(CONTENT)
    *parents, last = [int(key) if key.isdecimal() else key for key in path.split(".")]
    target: Any = content
    for key in parents:
        target = target[key]
    if value is MISSING:
        del target[last]
    else:
        target[last] = value
    return content


def test_reads_the_contract(tmp_path: Path) -> None:
    write_content(tmp_path, CONTENT)
    manifest = read_manifest(tmp_path)
    assert manifest.input_shape == (1, 48, 48, 3)
    assert manifest.input_spec == InputSpec(48, 0.875, "bicubic")
    assert manifest.labels == ("cat", "dog")
    assert manifest.outputs == {"logits": (1, 2), "gates": (1, 6, 6, 3), "modulator": (1, 6, 6)}
    assert manifest.overlay == Overlay("stage1.block2", 8, 2)
    assert manifest.calibration_sha256 == SHA256
    assert manifest.scheme == AppliedScheme("selective", ("logits",))
    accuracy = manifest.artifact("float32").accuracy
    assert accuracy is not None
    assert accuracy.top1 == 1.0
    assert accuracy.fake_quant_agreement == 0.99
    assert isinstance(accuracy.top1, float)
    assert manifest.artifact("float32").audit == Audit(
        interpreter="interpreter 1.0",
        operators={"CAST": {"uint8 -> float32": 1}, "CONV_2D": {"int8": 2}, "MUL": {"float32": 2, "int8": 1}},
        delegate_partitions=1,
        outside_delegate={"face": ("CAST",)},
        float_operators={"face": ("CAST", "MUL"), "stage0.block0.gated0": ("MUL",)},
    )
    assert manifest.artifact("int8") == Artifact("int8.tflite", "int8", "tflite", SHA256, 5, None, None)


def older(version: int) -> dict[str, Any]:
    """Return CONTENT as that schema version had it."""
    content = copy.deepcopy(CONTENT) | {"schema_version": version}
    accuracy = content["artifacts"][0]["accuracy"]
    accuracy["pictures"] = accuracy.pop("images")
    if version == 1:
        del content["input"]["crop_fraction"], content["input"]["interpolation"]
    return content


@pytest.mark.parametrize(("version", "spec"), [(1, InputSpec(48)), (2, InputSpec(48, 0.875, "bicubic"))])
def test_reads_older_versions(version: int, spec: InputSpec, tmp_path: Path) -> None:
    write_content(tmp_path, CONTENT)
    expected = replace(read_manifest(tmp_path), input_spec=spec)
    write_content(tmp_path, older(version))
    assert read_manifest(tmp_path) == expected


def test_reads_artifacts_without_audit(tmp_path: Path) -> None:
    write_content(tmp_path, changed("artifacts.0.audit", MISSING))
    assert read_manifest(tmp_path).artifact("float32").audit is None


@pytest.mark.parametrize("value", [MISSING, None])
def test_reads_manifests_without_scheme(value: object, tmp_path: Path) -> None:
    write_content(tmp_path, changed("scheme", value))
    assert read_manifest(tmp_path).scheme is None


def test_ignores_unknown_fields_and_outputs(tmp_path: Path) -> None:
    write_content(tmp_path, changed("outputs.evidence", [1, 2]) | {"note": "x"})
    assert list(read_manifest(tmp_path).outputs) == ["logits", "gates", "modulator"]


def test_writes_the_contract(tmp_path: Path) -> None:
    write_content(tmp_path, CONTENT)
    manifest = read_manifest(tmp_path)
    write_manifest(tmp_path / "copy", manifest)
    assert json.loads((tmp_path / "copy" / "manifest.json").read_text()) == CONTENT


def test_the_usual_input_is_written_without_crop(tmp_path: Path) -> None:
    write_content(tmp_path, older(1))
    write_manifest(tmp_path / "copy", read_manifest(tmp_path))
    written = json.loads((tmp_path / "copy" / "manifest.json").read_text())
    assert written == CONTENT | {"input": older(1)["input"]}


def test_fields_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    write_content(tmp_path, CONTENT)
    with pytest.raises(ConfigError, match=r"outputs\.logits=.* expected \(1, 3\)"):
        replace(read_manifest(tmp_path), labels=("cat", "dog", "cow"))


def test_writer_refuses_what_the_reader_would(tmp_path: Path) -> None:
    write_content(tmp_path, CONTENT)
    with pytest.raises(ArtifactError, match="field `artifacts`"):
        write_manifest(tmp_path / "copy", replace(read_manifest(tmp_path), artifacts=()))
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (SCHEMA_VERSION + 1, rf"version {SCHEMA_VERSION + 1}.*reads versions 1 to {SCHEMA_VERSION}.*upgrade"),
        (0, r"version 0.*make export"),
    ],
)
def test_unknown_versions_are_refused_before_the_fields(version: int, message: str, tmp_path: Path) -> None:
    write_content(tmp_path, changed("schema_version", version) | {"preset": 5})
    with pytest.raises(ArtifactError, match=message):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        *(key for key in CONTENT if key not in ("schema_version", "scheme")),
        *(f"scheme.{key}" for key in CONTENT["scheme"]),
        *(f"input.{key}" for key in ("name", "shape", "dtype", "colour")),
        *(f"outputs.{key}" for key in CONTENT["outputs"]),
        *(f"overlay.{key}" for key in CONTENT["overlay"]),
        *(f"artifacts.0.{key}" for key in CONTENT["artifacts"][0] if key != "audit"),
        *(f"artifacts.0.accuracy.{key}" for key in ("dataset", "split", "images", "top1")),
        *(f"artifacts.0.audit.{key}" for key in CONTENT["artifacts"][0]["audit"]),
    ],
)
def test_missing_field_is_named(tmp_path: Path, path: str) -> None:
    write_content(tmp_path, changed(path, MISSING))
    with pytest.raises(ArtifactError, match="is missing") as caught:
        read_manifest(tmp_path)
    assert f"`{path.replace('.0', '[0]')}`" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("schema_version", None, "schema_version"),
        ("schema_version", "1", "schema_version"),
        ("schema_version", True, "schema_version"),
        ("preset", 3, "preset"),
        ("config", [], "config"),
        ("input", [], "input"),
        ("input.name", "frame", "input.name"),
        ("input.dtype", "float32", "input.dtype"),
        ("input.colour", "BGR", "input.colour"),
        ("input.shape", [1, 48, 32, 3], "input.shape"),
        ("input.shape", [2, 48, 48, 3], "input.shape"),
        ("input.shape", [1, 0, 0, 3], "input.shape"),
        ("input.shape", [1, 48, 48], "input.shape"),
        ("input.shape", [1, 48.5, 48, 3], "input.shape[1]"),
        ("input.crop_fraction", 0, "input"),
        ("input.crop_fraction", 1.5, "input"),
        ("input.crop_fraction", -0.875, "input"),
        ("input.crop_fraction", float("nan"), "input.crop_fraction"),
        ("input.crop_fraction", "0.875", "input.crop_fraction"),
        ("input.crop_fraction", True, "input.crop_fraction"),
        ("input.crop_fraction", None, "input.crop_fraction"),
        ("input.interpolation", "nearest", "input.interpolation"),
        ("input.interpolation", 3, "input.interpolation"),
        ("input.interpolation", None, "input.interpolation"),
        ("labels", [], "labels"),
        ("labels", ["cat", "cat"], "labels[1]"),
        ("labels", ["cat", "\udcdf"], "labels[1]"),
        ("labels", ["cat\x1b[31m", "dog"], "labels[0]"),
        ("labels", ["cat", None], "labels[1]"),
        ("outputs.logits", [1, 3], "outputs.logits"),
        ("outputs.gates", [1, 6, 6, 2], "outputs.gates"),
        ("outputs.gates", [1, 5, 6, 3], "outputs.gates"),
        ("outputs.modulator", [6, 6], "outputs.modulator"),
        ("outputs.modulator", [1, 6, True], "outputs.modulator[2]"),
        ("overlay.stride_px", 0, "overlay.stride_px"),
        ("overlay.focal_levels", -1, "overlay.focal_levels"),
        ("calibration_sha256", "abc", "calibration_sha256"),
        ("artifacts", [], "artifacts"),
        ("artifacts", [3], "artifacts[0]"),
        ("artifacts.1.precision", "float32", "artifacts"),
        ("artifacts.1.precision", "int4", "artifacts[1].precision"),
        ("artifacts.1.engine", "cuda", "artifacts[1].engine"),
        ("artifacts.1.file", "../int8.tflite", "artifacts[1].file"),
        ("artifacts.1.file", "..", "artifacts[1].file"),
        ("artifacts.1.file", "/etc/passwd", "artifacts[1].file"),
        ("artifacts.1.sha256", SHA256[:-1], "artifacts[1].sha256"),
        ("artifacts.1.size_bytes", 0, "artifacts[1].size_bytes"),
        ("artifacts.1.size_bytes", 5.0, "artifacts[1].size_bytes"),
        ("artifacts.0.accuracy.top1", 81.0, "artifacts[0].accuracy.top1"),
        ("artifacts.0.accuracy.top1", float("nan"), "artifacts[0].accuracy.top1"),
        ("artifacts.0.accuracy.fake_quant_agreement", 1.5, "artifacts[0].accuracy.fake_quant_agreement"),
        ("artifacts.0.accuracy.images", 0, "artifacts[0].accuracy.images"),
        ("artifacts.0.audit", "fine", "artifacts[0].audit"),
        ("artifacts.0.audit.interpreter", None, "artifacts[0].audit.interpreter"),
        ("artifacts.0.audit.operators", ["MUL"], "artifacts[0].audit.operators"),
        ("artifacts.0.audit.operators.MUL", 3, "artifacts[0].audit.operators.MUL"),
        ("artifacts.0.audit.operators.MUL", {}, "artifacts[0].audit.operators.MUL"),
        ("artifacts.0.audit.operators.MUL.int8", 0, "artifacts[0].audit.operators.MUL"),
        ("artifacts.0.audit.operators.MUL.int8", True, "artifacts[0].audit.operators.MUL.int8"),
        ("artifacts.0.audit.operators.MUL.float32", 3, "artifacts[0].audit.float_operators"),
        ("artifacts.0.audit.delegate_partitions", -1, "artifacts[0].audit.delegate_partitions"),
        ("artifacts.0.audit.delegate_partitions", "1", "artifacts[0].audit.delegate_partitions"),
        ("artifacts.0.audit.outside_delegate", ["CAST"], "artifacts[0].audit.outside_delegate"),
        ("artifacts.0.audit.outside_delegate.face", ["CAST"], "artifacts[0].audit.outside_delegate.face"),
        ("artifacts.0.audit.outside_delegate.face", "CAST CAST", "artifacts[0].audit.outside_delegate"),
        ("artifacts.0.audit.outside_delegate.face", "SPLIT", "artifacts[0].audit.outside_delegate"),
        ("artifacts.0.audit.float_operators", {}, "artifacts[0].audit.float_operators"),
        ("artifacts.0.audit.float_operators.face", 2, "artifacts[0].audit.float_operators.face"),
        ("artifacts.0.audit.float_operators.face", "CAST MUL CONV_2D", "artifacts[0].audit.float_operators"),
        ("tools.tensorflow", 2.21, "tools.tensorflow"),
        ("scheme", "selective", "scheme"),
        ("scheme.name", 1, "scheme.name"),
        ("scheme.float_layers", "logits", "scheme.float_layers"),
        ("scheme.float_layers", [1], "scheme.float_layers[0]"),
    ],
)
def test_wrong_field_is_named(tmp_path: Path, path: str, value: Any, field: str) -> None:
    write_content(tmp_path, changed(path, value))
    with pytest.raises(ArtifactError, match="expected") as caught:
        read_manifest(tmp_path)
    assert f"`{field}`" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"manifest"', "\x00"])
def test_not_a_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_missing_manifest_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"does not exist.*make export"):
        read_manifest(tmp_path)


def test_missing_precision_lists_the_others(tmp_path: Path) -> None:
    write_content(tmp_path, changed("artifacts", CONTENT["artifacts"][:1]))
    with pytest.raises(ArtifactError, match=r"no int8 artifact.*float32"):
        read_manifest(tmp_path).artifact("int8")


@pytest.fixture
def bundle(tmp_path: Path) -> tuple[Path, Manifest]:
    write_content(tmp_path, CONTENT)
    (tmp_path / "int8.tflite").write_bytes(b"model")
    return tmp_path, read_manifest(tmp_path)


def test_verifies_the_file(bundle: tuple[Path, Manifest]) -> None:
    folder, manifest = bundle
    assert verified_file(folder, manifest.artifact("int8")) == folder / "int8.tflite"


@pytest.mark.parametrize("damage", [b"mOdel", b"mode", b"model\n", b""])
def test_damaged_file(bundle: tuple[Path, Manifest], damage: bytes) -> None:
    folder, manifest = bundle
    (folder / "int8.tflite").write_bytes(damage)
    with pytest.raises(ArtifactError, match=r"damaged or of another bundle"):
        verified_file(folder, manifest.artifact("int8"))


def test_missing_file(bundle: tuple[Path, Manifest]) -> None:
    folder, manifest = bundle
    with pytest.raises(ArtifactError, match=r"float\.tflite.*No such file"):
        verified_file(folder, manifest.artifact("float32"))
