"""Sensitivity ranking: SQNR against quantization in NumPy, and a damaged product that must rank first."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.observers import Range
from export.quantize.fake_quant import build_fake_quant, build_float
from export.quantize.schemes import SELECTIVE
from export.sensitivity.ranking import SimulatedEvaluator, output_sqnr_db, rank_products
from export.sensitivity.switchable import SwitchableNetwork, build_switchable
from tests.support.tiny_run import CONFIG, soft_images
from train.model.weights import read_tensors

IMAGES = soft_images(120, seed=11)
LABELS = np.zeros(len(IMAGES), np.int64)
RELU = dataclasses.replace(CONFIG, activation="relu")


@pytest.fixture(scope="module")
def network(tiny_float: Any, ranges: dict[str, Range]) -> SwitchableNetwork:
    return build_switchable(tiny_float, CONFIG, ranges, SELECTIVE.rules)


def quantized(values: NDArray[np.float64], ends: Range) -> NDArray[np.float64]:
    """Round to 256 levels over a range, shifted so that 0 is one of them."""
    step = (ends[1] - ends[0]) / 255.0
    least = -round(-ends[0] / step)
    return np.asarray(np.clip(np.round(values / step), least, least + 255) * step)


def numpy_sqnr_db(model: Any, product: str, source: Range, target: Range, relu: bool) -> float:
    """Return the SQNR of a 1x1 product in int8, given the float network's input."""
    import tf_keras

    layer = model.get_layer(product)
    x = tf_keras.Model(model.input, layer.input).predict_on_batch(IMAGES.astype(np.float32)).astype(np.float64)
    kernel, bias = (weight.astype(np.float64) for weight in layer.get_weights())
    step = np.abs(kernel).max(axis=(0, 1, 2)) / 127.0
    exact = x @ kernel[0, 0] + bias
    exact = np.maximum(exact, 0.0) if relu else exact
    rounded = quantized(quantized(x, source) @ (np.round(kernel / step) * step)[0, 0] + bias, target)
    return float(10 * np.log10((exact**2).sum() / ((exact - rounded) ** 2).sum()))


@pytest.mark.parametrize(
    ("product", "source"),
    [
        ("stage0.block0.query", "stage0.block0.norm1"),
        ("stage0.block0.gate2", "stage0.block0.norm1"),
        ("stage0.block0.contract", "stage0.block0.mlp_act"),
        ("stage1.block0.modulator", "stage1.block0.aggregate"),
        ("logits", "head.pool"),
    ],
)
def test_sqnr_is_numpys(
    product: str, source: str, network: SwitchableNetwork, tiny_float: Any, ranges: dict[str, Range]
) -> None:
    found = output_sqnr_db(network, IMAGES)[product]
    assert found == pytest.approx(
        numpy_sqnr_db(tiny_float, product, ranges[source], ranges[product], relu=False), abs=0.1
    )


def test_the_sqnr_of_a_product_with_its_relu_is_that_of_the_relu(tiny_run: Path) -> None:
    import tf_keras

    model = build_float(RELU, read_tensors(tiny_run / "float.safetensors"), "the tiny run")
    views = tf_keras.Model(model.input, {layer.name: layer.output for layer in model.layers[1:]})
    seen = views.predict_on_batch(IMAGES.astype(np.float32))
    ranges = {name: (min(float(v.min()), 0.0), max(float(v.max()), 0.0)) for name, v in seen.items()}
    network = build_switchable(model, RELU, ranges, SELECTIVE.rules)
    name, source, act = (f"stage0.block0.{each}" for each in ("expand", "norm2", "mlp_act"))
    expected = numpy_sqnr_db(model, name, ranges[source], ranges[act], relu=True)
    assert output_sqnr_db(network, IMAGES)[name] == pytest.approx(expected, abs=0.1)
    # Without the fused ReLU all negative outputs would count as error.
    assert expected > 20


def test_a_product_without_error_has_no_sqnr(network: SwitchableNetwork, tiny_float: Any) -> None:
    ranges = {layer.name: (-1e6, 1e6) for layer in tiny_float.layers}
    silent = build_switchable(tiny_float, CONFIG, ranges, SELECTIVE.rules)
    layer = silent.model.get_layer("logits")
    layer.set_weights([np.zeros_like(weight) if weight.shape else weight for weight in layer.get_weights()])
    found = output_sqnr_db(silent, IMAGES[:10])
    assert found["logits"] is None
    # An output rounded to 0 throughout: the error equals the signal.
    assert found["stage0.block0.query"] == pytest.approx(0.0)


def test_a_damaged_product_ranks_first(tiny_float: Any, network: SwitchableNetwork, ranges: dict[str, Range]) -> None:
    name = "stage1.block0.query"
    sound = rank_products(network, IMAGES, SimulatedEvaluator(network, IMAGES, LABELS))
    assert {each.layer for each in sound} == set(network.products)
    assert sound[0].layer != name
    divergences = [each.effect.divergence_nats for each in sound]
    assert divergences == sorted(divergences, reverse=True)
    assert divergences[-1] > 0
    low, high = ranges[name]
    narrow = build_switchable(tiny_float, CONFIG, ranges | {name: (low / 200, high / 200)}, SELECTIVE.rules)
    damaged = rank_products(narrow, IMAGES, SimulatedEvaluator(narrow, IMAGES, LABELS))
    assert damaged[0].layer == name
    assert min(damaged, key=lambda each: each.sqnr_db or math.inf).layer == name
    by_name = {each.layer: each.sqnr_db for each in sound}
    assert all(each.sqnr_db == by_name[each.layer] for each in damaged[1:])


def test_the_effect_is_that_of_the_fake_quantized_network(
    network: SwitchableNetwork, tiny_float: Any, ranges: dict[str, Range]
) -> None:
    left = ("stage0.block0.query", "stage1.block0.contract", "stage1.block0.gate0")
    student = build_fake_quant(tiny_float, CONFIG, ranges, SELECTIVE.leaving_float(left))
    exact, found = (model.predict_on_batch(IMAGES.astype(np.float32)) for model in (tiny_float, student))
    labels = exact.argmax(axis=-1)
    labels[::3] = (labels[::3] + 1) % 3
    effect = SimulatedEvaluator(network, IMAGES, labels)([name for name in network.products if name not in left])
    p, q = (
        np.exp(v.astype(np.float64)) / np.exp(v.astype(np.float64)).sum(axis=-1, keepdims=True) for v in (exact, found)
    )
    assert effect.divergence_nats == pytest.approx((p * np.log(p / q)).sum(axis=-1).mean(), rel=1e-2)
    assert effect.accuracy.top1 == np.mean(found.argmax(axis=-1) == labels)
    assert effect.accuracy.agreement == np.mean(found.argmax(axis=-1) == exact.argmax(axis=-1))
