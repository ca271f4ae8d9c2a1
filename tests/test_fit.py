"""A training run: it learns, follows its schedule, resumes exactly and never spoils its last good checkpoint."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import shutil
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import ArtifactError, TrainingError
from tests.tiny_training import NETWORK, RECIPE, RUN, TRAIN_PICTURES, easy_dataset
from train import fit as fit_module
from train.augment import TrainBatches
from train.checkpoint import CHECKPOINT_FILE, Checkpoint, History, load_checkpoint, save_checkpoint
from train.config import TrainConfig
from train.fit import (
    EvalBatches,
    EveryEpoch,
    compile_model,
    device_name,
    evaluate,
    fit,
    learning_rate_schedule,
    write_history,
)
from train.focalnet import build_focalnet

STEPS_PER_EPOCH = TRAIN_PICTURES // RECIPE.batch_size


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

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "save_checkpoint", save_and_keep)
        model, history = fit(RUN, easy_dataset(), folder, resume=False)
    assert len(saved) == RECIPE.epochs
    return Finished(folder, model, history, saved[1])


@pytest.fixture
def halfway(finished: Finished, tmp_path: Path) -> Path:
    """A run folder as a kill after the second epoch leaves it."""
    shutil.copy(finished.folder / "history.csv", tmp_path)
    (tmp_path / CHECKPOINT_FILE).write_bytes(finished.second)
    return tmp_path


def weights(model: Any) -> list[Any]:
    return [np.array(variable) for variable in model.weights]


def test_the_loss_falls_and_the_colours_are_learnt(finished: Finished) -> None:
    losses = [row["loss"] for row in finished.history]
    assert losses[-1] < 0.8 * losses[0]
    test = easy_dataset().test
    assert evaluate(finished.model, test.images, test.labels, NETWORK.input_size) > 0.6


def test_a_run_leaves_its_files(finished: Finished) -> None:
    files = {path.relative_to(finished.folder).as_posix() for path in finished.folder.rglob("*") if path.is_file()}
    panels = {"monitor/epoch_002.png", "monitor/epoch_004.png"}
    assert files == {CHECKPOINT_FILE, "history.csv", "curves.png", *panels}
    for name in ("curves.png", *panels):
        picture = cv2.imread(str(finished.folder / name))
        assert picture is not None
        assert picture.std() > 5


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


def test_the_last_checkpoint_holds_the_final_weights(finished: Finished) -> None:
    model = build_focalnet(NETWORK, keras)
    compile_model(model, RECIPE, total_steps=1)
    checkpoint = load_checkpoint(finished.folder / CHECKPOINT_FILE, model)
    assert checkpoint.history == finished.history
    assert all(np.array_equal(a, b) for a, b in zip(weights(model), weights(finished.model), strict=True))


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


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    finished: Finished, halfway: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TrainBatches.__getitem__

    def spoilt(self: TrainBatches, index: int) -> Any:
        images, targets = whole(self, index)
        return images * np.float32(np.nan), targets

    monkeypatch.setattr(TrainBatches, "__getitem__", spoilt)
    # Saves the seconds of tracing.
    monkeypatch.setattr(keras.Model, "run_eagerly", property(lambda _: True, lambda _, value: None))
    with pytest.raises(TrainingError, match=r"loss became nan in epoch 3; .* lower the learning rate"):
        fit(RUN, easy_dataset(), halfway, resume=True)
    assert (halfway / CHECKPOINT_FILE).read_bytes() == finished.second


@pytest.mark.parametrize("name", ["loss", "val_loss"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_either_loss_stops_the_run(tmp_path: Path, name: str, value: float) -> None:
    history: History = []
    callback = EveryEpoch(tmp_path, history)
    figures = {"loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5} | {name: value}
    with pytest.raises(TrainingError, match=f"{name} became {value} in epoch 7"):
        callback.on_epoch_end(6, figures)
    assert (history, list(tmp_path.iterdir())) == ([], [])


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


@pytest.mark.parametrize("kernels_only", [True, False])
def test_weight_decay_spares_biases_and_norms_if_asked(kernels_only: bool) -> None:
    model = build_focalnet(NETWORK, keras)
    recipe = TrainConfig(
        learning_rate=0.1, warmup_fraction=0.0, weight_decay=0.5, decay_kernels_only=kernels_only, clip_norm=0.0
    )
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
    model = build_focalnet(NETWORK, keras)
    compile_model(model, TrainConfig(clip_norm=clip_norm, label_smoothing=0.3), total_steps=10)
    assert model.optimizer.global_clipnorm == expected
    # -log softmax of the right class is log(1 + 2/e^2), of the others 2 more.
    right = math.log(1 + 2 * math.exp(-2))
    loss = float(model.loss(np.array([[1.0, 0.0, 0.0]]), np.array([[2.0, 0.0, 0.0]])))
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


def test_eval_batches_are_all_pictures_in_order() -> None:
    images = np.arange(7 * 12, dtype=np.uint8).reshape(7, 2, 2, 3)
    batches = EvalBatches(images, np.arange(7) % 3, classes=3, batch_size=3)
    parts = [batches[index] for index in range(len(batches))]
    assert [len(part[0]) for part in parts] == [3, 3, 1]
    assert all(part[0].dtype == part[1].dtype == np.float32 for part in parts)
    assert np.array_equal(np.concatenate([part[0] for part in parts]), images)
    assert np.concatenate([part[1] for part in parts]).argmax(axis=-1).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_evaluate_is_the_share_of_right_answers() -> None:
    model = build_focalnet(NETWORK, keras)
    for variable in model.get_layer("logits").weights:
        variable.assign(np.zeros(variable.shape))
    model.get_layer("logits").bias.assign([0.0, 0.0, 1.0])  # always the last class
    labels = np.array([2, 2, 0, 1, 2], dtype=np.int64)
    images = np.zeros((5, 20, 12, 3), dtype=np.uint8)
    assert evaluate(model, images, labels, NETWORK.input_size) == pytest.approx(3 / 5)


def test_the_history_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    for rows in (3, 1):
        write_history(path, [{"epoch": i + 1, "loss": 0.5} for i in range(rows)])
        assert path.read_text().splitlines() == ["epoch,loss", *(f"{i + 1},0.5" for i in range(rows))]
    assert list(tmp_path.iterdir()) == [path]
