"""Layers by their depth: each learns at its share of the rate, and the frozen ones not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from tests.support.paths import ROOT

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.core.errors import ConfigError
from tests.support.tiny_training import NETWORK, RECIPE, easy_dataset
from tests.train.loop.test_optimizer import SETTINGS, gradients, stepper, values, variables
from train.loop.fit import compile_model
from train.loop.layerwise import LayerwiseAdamW
from train.loop.optimizer import GuardedAdamW
from train.loop.training_model import Trainee
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet
from train.model.layer_groups import is_frozen, rate_scale, steps_from_head
from train.model.presets import PRESETS
from train.model.recipe import TrainConfig, check_recipe

NANO = PRESETS["edge-nano"].model  # 4 blocks, then 2
SHARES = {"v0": 1.0, "v1": 0.25, "v2": 0.25}
STEPS = (1.0, -2.0, 0.5)


@pytest.mark.parametrize(
    ("layer", "steps"),
    [
        ("logits", 0),
        ("head.norm", 0),
        ("stage1.block1.contract", 1),
        ("stage1.block0.norm2", 2),
        ("stage1.embed.proj", 2),  # goes with the block that it feeds
        ("stage1.embed.norm", 2),
        ("stage0.block3.gate2", 3),
        ("stage0.block0.query", 6),
        ("embed.conv0", 7),
        ("embed.norm2", 7),
    ],
)
def test_a_layer_is_as_many_steps_from_the_head_as_there_are_blocks_above(layer: str, steps: int) -> None:
    assert steps_from_head(layer, NANO) == steps
    assert rate_scale(layer, NANO, 0.8) == pytest.approx(0.8**steps)
    assert rate_scale(layer, NANO, 1.0) == 1.0


@pytest.mark.parametrize("preset", ["seed-cifar10", "edge-pico", "focalnet_tiny_lrf"])
def test_no_layer_with_weights_learns_faster_than_one_that_reads_it(preset: str) -> None:
    config = PRESETS[preset].model
    layers = [layer.name for layer in build_focalnet(config, keras).layers if layer.weights]  # in the order of reading
    depths = [steps_from_head(name, config) for name in layers]
    assert depths == sorted(depths, reverse=True)
    assert set(depths) == set(range(sum(config.depths) + 2))


@pytest.mark.parametrize(
    ("stages", "frozen"),
    [
        (0, set()),
        (1, {"embed.conv0", "embed.norm1", "stage0.block3.query"}),
        (2, {"embed.conv0", "embed.norm1", "stage0.block3.query", "stage1.embed.proj", "stage1.block0.norm2"}),
    ],
)
def test_the_first_stages_are_frozen_with_the_embedding_and_never_the_head(stages: int, frozen: set[str]) -> None:
    layers = ["embed.conv0", "embed.norm1", "stage0.block3.query", "stage1.embed.proj", "stage1.block0.norm2"]
    assert {name for name in [*layers, "head.norm", "logits"] if is_frozen(name, stages)} == frozen


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


def test_steps_on_jax_are_the_same() -> None:
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.support.layerwise_on_jax"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


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
    model = Trainee(NETWORK, recipe, easy_dataset().train)
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


@pytest.mark.parametrize("value", [0.0, -0.5, 1.01, float("nan"), float("inf")])
def test_a_layer_decay_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=rf"received layer_decay={value}; expected a factor above 0, at most 1"):
        TrainConfig(layer_decay=value)


def test_more_frozen_stages_than_there_are_are_refused() -> None:
    with pytest.raises(ConfigError, match="received frozen_stages=-1; expected 0 or more"):
        TrainConfig(frozen_stages=-1)
    check_recipe(NANO, TrainConfig(frozen_stages=2))
    with pytest.raises(ConfigError, match="frozen_stages=3 for a network of 2 stages; expected 0 to 2; 2 trains the"):
        check_recipe(NANO, TrainConfig(frozen_stages=3))


def frozen_and_free(stages: int, network: FocalNetConfig = NETWORK) -> Any:
    recipe = TrainConfig(frozen_stages=stages, resize_margin=RECIPE.resize_margin)
    return Trainee(network, recipe, easy_dataset().train)


def test_a_linear_probe_trains_the_head_alone() -> None:
    model = frozen_and_free(1)
    assert {v.path for v in model.trainable_variables} == {
        "head.norm/gamma", "head.norm/beta", "logits/kernel", "logits/bias",
    }  # fmt: skip
    assert len(frozen_and_free(0).trainable_variables) > 4


def test_frozen_batch_norms_use_and_keep_their_moving_statistics() -> None:
    model = frozen_and_free(1)
    norms = {layer.name: layer for layer in model.network.layers if hasattr(layer, "moving_mean")}
    assert {"embed.norm", "head.norm"} < set(norms)
    before = {name: np.array(norm.moving_mean) for name, norm in norms.items()}
    images = easy_dataset().train.images[:6, 2:10, 2:10].astype(np.float32)
    model.network(images, training=True)
    moved = {name for name, norm in norms.items() if not np.array_equal(np.array(norm.moving_mean), before[name])}
    assert moved == {"head.norm"}
    values = keras.random.normal((4, 2, 2, 8)) + 3.0
    frozen = norms["embed.norm"]
    assert np.array_equal(frozen(values, training=True), frozen(values, training=False))
