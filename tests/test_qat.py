"""Quantization-aware training: it lowers the divergence from the float network, and says when it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.record import read_calibration
from export.fake_quant import build_fake_quant, fake_quant_weights
from export.qat import PictureBatches, QatConfig, finetune, predictions
from export.schemes import SELECTIVE
from runtime.errors import ConfigError, TrainingError
from tests.tiny_run import CONFIG, RUN, soft_pictures
from train.splits import Split
from train.weights import model_weights


@pytest.fixture
def student(tiny_run: Path, tiny_float: Any) -> Any:
    """A student whose kernels have been disturbed."""
    model = build_fake_quant(tiny_float, CONFIG, read_calibration(tiny_run).ranges, SELECTIVE.rules)
    rng = np.random.default_rng(0)
    for name, variable in model_weights(model).items():
        if name.endswith("/kernel"):
            variable.assign(variable * rng.normal(1.0, 0.3, variable.shape).astype(np.float32))
    return model


@pytest.fixture
def batches() -> PictureBatches:
    pictures = soft_pictures(64, seed=5, size=20)
    return PictureBatches(Split(pictures, np.zeros(64, np.int64), tuple(map(str, range(64)))), CONFIG, RUN.recipe)


def divergence(teacher: Any, student: Any) -> float:
    """Mean Kullback-Leibler divergence on pictures apart from the training ones, in NumPy."""
    pictures = soft_pictures(100, seed=6).astype(np.float32)
    target, found = (log_softmax(model.predict_on_batch(pictures)) for model in (teacher, student))
    return float((np.exp(target) * (target - found)).sum(axis=-1).mean())


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def test_learns_to_agree_with_the_teacher(student: Any, tiny_float: Any, batches: PictureBatches) -> None:
    teacher_before = [variable.numpy() for variable in tiny_float.variables]
    before = divergence(tiny_float, student)
    losses = finetune(student, tiny_float, batches, QatConfig(epochs=8, learning_rate=3e-3))
    assert len(losses) == 8
    assert losses[0] == pytest.approx(before, rel=1.0)
    assert losses[-1] < 0.5 * losses[0]
    assert divergence(tiny_float, student) < 0.5 * before
    for variable, value in zip(tiny_float.variables, teacher_before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_no_epochs_change_nothing(student: Any, tiny_float: Any, batches: PictureBatches) -> None:
    before = fake_quant_weights(student)
    assert finetune(student, tiny_float, batches, QatConfig(epochs=0)) == []
    after = fake_quant_weights(student)
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[name], value) for name, value in before.items())


def test_a_loss_that_is_not_finite_is_an_error(student: Any, tiny_float: Any, batches: PictureBatches) -> None:
    kernel = model_weights(student)["stage0.block0.focal0/kernel"]
    kernel.assign(kernel * np.nan)
    with pytest.raises(TrainingError, match=r"became nan in epoch 1; lower its learning rate"):
        finetune(student, tiny_float, batches, QatConfig(epochs=2))


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": -1},
        {"learning_rate": 0.0},
        {"learning_rate": -1e-4},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"clip_norm": 0.0},
        {"clip_norm": float("nan")},
    ],
)
def test_refuses_a_recipe_that_cannot_run(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected 0 epochs or more, a positive learning rate"):
        QatConfig(**fields)


@pytest.mark.parametrize("count", [1, 250, 251])
def test_predictions_of_any_number_of_pictures(count: int, tiny_float: Any) -> None:
    pictures = soft_pictures(count, seed=7)
    expected = [int(np.argmax(tiny_float(pictures[i : i + 1].astype(np.float32)))) for i in (0, count - 1)]
    found = predictions(tiny_float, pictures)
    assert found.shape == (count,)
    assert [found[0], found[-1]] == expected
