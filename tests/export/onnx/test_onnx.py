"""ONNX artifacts: same outputs as Keras and TFLite, and the operators after the rewrite."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from export.onnx.convert import OPSET, convert_float, convert_int8
from export.quantize.fake_quant import build_float
from export.quantize.network import QuantizedNetwork
from export.quantize.schemes import DYNAMIC, INTEGER_ONLY, SELECTIVE, Scheme
from export.tflite.convert import convert_int8 as convert_int8_tflite
from runtime.evaluation.split_file import read_split
from tests.support.tiny_run import CONFIG, run_artifact
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet
from train.model.fold_norms import folded
from train.model.presets import PRESETS
from train.model.weights import model_weights

PROPERTIES = {"labels": ["a", "b", "c"], "preprocessing": "none"}
Outputs = dict[str, NDArray[np.float32]]


def run(content: bytes, images: NDArray[np.uint8]) -> Outputs:
    """Return ONNX Runtime's outputs of images, stacked, by name."""
    options = onnxruntime.SessionOptions()
    # CPUs without VNNI need this; it changes no output of CPUs with VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    outputs = [session.run(names, {"image": image[np.newaxis]}) for image in images]
    return {name: np.concatenate(values) for name, values in zip(names, zip(*outputs, strict=True), strict=True)}


def kinds(content: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(content).graph.node)


def fused_kinds(content: bytes, folder: Path) -> Counter[str]:
    """Count the operators after ONNX Runtime's fusions."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return kinds((folder / "optimized.onnx").read_bytes())


@pytest.fixture(scope="module")
def images(tiny_run: Path) -> NDArray[np.uint8]:
    return read_split(tiny_run / "test.npz").images[:100]


@pytest.fixture(scope="module")
def exact(tiny_float: Any) -> bytes:
    return convert_float(tiny_float, CONFIG, PROPERTIES)


@pytest.fixture(scope="module")
def int8(tiny_network: QuantizedNetwork) -> bytes:
    return convert_int8(tiny_network, PROPERTIES)


def test_float_is_the_keras_network(exact: bytes, tiny_float: Any, images: NDArray[np.uint8]) -> None:
    expected = tiny_float.predict_on_batch(images.astype(np.float32))
    received = run(exact, images)
    assert {name: values.shape[1:] for name, values in received.items()} == {
        "logits": (3,),
        "gates": (8, 8, 3),
        "modulator": (8, 8),
    }
    np.testing.assert_allclose(received["logits"], expected, atol=1e-4)


def test_operators_are_rewritten(exact: bytes, tiny_float: Any) -> None:
    import tf_keras

    layers = tiny_float.layers
    found = kinds(exact)
    # A block's query, context and gates read the same tensor and are one product.
    merged = sum(depth * (levels + 2) for depth, levels in zip(CONFIG.depths, CONFIG.focal_levels, strict=True))
    linear = sum(getattr(each, "kernel_size", None) == (1, 1) for each in layers)
    assert (found["Split"], found["Gemm"]) == (sum(CONFIG.depths), linear - merged)
    assert (
        found["LayerNormalization"] == sum(isinstance(each, tf_keras.layers.LayerNormalization) for each in layers) > 3
    )
    assert found["Gelu"] == sum(each.get_config().get("activation") == "gelu" for each in layers) > 3
    # Only the modulator's norm still has one of these operators.
    assert {name: found[name] for name in ("Erf", "Sqrt", "Sub", "Reciprocal")} == {
        "Erf": 0,
        "Sqrt": 1,
        "Sub": 0,
        "Reciprocal": 0,
    }


@pytest.mark.parametrize("artifact", ["exact", "int8"])
def test_transposes_are_around_wide_convolutions_only(artifact: str, request: pytest.FixtureRequest) -> None:
    graph = onnx.load_from_string(request.getfixturevalue(artifact)).graph
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    through = {"QuantizeLinear", "DequantizeLinear", "Gelu"}

    def reaches(node: Any, step: Any) -> bool:
        return any(each.op_type == "Conv" or (each.op_type in through and reaches(each, step)) for each in step(node))

    transposes = [node for node in graph.node if node.op_type == "Transpose"]
    assert len(transposes) > 5
    for node in transposes:
        made_by = lambda each: [makers[each.input[0]]] if each.input[0] in makers else []  # noqa: E731
        read_by = lambda each: readers.get(each.output[0], [])  # noqa: E731
        assert reaches(node, made_by) or reaches(node, read_by), node.name


def test_the_file_describes_itself(exact: bytes) -> None:
    model = onnx.load_from_string(exact)
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import if each.domain == ""] == [("", OPSET)]
    assert {each.key: json.loads(each.value) for each in model.metadata_props} == PROPERTIES
    (image,) = model.graph.input
    assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert {each.name for each in model.graph.output} == {"logits", "gates", "modulator"}
    names = {node.name for node in model.graph.node}
    assert {"stage0.block0/Gemm", "stage0.block0.proj/Gemm", "stage0.block0.focal0/Conv", "logits/Gemm"} <= names
    assert len(names) == len(model.graph.node)


def stored_channels(content: bytes) -> Counter[bytes]:
    """Count the int8 weights of output channels, as bytes."""
    graph = onnx.load_from_string(content).graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    made = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    channels: Counter[bytes] = Counter()
    for node in graph.node:
        if node.op_type in ("Gemm", "Conv") and node.input[1] in made:
            kernel = constants[made[node.input[1]].input[0]]
            assert kernel.dtype == np.int8
            rows = kernel.T if node.op_type == "Gemm" else kernel.transpose(0, 2, 3, 1)
            channels.update(row.tobytes() for row in rows)
    return channels


def tflite_channels(content: bytes) -> Counter[bytes]:
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph, codes = model.subgraphs[0], [code.builtinCode for code in model.operatorCodes]
    channels: Counter[bytes] = Counter()
    for operator in graph.operators:
        if codes[operator.opcodeIndex] == 3:  # CONV_2D
            tensor = graph.tensors[operator.inputs[1]]
            if tensor.type == 9:  # INT8
                kernel = np.array(model.buffers[tensor.buffer].data, np.uint8).reshape(tensor.shape[0], -1)
                channels.update(row.tobytes() for row in kernel)
    return channels


def test_int8_kernels_equal_tflites(int8: bytes, tiny_export: Path) -> None:
    channels = stored_channels(int8)
    assert channels.total() > 100
    assert channels == tflite_channels((tiny_export / "artifacts" / "int8.tflite").read_bytes())


def test_int8_outputs_are_near_tflites(int8: bytes, exact: bytes, tiny_export: Path, images: NDArray[np.uint8]) -> None:
    other = run_artifact((tiny_export / "artifacts" / "int8.tflite").read_bytes(), images)
    received, floats = run(int8, images), run(exact, images)
    assert (received["logits"].argmax(axis=-1) == other["logits"].argmax(axis=-1)).mean() >= 0.98
    errors = received["logits"] - floats["logits"], other["logits"] - floats["logits"]
    # It rounds less, as outputs of products are read as float; the rest it rounds alike.
    assert np.abs(errors[0]).mean() < np.abs(errors[1]).mean()
    assert np.corrcoef(errors[0].ravel(), errors[1].ravel())[0, 1] > 0.25
    for name in ("gates", "modulator"):
        assert np.corrcoef(received[name].ravel(), other[name].ravel())[0, 1] > 0.999


def test_onnx_runtime_fuses_every_product(int8: bytes, tmp_path: Path) -> None:
    products = kinds(int8)
    fused = fused_kinds(int8, tmp_path)
    assert fused["Gemm"] == 0
    assert fused["QGemm"] == products["Gemm"]
    assert fused["QLinearConv"] == products["Conv"] - 3  # the depthwise ones are float


@pytest.mark.parametrize("scheme", [INTEGER_ONLY, DYNAMIC], ids=lambda scheme: scheme.name)
def test_the_other_schemes(
    scheme: Scheme, tiny_float: Any, ranges: Any, exact: bytes, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    network = QuantizedNetwork(tiny_float, CONFIG, ranges, scheme)
    content = convert_int8(network, PROPERTIES)
    expected = run_artifact(convert_int8_tflite(network), images)["logits"]
    floats, received = run(exact, images)["logits"], run(content, images)["logits"]
    if expected.dtype == np.float32:
        assert (received.argmax(axis=-1) == expected.argmax(axis=-1)).mean() >= 0.95
    assert (received.argmax(axis=-1) == floats.argmax(axis=-1)).mean() >= 0.9
    assert np.abs(received - floats).max() > 0
    fused = fused_kinds(content, tmp_path)
    if scheme is DYNAMIC:
        assert fused["DynamicQuantizeMatMul"] + fused["MatMulIntegerToFloat"] == kinds(content)["MatMulInteger"] > 10
    else:
        assert fused["QGemm"] == kinds(content)["Gemm"] > 10
        assert kinds(content)["Split"] == 0


def test_float_layers_are_float(tiny_float: Any, ranges: Any) -> None:
    layers = ("stage0.block0.query", "stage1.block0.contract")
    content = convert_int8(QuantizedNetwork(tiny_float, CONFIG, ranges, SELECTIVE.leaving_float(layers)), PROPERTIES)
    graph = onnx.load_from_string(content).graph
    constants = {each.name: numpy_helper.to_array(each).dtype for each in graph.initializer}
    floats = {node.name for node in graph.node if node.op_type == "Gemm" and constants.get(node.input[1]) == np.float32}
    assert floats == {f"{layer}/Gemm" for layer in layers}


def untrained(config: FocalNetConfig) -> Any:
    """Return a float network with initial weights; its biases are 0."""
    import tf_keras

    drawn = model_weights(build_focalnet(config, tf_keras))
    return build_float(config, {name: np.asarray(value) for name, value in drawn.items()}, "test")


def test_int8_is_a_third_of_float_for_an_edge_network() -> None:
    config = folded(dataclasses.replace(PRESETS["edge-pico"].model, depths=(1, 1), dims=(128, 256)))
    network = untrained(config)
    names = [layer.name for layer in network.layers]
    ranges = dict.fromkeys(names, (-1.0, 1.0)) | {name: (0.0, 1.0) for name in names if name.endswith("_act")}
    small = convert_int8(QuantizedNetwork(network, config, ranges, SELECTIVE), {})
    large = convert_float(network, config, {})
    assert len(small) <= 0.35 * len(large)
    assert kinds(small)["Gemm"] == kinds(large)["Gemm"] == 11


@pytest.mark.slow
def test_a_public_network_exports_and_runs() -> None:
    import tf_keras

    config = PRESETS["focalnet_tiny_srf"].model
    network = untrained(config)
    images = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    batch = images.astype(np.float32)
    seen = tf_keras.Model(network.input, [layer.output for layer in network.layers])(batch)
    ranges = {
        layer.name: (min(float(np.min(values)), 0.0), max(float(np.max(values)), 0.0))
        for layer, values in zip(network.layers, seen, strict=True)
    }
    expected = np.asarray(network(batch))
    exact = convert_float(network, config, PROPERTIES)
    int8 = convert_int8(QuantizedNetwork(network, config, ranges, SELECTIVE), PROPERTIES)
    assert len(int8) <= 0.35 * len(exact)
    np.testing.assert_allclose(run(exact, images)["logits"], expected, atol=1e-4)
    assert np.corrcoef(run(int8, images)["logits"].ravel(), expected.ravel())[0, 1] > 0.99
