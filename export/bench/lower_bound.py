"""Lower bound on an int8 artifact's latency: its int8 convolutions alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from export.bench.contender import OURS
from runtime.bundle.manifest import read_manifest, verified_file
from runtime.core.errors import ArtifactError
from runtime.engines.tflite import load_interpreter
from runtime.evaluation.timing import Timed


def products_alone(flatbuffer: bytes) -> bytes:
    """Remove everything but the int8 convolutions from a TFLite model.

    The operators keep their kernels, biases, fused ReLUs, shapes and order. One whose input was removed reads the
    latest output of that shape instead or, without one, an input of the model; convolutions that shared an input
    still share it. An output that nothing reads becomes an output of the model, so that no interpreter skips it. The
    logits are meaningless, but the time of int8 arithmetic does not depend on values.

    Args:
        flatbuffer: an int8 artifact.

    Returns:
        A model of `CONV_2D` operators, int8 in and out.

    Raises:
        ArtifactError: the model has no int8 convolution.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(flatbuffer))
    graph = model.subgraphs[0]
    products = [operator for operator in graph.operators if _is_int8_convolution(model, operator)]
    if not products:
        raise ArtifactError(
            "received a TFLite model without an int8 convolution; expected the int8 artifact of a bundle"
        )
    replacement: dict[int, int] = {}
    last_of_shape: dict[tuple[int, ...], int] = {}
    for operator in products:
        (source, *constants), (target,) = operator.inputs, operator.outputs
        if source not in replacement:
            replacement[source] = last_of_shape.get(_shape(graph, source), source)
        operator.inputs = [replacement[source], *constants]
        replacement[target] = last_of_shape[_shape(graph, target)] = target
    read, written = {operator.inputs[0] for operator in products}, {operator.outputs[0] for operator in products}
    graph.operators = products
    graph.inputs, graph.outputs = sorted(read - written), sorted(written - read)
    model.signatureDefs = None
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def product_macs(flatbuffer: bytes) -> int:
    """Count the multiply-accumulates of a model's int8 convolutions, padding included."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(flatbuffer))
    graph = model.subgraphs[0]
    return sum(
        math.prod(_shape(graph, operator.outputs[0])[:-1]) * math.prod(_shape(graph, operator.inputs[1]))
        for operator in graph.operators
        if _is_int8_convolution(model, operator)
    )


def make_lower_bound(bundle: Path, folder: Path) -> tuple[Callable[[int], Timed], str]:
    """Make the lower bound of a bundle.

    Args:
        bundle: with the int8 artifact.
        folder: for the reduced model.

    Returns:
        Opens the model for a number of CPU threads; and a description.
    """
    artifact = verified_file(bundle, read_manifest(bundle).artifact("int8")).read_bytes()
    path = folder / "products_alone.tflite"
    path.write_bytes(products_alone(artifact))
    what = (
        f"the int8 convolutions of {OURS}, {product_macs(artifact):,} multiply-accumulates, with their biases and "
        "fused ReLUs, chained into one graph: without the depthwise convolutions, which are float, and without copying "
        "image and logits; it has a latency only, as its outputs are meaningless"
    )
    return partial(ProductsAlone, path), what


class ProductsAlone:
    """An opened model of `products_alone`; its inputs are set once, so a run takes the products' time only."""

    def __init__(self, path: Path, threads: int) -> None:
        """Open a model for a number of CPU threads."""
        _, interpreter_class = load_interpreter()
        self._interpreter = interpreter_class(model_content=path.read_bytes(), num_threads=threads)
        self._interpreter.allocate_tensors()
        generator = np.random.default_rng(0)
        for detail in self._interpreter.get_input_details():
            values = generator.integers(-128, 128, detail["shape"], dtype=np.int8)
            self._interpreter.set_tensor(detail["index"], values)

    def run(self, image: NDArray[np.uint8], /) -> None:
        """Compute the products; the image is ignored."""
        self._interpreter.invoke()


def _is_int8_convolution(model: Any, operator: Any) -> bool:
    graph, code = model.subgraphs[0], model.operatorCodes[operator.opcodeIndex].builtinCode
    types = {graph.tensors[index].type for index in (*operator.inputs[:2], *operator.outputs)}
    return code == schema.BuiltinOperator.CONV_2D and types == {schema.TensorType.INT8}


def _shape(graph: Any, tensor: int) -> tuple[int, ...]:
    return tuple(int(side) for side in graph.tensors[tensor].shape)
