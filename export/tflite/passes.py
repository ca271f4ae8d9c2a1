"""Graph passes over a TFLite model, for the artifact's interface and for one partition of the CPU delegate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from runtime.core.errors import ArtifactError
from runtime.engines.tflite_graph import layer_of

HYBRID_CONV_VERSION = 5  # the first that reads float and has one scale per output channel


Pass = Callable[[Any], None]


def run_passes(flatbuffer: bytes, passes: Iterable[Pass]) -> bytes:
    """Run graph passes over a TFLite model.

    Args:
        flatbuffer: a model with one graph and one signature, from the converter.
        passes: functions that change the parsed model in place.

    Returns:
        The changed model.

    Raises:
        ArtifactError: the model does not have exactly one signature, or a pass does not find its layers.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(flatbuffer))
    for each in passes:
        each(model)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def name_by_signature(model: Any) -> None:
    """Name inputs and outputs by the signature; the converter calls them `StatefulPartitionedCall:0` and the like.

    Raises:
        ArtifactError: the model does not have exactly one signature.
    """
    signatures = model.signatureDefs or []
    if len(signatures) != 1:
        raise ArtifactError(f"received a model with {len(signatures)} signatures; expected exactly one")
    for each in [*signatures[0].inputs, *signatures[0].outputs]:
        model.subgraphs[0].tensors[each.tensorIndex].name = each.name


def read_pixels_as_int8(model: Any) -> None:
    """Replace the cast, scaling and quantization of uint8 pixels by one QUANTIZE.

    If the pixels are scaled by the scale of the quantization, such as 1/255, the three only subtract 128.
    """
    graph, builtin = model.subgraphs[0], schema.BuiltinOperator
    kinds = [model.operatorCodes[operator.opcodeIndex].builtinCode for operator in graph.operators]
    if kinds[:3] != [builtin.CAST, builtin.MUL, builtin.QUANTIZE]:
        return
    cast, multiply, quantize = graph.operators[:3]
    factors = model.buffers[graph.tensors[multiply.inputs[1]].buffer].data
    target = graph.tensors[quantize.outputs[0]].quantization
    read = [i for operator in graph.operators[3:] for i in operator.inputs]
    if (
        factors is None
        or not np.allclose(np.frombuffer(bytes(factors), np.float32), target.scale[0], rtol=1e-6)
        or list(target.zeroPoint) != [-128]
        or {*cast.outputs, *multiply.outputs} & set(read)
    ):
        return
    image = schema.QuantizationParametersT()
    image.scale, image.zeroPoint = target.scale, np.zeros(1, np.int64)
    graph.tensors[cast.inputs[0]].quantization = image
    quantize.inputs = cast.inputs
    graph.operators = graph.operators[2:]


def store_kernels_as_int8(model: Any, layers: Collection[str]) -> None:
    """Store the kernels of convolutions of a float model as int8; at run time these quantize their input.

    The int8 kernels are symmetric, with one scale per output channel, `max |w| / 127`.

    Args:
        model: a parsed float model.
        layers: the names of the convolutions.

    Raises:
        ArtifactError: the model has no convolution of a layer.
    """
    graph, done = model.subgraphs[0], set()
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        layer = layer_of([graph.tensors[tensor].name.decode() for tensor in operator.outputs], layers)
        if code.builtinCode == schema.BuiltinOperator.CONV_2D and layer in layers:
            _store_as_int8(model, graph.tensors[operator.inputs[1]])
            code.version = max(code.version, HYBRID_CONV_VERSION)
            done.add(layer)
    if missing := sorted(set(layers) - done):
        raise ArtifactError(f"the converted model has no convolution of {', '.join(missing)}; expected one of each")
    for index in set(range(len(model.buffers))) - _buffers_in_use(model):
        model.buffers[index].data = None


def _buffers_in_use(model: Any) -> set[int]:
    tensors = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    return tensors | {each.buffer for each in model.metadata or []}


def _store_as_int8(model: Any, kernel: Any) -> None:
    values = np.frombuffer(bytes(model.buffers[kernel.buffer].data), np.float32).reshape(kernel.shape)
    reach = np.abs(values).max(axis=(1, 2, 3), keepdims=True)  # [out, 1, 1, 1]
    scale = np.where(reach > 0, reach / 127.0, 1.0).astype(np.float32)
    buffer = schema.BufferT()
    buffer.data = np.rint(values / scale).astype(np.int8).tobytes()
    model.buffers.append(buffer)  # kernels with equal float values share a buffer
    kernel.buffer, kernel.type = len(model.buffers) - 1, schema.TensorType.INT8
    kernel.quantization = schema.QuantizationParametersT()
    kernel.quantization.scale = scale.ravel()
    kernel.quantization.zeroPoint = np.zeros(scale.size, np.int64)
    kernel.quantization.quantizedDimension = 0


def return_int8(model: Any) -> None:
    """Return the int8 tensors that the outputs are dequantized from, under the outputs' names."""
    graph = model.subgraphs[0]
    kinds = [model.operatorCodes[operator.opcodeIndex].builtinCode for operator in graph.operators]
    last = {
        operator.outputs[0]: operator
        for operator, kind in zip(graph.operators, kinds, strict=True)
        if kind == schema.BuiltinOperator.DEQUANTIZE and operator.outputs[0] in graph.outputs
    }
    for place, index in enumerate(graph.outputs):
        if index in last:
            source = last[index].inputs[0]
            graph.tensors[source].name = graph.tensors[index].name
            graph.outputs[place] = source
            for each in model.signatureDefs[0].outputs:
                if each.tensorIndex == index:
                    each.tensorIndex = source
    graph.operators = [operator for operator in graph.operators if operator not in last.values()]
    _drop_unused_tensors(model)


def _drop_unused_tensors(model: Any) -> None:
    """Remove the tensors that no operator reads or writes, and renumber the others."""
    graph = model.subgraphs[0]
    signature = [*model.signatureDefs[0].inputs, *model.signatureDefs[0].outputs]
    used = {int(i) for operator in graph.operators for i in (*operator.inputs, *operator.outputs)}
    kept = sorted(used | {int(i) for i in (*graph.inputs, *graph.outputs)})
    numbers = {-1: -1} | {old: new for new, old in enumerate(kept)}  # -1 is a missing input, such as a bias
    graph.tensors = [graph.tensors[i] for i in kept]
    for each in (graph, *graph.operators):
        each.inputs = [numbers[int(i)] for i in each.inputs]
        each.outputs = [numbers[int(i)] for i in each.outputs]
    for each in signature:
        each.tensorIndex = numbers[each.tensorIndex]


def compute_gelu_in_float(model: Any) -> None:
    """Put each int8 GELU between a DEQUANTIZE and a QUANTIZE.

    The converter makes a GELU between two int8 tensors int8. XNNPACK does not support that, so each would split the
    delegate's partition in two. Input and output keep their 256 values.
    """
    graph = model.subgraphs[0]
    if all(code.builtinCode != schema.BuiltinOperator.GELU for code in model.operatorCodes):
        return
    builtin = schema.BuiltinOperator
    gelu, dequantize, quantize = (
        _operator_code(model, code) for code in (builtin.GELU, builtin.DEQUANTIZE, builtin.QUANTIZE)
    )
    operators = []
    for operator in graph.operators:
        source, target = operator.inputs[0], operator.outputs[0]
        if operator.opcodeIndex != gelu or graph.tensors[source].type != schema.TensorType.INT8:
            operators.append(operator)
            continue
        before, after = (_add_float_tensor(graph, like) for like in (source, target))
        operators.append(_operator(dequantize, source, before))
        operator.inputs, operator.outputs = [before], [after]
        operators.append(operator)
        operators.append(_operator(quantize, after, target))
    graph.operators = operators


def _operator_code(model: Any, builtin: int) -> int:
    """Return the index of a builtin operator's code, added to the model if missing."""
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _add_float_tensor(graph: Any, like: int) -> int:
    """Add a float32 tensor with the shape of tensor `like`, and return its index."""
    tensor = schema.TensorT()
    tensor.name = graph.tensors[like].name + b"/float"
    tensor.shape = graph.tensors[like].shape
    tensor.type = schema.TensorType.FLOAT32
    tensor.buffer = 0  # the empty buffer: the value is computed, not stored
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _operator(code: int, source: int, target: int) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex = code
    operator.inputs, operator.outputs = [source], [target]
    return operator
