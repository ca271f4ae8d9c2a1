"""A training run: it learns, follows its schedule, resumes exactly and never spoils its last good checkpoint."""

from __future__ import annotations

import csv
import dataclasses
import errno
import math
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core.errors import ArtifactError, FocalEdgeError, TrainingError
from tests.support.tiny_training import NETWORK, RECIPE, RUN, TRAIN_IMAGES, easy_dataset
from train.distributed.placement import device_name
from train.loop import fit as fit_module
from train.loop.checkpoint import Checkpoint, History, load_checkpoint, save_checkpoint
from train.loop.fit import compile_model, fit, learning_rate_schedule, predict, write_history
from train.loop.training_model import TrainingModel
from train.model.focalnet import build_focalnet
from train.model.recipe import TrainConfig
from train.model.weights import read_tensors
from train.run import CHECKPOINT_FILE

STEPS_PER_EPOCH = TRAIN_IMAGES // RECIPE.batch_size


@dataclasses.dataclass(frozen=True)
class Finished:
    """An uninterrupted run of 4 epochs, and the checkpoint it had after 2 of them."""

    folder: Path
    model: Any
    history: History
    second: bytes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("run")
    saved: list[bytes] = []

    def save_and_keep(path: Path, model: Any, checkpoint: Checkpoint) -> None:
        save_checkpoint(path, model, checkpoint)
        saved.append(path.read_bytes())

    model, history = fit(RUN, easy_dataset(), folder, resume=False, save=save_and_keep)
    assert len(saved) == RECIPE.epochs
    return Finished(folder, model, history, saved[1])


@pytest.fixture
def halfway(finished: Finished, tmp_path: Path) -> Path:
    """A run folder as a kill after the second epoch leaves it."""
    shutil.copy(finished.folder / "history.csv", tmp_path)
    (tmp_path / CHECKPOINT_FILE).write_bytes(finished.second)
    return tmp_path


def weights(model: Any) -> list[Any]:
    """Every weight of a network, statistics of BatchNorm included."""
    return [np.array(variable) for variable in model.weights]


def test_the_loss_falls_and_the_colours_are_learnt(finished: Finished) -> None:
    losses = [row["val_loss"] for row in finished.history]
    assert losses[-1] < 0.9 * losses[0]
    test = easy_dataset().test
    assert (predict(finished.model, test.images, NETWORK.input_spec) == test.labels).mean() > 0.6


def test_a_run_leaves_its_files(finished: Finished) -> None:
    files = {path.relative_to(finished.folder).as_posix() for path in finished.folder.rglob("*") if path.is_file()}
    panels = {"monitor/epoch_000.png", "monitor/epoch_002.png", "monitor/epoch_004.png"}
    assert files == {CHECKPOINT_FILE, "history.csv", "curves.png", *panels}
    for name in ("curves.png", *panels):
        image = cv2.imread(str(finished.folder / name))
        assert image is not None
        assert image.std() > 5


def test_the_history_has_a_row_an_epoch(finished: Finished) -> None:
    with (finished.folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    figures = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "time_s")
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    for row, kept in zip(rows, finished.history, strict=True):
        assert {name: float(row[name]) for name in figures} == {name: kept[name] for name in figures}
        assert 0 <= float(row["val_accuracy"]) <= 1
        assert float(row["time_s"]) > 0
    # The last step's rate: one before the cosine's end.
    assert float(rows[-1]["learning_rate"]) == pytest.approx(0.0, abs=1e-9)


def test_a_run_ends_with_the_averaged_weights_and_saves_the_trained_ones(finished: Finished) -> None:
    model = TrainingModel(NETWORK, RECIPE, easy_dataset().train)
    compile_model(model, RECIPE, total_steps=1)
    checkpoint = load_checkpoint(finished.folder / CHECKPOINT_FILE, model)
    assert checkpoint.history == finished.history
    tensors = read_tensors(finished.folder / CHECKPOINT_FILE)
    for variable in finished.model.trainable_variables:
        average = tensors[f"adam_w/{variable.path.replace('/', '_')}_average"]
        assert np.array_equal(np.array(variable), average)
    changes = [
        float(np.abs(np.array(v) - tensors[v.path]).max())
        for v in finished.model.trainable_variables
        if v.name == "kernel"
    ]
    assert max(changes) > 1e-4
    for variable in finished.model.non_trainable_variables:  # BatchNorm's statistics are not averaged
        if variable.name.startswith("moving_"):
            assert np.array_equal(np.array(variable), tensors[variable.path])


def test_the_validated_weights_are_the_averaged_ones(finished: Finished) -> None:
    val = easy_dataset().val
    accuracy = (predict(finished.model, val.images, NETWORK.input_spec) == val.labels).mean()
    assert accuracy == pytest.approx(finished.history[-1]["val_accuracy"])


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(finished: Finished, halfway: Path) -> None:
    model, history = fit(RUN, easy_dataset(), halfway, resume=True)
    for ours, theirs in zip(weights(model), weights(finished.model), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    for row, expected in zip(history, finished.history, strict=True):
        for name in ("epoch", "loss", "val_loss", "learning_rate"):
            assert row[name] == pytest.approx(expected[name], abs=1e-5)
    assert len((halfway / "history.csv").read_text().splitlines()) == 1 + RECIPE.epochs
    assert {path.name for path in (halfway / "monitor").iterdir()} == {"epoch_004.png"}


def test_a_complete_run_is_not_trained_again(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.iterdir()}
    monkeypatch.setattr(keras.Model, "fit", None)
    model, history = fit(RUN, easy_dataset(), finished.folder, resume=True)
    assert history == finished.history
    assert all(np.array_equal(a, b) for a, b in zip(weights(model), weights(finished.model), strict=True))
    assert {path: path.stat().st_mtime_ns for path in finished.folder.iterdir()} == before


def test_a_damaged_checkpoint_is_not_resumed(halfway: Path) -> None:
    path = halfway / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        fit(RUN, easy_dataset(), halfway, resume=True)


def test_what_is_not_finite_stops_the_run_at_its_step_and_keeps_the_checkpoint(
    finished: Finished, halfway: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, steps = fit_module.Progress.on_train_batch_end, []

    def spoil(self: Any, batch: int, logs: Any = None) -> None:
        count(self, batch, logs)
        steps.append(batch)
        if batch == 1:
            layer = self.model.network.get_layer("stage0.block1.query")
            layer.bias.assign(np.full(8, np.nan))

    monkeypatch.setattr(fit_module.Progress, "on_train_batch_end", spoil)
    with pytest.raises(TrainingError) as caught:
        fit(RUN, easy_dataset(), halfway, resume=True)
    assert str(caught.value).startswith(
        "epoch 3, step 3: received loss nan, which began in the output of layer stage0.block1.query; expected finite "
        "values (the checkpoint of epoch 2 is kept)"
    )
    assert steps == [0, 1, 2]
    assert (halfway / CHECKPOINT_FILE).read_bytes() == finished.second


@pytest.mark.parametrize(("apart_s", "drawn"), [(0.0, [1, 2, 3, 4]), (3600.0, [1, 4])])
def test_curves_are_drawn_now_and_then_and_at_the_end(tmp_path: Path, apart_s: float, drawn: list[int]) -> None:
    lengths: list[int] = []
    callback = fit_module.EveryEpoch(
        tmp_path,
        [],
        curves_every_s=apart_s,
        draw=lambda path, history: lengths.append(len(history)),
        save=lambda path, model, checkpoint: None,
    )
    callback.set_params({"epochs": 4})
    callback.set_model(SimpleNamespace(optimizer=SimpleNamespace(learning_rate=0.1)))
    for epoch in range(4):
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, {"loss": 1.0})
    assert lengths == drawn


@pytest.mark.parametrize("file", ["history.csv", "curves.png", CHECKPOINT_FILE])
def test_a_full_disk_keeps_the_epochs_before_it(
    finished: Finished, halfway: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    history = finished.history[:2]
    callback = fit_module.EveryEpoch(halfway, history)
    model = TrainingModel(NETWORK, RECIPE, easy_dataset().train)
    compile_model(model, RECIPE, total_steps=1)
    callback.set_model(model)
    callback.on_epoch_begin(2)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(FocalEdgeError, match=rf"cannot write .*{file}: No space left on device"):
        callback.on_epoch_end(2, {"loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5})
    assert history == finished.history[:2]
    assert (halfway / CHECKPOINT_FILE).read_bytes() == finished.second
    assert {path.name for path in halfway.iterdir()} <= {"history.csv", "curves.png", CHECKPOINT_FILE}


def test_a_run_that_meets_a_full_disk_says_how_to_go_on(halfway: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise FocalEdgeError("cannot write here: No space left on device; choose a folder that has room")

    monkeypatch.setattr(keras.Model, "fit", full)
    with pytest.raises(TrainingError, match=r"No space left .* has room; 2 epochs are kept, go on from there by --res"):
        fit(RUN, easy_dataset(), halfway, resume=True)


def tutorial_rate(step: int, recipe: TrainConfig, total_steps: int) -> float:
    """The tutorial's WarmUpCosine."""
    warmup_steps = int(total_steps * recipe.warmup_fraction)
    if step > total_steps:
        return 0.0
    if step < warmup_steps:
        slope = (recipe.learning_rate - recipe.warmup_learning_rate) / warmup_steps
        return slope * step + recipe.warmup_learning_rate
    return 0.5 * recipe.learning_rate * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))


@settings(max_examples=15, deadline=None)
@given(
    total_steps=st.integers(1, 10_000),
    base=st.floats(1e-5, 1e-1),
    share=st.floats(0.0, 1.0),
    fraction=st.one_of(st.just(0.0), st.floats(0.0, 0.95)),
)
def test_the_schedule_is_the_tutorial_s(total_steps: int, base: float, share: float, fraction: float) -> None:
    recipe = TrainConfig(learning_rate=base, warmup_learning_rate=share * base, warmup_fraction=fraction)
    schedule = learning_rate_schedule(recipe, total_steps)
    warmup_steps = int(total_steps * fraction)
    for step in {
        0,
        1,
        warmup_steps // 2,
        warmup_steps,
        (warmup_steps + total_steps) // 2,
        total_steps,
        total_steps + 9,
    }:
        assert float(schedule(step)) == pytest.approx(
            tutorial_rate(step, recipe, total_steps), rel=1e-3, abs=1e-6 * base
        )


def test_the_rate_after_each_epoch_is_the_schedule_s(finished: Finished) -> None:
    total = STEPS_PER_EPOCH * RECIPE.epochs
    expected = [tutorial_rate(STEPS_PER_EPOCH * (epoch + 1), RECIPE, total) for epoch in range(RECIPE.epochs)]
    assert [row["learning_rate"] for row in finished.history] == pytest.approx(expected, rel=1e-4, abs=1e-8)


@pytest.mark.slow
def test_a_longer_run_goes_on_at_the_longer_schedule_s_rate(finished: Finished, tmp_path: Path) -> None:
    shutil.copy(finished.folder / CHECKPOINT_FILE, tmp_path)
    recipe = dataclasses.replace(RECIPE, epochs=RECIPE.epochs + 2)
    model, history = fit(dataclasses.replace(RUN, recipe=recipe), easy_dataset(), tmp_path, resume=True)
    assert history[: RECIPE.epochs] == finished.history
    total = STEPS_PER_EPOCH * recipe.epochs
    expected = [tutorial_rate(total - STEPS_PER_EPOCH, recipe, total), tutorial_rate(total, recipe, total)]
    assert expected[0] > 0
    assert [row["learning_rate"] for row in history[RECIPE.epochs :]] == pytest.approx(expected, rel=1e-4, abs=1e-8)
    assert any((now != then).any() for now, then in zip(weights(model), weights(finished.model), strict=True))


@pytest.mark.parametrize("kernels_only", [True, False])
def test_weight_decay_spares_biases_and_norms_if_asked(kernels_only: bool) -> None:
    recipe = TrainConfig(
        learning_rate=0.1, warmup_fraction=0.0, weight_decay=0.5, decay_kernels_only=kernels_only, clip_norm=0.0
    )
    model = TrainingModel(NETWORK, recipe, easy_dataset().train)
    compile_model(model, recipe, total_steps=100)
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    variables = model.trainable_variables
    model.optimizer.apply([np.zeros(v.shape, dtype=np.float32) for v in variables], variables)
    left = {"kernel": 0.95, "bias": 1.0, "gamma": 1.0, "beta": 1.0}
    for variable in variables:
        expected = left[variable.name] if kernels_only else 0.95
        np.testing.assert_allclose(np.array(variable), expected, rtol=1e-5)


@pytest.mark.parametrize(("clip_norm", "expected"), [(0.0, None), (1.5, 1.5)])
def test_clipping_and_smoothing_are_the_recipe_s(clip_norm: float, expected: float | None) -> None:
    recipe = TrainConfig(clip_norm=clip_norm, label_smoothing=0.3)
    model = TrainingModel(NETWORK, recipe, easy_dataset().train)
    compile_model(model, recipe, total_steps=10)
    assert model.optimizer.global_clipnorm == expected
    # -log softmax of the right class is log(1 + 2/e^2), of the others 2 more.
    right = math.log(1 + 2 * math.exp(-2))
    outputs = {"targets": np.array([[1.0, 0.0, 0.0]]), "logits": np.array([[2.0, 0.0, 0.0]])}
    loss = float(model.compute_loss(y_pred=outputs))
    assert loss == pytest.approx(right + 0.3 * 2 / 3 * 2, rel=1e-5)


@pytest.mark.parametrize(
    ("devices", "name"),
    [(["cpu:0"], "cpu"), ([], "cpu"), (["cpu:0", "gpu:0", "gpu:1"], "gpu"), (["tpu:0"], "tpu")],
)
def test_the_device_is_the_accelerator_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, devices: list[str], name: str
) -> None:
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: devices)
    assert device_name() == name


def test_images_of_any_size_get_the_class_of_the_largest_logit() -> None:
    model = build_focalnet(NETWORK, keras)
    for variable in model.get_layer("logits").weights:
        variable.assign(np.zeros(variable.shape))
    model.get_layer("logits").bias.assign([0.0, 0.0, 1.0])  # always the last class
    images = np.zeros((5, 20, 12, 3), dtype=np.uint8)
    assert predict(model, images, NETWORK.input_spec).tolist() == [2] * 5


def test_the_history_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    for rows in (3, 1):
        write_history(path, [{"epoch": i + 1, "loss": 0.5} for i in range(rows)])
        assert path.read_text().splitlines() == ["epoch,loss", *(f"{i + 1},0.5" for i in range(rows))]
    assert list(tmp_path.iterdir()) == [path]
