"""TFLite artifacts: same outputs as Keras, names, types and delegate partitions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from calibration.observers import Range
from export.quantize.fake_quant import build_float
from export.quantize.network import QuantizedNetwork
from export.quantize.schemes import SELECTIVE
from export.tflite.convert import PASSES, convert, convert_int8
from export.tflite.passes import Pass, compute_gelu_in_float, read_pixels_as_int8, run_passes
from runtime.core.errors import ArtifactError
from runtime.engines.tflite_graph import QUANTIZED_PREFIX
from tests.support.tiny_run import CONFIG, keras_outputs, run_artifact
from train.model.weights import read_tensors

# Deprecated, but some devices have no other.
pytestmark = pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")

SHAPES = {"logits": [1, 3], "gates": [1, 8, 8, 3], "modulator": [1, 8, 8]}


@pytest.fixture(scope="module")
def float_artifact(tiny_export: Path) -> bytes:
    return (tiny_export / "artifacts" / "float.tflite").read_bytes()


@pytest.fixture(scope="module")
def int8_artifact(tiny_export: Path) -> bytes:
    return (tiny_export / "artifacts" / "int8.tflite").read_bytes()


def converted_without(network: QuantizedNetwork, left_out: Pass) -> bytes:
    """Convert a network without one of the graph passes."""
    return convert(network.interface, [each for each in PASSES if each is not left_out], quantize=True)


@pytest.fixture(scope="module")
def with_int8_gelus(tiny_network: QuantizedNetwork) -> bytes:
    """The int8 artifact with the converter's int8 GELUs."""
    return converted_without(tiny_network, compute_gelu_in_float)


def parsed(content: bytes) -> Any:
    from tensorflow.lite.tools import flatbuffer_utils

    return flatbuffer_utils.read_model_from_bytearray(bytearray(content))


def operators(content: bytes) -> list[tuple[str, list[Any], list[Any]]]:
    """Return every operator's name, inputs and outputs, the last two as tensors of the flatbuffer."""
    from tensorflow.lite.python import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    model = parsed(content)
    tensors = model.subgraphs[0].tensors
    return [
        (
            names[model.operatorCodes[operator.opcodeIndex].builtinCode],
            [tensors[i] for i in operator.inputs if i >= 0],
            [tensors[i] for i in operator.outputs],
        )
        for operator in model.subgraphs[0].operators
    ]


def is_int8(tensor: Any) -> bool:
    return bool(tensor.type == 9)  # schema.TensorType.INT8


def partitions(content: bytes) -> int:
    """Return the number of XNNPACK delegate partitions of a model."""
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    return [operator["op_name"] for operator in interpreter._get_ops_details()].count("DELEGATE")


@pytest.fixture(params=["ai_edge_litert", "tensorflow"])
def interpreter_class(request: pytest.FixtureRequest) -> Any:
    if request.param == "ai_edge_litert":
        return Interpreter
    import tensorflow

    return tensorflow.lite.Interpreter


def test_float_outputs_equal_keras(
    interpreter_class: Any, float_artifact: bytes, tiny_float: Any, images: NDArray[np.uint8]
) -> None:
    found = run_artifact(float_artifact, images[:60], interpreter_class)
    expected = keras_outputs(tiny_float, "", images[:60])
    assert found.keys() == expected.keys() == SHAPES.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-4, rtol=1e-5, err_msg=name)
    assert (found["gates"] < 0).any()
    assert (found["gates"] > 0).any()


def test_int8_outputs_equal_the_fake_quantized_network(
    interpreter_class: Any,
    int8_artifact: bytes,
    tiny_fake_quant: Any,
    ranges: dict[str, Range],
    images: NDArray[np.uint8],
) -> None:
    found = run_artifact(int8_artifact, images, interpreter_class)
    expected = keras_outputs(tiny_fake_quant, QUANTIZED_PREFIX, images)

    def steps(name: str, difference: NDArray[np.float32]) -> NDArray[np.float32]:
        low, high = ranges[name]
        return np.abs(difference) / (high - low) * 255.0

    assert len(images) == 200
    assert (found["logits"].argmax(axis=-1) == expected["logits"].argmax(axis=-1)).mean() >= 0.99
    logits = steps("logits", found["logits"] - expected["logits"])
    # One value rounded the other way in an early layer changes every logit.
    assert np.mean(logits) <= 2.0
    assert np.max(logits) <= 12.0
    for level in range(3):
        gate = steps(f"stage0.block0.gate{level}", found["gates"][..., level] - expected["gates"][..., level])
        assert np.mean(gate > 0.1) < 0.02, f"gate {level}"
        assert np.max(gate) <= 6.0, f"gate {level}"
    np.testing.assert_allclose(found["modulator"], expected["modulator"], atol=0.2)


@pytest.mark.parametrize("artifact", ["float_artifact", "int8_artifact"])
def test_the_interface_is_the_documented_one(artifact: str, request: pytest.FixtureRequest) -> None:
    interpreter = Interpreter(model_content=request.getfixturevalue(artifact))
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    assert (image["name"], image["dtype"], image["shape"].tolist()) == ("image", np.uint8, [1, 16, 16, 3])
    outputs = {detail["name"]: detail for detail in interpreter.get_output_details()}
    assert {name: detail["shape"].tolist() for name, detail in outputs.items()} == SHAPES
    assert all(detail["dtype"] == np.float32 for detail in outputs.values())
    assert interpreter.get_signature_list()["serving_default"]["outputs"] == sorted(SHAPES)


def test_convolutions_are_int8_per_channel_and_nothing_else_has_int8_weights(int8_artifact: bytes) -> None:
    convolutions = [(inputs, outputs) for name, inputs, outputs in operators(int8_artifact) if name == "CONV_2D"]
    # 2 patch embeddings, the head, and in each block query, context, gates, h, projection and the MLP's 2.
    assert len(convolutions) == 3 + (6 + 3) + (6 + 2)
    for inputs, outputs in convolutions:
        source, kernel, bias = inputs
        assert is_int8(source)
        assert is_int8(kernel)
        assert is_int8(outputs[0])
        assert len(kernel.quantization.scale) == kernel.shape[0] == len(bias.quantization.scale)
        assert not np.any(kernel.quantization.zeroPoint)
    kernels = {tuple(inputs[1].shape) for inputs, _ in convolutions}
    assert {(8, 2, 2, 3), (16, 2, 2, 8), (3, 1, 1, 16), (1, 1, 1, 8), (32, 1, 1, 8)} <= kernels


def test_depthwise_convolutions_norms_and_gelus_are_float(int8_artifact: bytes) -> None:
    found = operators(int8_artifact)
    names = [name for name, _, _ in found]
    assert names.count("DEPTHWISE_CONV_2D") == 3
    assert names.count("GELU") == 3 + 2 + 2
    for name, inputs, outputs in found:
        if name in ("DEPTHWISE_CONV_2D", "GELU", "RSQRT", "SQUARED_DIFFERENCE", "MEAN", "ADD"):
            assert not any(is_int8(tensor) for tensor in [*inputs, *outputs]), name


def test_the_float_artifact_has_nothing_int8(float_artifact: bytes) -> None:
    assert not any(is_int8(tensor) for tensor in parsed(float_artifact).subgraphs[0].tensors)
    assert [name for name, _, _ in operators(float_artifact)].count("QUANTIZE") == 0


@pytest.mark.parametrize("artifact", ["float_artifact", "int8_artifact"])
def test_the_delegate_takes_everything_in_one_partition(artifact: str, request: pytest.FixtureRequest) -> None:
    assert partitions(request.getfixturevalue(artifact)) == 1


def test_int8_gelus_would_split_the_partition(with_int8_gelus: bytes) -> None:
    assert partitions(with_int8_gelus) > 1


def test_float_gelus_change_no_value_by_more_than_a_step(
    with_int8_gelus: bytes, int8_artifact: bytes, ranges: dict[str, Range], images: NDArray[np.uint8]
) -> None:
    assert any(name == "GELU" and is_int8(inputs[0]) for name, inputs, _ in operators(with_int8_gelus))
    before, after = run_artifact(with_int8_gelus, images[:60]), run_artifact(int8_artifact, images[:60])
    low, high = ranges["logits"]
    step = (high - low) / 255.0
    assert np.abs(before["logits"] - after["logits"]).max() <= 1.01 * step
    np.testing.assert_array_equal(before["gates"], after["gates"])


def test_running_the_passes_twice_changes_nothing(int8_artifact: bytes) -> None:
    names = [name for name, _, _ in operators(int8_artifact)]
    assert [name for name, _, _ in operators(run_passes(int8_artifact, PASSES))] == names


@pytest.fixture(scope="module")
def with_float_pixels(tiny_network: QuantizedNetwork) -> bytes:
    """The int8 artifact with pixels that are cast, scaled and quantized."""
    return converted_without(tiny_network, read_pixels_as_int8)


def test_pixels_become_int8_by_one_operator(with_float_pixels: bytes, int8_artifact: bytes) -> None:
    before, after = ([name for name, _, _ in operators(content)] for content in (with_float_pixels, int8_artifact))
    assert before[:4] == ["CAST", "MUL", "QUANTIZE", "CONV_2D"]
    assert after == before[2:]
    _, (source,), (target,) = operators(int8_artifact)[0]
    assert (source.name, list(source.quantization.zeroPoint)) == (b"image", [0])
    assert is_int8(target)
    assert list(source.quantization.scale) == list(target.quantization.scale) == pytest.approx([1 / 255])


def test_no_output_changes_by_it(
    interpreter_class: Any, with_float_pixels: bytes, int8_artifact: bytes, images: NDArray[np.uint8]
) -> None:
    extremes = np.stack([np.full_like(images[0], value) for value in (0, 1, 127, 128, 254, 255)])
    seen = np.concatenate([images[:40], extremes])
    before, after = (run_artifact(content, seen, interpreter_class) for content in (with_float_pixels, int8_artifact))
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values, err_msg=name)


def test_pixels_with_another_normalisation_stay_float(tiny_run: Path, ranges: dict[str, Range]) -> None:
    config = dataclasses.replace(CONFIG, mean=(0.5, 0.4, 0.6), std=(0.2, 0.2, 0.3))
    model = build_float(config, read_tensors(tiny_run / "float.safetensors"), "test")
    content = convert_int8(QuantizedNetwork(model, config, ranges, SELECTIVE))
    names = [name for name, _, _ in operators(content)]
    assert names[0] == "CAST"
    assert names.index("QUANTIZE") > 1


def test_layer_norms_are_not_transposed(float_artifact: bytes, int8_artifact: bytes) -> None:
    for content in (float_artifact, int8_artifact):
        names = [name for name, _, _ in operators(content)]
        assert names.count("RSQRT") == 7  # after 2 embeddings, 2 in each block, before the head
        assert "TRANSPOSE" not in names


@pytest.mark.parametrize("copies", [0, 2])
def test_refuses_a_model_without_its_one_signature(copies: int, float_artifact: bytes) -> None:
    from tensorflow.lite.tools import flatbuffer_utils

    model = parsed(float_artifact)
    model.signatureDefs = model.signatureDefs * copies
    with pytest.raises(ArtifactError, match=rf"{copies} signatures; expected exactly one"):
        run_passes(bytes(flatbuffer_utils.convert_object_to_bytearray(model)), PASSES)
