"""Depthwise convolutions as matrix products: results and gradients as Keras', and where they are used."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.tiny_training import NETWORK
from train.model.focalnet import build_focalnet
from train.model.matmul_depthwise import MAX_TOKENS, MatmulDepthwiseConv2D, depthwise_class, tap_matrix

KERNELS = [(1, 1), (3, 3), (5, 5), (3, 5)]


def pair(shape: tuple[int, ...], kernel: tuple[int, int]) -> tuple[Any, Any]:
    """Keras' layer and this project's, with one kernel."""
    layers = [
        kind(kernel, padding="same", use_bias=False) for kind in (keras.layers.DepthwiseConv2D, MatmulDepthwiseConv2D)
    ]
    for layer in layers:
        layer.build(shape)
    layers[1].set_weights(layers[0].get_weights())
    return layers[0], layers[1]


def output_and_gradients(layer: Any, x: Any) -> list[Any]:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(tf.sin(3.0 * y))
    return [y, *tape.gradient(loss, [x, layer.kernel.value])]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("grid", [(8, 8), (4, 7), (2, 1)])
def test_results_and_gradients_are_those_of_keras(grid: tuple[int, int], kernel: tuple[int, int]) -> None:
    shape = (3, *grid, 6)
    x = tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)
    stock, ours = pair(shape, kernel)
    for expected, value in zip(output_and_gradients(stock, x), output_and_gradients(ours, x), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)


def test_no_convolution_is_left_in_small_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("the stock convolution was called")

    monkeypatch.setattr(keras.layers.DepthwiseConv2D, "call", refuse)
    side = int(MAX_TOKENS**0.5)
    small, large = (1, side, side, 2), (1, side, side + 1, 2)
    pair(small, (3, 3))[1](np.ones(small, np.float32))
    with pytest.raises(AssertionError, match="stock"):
        pair(large, (3, 3))[1](np.ones(large, np.float32))


def test_a_tap_is_at_its_offset() -> None:
    places = tap_matrix(3, 4, (3, 3))
    assert places.shape == (12, 12, 9)
    # The output at row 1, column 2 reads the input at row 0, column 3 by the tap of row 0, column 2.
    assert places[1 * 4 + 2, 0 * 4 + 3].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert places[1 * 4 + 2].sum(axis=0).tolist() == [1] * 9
    assert places[0].sum(axis=0).tolist() == [0, 0, 0, 0, 1, 1, 0, 1, 1]  # a corner has four inputs


@pytest.mark.parametrize(
    ("backend", "device", "chosen"),
    [("jax", "gpu", MatmulDepthwiseConv2D), ("jax", "cpu", None), ("tensorflow", "gpu", None)],
)
def test_products_are_for_accelerators_on_jax(backend: str, device: str, chosen: Any) -> None:
    assert depthwise_class(backend, device) is chosen


def test_a_network_has_the_same_variables_and_logits_with_products() -> None:
    stock, ours = build_focalnet(NETWORK, keras), build_focalnet(NETWORK, keras, MatmulDepthwiseConv2D)
    assert any(isinstance(layer, MatmulDepthwiseConv2D) for layer in ours.layers)
    assert [v.path for v in ours.variables if "seed" not in v.path] == [
        v.path for v in stock.variables if "seed" not in v.path
    ]
    ours.set_weights(stock.get_weights())
    images = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(ours(images), stock(images), rtol=1e-4, atol=1e-5)
