"""The layer that is named is the one that was spoilt."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from tests.support.tiny_training import FULL_RECIPE, NETWORK, easy_dataset
from train.loop.nonfinite import spoilt_gradient, spoilt_in_training, spoilt_output
from train.loop.training_model import Trainee
from train.model.focalnet import build_focalnet

IMAGES = easy_dataset().val.images[:4, :8, :8].astype(np.float32)
INPUTS = {"indices": np.arange(6, dtype=np.int32), "targets": np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]}


@pytest.fixture(scope="module")
def built() -> Any:
    return build_focalnet(NETWORK, keras)


@pytest.fixture
def network(built: Any) -> Iterator[Any]:
    before = [np.array(v) for v in built.variables]
    yield built
    for variable, value in zip(built.variables, before, strict=True):
        variable.assign(value)


def plant(network: Any, layer: str, value: float, name: str = "kernel") -> None:
    """Put one value into a weight of a layer."""
    variable = getattr(network.get_layer(layer), name)
    values = np.array(variable)
    values.flat[0] = value
    variable.assign(values)


def test_nothing_is_named_in_a_sound_network(network: Any) -> None:
    assert spoilt_output(network, IMAGES, training=True) is None
    assert spoilt_output(network, IMAGES, training=False) is None


@pytest.mark.parametrize(
    "layer", ["embed.proj", "stage0.block0.gate1", "stage0.block0.modulator", "stage0.block1.contract", "logits"]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_layer_with_a_spoilt_weight_is_named(network: Any, layer: str, value: float) -> None:
    plant(network, layer, value)
    assert spoilt_output(network, IMAGES, training=True) == layer


def test_the_first_of_several_is_named(network: Any) -> None:
    for layer in ("logits", "stage0.block1.query", "stage0.block0.contract"):
        plant(network, layer, np.nan)
    assert spoilt_output(network, IMAGES, training=False) == "stage0.block0.contract"


def test_finite_weights_that_overflow_are_found_where_they_do(network: Any) -> None:
    for layer in ("query", "modulator"):
        each = network.get_layer(f"stage0.block0.{layer}")
        each.bias.assign(np.full(each.bias.shape, 1e30))
    assert spoilt_output(network, IMAGES, training=False) == "stage0.block0.modulate"


def test_training_and_evaluation_differ_by_the_statistics_of_batchnorm(network: Any) -> None:
    plant(network, "stage0.block1.norm2", np.nan, "moving_mean")
    assert spoilt_output(network, IMAGES, training=True) is None
    plant(network, "stage0.block1.norm2", np.nan, "moving_mean")
    assert spoilt_output(network, IMAGES, training=False) == "stage0.block1.norm2"


def test_images_that_are_not_finite_are_named_by_the_input(network: Any) -> None:
    assert spoilt_output(network, IMAGES * np.float32(np.nan), training=True) == "image"


def test_the_gradient_nearest_to_the_loss_is_named(network: Any) -> None:
    paths = [variable.path for variable in network.trainable_variables]

    def spoilt(*names: str) -> str | None:
        return spoilt_gradient(network, [path not in names for path in paths])

    assert spoilt() is None
    assert spoilt("embed.proj/kernel") == "embed.proj"
    assert spoilt("embed.proj/kernel", "stage0.block1.query/bias", "stage0.block0.norm1/gamma") == "stage0.block1.query"
    assert spoilt(*paths) == "logits"


def test_a_step_is_replayed_with_what_it_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    trainee = Trainee(NETWORK, FULL_RECIPE, easy_dataset().train)
    trainee(INPUTS, training=True)  # an earlier step
    drawn: list[Any] = []
    augmented = Trainee.augmented

    def noted(self: Trainee, inputs: Any) -> Any:
        drawn.append(augmented(self, inputs))
        return drawn[-1]

    monkeypatch.setattr(Trainee, "augmented", noted)
    trainee(INPUTS, training=True)
    dropout = np.array(trainee.network.get_layer("embed.drop").seed_generator.state)
    plant(trainee.network, "stage0.block0.expand", np.nan)
    assert spoilt_in_training(trainee, INPUTS) == "stage0.block0.expand"
    step, _, replay = drawn
    for ours, theirs in zip(replay, step, strict=True):
        assert np.array_equal(ours, theirs)
    assert not np.array_equal(drawn[1][0], step[0])
    # Dropout, too: after the replay its seed stands where the step had left it.
    assert np.array_equal(np.array(trainee.network.get_layer("embed.drop").seed_generator.state), dropout)


def test_spoilt_augmentation_is_named() -> None:
    trainee = Trainee(NETWORK, FULL_RECIPE, easy_dataset().train)
    trainee(INPUTS, training=True)
    targets = INPUTS["targets"] * np.float32(np.nan)
    assert spoilt_in_training(trainee, INPUTS | {"targets": targets}) == "augment"
    assert spoilt_in_training(trainee, INPUTS) is None
