"""A network with all that the large published ones have, through both int8 artifacts."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.published_networks import LARGE
from tests.tiny_run import draw_weights, run_artifact, soft_pictures
from train.fold import fold_weights, folded

Ranges = dict[str, tuple[float, float]]
PICTURES = soft_pictures(64, 1, LARGE.input_size)


@pytest.fixture(scope="module")
def network() -> Any:
    import keras

    from export.fake_quant import build_float
    from train.focalnet import build_focalnet
    from train.weights import model_weights

    shapes = {name: tuple(v.shape) for name, v in model_weights(build_focalnet(LARGE, keras)).items()}
    return build_float(folded(LARGE), fold_weights(draw_weights(shapes, seed=4), LARGE), "test")


@pytest.fixture(scope="module")
def ranges(network: Any) -> Ranges:
    import tf_keras

    layers = [layer for layer in network.layers if not isinstance(layer, tf_keras.layers.InputLayer)]
    views = tf_keras.Model(network.input, {layer.name: layer.output for layer in layers})
    outputs = views.predict_on_batch(PICTURES.astype(np.float32))
    return {name: (min(0.0, float(v.min())), max(0.0, float(v.max()))) for name, v in outputs.items()}


@pytest.mark.parametrize("scheme", ["selective", "dynamic"])
def test_it_is_one_partition_and_close_to_float_in_both_formats(scheme: str, network: Any, ranges: Ranges) -> None:
    from export import onnx
    from export.audit import summarise
    from export.bundle import convert_audited
    from export.quantized import QuantizedNetwork
    from export.schemes import find_scheme

    quantized = QuantizedNetwork(network, folded(LARGE), ranges, find_scheme(scheme))
    content, operators = convert_audited(quantized)  # refuses what the scheme does not list
    assert summarise(operators).delegate_partitions == 1
    expected = network.predict_on_batch(PICTURES.astype(np.float32))
    by_tflite = run_artifact(content, PICTURES)["logits"]
    session = onnxruntime.InferenceSession(onnx.convert_int8(quantized, {}), providers=["CPUExecutionProvider"])
    by_onnx = np.concatenate([session.run(["logits"], {"image": each[np.newaxis]})[0] for each in PICTURES])
    for found in (by_tflite, by_onnx):
        assert np.abs(found - expected).max() < 0.15 * expected.std()
        assert not np.array_equal(found, expected)
    # What is left is how two runtimes round inside their kernels.
    assert (by_tflite - by_onnx).std() < 0.03 * expected.std()


def test_overlapping_patches_are_padded_in_int8_before_int8_products(network: Any, ranges: Ranges) -> None:
    from export.audit import list_operators
    from export.quantized import QuantizedNetwork
    from export.schemes import SELECTIVE
    from export.tflite import convert_int8

    content = convert_int8(QuantizedNetwork(network, folded(LARGE), ranges, SELECTIVE))
    operators = list_operators(content, [layer.name for layer in network.layers]).operators
    pads = [each for each in operators if each.name == "PAD"]
    assert [each.layer for each in pads] == ["embed.pad", "stage1.embed.pad"]
    assert all(each.outputs == ("int8",) for each in pads)
