"""Weight files: saving, loading, and files that do not fit."""

from __future__ import annotations

import errno
import json
import os
import struct
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tf_keras
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime.core.errors import ArtifactError, FocalEdgeError
from train.model import weights as weights_module
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet
from train.model.weights import Tensors, load_weights, model_weights, read_tensors, weight_arrays, write_tensors

CONFIG = FocalNetConfig(
    input_size=8, classes=3, patch_size=4, dims=(4,), depths=(1,), focal_levels=(2,), focal_windows=(3,)
)


@pytest.fixture(scope="module")
def model() -> Any:
    return build_focalnet(CONFIG, keras)


@pytest.fixture
def path(model: Any, tmp_path: Path) -> Path:
    write_tensors(tmp_path / "float.safetensors", weight_arrays(model))
    return tmp_path / "float.safetensors"


def values(model: Any) -> Tensors:
    return {name: np.array(variable) for name, variable in model_weights(model).items()}


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_saved_weights_are_loaded(library: Any, tmp_path: Path) -> None:
    first, second = build_focalnet(CONFIG, library), build_focalnet(CONFIG, library)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.float32)
    before = np.asarray(second(images))
    write_tensors(tmp_path / "w.safetensors", weight_arrays(first))
    load_weights(second, tmp_path / "w.safetensors")
    assert np.array_equal(first(images), second(images))
    assert not np.allclose(before, second(images))


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_keys_are_layer_and_variable_with_either_keras(library: Any) -> None:
    block = "stage0.block0"
    convolutions = [
        *("embed.proj", "logits"),
        *(f"{block}.{name}" for name in ("query", "context", "gate0", "gate1", "gate2")),
        *(f"{block}.{name}" for name in ("modulator", "proj", "expand", "contract")),
    ]
    norms = ["embed.norm", f"{block}.norm1", f"{block}.norm2", "head.norm"]
    assert set(model_weights(build_focalnet(CONFIG, library))) == {
        *(f"{name}/{kind}" for name in convolutions for kind in ("kernel", "bias")),
        *(f"{name}/{kind}" for name in norms for kind in ("gamma", "beta")),
        *(f"{block}.focal{level}/kernel" for level in (0, 1)),
    }


def test_a_file_is_readable_without_a_framework(model: Any, path: Path) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    assert set(header) == set(values(model))
    entry = header["stage0.block0.focal1/kernel"]
    assert (entry["dtype"], entry["shape"]) == ("F32", [5, 5, 4, 1])
    start, end = entry["data_offsets"]
    stored = np.frombuffer(content[8 + length + start : 8 + length + end], dtype="<f4").reshape(5, 5, 4, 1)
    assert np.array_equal(stored, values(model)["stage0.block0.focal1/kernel"])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    array=hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8]), hnp.array_shapes(min_dims=0, max_dims=4)
    )
)
def test_any_array_keeps_its_shape_type_and_values(array: Any, tmp_path: Path) -> None:
    write_tensors(tmp_path / "t.safetensors", {"plain": array, "turned": array.T})
    read = read_tensors(tmp_path / "t.safetensors")
    for name, expected in (("plain", array), ("turned", array.T)):
        assert (read[name].shape, read[name].dtype) == (expected.shape, expected.dtype)
        assert np.array_equal(read[name], expected, equal_nan=array.dtype.kind == "f")


def edited(path: Path, **changes: Any) -> Path:
    """Rewrite a file with tensors replaced, or removed by `None`."""
    tensors = read_tensors(path) | changes
    write_tensors(path, {name: value for name, value in tensors.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits/bias": None}, "missing logits/bias"),
        ({"logits/offset": np.zeros(3, np.float32)}, "unknown logits/offset"),
        ({"logits/bias": np.zeros(5, np.float32)}, r"logits/bias has shape \(5,\), not \(3,\)"),
        ({"logits/kernel": np.zeros((4, 3), np.float32)}, r"logits/kernel has shape \(4, 3\), not \(1, 1, 4, 3\)"),
        ({"logits/bias": None, "head.norm/gamma": None}, "missing head.norm/gamma; missing logits/bias"),
        ({f"extra{i}/kernel": np.zeros(1, np.float32) for i in range(20)}, "; and 12 more; "),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_nothing_assigned(
    model: Any, path: Path, changes: dict[str, Any], message: str
) -> None:
    # The other tensors differ from the model's, so that any assignment would show.
    moved = {name: value + 1 for name, value in values(model).items()}
    edited(path, **(moved | changes))
    before = values(model)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_weights(model, path)
    assert str(path) in str(caught.value)
    after = values(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_weights_of_another_preset_are_refused(path: Path) -> None:
    wider = build_focalnet(
        FocalNetConfig(
            input_size=8, classes=3, patch_size=4, dims=(8,), depths=(1,), focal_levels=(2,), focal_windows=(3,)
        ),
        keras,
    )
    with pytest.raises(ArtifactError, match="use the weights of the same preset"):
        load_weights(wider, path)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 0.5, -1])
def test_a_truncated_file_is_refused(model: Any, path: Path, kept: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))] if kept == 0.5 else content[: int(kept)])
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        load_weights(model, path)


@pytest.mark.parametrize("content", [b"not safetensors at all", b"\xff" * 64, b"\x02" + b"\0" * 7 + b"[]"])
def test_a_file_of_another_kind_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        read_tensors(path)


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist; make it with `python -m train`"):
        read_tensors(tmp_path / "none.safetensors")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        read_tensors(tmp_path)


def full_disk(tensors: Tensors, target: Path, metadata: Any) -> None:
    target.write_bytes(b"the first half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refuse_rename(self: Path, target: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["write", "rename"])
def test_a_full_disk_leaves_the_old_file(model: Any, path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    before = path.read_bytes()
    if step == "write":
        monkeypatch.setattr(weights_module, "save_file", full_disk)
    else:
        monkeypatch.setattr(Path, "replace", refuse_rename)
    with pytest.raises(FocalEdgeError, match=f"cannot write {path}: No space left on device"):
        write_tensors(path, {"a": np.zeros(3)})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_refused(model: Any, path: Path) -> None:
    with pytest.raises(FocalEdgeError, match="choose a folder that is writable"):
        write_tensors(path / "below" / "float.safetensors", weight_arrays(model))
