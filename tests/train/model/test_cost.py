"""Cost of a network, against TensorFlow's count and one by hand; the measured peak, with a fake clock."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf

import train.model.cost
from runtime.core.errors import ConfigError, TrainingError
from train.model.config import FocalNetConfig
from train.model.cost import (
    LONG_ENOUGH_S,
    PRODUCTS,
    REPEATS,
    fraction_of_peak,
    measure_peak,
    model_cost,
    network_cost,
    training_flops,
)
from train.model.focalnet import build_focalnet
from train.model.presets import PRESETS

TINY = FocalNetConfig(
    input_size=8, classes=3, patch_size=4, dims=(8,), depths=(1,), focal_levels=(2,), focal_windows=(3,), mlp_ratio=2.0
)
NETWORKS = {
    "one stage": TINY,
    "two stages": dataclasses.replace(
        TINY, input_size=24, dims=(8, 12), depths=(2, 1), focal_levels=(2, 1), focal_windows=(3, 5)
    ),
    "convolutional stem, BatchNorm": dataclasses.replace(TINY, stem="conv", norm="batch", activation="relu"),
}


def profiled_macs(model: Any, size: int) -> int:
    """Half the floating-point operations that TensorFlow's profiler counts in convolutions and matrix products."""
    image = tf.TensorSpec((1, size, size, 3), tf.float32)
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(image).graph
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation()).with_empty_output()
    node = profiler.profile(graph, cmd="op", options=options.build())
    flops = {}
    while node.children:  # each type of operation is the one child of the type before
        (node,) = node.children
        flops[node.name] = node.float_ops
    return sum(flops.get(name, 0) for name in ("Conv2D", "DepthwiseConv2dNative", "MatMul")) // 2


@pytest.mark.parametrize("name", NETWORKS)
def test_multiply_accumulates_equal_tensorflow_s_count(name: str) -> None:
    config = NETWORKS[name]
    model = build_focalnet(config, keras)
    macs = profiled_macs(model, config.input_size)
    assert macs > 0
    assert network_cost(config).macs == model_cost(model).macs == macs


def test_a_tiny_network_s_cost_equals_a_count_by_hand() -> None:
    # 2x2 tokens of 8 channels: patches; query, context, 3 gates; 3x3 and 5x5 depthwise; modulator, projection; MLP.
    tokens = 4
    a_token = 48 * 8 + 8 * (8 + 8 + 3) + 8 * (9 + 25) + 2 * 8 * 8 + 2 * 8 * 16
    cost = network_cost(TINY)
    assert cost.macs == tokens * a_token + 8 * 3
    biases = 8 + (8 + 8 + 3) + 2 * 8 + 16 + 8 + 3
    norms = 2 * 8  # after the patches; the others' scales and offsets are in the layers that read them
    assert cost.parameters == a_token + 8 * 3 + biases + norms


def test_folded_norms_are_not_counted() -> None:
    config = NETWORKS["convolutional stem, BatchNorm"]
    trained = build_focalnet(config, keras)
    kinds = (keras.layers.BatchNormalization, keras.layers.LayerNormalization)
    norms = sum(layer.count_params() for layer in trained.layers if isinstance(layer, kinds))
    assert norms > 0
    assert network_cost(config).parameters == trained.count_params() - norms


def test_dense_layers_are_counted_at_every_token() -> None:
    tokens = keras.Input((5, 4))
    model = keras.Model(tokens, keras.layers.Dense(7)(tokens))
    assert model_cost(model).macs == 5 * 4 * 7
    assert model_cost(model).parameters == 4 * 7 + 7


def test_a_grouped_convolution_costs_the_same_as_a_depthwise_one() -> None:
    image = keras.Input((6, 6, 8))
    grouped = keras.Model(image, keras.layers.Conv2D(8, 3, groups=8, padding="same", use_bias=False)(image))
    depthwise = keras.Model(image, keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(image))
    assert model_cost(grouped) == model_cost(depthwise)
    assert model_cost(grouped).macs == 6 * 6 * 8 * 9


@pytest.mark.parametrize("name", ["edge-pico"])
def test_cost_grows_with_the_area(name: str) -> None:
    config = PRESETS[name].model
    small = network_cost(config)
    large = network_cost(dataclasses.replace(config, input_size=2 * config.input_size))
    assert large.parameters == small.parameters
    head = config.dims[-1] * config.classes
    assert large.macs - head == 4 * (small.macs - head)


def test_training_is_three_forward_passes_of_two_operations() -> None:
    assert training_flops(1_000) == 6_000


def test_the_fraction_of_peak() -> None:
    # 50 images a second of 6 * 10 million operations are 3 GFLOP/s.
    assert fraction_of_peak(50.0, 10_000_000, 12e9) == pytest.approx(0.25)


@pytest.mark.parametrize("peak", [0.0, -1.0, float("nan"), float("inf")])
def test_a_peak_that_is_not_positive_and_finite_is_refused(peak: float) -> None:
    with pytest.raises(TrainingError, match="measure it with measure_peak"):
        fraction_of_peak(50.0, 1_000, peak)


class Clock:
    """A clock by which each timed call takes the next duration; `left_s` are those not taken."""

    def __init__(self, durations_s: list[float]) -> None:
        self.left_s, self.now_s, self.running = list(durations_s), 0.0, False

    def __call__(self) -> float:
        if self.running:
            self.now_s += self.left_s.pop(0)
        self.running = not self.running
        return self.now_s


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_peak_is_that_of_the_fastest_call(dtype: str) -> None:
    clock = Clock([4.0, 2.0, 3.0])
    assert measure_peak(dtype, sides=(16, 32), clock_s=clock) == pytest.approx(PRODUCTS * 2 * 16**3 / 2.0)
    assert clock.left_s == []


def test_sides_grow_until_the_products_last() -> None:
    short = LONG_ENOUGH_S / 2
    clock = Clock([short] * REPEATS + [2 * LONG_ENOUGH_S] * REPEATS + [9.0] * REPEATS)
    assert measure_peak(sides=(8, 16, 32), clock_s=clock) == pytest.approx(PRODUCTS * 2 * 16**3 / (2 * LONG_ENOUGH_S))
    assert clock.left_s == [9.0] * REPEATS


def test_the_products_are_computed() -> None:
    model = train.model.cost._Products(16, "float32")
    matrix = np.asarray(model.weights[0])
    power = matrix
    for _ in range(PRODUCTS):
        power = power @ matrix
    found = model.predict_on_batch(np.ones((1, 1), np.float32))
    assert found.shape == (1, 1)
    assert found[0, 0] == pytest.approx(power.max(), rel=1e-4)


def test_a_clock_that_stands_still_gives_no_peak() -> None:
    with pytest.raises(TrainingError, match="took no time"):
        measure_peak(sides=(8,), clock_s=lambda: 0.0)


@pytest.mark.parametrize(("dtype", "sides"), [("int8", (8,)), ("float32", ())])
def test_an_unknown_dtype_or_no_side_is_refused(dtype: str, sides: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="float32, bfloat16"):
        measure_peak(dtype, sides)
