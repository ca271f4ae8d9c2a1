"""`python -m export`: measured artifacts of a calibrated run, with and without fine-tuning."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import export.audit
import export.bundle
from export.__main__ import main, quantization_aware_training
from export.quantize.qat import QatConfig, QatEpoch, Validated
from export.run_files import read_run_files
from runtime.bundle.manifest import AppliedScheme, read_manifest
from runtime.core.cli import run_cli
from train.data.registry import load_dataset
from train.model.weights import read_tensors

ARTIFACTS = ("float.tflite", "int8.tflite", "float.onnx", "int8.onnx")
EPOCH = QatEpoch(epoch=0, loss=None, val=Validated(divergence_nats=0.0, agreement=1.0))


def test_writes_a_measured_bundle(tiny_export: Path) -> None:
    bundle = tiny_export / "artifacts"
    assert {path.name for path in bundle.iterdir()} == {*ARTIFACTS, "manifest.json"}
    reached = {artifact.precision: artifact.accuracy for artifact in read_manifest(bundle).artifacts}
    assert reached["float32"] is not None
    assert reached["int8"] is not None
    assert (reached["float32"].dataset, reached["float32"].split, reached["float32"].images) == (
        "blobs",
        "test",
        200,
    )
    # The labels are the float network's predictions.
    assert reached["float32"].top1 == 1.0
    assert 0.98 <= reached["int8"].top1 <= 1.0


def test_json_prints_the_manifest_only(tiny_export: Path) -> None:
    manifest = (tiny_export / "artifacts" / "manifest.json").read_text()
    assert json.loads((tiny_export / "stdout.txt").read_text()) == json.loads(manifest)


def test_fine_tunes_and_returns_to_ptq(
    tiny_run: Path,
    tiny_export: Path,
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    options = ["--run", str(run), "--data-dir", str(image_folder)]
    assert run_cli(main, [*options, "--qat-epochs", "1", "--json"]) == 0
    captured = capsys.readouterr()
    assert [each["file"] for each in json.loads(captured.out)["artifacts"]] == list(ARTIFACTS)
    assert "QAT epoch 1/1" in captured.err

    figures = json.loads((run / "qat.json").read_text())
    assert figures["recipe"]["epochs"] == 1
    assert figures["batch_size"] == 16
    assert "instead of" not in captured.err
    assert [each["epoch"] for each in figures["epochs"]] == [0, 1]
    assert all(0.5 <= each["val"]["agreement"] <= 1.0 for each in figures["epochs"])
    divergences = [each["val"]["divergence_nats"] for each in figures["epochs"]]
    assert divergences[figures["chosen_epoch"]] == min(divergences)
    floats, tuned = read_tensors(run / "float.safetensors"), read_tensors(run / "qat.safetensors")
    assert floats.keys() == tuned.keys()
    # Biases are rounded to int32, fine-tuned or not.
    changed = any(not np.array_equal(tuned[name], value) for name, value in floats.items() if name.endswith("/kernel"))
    assert changed == (figures["chosen_epoch"] == 1)
    bundle, ptq = run / "artifacts", tiny_export / "artifacts"
    assert (bundle / "float.tflite").read_bytes() == (ptq / "float.tflite").read_bytes()
    assert ((bundle / "int8.tflite").read_bytes() != (ptq / "int8.tflite").read_bytes()) == changed

    assert run_cli(main, [*options, "--qat-epochs", "0"]) == 0
    assert not (run / "qat.json").exists()
    assert not (run / "qat.safetensors").exists()
    assert (bundle / "int8.tflite").read_bytes() == (ptq / "int8.tflite").read_bytes()
    assert f"{bundle / 'int8.tflite'}  {(bundle / 'int8.tflite').stat().st_size} bytes" in capsys.readouterr().out


def test_prints_a_smaller_batch_size(
    tiny_run: Path,
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = read_run_files(Path(shutil.copytree(tiny_run, tmp_path / "run")))
    dataset = load_dataset("folder", data_dir=image_folder, image_size=files.run.image_size)
    figures = quantization_aware_training(
        files, dataset, QatConfig(), batch_size_for=lambda _, wanted: wanted - 9, fine_tune=lambda *_: [EPOCH]
    )
    assert figures["batch_size"] == 7
    assert capsys.readouterr().err == "batches of 7 instead of 16 images, so that a step fits into 8 GiB\n"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--qat-epochs", "-1"), "expected 0 epochs or more"),
        (("--qat-learning-rate", "nan"), "a positive learning rate"),
        (("--run", "/nowhere"), "/nowhere/config.json does not exist; make it with `python -m train`"),
        (("--data-dir", "/nowhere"), "/nowhere is not a folder"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(
    tiny_run: Path,
    image_folder: Path,
    options: tuple[str, ...],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--run", str(tiny_run), "--data-dir", str(image_folder), *options]
    assert run_cli(main, given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert complaint in line
    assert not (tiny_run / "artifacts").exists()


def test_a_run_without_calibration_is_refused(
    tiny_run: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    (run / "calibration.json").unlink()
    assert run_cli(main, ["--run", str(run), "--data-dir", str(image_folder)]) == 2
    assert "make it with `python -m calibration`" in capsys.readouterr().err


@pytest.mark.slow
def test_float_layers_are_recorded_and_reproduced(
    tiny_run: Path, tiny_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, layers = Path(shutil.copytree(tiny_run, tmp_path / "run")), ["stage0.block0.gate0", "logits"]
    options = ["--run", str(run), "--qat-epochs", "0"]
    assert run_cli(main, [*options, "--scheme", "selective", "--float-layers", *layers]) == 0
    assert json.loads((run / "scheme.json").read_text()) == {"scheme": "selective", "float_layers": layers}
    bundle = run / "artifacts"
    manifest = read_manifest(bundle)
    assert manifest.scheme == AppliedScheme("selective", tuple(layers))
    audit = manifest.artifact("int8").audit
    assert audit is not None
    assert audit.operators["CONV_2D"] == {"float32": 2, "int8": 18}
    before = (bundle / "int8.tflite").read_bytes()
    assert before != (tiny_export / "artifacts" / "int8.tflite").read_bytes()
    assert export.audit.main(["--bundle", str(bundle)]) == 0

    shipped = tmp_path / "shipped"
    for source in (run, shipped):
        assert run_cli(export.bundle.main, ["--source", str(source), "--out", str(shipped)]) == 0
        assert (shipped / "int8.tflite").read_bytes() == before
        assert (shipped / "scheme.json").read_bytes() == (run / "scheme.json").read_bytes()
    assert read_manifest(shipped).scheme == manifest.scheme


def test_by_default_no_layer_is_left_in_float(tiny_export: Path) -> None:
    assert json.loads((tiny_export / "scheme.json").read_text()) == {"scheme": "selective", "float_layers": []}
    assert read_manifest(tiny_export / "artifacts").scheme == AppliedScheme("selective", ())


def test_a_refused_layer_leaves_the_run_unchanged(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in tiny_run.iterdir())
    assert run_cli(main, ["--run", str(tiny_run), "--qat-epochs", "0", "--float-layers", "head.pool"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: received head.pool to leave in float; expected int8 products of this network")
    assert sorted(path.name for path in tiny_run.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["integer-only", "dynamic"])
def test_the_other_schemes_are_fine_tuned_converted_and_measured(
    scheme: str, tiny_run: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    options = ["--run", str(run), "--data-dir", str(image_folder), "--qat-epochs", "1"]
    assert run_cli(main, [*options, "--scheme", scheme]) == 0
    figures = json.loads((run / "qat.json").read_text())
    assert all(0.5 <= each["val"]["agreement"] <= 1.0 for each in figures["epochs"])
    manifest = read_manifest(run / "artifacts")
    assert manifest.scheme == AppliedScheme(scheme, ())
    accuracy = manifest.artifact("int8").accuracy
    assert accuracy is not None
    assert accuracy.top1 > 0.8
    assert accuracy.fake_quant_agreement is not None
    assert f"{accuracy.fake_quant_agreement:.2%} as the fake-quantized network" in capsys.readouterr().out
    assert export.audit.main(["--bundle", str(run / "artifacts")]) == 0


@pytest.mark.slow
def test_the_dynamic_scheme_needs_no_calibration(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    (run / "calibration.json").unlink()
    assert run_cli(main, ["--run", str(run), "--qat-epochs", "0", "--scheme", "dynamic"]) == 0
    assert read_manifest(run / "artifacts").calibration_sha256 is None


def test_integer_only_has_no_float_layers(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--run", str(tiny_run), "--qat-epochs", "0", "--scheme", "integer-only", "--float-layers", "logits"]
    assert run_cli(main, options) == 2
    assert "expected none with scheme 'integer-only'" in capsys.readouterr().err
