"""The TFLite engine: equal outputs under every interpreter, and one clear error for each bad bundle."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.bundle.manifest import Overlay
from runtime.core.errors import ArtifactError, ConfigError, DataError
from runtime.engines.engine import open_engine
from runtime.engines.tflite import KIND, load_interpreter
from runtime.images.input_spec import InputSpec
from tests.support.tiny_bundle import (
    LABELS,
    OUTPUTS,
    SIDE,
    expected_outputs,
    rename_tensors,
    tiny_tflite,
    write_bundle,
)

# Deprecated, but some devices have nothing else.
pytestmark = pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")

MODULES = {each.distributions[0]: each.module for each in KIND.interpreters}
PACKAGES = list(MODULES)


def use_only(package: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block the import of every interpreter but `package`."""
    for name, module in MODULES.items():
        if name != package:
            monkeypatch.setitem(sys.modules, module, None)


def random_image(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_outputs_are_the_models(
    tiny_bundle: Path, package: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(MODULES[package])
    use_only(package, monkeypatch)
    engine = open_engine(tiny_bundle, precision=precision, threads=2)
    assert engine.name.startswith(package)
    assert (engine.precision, engine.threads, engine.input_spec) == (precision, 2, InputSpec(SIDE))
    for seed in range(3):
        image = random_image(seed)
        outputs = engine.run(image)
        for name, expected in expected_outputs(image).items():
            received = getattr(outputs, name)
            assert received.dtype == np.float32
            np.testing.assert_allclose(received, expected, atol=1e-5)


def test_outputs_stay_valid_after_the_next_run(tiny_bundle: Path) -> None:
    engine = open_engine(tiny_bundle)
    outputs = engine.run(random_image(0))
    kept = outputs.gates.copy()
    engine.run(random_image(1))
    np.testing.assert_array_equal(outputs.gates, kept)


def test_accepts_a_non_contiguous_image(tiny_bundle: Path) -> None:
    mirrored = random_image(0)[:, :, ::-1]
    outputs = open_engine(tiny_bundle).run(mirrored)
    np.testing.assert_allclose(outputs.gates, expected_outputs(mirrored)["gates"], atol=1e-5)


def test_interpreters_are_tried_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PACKAGES == ["ai-edge-litert", "tflite-runtime", "tensorflow"]
    assert load_interpreter()[0].startswith("ai-edge-litert ")
    use_only(None, monkeypatch)
    with pytest.raises(ArtifactError, match="pip install ai-edge-litert"):
        load_interpreter()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((SIDE, SIDE, 3), np.uint8),
        np.zeros((1, SIDE + 1, SIDE, 3), np.uint8),
        np.zeros((2, SIDE, SIDE, 3), np.uint8),
        np.zeros((1, SIDE, SIDE, 3), np.float32),
        np.zeros((1, SIDE, SIDE, 3), np.int8),
    ],
)
def test_refuses_another_shape_or_dtype(tiny_bundle: Path, image: NDArray[Any]) -> None:
    with pytest.raises(DataError, match=r"expected uint8 \[1, 16, 16, 3\]"):
        open_engine(tiny_bundle).run(image)


@pytest.mark.parametrize("threads", [0, -1])
def test_refuses_fewer_than_one_thread(tiny_bundle: Path, threads: int) -> None:
    with pytest.raises(ConfigError, match="threads"):
        open_engine(tiny_bundle, threads=threads)


def test_refuses_a_missing_precision(tiny_model: bytes, tmp_path: Path) -> None:
    manifest = write_bundle(tmp_path, tiny_model)
    write_bundle(tmp_path, tiny_model, artifacts=manifest.artifacts[:1])
    with pytest.raises(ArtifactError, match=r"no int8 artifact.*float32"):
        open_engine(tmp_path, precision="int8")


def test_refuses_a_file_with_another_hash(tiny_model: bytes, tmp_path: Path) -> None:
    write_bundle(tmp_path, tiny_model)
    flipped = bytearray(tiny_model)
    flipped[len(flipped) // 2] ^= 1
    (tmp_path / "int8.tflite").write_bytes(flipped)
    with pytest.raises(ArtifactError, match="SHA-256"):
        open_engine(tmp_path)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(
    "damage",
    [
        lambda model: b"not a model " * 50,
        lambda model: model[: len(model) // 2],
        lambda model: bytes(16) + model[16:],
    ],
    ids=["text", "half", "no header"],
)
def test_refuses_a_damaged_model_with_the_right_hash(
    tiny_model: bytes,
    tmp_path: Path,
    package: str,
    damage: Callable[[bytes], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip(MODULES[package])
    use_only(package, monkeypatch)
    write_bundle(tmp_path, damage(tiny_model))
    with pytest.raises(ArtifactError, match="cannot be opened as a TFLite model"):
        open_engine(tmp_path)


@pytest.mark.parametrize("name", ["image", *OUTPUTS])
def test_refuses_a_tensor_of_another_name(tiny_model: bytes, tmp_path: Path, name: str) -> None:
    write_bundle(tmp_path, rename_tensors(tiny_model, {name: "other"}))
    with pytest.raises(ArtifactError, match=rf"no tensor named '{name}'.*other"):
        open_engine(tmp_path)


@pytest.mark.parametrize(
    ("changes", "tensor"),
    [
        ({"input_spec": InputSpec(32)}, "image"),
        ({"labels": (*LABELS, "white"), "outputs": OUTPUTS | {"logits": (1, 4)}}, "logits"),
        ({"outputs": OUTPUTS | {"gates": (1, 8, 2, 3), "modulator": (1, 8, 2)}}, "gates"),
        (
            {
                "outputs": OUTPUTS | {"gates": (1, 4, 4, 4)},
                "overlay": Overlay("stage1.block0", 4, 3),
            },
            "gates",
        ),
    ],
)
def test_refuses_shapes_that_contradict_the_manifest(
    tiny_model: bytes, tmp_path: Path, changes: dict[str, Any], tensor: str
) -> None:
    write_bundle(tmp_path, tiny_model, **changes)
    with pytest.raises(ArtifactError, match=rf"tensor '{tensor}' is .*manifest expects"):
        open_engine(tmp_path)


def test_refuses_swapped_outputs(tiny_model: bytes, tmp_path: Path) -> None:
    write_bundle(tmp_path, rename_tensors(tiny_model, {"gates": "modulator", "modulator": "gates"}))
    with pytest.raises(ArtifactError, match=r"tensor '\w+' is float32 .*manifest expects"):
        open_engine(tmp_path)


def test_refuses_another_input_dtype(tmp_path: Path) -> None:
    write_bundle(tmp_path, tiny_tflite(input_dtype="int8"))
    with pytest.raises(ArtifactError, match=r"tensor 'image' is int8 .*expects uint8"):
        open_engine(tmp_path)


def test_refuses_a_missing_artifact(tiny_model: bytes, tmp_path: Path) -> None:
    manifest = write_bundle(tmp_path, tiny_model)
    missing = tuple(replace(artifact, file=f"x-{artifact.file}") for artifact in manifest.artifacts)
    write_bundle(tmp_path, tiny_model, artifacts=missing)
    with pytest.raises(ArtifactError, match=r"x-int8\.tflite.*cannot be read"):
        open_engine(tmp_path)
