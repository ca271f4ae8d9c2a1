"""Layer groups: each block has its factor of the learning rate, and frozen stages do not learn."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from runtime.core.errors import ConfigError
from tests.support.tiny_training import NETWORK, RECIPE, easy_dataset
from train.loop.training_model import TrainingModel
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet
from train.model.layer_groups import is_frozen, rate_scale, steps_from_head
from train.model.presets import PRESETS
from train.model.recipe import TrainConfig, check_recipe

NANO = PRESETS["edge-nano"].model  # 4 blocks, then 2


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


@pytest.mark.parametrize("value", [0.0, -0.5, 1.01, float("nan"), float("inf")])
def test_a_layer_decay_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=rf"received layer_decay={value}; expected above 0, at most 1"):
        TrainConfig(layer_decay=value)


def test_more_frozen_stages_than_there_are_are_refused() -> None:
    with pytest.raises(ConfigError, match="received frozen_stages=-1; expected 0 or more"):
        TrainConfig(frozen_stages=-1)
    check_recipe(NANO, TrainConfig(frozen_stages=2))
    with pytest.raises(ConfigError, match="frozen_stages=3 for a network of 2 stages; expected 0 to 2; 2 trains the"):
        check_recipe(NANO, TrainConfig(frozen_stages=3))


def frozen_and_free(stages: int, network: FocalNetConfig = NETWORK) -> Any:
    recipe = TrainConfig(frozen_stages=stages, resize_margin=RECIPE.resize_margin)
    return TrainingModel(network, recipe, easy_dataset().train)


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
