"""A checkpoint brings a run back to where it stood, or says why it cannot."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.core.errors import ArtifactError, FocalEdgeError, TrainingError
from tests.support.paths import ROOT
from tests.support.tiny_training import FULL_RECIPE, LABELS, NETWORK, easy_dataset
from train.loop.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from train.loop.fit import compile_model
from train.loop.training_model import TrainingModel
from train.model import weights as weights_module
from train.model.weights import read_tensors, write_tensors

HISTORY = [{"epoch": 1.0, "loss": 1.25}, {"epoch": 2.0, "loss": 0.1 + 0.2}]
# Saves on its own file system of 400 KB, fills it, saves again, and reads the file.
FILL_A_DISK = """
import sys
from pathlib import Path
from runtime.core.errors import FocalEdgeError
from tests.train.loop.test_checkpoint import HISTORY, compiled, step, weights
from train.loop.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

path, model = Path(sys.argv[1]) / "checkpoint.safetensors", compiled()
save_checkpoint(path, model, Checkpoint(HISTORY))
saved = weights(model)
try:
    with (path.parent / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))
except OSError:
    pass
step(model)
try:
    save_checkpoint(path, model, Checkpoint(HISTORY * 2))
except FocalEdgeError as error:
    print(error)
assert load_checkpoint(path, model) == Checkpoint(HISTORY)
assert all((a == b).all() for a, b in zip(weights(model), saved, strict=True))
print(sorted(each.name for each in path.parent.iterdir()))
"""


def compiled(**changes: Any) -> Any:
    model = TrainingModel(dataclasses.replace(NETWORK, **changes), FULL_RECIPE, easy_dataset().train)
    compile_model(model, FULL_RECIPE, total_steps=10)
    return model


def predictions(model: Any, training: bool) -> Any:
    """Logits and targets of the same six images of the training split."""
    targets = np.eye(len(LABELS), dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    images = np.arange(6, dtype=np.int32) if training else easy_dataset().train.images[:6, 2:10, 2:10]
    name = "indices" if training else "images"
    outputs = model({name: images, "targets": targets}, training=training)
    return np.concatenate([outputs["logits"], outputs["targets"]], axis=1)


def step(model: Any) -> None:
    """One optimizer step on made-up gradients."""
    rng = np.random.default_rng(int(model.optimizer.iterations))
    variables = model.trainable_variables
    model.optimizer.apply([rng.normal(size=v.shape).astype(np.float32) for v in variables], variables)


def weights(model: Any) -> list[Any]:
    """Every weight of the network, statistics of BatchNorm included."""
    return [np.array(variable) for variable in model.network.weights]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "checkpoint.safetensors"
    save_checkpoint(path, compiled(), Checkpoint(HISTORY))
    return path.read_bytes()


@pytest.fixture
def path(content: bytes, tmp_path: Path) -> Path:
    (tmp_path / "checkpoint.safetensors").write_bytes(content)
    return tmp_path / "checkpoint.safetensors"


def test_everything_goes_on_where_it_stood(tmp_path: Path) -> None:
    first, second = compiled(), compiled()
    for _ in range(3):
        step(first)
        predictions(first, training=True)  # moves all seeds, and the statistics of BatchNorm
    save_checkpoint(tmp_path / "c.safetensors", first, Checkpoint(HISTORY))
    assert load_checkpoint(tmp_path / "c.safetensors", second) == Checkpoint(HISTORY)
    assert int(second.optimizer.iterations) == 3
    assert np.array_equal(predictions(first, training=False), predictions(second, training=False))
    for _ in range(3):  # dropout, stochastic depth, augmentation
        assert np.array_equal(predictions(first, training=True), predictions(second, training=True))
    # The moments and averages, too: the next step is the same.
    for model in (first, second):
        step(model)
        model.optimizer.finalize_variable_values(model.trainable_variables)
    assert all(np.array_equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    assert not np.array_equal(predictions(first, training=False), predictions(compiled(), training=False))


def test_every_seed_that_a_step_moves_is_saved() -> None:
    model = compiled()
    before = {id(v): np.array(v) for v in model.variables}
    predictions(model, training=True)
    moved = [v for v in model.variables if not np.array_equal(np.array(v), before[id(v)])]
    saved = {id(v) for v in model.state().values()}
    assert moved
    assert all(id(v) in saved for v in moved)
    # Crop and choice of the mixer; flip, RandAugment, erasing, mixup, CutMix; six dropouts and two depths.
    assert sum(v.name == "seed_generator_state" for v in moved) >= 6 + 5


def test_the_images_are_not_saved(path: Path) -> None:
    assert path.stat().st_size < 200_000
    assert not any(value.dtype == np.uint8 for value in read_tensors(path).values())


def test_the_trained_weights_are_saved_beside_their_averages(tmp_path: Path) -> None:
    model = compiled()
    for _ in range(3):
        step(model)
    save_checkpoint(tmp_path / "c.safetensors", model, Checkpoint(HISTORY))
    tensors = read_tensors(tmp_path / "c.safetensors")
    raw, average = tensors["logits/kernel"], tensors["adam_w/logits_kernel_average"]
    assert np.array_equal(raw, np.array(model.network.get_layer("logits").kernel))
    assert np.abs(raw - average).max() > 1e-6


def test_what_is_not_finite_is_not_saved(path: Path) -> None:
    model = compiled()
    model.network.get_layer("head.norm").moving_variance.assign(np.full(8, np.inf))
    with pytest.raises(TrainingError, match=r"non-finite values in head.norm/moving_variance .* is unchanged"):
        save_checkpoint(path, model, Checkpoint([*HISTORY, {"epoch": 3.0}]))
    assert load_checkpoint(path, compiled()) == Checkpoint(HISTORY)


def test_the_epochs_done_are_the_rows_of_the_history() -> None:
    assert Checkpoint(HISTORY).epochs_done == 2
    assert Checkpoint([]).epochs_done == 0


def test_keys_do_not_depend_on_the_models_made_before(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, compiled(), Checkpoint([]))
    keys = set(read_tensors(tmp_path / "a"))
    assert keys == set(read_tensors(tmp_path / "b"))
    of_query = {f"adam_w/stage0.block0.query_kernel_{name}" for name in ("momentum", "velocity", "average")}
    assert {"stage0.block0.query/kernel", "adam_w/iteration", "augment/0", "head.norm/moving_mean"} | of_query <= keys


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


def test_a_disk_that_is_really_full_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    unshare = [shutil.which("unshare") or "unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=400k tmpfs '{tmp_path}'"
    try:
        subprocess.run([*unshare, mount], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    script = f"{mount} && exec '{sys.executable}' -c \"$0\" '{tmp_path}'"
    finished = subprocess.run([*unshare, script, FILL_A_DISK], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    message, left = finished.stdout.splitlines()
    assert message.startswith(f"cannot write {tmp_path}/checkpoint.safetensors: ")
    assert "No space left on device" in message
    assert left == "['ballast', 'checkpoint.safetensors']"
