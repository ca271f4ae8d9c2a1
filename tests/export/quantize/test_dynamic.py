"""The dynamic scheme: int8 kernels in the products of its rules, without a calibration."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tensorflow.lite.tools import flatbuffer_utils

from export.quantize.fake_quant import build_float
from export.quantize.network import QuantizedNetwork
from export.quantize.schemes import DYNAMIC, match_rules
from export.tflite.convert import convert_float, convert_int8
from export.tflite.operators import Listing, check_scheme, list_operators
from export.tflite.passes import run_passes, store_kernels_as_int8
from runtime.core.errors import ArtifactError
from runtime.images.preprocess import Image
from tests.support.tiny_run import CONFIG, run_artifact
from train.model.weights import read_tensors


@pytest.fixture(scope="module")
def artifact(tiny_float: Any) -> bytes:
    return convert_int8(QuantizedNetwork(tiny_float, CONFIG, {}, DYNAMIC))


@pytest.fixture(scope="module")
def listing(artifact: bytes, tiny_float: Any) -> Listing:
    return list_operators(artifact, [layer.name for layer in tiny_float.layers])


def kernels(content: bytes) -> dict[str, tuple[NDArray[Any], Any]]:
    """Return the values and the tensor of each convolution's kernel, by the name of the output."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph, found = model.subgraphs[0], {}
    for operator in graph.operators:
        if model.operatorCodes[operator.opcodeIndex].builtinCode == 3:  # schema.BuiltinOperator.CONV_2D
            tensor = graph.tensors[operator.inputs[1]]
            dtype = {0: np.float32, 9: np.int8}[tensor.type]
            values = np.frombuffer(bytes(model.buffers[tensor.buffer].data), dtype).reshape(tensor.shape)
            found[graph.tensors[operator.outputs[0]].name.decode()] = values, tensor
    return found


def test_exactly_the_products_of_its_rules_have_int8_kernels(listing: Listing, tiny_float: Any) -> None:
    named = set(match_rules(DYNAMIC.rules, [layer.name for layer in tiny_float.layers]))
    assert {"logits", "embed.proj", "stage0.block0.query", "stage1.embed.proj"} <= named
    assert {each.layer for each in listing.operators if each.weights == "int8"} == named
    assert {each.dtype for each in listing.operators if each.layer in named} >= {"float32, int8 weights"}
    check_scheme(listing, DYNAMIC)


def test_the_delegate_takes_it_in_one_partition(listing: Listing) -> None:
    assert listing.partitions == 1
    assert [each.name for each in listing.operators if each.partition is None] == ["CAST"]


def test_weights_are_rounded_to_their_channels_scale(artifact: bytes, tiny_float: Any) -> None:
    floats, stored = kernels(convert_float(tiny_float, CONFIG)), kernels(artifact)
    assert floats.keys() == stored.keys()
    rounded = 0
    for name, (values, tensor) in stored.items():
        exact = floats[name][0]
        if values.dtype == np.float32:
            np.testing.assert_array_equal(values, exact)
            continue
        scale = np.asarray(tensor.quantization.scale).reshape(-1, 1, 1, 1)
        np.testing.assert_allclose(scale.ravel(), np.abs(exact).max(axis=(1, 2, 3)) / 127.0, rtol=1e-6)
        assert np.abs(values * scale - exact).max() <= 0.5001 * scale.max()
        rounded += 1
    assert rounded == 3 + 2 * 6


def test_its_logits_are_near_the_float_networks(artifact: bytes, tiny_float: Any, images: Image) -> None:
    images = images[:60]
    expected = tiny_float.predict_on_batch(images.astype(np.float32))
    noise = run_artifact(artifact, images)["logits"] - expected
    assert np.abs(noise).max() > 1e-3
    assert 10 * np.log10((expected**2).sum() / (noise**2).sum()) > 20


def test_the_float_kernels_are_not_stored_too(artifact: bytes, tiny_float: Any) -> None:
    saved = sum(3 * values.size for values, _ in kernels(artifact).values() if values.dtype == np.int8)
    scales = sum(8 * len(values) for values, _ in kernels(artifact).values())
    assert len(artifact) < len(convert_float(tiny_float, CONFIG)) - saved + 3 * scales


def test_a_channel_of_zeros_stays_zeros(tiny_run: Path, images: Image) -> None:
    weights = read_tensors(tiny_run / "float.safetensors")
    weights["logits/kernel"] = weights["logits/kernel"] * np.array([0.0, 1.0, 1.0], np.float32)
    content = convert_int8(QuantizedNetwork(build_float(CONFIG, weights, "test"), CONFIG, {}, DYNAMIC))
    logits = run_artifact(content, images[:5])["logits"]
    np.testing.assert_allclose(logits[:, 0], weights["logits/bias"][0], rtol=1e-6)


def test_refuses_an_unknown_product(tiny_float: Any) -> None:
    with pytest.raises(ArtifactError, match=r"no convolution of softmax; expected one of each"):
        run_passes(convert_float(tiny_float, CONFIG), [partial(store_kernels_as_int8, layers=["logits", "softmax"])])
