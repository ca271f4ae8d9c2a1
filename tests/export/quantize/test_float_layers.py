"""Products left in float: float in the artifact with float inputs, and errors for other names."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from calibration.observers import Range
from export.artifacts import convert_audited
from export.quantize.fake_quant import build_fake_quant, build_float, fake_quant_weights
from export.quantize.float_layers import place
from export.quantize.network import QuantizedNetwork
from export.quantize.schemes import SELECTIVE, match_rules
from export.sensitivity.switchable import build_switchable
from export.tflite.operators import Listing, check_scheme
from runtime.core.errors import ArtifactError, ConfigError
from tests.support.tiny_run import CONFIG, draw_weights, run_artifact, soft_images
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet
from train.model.weights import model_weights

IMAGES = soft_images(30, seed=12)
STEM = dataclasses.replace(
    CONFIG,
    stem="conv",
    patch_size=4,
    depths=(1,),
    dims=(16,),
    focal_levels=(1,),
    focal_windows=(3,),
    activation="relu",
    norm="batch",
)
BLOCK = "stage0.block0"
# Float layers of a network with GELUs, and of one with ReLUs, which are fused into products.
SELECTIONS = (
    ("gelu", (f"{BLOCK}.query", "logits")),
    (
        "gelu",
        (*(f"{BLOCK}.{name}" for name in ("query", "context", "gate0", "gate1", "gate2")), "stage1.block0.contract"),
    ),
    ("relu", ("embed.conv1", f"{BLOCK}.contract")),
    ("relu", ("embed.conv0", "embed.conv1", f"{BLOCK}.expand")),
)


def relu_network() -> tuple[Any, dict[str, Range]]:
    """Return a network with ReLUs and a convolutional stem, and the ranges of its layers."""
    import tf_keras

    shapes = {name: tuple(v.shape) for name, v in model_weights(build_focalnet(STEM, tf_keras)).items()}
    model = build_float(STEM, draw_weights(shapes, seed=6), "the drawn weights")
    views = tf_keras.Model(model.input, {layer.name: layer.output for layer in model.layers[1:]})
    seen = views.predict_on_batch(IMAGES.astype(np.float32))
    return model, {name: (min(float(v.min()), 0.0), max(float(v.max()), 0.0)) for name, v in seen.items()}


@pytest.fixture(scope="module")
def networks(tiny_float: Any, ranges: dict[str, Range]) -> dict[str, tuple[Any, FocalNetConfig, dict[str, Range]]]:
    model, seen = relu_network()
    return {"gelu": (tiny_float, CONFIG, ranges), "relu": (model, STEM, seen)}


@pytest.fixture(scope="module")
def artifacts(networks: dict[str, Any]) -> dict[tuple[str, tuple[str, ...]], tuple[bytes, Listing]]:
    """The artifact of each selection, with its operators."""
    made = {}
    for network, layers in SELECTIONS:
        model, config, ranges = networks[network]
        made[network, layers] = convert_audited(
            QuantizedNetwork(model, config, ranges, SELECTIVE.leaving_float(layers))
        )
    return made


def producers(content: bytes) -> list[tuple[str, str, bool, str]]:
    """Return for each convolution: path, its input's producer, whether it is float, and the producer before."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]
    kinds = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    makers = {int(o.outputs[0]): o for o in graph.operators}

    def kind(operator: Any) -> str:
        return kinds[model.operatorCodes[operator.opcodeIndex].builtinCode]

    found = []
    for operator in graph.operators:
        if kind(operator) != "CONV_2D":
            continue
        is_float = all(graph.tensors[index].type == schema.TensorType.FLOAT32 for index in operator.inputs)
        source = makers.get(int(operator.inputs[0]))
        before = makers.get(int(source.inputs[0])) if source is not None and kind(source) == "DEQUANTIZE" else None
        path = graph.tensors[operator.outputs[0]].name.decode()
        found.append((path, "" if source is None else kind(source), is_float, "" if before is None else kind(before)))
    return found


@pytest.mark.parametrize(("network", "float_layers"), SELECTIONS)
def test_exactly_these_products_are_float_with_unrounded_inputs(
    network: str, float_layers: tuple[str, ...], networks: dict[str, Any], artifacts: dict[Any, Any]
) -> None:
    model, config, ranges = networks[network]
    content, listing = artifacts[network, float_layers]
    convolutions = [each for each in listing.operators if each.name == "CONV_2D"]
    assert {each.layer for each in convolutions if each.is_float} == set(float_layers)
    assert len(convolutions) == len({each.layer for each in convolutions})
    # The converter may store a float kernel as int8 or float16, which would be another network.
    in_file = producers(content)
    assert sum(is_float for _, _, is_float, _ in in_file) == len(float_layers)
    # The input of a float product is float, or the output of an int8 product, without a quantization between.
    assert all(before in ("", "CONV_2D", "MUL") for _, _, is_float, before in in_file if is_float)
    layers = {each.layer for each in listing.operators if each.name == "QUANTIZE"}
    assert not layers & set(float_layers)
    assert listing.partitions == 1

    # The interpreter rounds differently, by less than the effect of int8.
    switched = build_switchable(model, config, ranges, SELECTIVE.rules)
    switched.switch([name for name in switched.products if name not in float_layers])
    simulated = switched.model.predict_on_batch(IMAGES.astype(np.float32))
    exact = model.predict_on_batch(IMAGES.astype(np.float32))
    found = run_artifact(content, IMAGES)["logits"]
    assert np.abs(found - simulated).mean() < 0.5 * np.abs(exact - simulated).mean()


def test_int8_readers_share_one_quantization(artifacts: dict[Any, Any]) -> None:
    _, listing = artifacts[SELECTIONS[0]]
    readers = {f"{BLOCK}.{name}" for name in ("norm1", "query", "context", "gate0", "gate1", "gate2")}
    (quantization,) = [each for each in listing.operators if each.name == "QUANTIZE" and each.layer in readers]
    assert quantization.inputs == ("float32",)


@pytest.mark.parametrize(("network", "float_layers"), SELECTIONS[1:3])
def test_the_fake_quantized_network_is_the_switched_one(
    network: str, float_layers: tuple[str, ...], networks: dict[str, Any]
) -> None:
    model, config, ranges = networks[network]
    student = build_fake_quant(model, config, ranges, SELECTIVE.leaving_float(float_layers))
    switched = build_switchable(model, config, ranges, SELECTIVE.rules)
    switched.switch([name for name in switched.products if name not in float_layers])
    images = IMAGES.astype(np.float32)
    found = student.predict_on_batch(images)
    np.testing.assert_allclose(found, switched.model.predict_on_batch(images), rtol=1e-4, atol=1e-4)
    switched.switch(switched.products)
    assert np.abs(found - switched.model.predict_on_batch(images)).max() > 1e-3
    exact = {name: variable.numpy() for name, variable in model_weights(model).items()}
    kept = fake_quant_weights(student)
    assert kept.keys() == exact.keys()
    # Biases are rounded to int32.
    assert all(np.allclose(kept[name], value, atol=1e-3 * name.endswith("/bias")) for name, value in exact.items())


def test_a_product_with_its_relu_stays_int8_for_a_float_reader(networks: dict[str, Any]) -> None:
    model, _, _ = networks["relu"]
    matched = match_rules(SELECTIVE.rules, [layer.name for layer in model.layers])
    placed = place(model, matched, [f"{BLOCK}.contract"])
    assert placed.outputs.keys() == matched.keys() - {f"{BLOCK}.contract"}
    placed = place(model, matched, [f"{BLOCK}.contract", f"{BLOCK}.expand"])
    assert matched.keys() - placed.outputs.keys() == {
        f"{BLOCK}.{each}" for each in ("expand", "contract", "mlp_act", "norm2")
    }
    assert placed.inputs == {}


@pytest.mark.parametrize(
    ("float_layers", "complaint"),
    [
        (["stage0.block9.query"], r"received stage0\.block9\.query to leave in float; expected int8 products"),
        (["logits", "stage0.block0.norm1"], r"received stage0\.block0\.norm1 to leave in float"),
        (["stage0.block0.focal0"], r"received stage0\.block0\.focal0 to leave in float"),
        ([""], r"to leave in float; expected int8 products"),
    ],
)
def test_refuses_names_of_other_layers(float_layers: list[str], complaint: str, networks: dict[str, Any]) -> None:
    model, config, ranges = networks["gelu"]
    with pytest.raises(ConfigError, match=complaint):
        build_fake_quant(model, config, ranges, SELECTIVE.leaving_float(float_layers))


def test_refuses_to_leave_all_in_float(networks: dict[str, Any]) -> None:
    model, config, ranges = networks["gelu"]
    products = build_switchable(model, config, ranges, SELECTIVE.rules).products
    with pytest.raises(ConfigError, match=rf"all {len(products)} int8 products .* float\.tflite"):
        build_fake_quant(model, config, ranges, SELECTIVE.leaving_float(products))


def test_the_audit_checks_the_float_layers(artifacts: dict[Any, Any]) -> None:
    _, left = SELECTIONS[0]
    _, listing = artifacts[SELECTIONS[0]]
    check_scheme(listing, SELECTIVE.leaving_float(left))
    with pytest.raises(ArtifactError, match=r"computes CONV_2D \(logits\), RESHAPE \(logits\) in float"):
        check_scheme(listing, SELECTIVE.leaving_float(left[:1]))
    with pytest.raises(ArtifactError, match=r"CONV_2D \(stage0\.block0\.query\), MUL \(stage0\.block0\.modulate\)"):
        check_scheme(listing, SELECTIVE.leaving_float(left[1:]))
    with pytest.raises(ArtifactError, match=r"computes stage1\.block0\.query in int8, .* leaves them in float"):
        check_scheme(listing, SELECTIVE.leaving_float([*left, "stage1.block0.query"]))
