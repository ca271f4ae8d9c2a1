"""A network like the edge presets: norms folded, ReLUs fused into the int8 products."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.quantize.fake_quant import build_fake_quant, build_float
from export.quantize.network import QuantizedNetwork
from export.quantize.schemes import SELECTIVE
from export.tflite.convert import convert_int8
from export.tflite.operators import check_scheme, list_operators
from tests.support.tiny_run import draw_weights, run_artifact, soft_images
from train.model.focalnet import build_focalnet
from train.model.fold_norms import fold_weights, folded
from train.model.presets import PRESETS
from train.model.weights import model_weights

TRAINED = dataclasses.replace(PRESETS["edge-nano"].model, input_size=16, classes=5, dims=(8, 16), depths=(1, 1))


@pytest.fixture(scope="module")
def network() -> Any:
    import keras

    shapes = {name: tuple(v.shape) for name, v in model_weights(build_focalnet(TRAINED, keras)).items()}
    return build_float(folded(TRAINED), fold_weights(draw_weights(shapes, seed=4), TRAINED), "test")


@pytest.fixture(scope="module")
def ranges(network: Any) -> dict[str, tuple[float, float]]:
    import tf_keras

    layers = [layer for layer in network.layers if not isinstance(layer, tf_keras.layers.InputLayer)]
    views = tf_keras.Model(network.input, {layer.name: layer.output for layer in layers})
    outputs = views.predict_on_batch(soft_images(64, seed=1).astype(np.float32))
    return {name: (min(0.0, float(v.min())), max(0.0, float(v.max()))) for name, v in outputs.items()}


@pytest.fixture(scope="module")
def quantized(network: Any, ranges: dict[str, tuple[float, float]]) -> QuantizedNetwork:
    return QuantizedNetwork(network, folded(TRAINED), ranges, SELECTIVE)


@pytest.fixture(scope="module")
def artifact(quantized: QuantizedNetwork) -> bytes:
    return convert_int8(quantized)


def operators(content: bytes) -> list[tuple[str, str, str]]:
    """Return each operator's kind, fused activation and output type."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    def names(cls: Any) -> dict[int, str]:
        return {value: name for name, value in vars(cls).items() if isinstance(value, int)}

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]
    kinds, types = names(schema.BuiltinOperator), names(schema.TensorType)
    fused = names(schema.ActivationFunctionType)
    return [
        (
            kinds[model.operatorCodes[op.opcodeIndex].builtinCode],
            fused[getattr(op.builtinOptions, "fusedActivationFunction", 0)],
            types[graph.tensors[op.outputs[0]].type],
        )
        for op in graph.operators
    ]


def test_a_relu_after_an_int8_product_is_fused(artifact: bytes) -> None:
    found = Counter(operators(artifact))
    # Two of the stem's three convolutions, and the expansion of each block's MLP.
    assert found["CONV_2D", "RELU", "INT8"] == 4
    assert not any(kind == "RELU" for kind, _, _ in found)
    assert found["DEPTHWISE_CONV_2D", "RELU", "FLOAT32"] == 4


def test_only_the_norms_before_the_modulations_are_left(artifact: bytes) -> None:
    kinds = Counter(kind for kind, _, _ in operators(artifact))
    assert kinds["RSQRT"] == 2
    assert kinds["GELU"] == 0


def test_the_audit_accepts_it_in_one_partition(network: Any, artifact: bytes) -> None:
    listing = list_operators(artifact, [layer.name for layer in network.layers])
    check_scheme(listing, SELECTIVE)
    assert listing.partitions == 1
    int8 = [each.layer for each in listing.operators if each.name == "CONV_2D" and not each.is_float]
    # A product with a fused ReLU has the product's name.
    assert {"embed.conv0", "embed.conv1", "stage1.block0.expand"} <= set(int8)
    assert len(int8) == len(set(int8)) == sum(hasattr(layer, "kernel") for layer in network.layers)


def logits(model: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(model.predict_on_batch(images.astype(np.float32)))


def test_logits_are_near_the_fake_quantized_networks(quantized: QuantizedNetwork, artifact: bytes) -> None:
    images = soft_images(60, seed=2)
    expected, found = logits(quantized.fake_quant, images), run_artifact(artifact, images)["logits"]
    assert (expected.argmax(axis=1) == found.argmax(axis=1)).mean() >= 0.95
    assert np.abs(found - expected).max() < 0.1 * expected.std()


def test_int8_stays_close_to_float(network: Any, artifact: bytes) -> None:
    images = soft_images(60, seed=3)
    expected, found = logits(network, images), run_artifact(artifact, images)["logits"]
    assert expected.std() > 0.1
    sqnr_db = 10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum())
    assert sqnr_db > 20


def test_a_product_before_a_float_relu_has_its_own_range(network: Any, ranges: dict[str, tuple[float, float]]) -> None:
    rules = [
        dataclasses.replace(rule, pattern=r"embed\.act\d+") if "mlp_act" in rule.pattern else rule
        for rule in SELECTIVE.rules
    ]
    scheme = dataclasses.replace(SELECTIVE, rules=tuple(rules))
    model = build_fake_quant(network, folded(TRAINED), ranges, scheme)
    alone = {layer.name for layer in model.layers if layer.name.endswith("mlp_act")}
    assert alone == {"stage0.block0.mlp_act", "stage1.block0.mlp_act"}
    config = model.get_layer("quant_stage0.block0.expand").quantize_config
    assert config.output
    assert not model.get_layer("quant_embed.conv0").quantize_config.output
