"""Bundles: manifest, rebuilt artifacts, and damage that `runtime.compare` detects."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import runtime.compare
from calibration.calibration_file import read_calibration
from export.artifacts import describe_latencies, latency_warning, measure_accuracy, write_artifacts
from export.bundle import main
from export.run_files import copy_sources, read_run_files
from runtime.bundle.manifest import Overlay, read_manifest, write_manifest
from runtime.core.cli import run_cli
from runtime.core.files import sha256_of
from runtime.engines.engine import open_engine
from runtime.evaluation.split_file import LabelledImages, read_split
from runtime.evaluation.timing import Latency
from tests.support.paths import ROOT
from tests.support.tiny_bundle import write_budget
from tests.support.tiny_run import CLASSES, run_artifact
from train.model.weights import read_tensors, write_tensors

ARTIFACTS = ("float.tflite", "int8.tflite", "float.onnx", "int8.onnx")


@pytest.fixture(scope="module")
def bundle(tiny_export: Path) -> Path:
    return tiny_export / "artifacts"


@pytest.fixture(scope="module")
def images(tiny_export: Path) -> LabelledImages:
    return read_split(tiny_export / "test.npz")


def predictions(path: Path, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    if path.suffix == ".tflite":
        return run_artifact(path.read_bytes(), images)["logits"].argmax(axis=-1)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.array([session.run(["logits"], {"image": each[np.newaxis]})[0].argmax() for each in images])


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_runtime_opens_it(precision: str, bundle: Path, images: LabelledImages, tiny_float: Any) -> None:
    outputs = open_engine(bundle, precision=precision).run(images.images[:1])
    assert (outputs.logits.shape, outputs.gates.shape, outputs.modulator.shape) == ((3,), (8, 8, 3), (8, 8))
    expected = tiny_float.predict_on_batch(images.images[:1].astype(np.float32))[0]
    assert outputs.logits.argmax() == expected.argmax()


def test_the_manifest_describes_it(bundle: Path, tiny_export: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.preset == "tiny"
    assert manifest.config["dims"] == [8, 16]
    assert manifest.input_shape == (1, 16, 16, 3)
    assert manifest.labels == CLASSES
    assert manifest.outputs == {"logits": (1, 3), "gates": (1, 8, 8, 3), "modulator": (1, 8, 8)}
    assert manifest.overlay == Overlay("stage0.block0", 2, 2)
    assert manifest.dataset == "folder"
    assert manifest.calibration_sha256 == read_calibration(tiny_export).sha256
    assert manifest.tools["tensorflow"].startswith("2.")
    assert [(artifact.file, artifact.precision) for artifact in manifest.artifacts] == [
        ("float.tflite", "float32"),
        ("int8.tflite", "int8"),
        ("float.onnx", "float32"),
        ("int8.onnx", "int8"),
    ]
    for artifact in manifest.artifacts:
        assert artifact.sha256 == sha256_of(bundle / artifact.file)
        assert artifact.size_bytes == (bundle / artifact.file).stat().st_size


def test_accuracy_is_an_independent_count(
    bundle: Path, tiny_export: Path, tiny_fake_quant: Any, images: LabelledImages, tmp_path: Path
) -> None:
    shutil.copytree(bundle, tmp_path, dirs_exist_ok=True)
    labels = images.labels.copy()
    labels[::4] = (labels[::4] + 1) % 3
    relabelled = dataclasses.replace(images, labels=labels, dataset="other", split="val")
    manifest = measure_accuracy(read_run_files(tiny_export), tmp_path, relabelled)
    assert manifest == read_manifest(tmp_path)
    for artifact in manifest.artifacts:
        assert artifact.accuracy is not None
        count = int((predictions(tmp_path / artifact.file, images.images) == labels).sum())
        assert artifact.accuracy.top1 == pytest.approx(count / 200)
        assert dataclasses.astuple(artifact.accuracy)[:3] == ("other", "val", 200)
    assert manifest.artifact("float32").accuracy.top1 == 0.75  # type: ignore[union-attr]
    simulated = tiny_fake_quant.predict_on_batch(images.images.astype(np.float32)).argmax(axis=-1)
    for artifact in manifest.artifacts:
        same = None
        if artifact.precision == "int8":
            same = (predictions(tmp_path / artifact.file, images.images) == simulated).mean()
            assert 0.97 < same <= 1.0
        assert artifact.accuracy.fake_quant_agreement == same  # type: ignore[union-attr]


@pytest.mark.slow
def test_an_accuracy_is_kept_for_the_same_bytes_only(tiny_export: Path, bundle: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_export, tmp_path / "run"))
    target = run / "artifacts"
    # Weights as of another fine-tuning.
    weights = read_tensors(run / "float.safetensors")
    weights["logits/kernel"] = np.roll(weights["logits/kernel"], 1, axis=-1)
    write_tensors(run / "qat.safetensors", weights)
    before, after = read_manifest(bundle), write_artifacts(read_run_files(run), target)
    assert (target / "float.tflite").read_bytes() == (bundle / "float.tflite").read_bytes()
    assert after.artifact("float32") == before.artifact("float32")
    assert before.artifact("int8").accuracy is not None
    assert after.artifact("int8").sha256 != before.artifact("int8").sha256
    assert after.artifact("int8").accuracy is None
    assert compare(target, run / "test.npz", tmp_path / "report") == 1


@pytest.mark.slow
def test_rebuilt_in_another_folder_and_process(
    tiny_export: Path, bundle: Path, images: LabelledImages, tmp_path: Path
) -> None:
    target = tmp_path / "models" / "mine"
    finished = subprocess.run(
        [sys.executable, "-m", "export.bundle", "--source", str(tiny_export), "--out", str(target)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr
    assert "AutoGraph" not in finished.stderr
    for name in ARTIFACTS:
        assert str(target / name) in finished.stdout
        found = predictions(target / name, images.images)
        np.testing.assert_array_equal(found, predictions(bundle / name, images.images))
        assert (target / name).read_bytes() == (bundle / name).read_bytes()
    assert "blobs test top-1 100.00%" in finished.stdout
    assert finished.stdout.count("delegate partitions: 1, operators outside: ") == 2
    assert "times as fast as float32 on this machine" in finished.stdout.splitlines()[-1]
    # It has all files to rebuild it from, and no test images.
    for name in ("config.json", "float.safetensors", "calibration.json"):
        assert (target / name).read_bytes() == (tiny_export / name).read_bytes()
    assert not (target / "test.npz").exists()


def test_the_report_is_copied_and_stale_weights_are_deleted(tiny_run: Path, tmp_path: Path) -> None:
    run, target = Path(shutil.copytree(tiny_run, tmp_path / "run")), tmp_path / "bundle"
    (run / "report").mkdir()
    (run / "report" / "report.json").write_text("{}")
    training = {"train.json", "history.csv", "curves.png"}
    for name in training:
        (run / name).write_text(name)
    shutil.copy(run / "float.safetensors", run / "qat.safetensors")
    copy_sources(run, target)
    names = {"config.json", "float.safetensors", "qat.safetensors", "calibration.json", "report.json", *training}
    assert {path.name for path in target.iterdir()} == names
    (run / "qat.safetensors").unlink()
    copy_sources(run, target)
    assert {path.name for path in target.iterdir()} == names - {"qat.safetensors"}


@pytest.mark.parametrize(("float32_ms", "int8_ms", "warned"), [(2.0, 1.0, False), (1.0, 1.0, True), (1.0, 1.5, True)])
def test_warns_if_int8_is_not_faster(float32_ms: float, int8_ms: float, warned: bool) -> None:
    # The other figures say the opposite, and have no effect.
    float32, int8 = Latency(float32_ms, int8_ms, int8_ms), Latency(int8_ms, float32_ms, float32_ms)
    warning = latency_warning(float32, int8, "tflite")
    assert (warning is not None) is warned
    if warning is not None:
        assert f"p50 {int8_ms:.2f} against {float32_ms:.2f} ms" in warning
        assert "python -m export.audit" in warning
    assert f"tflite: int8 is {float32_ms / int8_ms:.2f} times as fast" in describe_latencies(float32, int8, "tflite")


def remove(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).unlink()


def cut(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:200])


def strange_qat(run: Path) -> None:
    weights = read_tensors(run / "float.safetensors")
    write_tensors(run / "qat.safetensors", {name: v for name, v in weights.items() if name != "logits/bias"})


def damaged_qat(run: Path) -> None:
    (run / "qat.safetensors").write_bytes(b"no weights at all")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (remove("calibration.json"), "calibration.json does not exist; make it with `python -m calibration`"),
        (remove("float.safetensors"), "float.safetensors does not exist; make it with `python -m train`"),
        (remove("config.json"), "config.json does not exist; make it with `python -m train`"),
        (cut("float.safetensors"), "float.safetensors is not a whole safetensors file"),
        (cut("calibration.json"), "calibration.json is not readable JSON"),
        (damaged_qat, "qat.safetensors is not a whole safetensors file"),
        (strange_qat, "qat.safetensors does not fit the model: missing logits/bias"),
    ],
)
def test_a_damaged_source_is_one_line_and_exit_code_2(
    damage: Callable[[Path], None],
    complaint: str,
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    damage(run)
    assert run_cli(main, ["--source", str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert complaint in line
    assert not list(run.glob("*.tflite"))


def test_two_sources_for_one_bundle_are_refused(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(main, ["--source", str(tiny_run), str(tiny_run), "--out", str(tmp_path / "b")]) == 2
    assert "received 2 sources for the one bundle" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def compare(bundle: Path, data: Path, out: Path) -> int:
    out.mkdir(exist_ok=True)
    budget = write_budget(out / "parity.toml", max_drop_pp=0.5, max_non_finite=0)
    options = ["--bundle", str(bundle), "--data", str(data), "--out", str(out), "--no-html", *budget]
    return run_cli(runtime.compare.main, options)


def rewrite_int8(bundle: Path, damage: Callable[[Any], None]) -> None:
    """Damage the int8 artifact's flatbuffer, and update the manifest to it."""
    from tensorflow.lite.tools import flatbuffer_utils

    path = bundle / "int8.tflite"
    model = flatbuffer_utils.read_model(str(path))
    damage(model)
    path.write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    manifest = read_manifest(bundle)
    artifacts = tuple(
        dataclasses.replace(
            artifact,
            sha256=sha256_of(bundle / artifact.file),
            size_bytes=(bundle / artifact.file).stat().st_size,
        )
        for artifact in manifest.artifacts
    )
    write_manifest(bundle, dataclasses.replace(manifest, artifacts=artifacts))


def convolution_kernels(model: Any) -> list[Any]:
    """Return the flatbuffer tensors of the convolutions' kernels, in the order of the graph."""
    graph = model.subgraphs[0]
    kinds = [code.builtinCode for code in model.operatorCodes]
    return [graph.tensors[operator.inputs[1]] for operator in graph.operators if kinds[operator.opcodeIndex] == 3]


def kernels_by_outputs(model: Any, channels: int) -> list[Any]:
    return [tensor for tensor in convolution_kernels(model) if tensor.shape[0] == channels]


def leave(model: Any) -> None:
    pass


def negate_the_heads_kernel(model: Any) -> None:
    (kernel,) = kernels_by_outputs(model, len(CLASSES))
    data = np.array(model.buffers[kernel.buffer].data, dtype=np.uint8).view(np.int8)
    model.buffers[kernel.buffer].data = (-data).view(np.uint8)


def scale_the_first_class(model: Any) -> None:
    graph, bias_of = model.subgraphs[0], {}
    for operator in graph.operators:
        if len(operator.inputs) == 3:
            bias_of[operator.inputs[1]] = graph.tensors[operator.inputs[2]]
    (place,) = [i for i, tensor in enumerate(graph.tensors) if i in bias_of and tensor.shape[0] == len(CLASSES)]
    # Interpreters check that bias and kernel scales fit.
    for tensor in (graph.tensors[place], bias_of[place]):
        tensor.quantization.scale = [4.0 * tensor.quantization.scale[0], *tensor.quantization.scale[1:]]


def zero_the_embedding(model: Any) -> None:
    kernel = convolution_kernels(model)[0]
    model.buffers[kernel.buffer].data = np.zeros_like(model.buffers[kernel.buffer].data)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (leave, 0),
        (negate_the_heads_kernel, 1),
        (scale_the_first_class, 1),
        (zero_the_embedding, 1),
    ],
)
def test_compare_passes_a_sound_artifact_and_fails_damaged_ones(
    damage: Callable[[Any], None], code: int, tiny_export: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_export / "artifacts", tmp_path / "bundle"))
    rewrite_int8(folder, damage)
    assert compare(folder, tiny_export / "test.npz", tmp_path / "report") == code
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["verdict"]["passed"] is (code == 0)
    assert report["accuracy"]["reference"]["top1"] == 1.0
    assert (report["accuracy"]["drop_pp"] > 5.0) is (code == 1)


@pytest.mark.slow
def test_int8_is_a_third_of_float_for_edge_nano(tmp_path: Path) -> None:
    import tf_keras

    from export.quantize.network import QuantizedNetwork
    from export.quantize.schemes import SELECTIVE
    from export.tflite.convert import convert_float, convert_int8
    from train.model.focalnet import build_focalnet
    from train.model.presets import PRESETS

    config = PRESETS["edge-nano"].model
    model = build_focalnet(config, tf_keras)
    ranges = {layer.name: (-4.0, 4.0) for layer in model.layers}
    float_bytes = len(convert_float(model, config))
    int8_bytes = len(convert_int8(QuantizedNetwork(model, config, ranges, SELECTIVE)))
    assert float_bytes > 4 * PRESETS["edge-nano"].parameters
    assert int8_bytes <= 0.35 * float_bytes
