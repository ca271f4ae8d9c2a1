"""TFLite artifacts: the contract's face around a network, converted, with tensors named as promised."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from runtime.errors import ArtifactError
from train.config import FocalNetConfig
from train.focalnet import overlay_tensors


def convert(model: Any, config: FocalNetConfig, prefix: str = "") -> bytes:
    """Convert a network to a TFLite artifact.

    Args:
        model: a `tf_keras` network, float or fake-quantized.
        config: its configuration.
        prefix: what precedes the quantized layers' names in a fake-quantized one.

    Returns:
        The flatbuffer: input `image` uint8 `[1, S, S, 3]`; outputs `logits`, `gates`, `modulator`,
        float32. Fake-quantized layers are int8, all others float32.
    """
    gates, modulator = overlay_tensors(model, config, prefix)
    outputs = {"logits": model.output, "gates": gates, "modulator": modulator}
    # By a name of its own, as Keras would number it and the artifact's bytes change from call to call.
    views = tf_keras.Model(model.input, outputs, name="focalnet_with_overlay")
    face = Face(views, config.input_size)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([face.concrete_function()], face)
    if prefix:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return finish(converter.convert())


class Face(tf.Module):
    """What an artifact shows to the world: a camera's uint8 in, logits and the overlay's maps out."""

    def __init__(self, views: Any, size: int) -> None:
        """Wrap a network with its logits, list of gates and modulator; its input is `size` pixels a side."""
        super().__init__()

        def classify(image: Any) -> dict[str, Any]:
            outputs = views(tf.cast(image, tf.float32), training=False)
            return {
                "logits": outputs["logits"],  # [1, K]
                "gates": _side_by_side(outputs["gates"]),  # [1, h, w, L+1]
                # The strength of the modulation at each place: [1, h, w, C] -> [1, h, w]
                "modulator": tf.sqrt(tf.reduce_sum(tf.square(outputs["modulator"]), axis=-1)),
            }

        # The weights alone: the converter would save a network in here layer by layer, which takes it thrice as long.
        self._weights = views.variables
        self._classify = tf.function(classify, autograph=False)
        self._size = size

    def concrete_function(self) -> Any:
        """Return the function to convert, its batch and sizes static, as delegates need."""
        image = tf.TensorSpec((1, self._size, self._size, 3), tf.uint8, name="image")
        return self._classify.get_concrete_function(image)


def _side_by_side(maps: list[Any]) -> Any:
    """Join maps `[1, h, w, 1]` as channels, without a concatenation.

    Of int8 maps the converter makes an int8 concatenation, which needs one range for all: it takes that
    of the first map and clips the others to it.
    """
    places = np.eye(len(maps), dtype=np.float32)
    return sum(place * values for values, place in zip(maps, places, strict=True))


def finish(flatbuffer: bytes) -> bytes:
    """Make a converted model what the contract promises and the CPU delegate takes whole.

    Args:
        flatbuffer: a TFLite model with one signature, as the converter wrote it.

    Returns:
        The same network, its inputs and outputs named by the signature, its pixels int8 from the start
        where they are to be, and its GELUs in float.

    Raises:
        ArtifactError: the model has not exactly one signature.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(flatbuffer))
    _name_inputs_and_outputs(model)
    _read_pixels_as_int8(model)
    _compute_gelu_in_float(model)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _name_inputs_and_outputs(model: Any) -> None:
    """Name tensors as the signature does: converters call them `StatefulPartitionedCall:0` and the like."""
    signatures = model.signatureDefs or []
    if len(signatures) != 1:
        raise ArtifactError(f"received a model with {len(signatures)} signatures; expected exactly one")
    for each in [*signatures[0].inputs, *signatures[0].outputs]:
        model.subgraphs[0].tensors[each.tensorIndex].name = each.name


def _read_pixels_as_int8(model: Any) -> None:
    """Turn uint8 pixels that are cast, scaled and quantized to int8 into int8 ones by one operation.

    Where the scaling is the quantization's own scale, as 1/255 is, all three only subtract 128.
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
    picture = schema.QuantizationParametersT()
    picture.scale, picture.zeroPoint = target.scale, np.zeros(1, np.int64)
    graph.tensors[cast.inputs[0]].quantization = picture
    quantize.inputs = cast.inputs
    graph.operators = graph.operators[2:]


def _compute_gelu_in_float(model: Any) -> None:
    """Put every int8 GELU between a dequantization and a quantization.

    Between two int8 tensors the converter makes the GELU int8, which XNNPACK does not take: each
    would cut the delegate's partition in two. The values stay the same 256 ones on either side.
    """
    graph = model.subgraphs[0]
    if all(code.builtinCode != schema.BuiltinOperator.GELU for code in model.operatorCodes):
        return
    gelu, dequantize, quantize = (
        _operator_code(model, code)
        for code in (
            schema.BuiltinOperator.GELU,
            schema.BuiltinOperator.DEQUANTIZE,
            schema.BuiltinOperator.QUANTIZE,
        )
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
    """Return the index of a builtin operator's code, added to the model if it is not there."""
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _add_float_tensor(graph: Any, like: int) -> int:
    """Add a float32 tensor of the shape of tensor `like`, and return its index."""
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
