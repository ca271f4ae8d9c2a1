"""A small network with all features of the large public ones, as both int8 artifacts."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import keras
import numpy as np
import onnxruntime
import pytest

from calibration.inner_tensors import inner_tensors
from export.artifacts import convert_audited
from export.onnx import convert as onnx
from export.quantize.fake_quant import build_float, fake_quant_weights, quantized_ranges
from export.quantize.float_layers import place
from export.quantize.network import QuantizedNetwork
from export.quantize.schemes import DYNAMIC, INTEGER_ONLY, SELECTIVE, match_rules
from export.sensitivity.switchable import build_switchable
from export.tflite.operators import Listing, check_scheme
from runtime.core.errors import ArtifactError
from tests.support.published_networks import LARGE
from tests.support.tiny_run import draw_weights, run_artifact, soft_images
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet
from train.model.fold_norms import fold_weights, folded
from train.model.weights import assign_weights, model_weights

Ranges = dict[str, tuple[float, float]]
Artifacts = dict[str, tuple[QuantizedNetwork, bytes, Listing]]
IMAGES = soft_images(64, 1, LARGE.input_size)


def deployed(config: FocalNetConfig) -> tuple[Any, Ranges]:
    """Return the float network with drawn weights, and the ranges of its layers and inner tensors."""
    shapes = {name: tuple(v.shape) for name, v in model_weights(build_focalnet(config, keras)).items()}
    weights = fold_weights(draw_weights(shapes, seed=4), config)
    model = build_focalnet(folded(config), keras)
    assign_weights(model_weights(model), weights, "test")
    layers = {layer.name: layer.output for layer in model.layers[1:]}
    views = keras.Model(model.input, layers | inner_tensors(model, folded(config)))
    outputs = views.predict_on_batch(IMAGES.astype(np.float32))
    ranges = {name: (min(0.0, float(np.min(v))), max(0.0, float(np.max(v)))) for name, v in outputs.items()}
    return build_float(folded(config), weights, "test"), ranges


@pytest.fixture(scope="module")
def large() -> tuple[Any, Ranges]:
    return deployed(LARGE)


@pytest.fixture(scope="module")
def network(large: tuple[Any, Ranges]) -> Any:
    return large[0]


@pytest.fixture(scope="module")
def ranges(large: tuple[Any, Ranges]) -> Ranges:
    return large[1]


@pytest.fixture(scope="module")
def artifacts(network: Any, ranges: Ranges) -> Artifacts:
    """By the scheme's name: the network, the artifact and its operators."""
    made = {}
    for scheme in (SELECTIVE, DYNAMIC):
        quantized = QuantizedNetwork(network, folded(LARGE), ranges, scheme)
        made[scheme.name] = quantized, *convert_audited(quantized)
    return made


@pytest.mark.parametrize("scheme", ["selective", "dynamic"])
def test_it_is_one_partition_and_close_to_float_in_both_formats(
    scheme: str, network: Any, artifacts: Artifacts
) -> None:
    quantized, content, listing = artifacts[scheme]
    assert listing.partitions == 1
    expected = network.predict_on_batch(IMAGES.astype(np.float32))
    by_tflite = run_artifact(content, IMAGES)["logits"]
    session = onnxruntime.InferenceSession(onnx.convert_int8(quantized, {}), providers=["CPUExecutionProvider"])
    by_onnx = np.concatenate([session.run(["logits"], {"image": each[np.newaxis]})[0] for each in IMAGES])
    for found in (by_tflite, by_onnx):
        assert np.abs(found - expected).max() < 0.15 * expected.std()
        assert not np.array_equal(found, expected)
    # The rest is the rounding inside two runtimes' kernels.
    assert (by_tflite - by_onnx).std() < 0.03 * expected.std()


def test_overlapping_patches_are_padded_in_int8_before_int8_products(artifacts: Artifacts) -> None:
    pads = [each for each in artifacts["selective"][2].operators if each.name == "PAD"]
    assert [each.layer for each in pads] == ["embed.pad", "stage1.embed.pad"]
    assert all(each.outputs == ("int8",) for each in pads)


@pytest.fixture(scope="module")
def student(artifacts: Artifacts) -> Any:
    return artifacts["selective"][0].fake_quant


def test_logits_are_near_the_fake_quantized_networks(network: Any, student: Any, artifacts: Artifacts) -> None:
    found = run_artifact(artifacts["selective"][1], IMAGES)["logits"]
    simulated, exact = (model.predict_on_batch(IMAGES.astype(np.float32)) for model in (student, network))
    assert (found.argmax(axis=-1) == simulated.argmax(axis=-1)).mean() >= 0.95
    # The interpreter rounds differently, by less than the effect of int8.
    assert np.abs(found - simulated).mean() < 0.5 * np.abs(exact - simulated).mean()


@pytest.mark.parametrize(("name", "source"), [("embed.proj", "normalise"), ("stage1.embed.proj", "stage1.embed.input")])
def test_biases_behind_a_padding_are_int32_values(
    name: str, source: str, network: Any, ranges: Ranges, student: Any
) -> None:
    kept, exact = fake_quant_weights(student)[f"{name}/bias"], model_weights(network)[f"{name}/bias"].numpy()
    low, high = quantized_ranges([source], folded(LARGE), ranges)[source]
    largest = np.abs(model_weights(network)[f"{name}/kernel"].numpy()).max(axis=(0, 1, 2))
    scale = (high - low) / 255.0 * largest / 127.0
    np.testing.assert_allclose(kept / scale, np.rint(exact / scale), atol=1e-2)
    assert not np.array_equal(kept, exact)


def test_products_behind_a_padding_can_be_switched(network: Any, ranges: Ranges, student: Any) -> None:
    images = IMAGES.astype(np.float32)
    switched = build_switchable(network, folded(LARGE), ranges, SELECTIVE.rules)
    assert {"embed.proj", "stage1.embed.proj"} <= set(switched.products)
    exact = network.predict_on_batch(images)
    np.testing.assert_allclose(switched.model.predict_on_batch(images), exact, rtol=1e-4, atol=1e-4)
    switched.switch(switched.products)
    expected = student.predict_on_batch(images)
    np.testing.assert_allclose(switched.model.predict_on_batch(images), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected - exact).max() > 1e-3


@pytest.mark.parametrize(("name", "source"), [("embed.proj", "normalise"), ("stage1.embed.proj", "stage1.embed.input")])
def test_a_float_product_behind_a_padding_reads_an_unrounded_input(
    name: str, source: str, network: Any, ranges: Ranges
) -> None:
    matched = match_rules(SELECTIVE.rules, [layer.name for layer in network.layers])
    assert matched.keys() - place(network, matched, [name]).outputs.keys() == {name, source}
    scheme = SELECTIVE.leaving_float([name])
    content, listing = convert_audited(QuantizedNetwork(network, folded(LARGE), ranges, scheme))
    of_layer = {each.name: each for each in listing.operators if each.layer in (name, name.replace("proj", "pad"))}
    assert of_layer["CONV_2D"].is_float
    assert of_layer["PAD"].inputs == of_layer["PAD"].outputs == ("float32",)
    assert sum(each.is_float for each in listing.operators if each.name in ("CONV_2D", "PAD")) == 2
    assert listing.partitions == 1
    with pytest.raises(ArtifactError, match=rf"computes .*{re.escape(name.replace('proj', 'pad'))}.* in float"):
        check_scheme(listing, SELECTIVE)

    switched = build_switchable(network, folded(LARGE), ranges, SELECTIVE.rules)
    switched.switch([each for each in switched.products if each != name])
    simulated, exact = (model.predict_on_batch(IMAGES.astype(np.float32)) for model in (switched.model, network))
    found = run_artifact(content, IMAGES)["logits"]
    assert np.abs(found - simulated).mean() < 0.5 * np.abs(exact - simulated).mean()


def test_without_overlapping_patches_every_tensor_can_be_an_integer() -> None:
    config = dataclasses.replace(LARGE, stem="patch")
    network, ranges = deployed(config)
    content, listing = convert_audited(QuantizedNetwork(network, folded(config), ranges, INTEGER_ONLY))
    assert {each for op in listing.operators for each in (*op.inputs, *op.outputs)} == {"uint8", "int8"}
    layers = {each.layer for each in listing.operators}
    assert {"stage0.block0.norm1_post", "stage1.block1.norm2_post", "stage1.block0.norm_proj"} <= layers
    stored = run_artifact(content, IMAGES)["logits"].astype(np.float64)
    low, high = ranges["logits"]
    scale = (high - low) / 255.0
    found = (stored - np.rint(-128.0 - low / scale)) * scale
    expected = network.predict_on_batch(IMAGES.astype(np.float32))
    signal, noise = (expected - expected.mean(axis=0)), (found - expected)
    assert 10 * np.log10((signal**2).sum() / (noise**2).sum()) > 15  # random weights amplify errors


def test_integer_only_refuses_images_normalised_before_a_padding(network: Any, ranges: Ranges) -> None:
    with pytest.raises(ArtifactError, match=r"computes .*normalise.* in float, and the scheme 'integer-only' lists"):
        convert_audited(QuantizedNetwork(network, folded(LARGE), ranges, INTEGER_ONLY))
