"""A checkpoint brings a run back to where it stood, or says why it cannot."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from runtime.errors import ArtifactError, FocalEdgeError
from tests.tiny_training import NETWORK, RECIPE
from train import weights as weights_module
from train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from train.fit import compile_model
from train.focalnet import build_focalnet
from train.weights import read_tensors, write_tensors

HISTORY = [{"epoch": 1.0, "loss": 1.25}, {"epoch": 2.0, "loss": 0.1 + 0.2}]


def compiled(**changes: Any) -> Any:
    model = build_focalnet(dataclasses.replace(NETWORK, **changes), keras)
    compile_model(model, RECIPE, total_steps=10)
    return model


def step(model: Any) -> None:
    """One optimizer step on made-up gradients."""
    rng = np.random.default_rng(int(model.optimizer.iterations))
    variables = model.trainable_variables
    model.optimizer.apply([rng.normal(size=v.shape).astype(np.float32) for v in variables], variables)


def weights(model: Any) -> list[Any]:
    return [np.array(variable) for variable in model.weights]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "checkpoint.safetensors"
    save_checkpoint(path, compiled(), Checkpoint(HISTORY))
    return path.read_bytes()


@pytest.fixture
def path(content: bytes, tmp_path: Path) -> Path:
    (tmp_path / "checkpoint.safetensors").write_bytes(content)
    return tmp_path / "checkpoint.safetensors"


def test_weights_optimizer_and_dropout_go_on_where_they_stood(tmp_path: Path) -> None:
    images = np.ones((6, 8, 8, 3), dtype=np.float32)
    first, second = compiled(), compiled()
    for _ in range(3):
        step(first)
    first(images, training=True)  # moves the dropout's seeds
    save_checkpoint(tmp_path / "c.safetensors", first, Checkpoint(HISTORY))
    assert load_checkpoint(tmp_path / "c.safetensors", second) == Checkpoint(HISTORY)
    assert int(second.optimizer.iterations) == 3
    assert np.array_equal(first(images, training=True), second(images, training=True))
    # The moments, too: the next step is the same.
    step(first)
    step(second)
    assert all(np.array_equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    fresh = compiled()
    assert not np.array_equal(first(images, training=False), fresh(images, training=False))


def test_the_epochs_done_are_the_rows_of_the_history() -> None:
    assert Checkpoint(HISTORY).epochs_done == 2
    assert Checkpoint([]).epochs_done == 0


def test_keys_do_not_depend_on_the_models_made_before(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, compiled(), Checkpoint([]))
    keys = set(read_tensors(tmp_path / "a"))
    assert keys == set(read_tensors(tmp_path / "b"))
    assert {"stage0.block0.query/kernel", "adam_w/stage0.block0.query_kernel_momentum", "adam_w/iteration"} <= keys


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        load_checkpoint(path, compiled())


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        load_checkpoint(tmp_path / "checkpoint.safetensors", compiled())


def test_a_checkpoint_of_another_network_is_refused_and_changes_nothing(path: Path) -> None:
    model = compiled(dims=(4,))
    before = weights(model)
    with pytest.raises(ArtifactError, match=r"does not fit the model: .*has shape"):
        load_checkpoint(path, model)
    assert all(np.array_equal(a, b) for a, b in zip(before, weights(model), strict=True))


def test_weights_without_an_optimizer_are_no_checkpoint(path: Path) -> None:
    tensors = {name: value for name, value in read_tensors(path).items() if not name.startswith("adam_w/")}
    write_tensors(path, tensors, {"history": "[]"})
    with pytest.raises(ArtifactError, match="missing adam_w/"):
        load_checkpoint(path, compiled())


@pytest.mark.parametrize("metadata", [None, {"history": "[{"}, {"epochs": "[]"}])
def test_a_checkpoint_without_history_is_refused(path: Path, metadata: dict[str, str] | None) -> None:
    write_tensors(path, read_tensors(path), metadata)
    model = compiled()
    before = weights(model)
    with pytest.raises(ArtifactError, match="no training history"):
        load_checkpoint(path, model)
    assert all(np.array_equal(a, b) for a, b in zip(before, weights(model), strict=True))


@pytest.mark.parametrize("where", ["write", "rename"])
def test_a_full_disk_leaves_the_earlier_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((weights_module, "save_file") if where == "write" else (Path, "replace")), fail)
    with pytest.raises(FocalEdgeError, match="No space left on device; choose a folder"):
        save_checkpoint(path, compiled(), Checkpoint([*HISTORY, {"epoch": 3.0}]))
    monkeypatch.undo()
    assert load_checkpoint(path, compiled()) == Checkpoint(HISTORY)
    assert list(path.parent.iterdir()) == [path]
