"""The lower bound: the int8 artifact's convolutions alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.bench.lower_bound import ProductsAlone, make_lower_bound, product_macs, products_alone
from export.tflite.operators import list_operators
from runtime.core.errors import ArtifactError


@pytest.fixture(scope="module")
def artifact(tiny_export: Path) -> bytes:
    return (tiny_export / "artifacts" / "int8.tflite").read_bytes()


@pytest.fixture(scope="module")
def lower_bound(artifact: bytes) -> bytes:
    return products_alone(artifact)


def read(content: bytes) -> Any:
    from tensorflow.lite.tools import flatbuffer_utils

    return flatbuffer_utils.read_model_from_bytearray(bytearray(content))


def convolutions(content: bytes) -> list[tuple[bytes, bytes, tuple[int, ...], tuple[int, ...], int]]:
    """Return kernel, bias, input shape, output shape and fused activation of every int8 convolution."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = read(content)
    graph, found = model.subgraphs[0], []
    for operator in graph.operators:
        tensors = [graph.tensors[index] for index in (*operator.inputs, *operator.outputs)]
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        if code == schema.BuiltinOperator.CONV_2D and tensors[-1].type == schema.TensorType.INT8:
            source, kernel, bias, target = tensors
            constants = (bytes(model.buffers[tensor.buffer].data) for tensor in (kernel, bias))
            fused = operator.builtinOptions.fusedActivationFunction
            found.append((*constants, tuple(source.shape), tuple(target.shape), fused))
    return found


def test_it_is_int8_convolutions_in_one_partition(lower_bound: bytes) -> None:
    listing = list_operators(lower_bound, [])
    assert {(operator.name, operator.dtype) for operator in listing.operators} == {("CONV_2D", "int8")}
    assert {operator.partition for operator in listing.operators} == {0}
    assert listing.partitions == 1


def test_they_are_the_artifacts_own(artifact: bytes, lower_bound: bytes) -> None:
    assert len(convolutions(lower_bound)) > 10
    assert convolutions(lower_bound) == convolutions(artifact)
    assert len(read(lower_bound).subgraphs[0].operators) == len(convolutions(lower_bound))


def test_its_multiply_accumulates_are_the_products(lower_bound: bytes, tiny_float: Any) -> None:
    import tf_keras

    expected = 0
    for layer in tiny_float.layers:
        if type(layer) is tf_keras.layers.Conv2D:
            _, height, width, channels = layer.output_shape
            rows, columns, inputs, _ = layer.kernel.shape
            expected += height * width * channels * rows * columns * inputs
    assert product_macs(lower_bound) == expected > 0


def test_it_is_one_chain(lower_bound: bytes) -> None:
    graph = read(lower_bound).subgraphs[0]
    sources = {int(operator.inputs[0]) for operator in graph.operators}
    # The image and the head's pooled input: no earlier output has their shapes.
    assert len(graph.inputs) == 2 < len(sources)
    seen = set(map(int, graph.inputs))
    for operator in graph.operators:
        assert int(operator.inputs[0]) in seen
        seen.add(int(operator.outputs[0]))


def run(content: bytes) -> list[NDArray[np.int8]]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    generator = np.random.default_rng(0)
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], generator.integers(-128, 128, detail["shape"], dtype=np.int8))
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def test_no_product_is_left_out(lower_bound: bytes) -> None:
    """An extreme bias of any convolution changes an output, so an interpreter must compute it."""
    from tensorflow.lite.tools import flatbuffer_utils

    for index in range(len(convolutions(lower_bound))):
        outputs = []
        for end in (-(2**30), 2**30):
            model = read(lower_bound)
            graph = model.subgraphs[0]
            bias = model.buffers[graph.tensors[graph.operators[index].inputs[2]].buffer]
            bias.data = np.full(len(bias.data) // 4, end, np.int32).view(np.uint8)
            outputs.append(run(bytes(flatbuffer_utils.convert_object_to_bytearray(model))))
        assert any(not np.array_equal(low, high) for low, high in zip(*outputs, strict=True)), index


def test_it_runs_on_a_bundle(tiny_export: Path, tmp_path: Path, lower_bound: bytes) -> None:
    open_lower_bound, what = make_lower_bound(tiny_export / "artifacts", tmp_path)
    assert (tmp_path / "products_alone.tflite").read_bytes() == lower_bound
    assert f"{product_macs(lower_bound):,} multiply-accumulates" in what
    opened = open_lower_bound(1)
    assert isinstance(opened, ProductsAlone)
    opened.run(np.zeros((1, 16, 16, 3), np.uint8))


def test_a_float_artifact_has_no_lower_bound(tiny_export: Path) -> None:
    content = (tiny_export / "artifacts" / "float.tflite").read_bytes()
    assert product_macs(content) == 0
    with pytest.raises(ArtifactError, match="without an int8 convolution"):
        products_alone(content)
