"""Quantization-aware training keeps the best epoch, and reports a loss that is not finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.observers import Range
from export.quantize.fake_quant import build_fake_quant, fake_quant_weights, settle_weights
from export.quantize.qat import LazyBatches, QatConfig, QatEpoch, Validated, Validator, best_epoch, finetune, logits
from export.quantize.schemes import SELECTIVE
from runtime.core.errors import ConfigError, TrainingError
from tests.support.tiny_run import CONFIG, RUN, soft_images
from train.data.dataset import Split
from train.model.weights import model_weights


@pytest.fixture
def student(ranges: dict[str, Range], tiny_float: Any) -> Any:
    """A student with disturbed kernels."""
    model = build_fake_quant(tiny_float, CONFIG, ranges, SELECTIVE)
    rng = np.random.default_rng(0)
    for name, variable in model_weights(model).items():
        if name.endswith("/kernel"):
            variable.assign(variable * rng.normal(1.0, 0.1, variable.shape).astype(np.float32))
    settle_weights(model)
    return model


@pytest.fixture
def batches() -> LazyBatches:
    images = soft_images(64, seed=5, size=20)
    return LazyBatches(Split(images, np.zeros(64, np.int64), tuple(map(str, range(64)))), CONFIG, RUN.recipe)


VALIDATION = soft_images(100, seed=6)


@pytest.fixture
def validate(tiny_float: Any) -> Validator:
    return Validator(tiny_float, VALIDATION)


def divergence(teacher: Any, student: Any) -> float:
    """Return the mean Kullback-Leibler divergence on the validation images, in NumPy."""
    images = VALIDATION.astype(np.float32)
    target, found = (log_softmax(model.predict_on_batch(images)) for model in (teacher, student))
    return float((np.exp(target) * (target - found)).sum(axis=-1).mean())


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


@pytest.mark.parametrize("ema_momentum", [0.0, 0.7])
def test_learns_to_agree_with_the_teacher(
    ema_momentum: float, student: Any, tiny_float: Any, batches: LazyBatches, validate: Validator
) -> None:
    teacher_before = [variable.numpy() for variable in tiny_float.variables]
    before = divergence(tiny_float, student)
    config = QatConfig(epochs=8, learning_rate=1e-3, ema_momentum=ema_momentum)
    epochs = finetune(student, tiny_float, batches, validate, config)
    assert [each.epoch for each in epochs] == list(range(9))
    assert epochs[0].loss is None
    assert epochs[0].val.divergence_nats == pytest.approx(before, rel=1e-3)
    best = best_epoch(epochs)
    assert best.val.agreement > epochs[0].val.agreement
    assert divergence(tiny_float, student) == pytest.approx(best.val.divergence_nats, rel=1e-3)
    assert best.val.divergence_nats < 0.5 * before
    for variable, value in zip(tiny_float.variables, teacher_before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.slow
def test_averages_move_less_than_the_weights(
    tiny_float: Any, ranges: dict[str, Range], batches: LazyBatches, validate: Validator
) -> None:
    def moved(ema_momentum: float) -> float:
        student = build_fake_quant(tiny_float, CONFIG, ranges, SELECTIVE)
        before = fake_quant_weights(student)
        seen: list[dict[str, NDArray[np.float32]]] = []

        def always_better(model: Any) -> Validated:
            settle_weights(model)
            seen.append(fake_quant_weights(model))
            return Validated(divergence_nats=-float(len(seen)), agreement=1.0)

        finetune(student, tiny_float, batches, always_better, QatConfig(learning_rate=1e-3, ema_momentum=ema_momentum))
        after = fake_quant_weights(student)
        assert all(np.allclose(after[name], value, rtol=1e-6) for name, value in seen[-1].items())
        return float(sum(np.abs(after[name] - value).sum() for name, value in before.items()))

    # An average of momentum 0.9 follows a part of 4 equal steps.
    assert 0.1 < moved(0.9) / moved(0.0) < 0.4


def test_an_epoch_that_validates_worse_is_not_kept(student: Any, tiny_float: Any, batches: LazyBatches) -> None:
    scores = iter([3.0, 2.0, 5.0, 4.0])
    seen: list[dict[str, NDArray[np.float32]]] = []

    def validate(model: Any) -> Validated:
        settle_weights(model)
        seen.append(fake_quant_weights(model))
        return Validated(divergence_nats=next(scores), agreement=0.5)

    epochs = finetune(student, tiny_float, batches, validate, QatConfig(epochs=3, learning_rate=1e-3))
    assert best_epoch(epochs).epoch == 1
    after = fake_quant_weights(student)
    assert all(np.allclose(after[name], value, rtol=1e-6) for name, value in seen[1].items())
    assert not any(np.allclose(after[name], value, rtol=1e-6) for name, value in seen[3].items() if "kernel" in name)


def test_training_that_only_harms_keeps_the_calibrated_network(
    ranges: dict[str, Range], tiny_float: Any, batches: LazyBatches, validate: Validator
) -> None:
    student = build_fake_quant(tiny_float, CONFIG, ranges, SELECTIVE)
    before, logits_before = fake_quant_weights(student), logits(student, VALIDATION)
    config = QatConfig(epochs=2, learning_rate=1.0, ema_momentum=0.0)
    epochs = finetune(student, tiny_float, batches, validate, config)
    assert epochs[1].val.divergence_nats > epochs[0].val.divergence_nats
    assert best_epoch(epochs).epoch == 0
    after = fake_quant_weights(student)
    assert all(np.array_equal(after[name], value) for name, value in before.items())
    np.testing.assert_array_equal(logits(student, VALIDATION), logits_before)


def test_the_earliest_of_equal_epochs_is_the_best() -> None:
    val = [Validated(divergence_nats=value, agreement=1.0) for value in (0.2, 0.1, 0.1)]
    assert best_epoch([QatEpoch(epoch=i, loss=0.0, val=each) for i, each in enumerate(val)]).epoch == 1


def test_no_epochs_change_nothing(student: Any, tiny_float: Any, batches: LazyBatches, validate: Validator) -> None:
    before = fake_quant_weights(student)
    assert [each.epoch for each in finetune(student, tiny_float, batches, validate, QatConfig(epochs=0))] == [0]
    after = fake_quant_weights(student)
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[name], value) for name, value in before.items())


def test_a_loss_that_is_not_finite_is_an_error(
    student: Any, tiny_float: Any, batches: LazyBatches, validate: Validator
) -> None:
    kernel = model_weights(student)["stage0.block0.focal0/kernel"]
    kernel.assign(kernel * np.nan)
    with pytest.raises(TrainingError, match=r"became nan in epoch 1; lower --qat-learning-rate"):
        finetune(student, tiny_float, batches, validate, QatConfig(epochs=2))


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
        {"ema_momentum": -0.1},
        {"ema_momentum": 1.0},
        {"ema_momentum": float("nan")},
    ],
)
def test_refuses_a_recipe_that_cannot_run(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected 0 epochs or more, a positive learning rate"):
        QatConfig(**fields)


@pytest.mark.parametrize("count", [1, 250, 251])
def test_logits_of_any_number_of_images(count: int, tiny_float: Any) -> None:
    images = soft_images(count, seed=7)
    expected = [np.asarray(tiny_float(images[i : i + 1].astype(np.float32)))[0] for i in (0, count - 1)]
    found = logits(tiny_float, images)
    assert found.shape == (count, CONFIG.classes)
    np.testing.assert_allclose([found[0], found[-1]], expected, atol=1e-5)
