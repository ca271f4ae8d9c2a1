"""Steps that are not finite are refused, and a run that meets one stops there and says where it began."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from runtime.core.errors import TrainingError
from tests.support.tiny_training import NETWORK, RECIPE, easy_dataset
from train.data.batches import EvalBatches, TrainBatches
from train.loop.fit import compile_model
from train.loop.optimizer import GuardedAdamW, StopIfNotFinite
from train.loop.training_model import Trainee

SETTINGS: dict[str, Any] = {
    "learning_rate": 0.1, "weight_decay": 0.2, "global_clipnorm": 1.0, "use_ema": True, "ema_momentum": 0.5,
}  # fmt: skip
BAD = {
    "nan": [0.5, math.nan, 0.5],
    "infinite": [0.5, 0.5, -math.inf],
    "squares overflow": [0.5, 3e19, 0.5],
    "sum of squares overflows": [1.7e19, 0.0, 0.0],  # over the gradients; clipping would make NaN of it
}


def variables() -> list[Any]:
    return [keras.Variable(value, name=f"v{i}") for i, value in enumerate(([1.0, 2.0, 3.0], [[4.0]], 5.0))]


def gradients(first: list[float]) -> list[Any]:
    return [np.array(value, dtype=np.float32) for value in (first, [[0.1]], 1.7e19 if first[0] > 1e18 else 0.2)]


def stepper(optimizer: Any, weights: list[Any], kind: str) -> Callable[[list[Any]], None]:
    """Return a function that applies gradients: eagerly, or compiled as TensorFlow trains on a CPU or a GPU."""
    import tensorflow as tf

    optimizer.build(weights)

    def apply(*grads: Any) -> None:
        optimizer.apply(list(grads), weights)

    compiled = apply if kind == "eager" else tf.function(apply, jit_compile=kind == "xla")
    return lambda grads: compiled(*(tf.constant(g) for g in grads))


def values(optimizer: Any, weights: list[Any]) -> list[Any]:
    state = [v for v in optimizer.variables if v is not getattr(optimizer, "finite", None)]
    return [np.array(v) for v in [*weights, *state]]


@pytest.mark.parametrize("kind", ["eager", "graph", "xla"])
def test_finite_steps_are_those_of_keras(kind: str) -> None:
    ours, theirs = GuardedAdamW(**SETTINGS), keras.optimizers.AdamW(**SETTINGS)
    weights, expected = variables(), variables()
    step, reference = stepper(ours, weights, kind), stepper(theirs, expected, "eager")
    for scale in (1.0, -2.0, 1e6):
        for each in (step, reference):
            each(gradients([scale, 0.3, 0.0]))
    assert int(ours.iterations) == 3
    for a, b in zip(values(ours, weights), values(theirs, expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["eager", "graph", "xla"])
def test_other_steps_change_nothing_nor_do_those_after_them(kind: str) -> None:
    for bad in BAD.values():
        optimizer, weights = GuardedAdamW(**SETTINGS), variables()
        step = stepper(optimizer, weights, kind)
        step(gradients([1.0, 2.0, 3.0]))
        before = values(optimizer, weights)
        assert np.array(optimizer.finite).all()
        for grads in (gradients(bad), gradients([1.0, 2.0, 3.0])):
            step(grads)
            assert all(np.array_equal(a, b) for a, b in zip(values(optimizer, weights), before, strict=True))
            assert not np.array(optimizer.finite)[0]
            assert np.array(optimizer.finite)[1]
        assert int(optimizer.iterations) == 1


def test_compiled_steps_on_jax_are_the_same() -> None:
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.support.guard_on_jax"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def trainee() -> Any:
    model = Trainee(NETWORK, RECIPE, easy_dataset().train)
    compile_model(model, RECIPE, total_steps=100)
    model.run_eagerly = True
    return model


@pytest.fixture
def watched(trainee: Any) -> Any:
    """A trainee, and the callback that watches it, in the epoch after two whole ones."""
    trainee.optimizer.build(trainee.trainable_variables)
    before = [np.array(v) for v in [*trainee.variables, *trainee.optimizer.variables]]
    dataset = easy_dataset()
    val = EvalBatches(dataset.val.images[:, :8, :8], dataset.val.labels, 3, batch_size=6)
    callback = StopIfNotFinite(TrainBatches(dataset.train.labels, 3, RECIPE), val)
    callback.set_model(trainee)
    callback.on_epoch_begin(2)
    yield trainee, callback, val
    for variable, value in zip([*trainee.variables, *trainee.optimizer.variables], before, strict=True):
        variable.assign(value)


def train_step(model: Any, callback: Any, batch: int) -> None:
    """One step of Keras' loop, on a batch that the callback knows."""
    inputs, targets = callback._train[batch]
    loss, _ = model.train_on_batch(inputs, targets)
    callback.on_train_batch_end(batch, {"loss": float(loss)})


def test_a_sound_run_goes_on(watched: Any) -> None:
    model, callback, _ = watched
    before = int(model.optimizer.iterations)
    for batch in (0, 1):
        train_step(model, callback, batch)
    callback.on_test_begin()
    callback.on_test_batch_end(0, {"loss": 1.0})
    assert int(model.optimizer.iterations) == before + 2


@pytest.mark.parametrize("layer", ["embed.proj", "stage0.block1.modulator"])
def test_a_loss_that_is_not_finite_stops_at_its_step(watched: Any, layer: str) -> None:
    model, callback, _ = watched
    train_step(model, callback, 0)
    kernel = model.network.get_layer(layer).kernel
    kernel.assign(np.full(kernel.shape, np.inf))
    other = model.network.get_layer("logits").kernel
    before = np.array(other)
    with pytest.raises(TrainingError) as caught:
        train_step(model, callback, 1)
    assert str(caught.value) == (
        f"epoch 3, step 2: received loss nan, which began in the output of layer {layer}; expected finite values "
        "(the checkpoint of epoch 2 is kept): lower learning_rate or raise warmup_fraction, in a new run"
    )
    assert np.array_equal(np.array(other), before)


def test_a_gradient_that_is_not_finite_stops_at_its_step(watched: Any) -> None:
    model, callback, _ = watched
    train_step(model, callback, 0)
    # y = proj(query(x) * modulator): with a query of 0, the loss is finite whatever `proj` is.
    block = "stage0.block1."
    for name, value in (("proj", 1e30), ("query", 0.0)):
        kernel = model.network.get_layer(block + name).kernel
        kernel.assign(np.full(kernel.shape, value))
    model.network.get_layer(block + "query").bias.assign(np.zeros(8))
    before = [np.array(v) for v in model.trainable_variables]
    with pytest.raises(
        TrainingError, match=r"step 2: received a gradient that is not finite, .* layer stage0.block1.query;"
    ):
        train_step(model, callback, 1)
    assert all(np.array_equal(np.array(v), b) for v, b in zip(model.trainable_variables, before, strict=True))
    # Seen at the epoch's end alone, the step is the same.
    model.optimizer.iterations.assign(2 * len(callback._train) + 1)
    with pytest.raises(TrainingError, match="epoch 3, step 2: received a gradient that is not finite"):
        callback.on_test_begin()


def test_a_loss_of_finite_logits_is_said_to_be_one(watched: Any) -> None:
    _, callback, _ = watched
    with pytest.raises(TrainingError, match="step 1: received loss inf, which began in the loss of finite logits"):
        callback.on_train_batch_end(0, {"loss": math.inf})


def test_a_validation_that_is_not_finite_stops_the_run(watched: Any) -> None:
    model, callback, val = watched
    model.network.get_layer("stage0.block0.norm2").moving_variance.assign(np.full(8, -1.0))
    assert len(val) == 3
    with pytest.raises(
        TrainingError, match=r"epoch 3, validation step 2: received val_loss nan, .* of layer stage0.block0.norm2;"
    ):
        callback.on_test_batch_end(1, {"loss": math.nan})


def test_before_the_first_checkpoint_none_is_promised(watched: Any) -> None:
    _, callback, _ = watched
    callback.on_epoch_begin(0)
    with pytest.raises(TrainingError, match=r"epoch 1, step 1: .* \(there is no checkpoint yet\)"):
        callback.on_train_batch_end(0, {"loss": math.nan})
