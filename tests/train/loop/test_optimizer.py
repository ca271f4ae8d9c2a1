"""Steps that are not finite are refused, and a run that meets one stops there and says where it began."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.tiny_training import NETWORK, easy_dataset
from train.loop.fit import compile_model
from train.loop.optimizer import GuardedAdamW, LayerwiseAdamW
from train.loop.training_model import TrainingModel
from train.model.recipe import TrainConfig

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
    command = [sys.executable, "-m", "tests.support.optimizer_on_jax"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


SHARES = {"v0": 1.0, "v1": 0.25, "v2": 0.25}
STEPS = (1.0, -2.0, 0.5)


def adamw(value: NDArray[Any], grads: list[NDArray[Any]], share: float) -> NDArray[np.float64]:
    """AdamW (Loshchilov and Hutter, 2019, algorithm 2) in float64, at a share of the rate, decay included."""
    weight, m, v = np.float64(value), 0.0, 0.0
    for step, grad in enumerate(grads, 1):
        m = 0.9 * m + 0.1 * grad
        v = 0.999 * v + 0.001 * np.square(grad)
        direction = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-7)
        weight = weight - share * 0.1 * (direction + 0.2 * weight)
    return np.float64(weight)


def expected() -> list[NDArray[np.float64]]:
    """What the steps make of the variables."""
    grads = [[np.float64(g) for g in gradients([scale, 0.3, 0.0])] for scale in STEPS]
    return [
        adamw(np.array(variable), [step[index] for step in grads], SHARES[variable.name])
        for index, variable in enumerate(variables())
    ]


def layerwise(**changes: Any) -> LayerwiseAdamW:
    settings = SETTINGS | {"global_clipnorm": None, "use_ema": False} | changes
    return LayerwiseAdamW(**settings, rate_scale=SHARES.__getitem__)


@pytest.mark.parametrize("kind", ["eager", "graph", "xla"])
def test_a_step_is_adamw_s_at_a_share_of_the_rate(kind: str) -> None:
    optimizer, weights = layerwise(), variables()
    step = stepper(optimizer, weights, kind)
    for scale in STEPS:
        step(gradients([scale, 0.3, 0.0]))
    for variable, value in zip(weights, expected(), strict=True):
        np.testing.assert_allclose(np.array(variable), value, rtol=2e-5, atol=2e-5)
    assert optimizer.weight_decay == SETTINGS["weight_decay"]


def test_at_the_whole_rate_it_is_the_guarded_optimizer() -> None:
    ours = LayerwiseAdamW(**SETTINGS, rate_scale=lambda path: 1.0)
    theirs, weights, others = GuardedAdamW(**SETTINGS), variables(), variables()
    steps = stepper(ours, weights, "eager"), stepper(theirs, others, "eager")
    for scale in STEPS:
        for step in steps:
            step(gradients([scale, 0.3, 0.0]))
    assert all(np.array_equal(a, b) for a, b in zip(values(ours, weights), values(theirs, others), strict=True))


def test_averages_are_of_the_weights_as_they_were_stepped() -> None:
    optimizer, weights = layerwise(use_ema=True), variables()
    step = stepper(optimizer, weights, "eager")
    averages = [0.0] * 3
    for index, scale in enumerate(STEPS):
        step(gradients([scale, 0.3, 0.0]))
        share = 0.5 if index else 0.0
        averages = [share * a + (1 - share) * np.array(w) for a, w in zip(averages, weights, strict=True)]
    optimizer.finalize_variable_values(weights)
    for variable, average in zip(weights, averages, strict=True):
        np.testing.assert_allclose(np.array(variable), average, rtol=1e-6)


def test_every_variable_of_a_network_moves_by_its_share() -> None:
    """The first step of Adam is the rate itself, whatever the gradient."""
    recipe = TrainConfig(learning_rate=0.01, warmup_fraction=0.0, weight_decay=0.0, clip_norm=0.0, layer_decay=0.5)
    model = TrainingModel(NETWORK, recipe, easy_dataset().train)
    compile_model(model, recipe, total_steps=1000)
    before = [np.array(v) for v in model.trainable_variables]
    model.optimizer.apply([np.full(v.shape, 0.3, np.float32) for v in before], model.trainable_variables)
    # 2 blocks in one stage.
    shares = {"embed": 1 / 8, "stage0.block0": 1 / 4, "stage0.block1": 1 / 2, "head": 1.0, "logits": 1.0}
    seen = set()
    for variable, value in zip(model.trainable_variables, before, strict=True):
        part = next(name for name in shares if variable.path.startswith(name))
        seen.add(part)
        np.testing.assert_allclose(value - np.array(variable), 0.01 * shares[part], rtol=1e-3, err_msg=variable.path)
    assert seen == set(shares)
