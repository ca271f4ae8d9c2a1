"""Convert a network to an ONNX artifact, by tf2onnx and a rewrite.

The int8 artifact is converted from the same fake-quantized network as the TFLite one. So both quantize the same tensors
over the same ranges; only rounding inside a runtime's kernels may differ.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
import tf2onnx
import tf_keras
from numpy.typing import NDArray
from tf2onnx.optimizer.const_fold_optimizer import ConstFoldOptimizer
from tf2onnx.optimizer.identity_optimizer import IdentityOptimizer
from tf2onnx.optimizer.merge_duplicated_nodes_optimizer import MergeDuplicatedNodesOptimizer

from export.onnx.merge_products import constant_node, values_of
from export.onnx.rewrite import rewrite
from export.quantize.interface import FloatMaps, ModelInterface
from export.quantize.network import QuantizedNetwork
from export.quantize.rounding import TINY
from export.quantize.schemes import INTERFACE
from runtime.engines.tflite_graph import layer_of
from train.model.config import FocalNetConfig

CONVERTED_OPSET = 18  # the newest that tf2onnx knows
OPSET = 20  # the first with Gelu
# Without the transpose optimizer: the rewrite's patterns contain the transposes.
OPTIMIZERS = (ConstFoldOptimizer, MergeDuplicatedNodesOptimizer, IdentityOptimizer)


def convert_float(model: Any, config: FocalNetConfig, properties: Mapping[str, Any]) -> bytes:
    """Convert a float network of `build_float` to an ONNX artifact.

    Args:
        model: the network.
        config: its configuration.
        properties: metadata by name, stored as JSON.

    Returns:
        The file: input `image` uint8 `[1, S, S, 3]`; outputs `logits`, `gates`, `modulator`, float32.
    """
    layers = [layer.name for layer in model.layers]
    return _convert(ModelInterface(model, config, FloatMaps()), layers, properties, (), round_all=False)


def convert_int8(network: QuantizedNetwork, properties: Mapping[str, Any]) -> bytes:
    """Convert a network to an int8 ONNX artifact.

    Args:
        network: the network, as for `export.tflite.convert.convert_int8`.
        properties: metadata by name, stored as JSON.

    Returns:
        The file, with the interface of `convert_float`; kernels are int8, and activations as the scheme says.

    Raises:
        ArtifactError: the calibration lacks a range that the scheme needs.
    """
    round_all = network.scheme.integer_only
    return _convert(network.interface, network.layers, properties, network.int8_kernels, round_all)


def _convert(
    interface: ModelInterface,
    layers: Sequence[str],
    properties: Mapping[str, Any],
    int8: Collection[str],
    round_all: bool,
) -> bytes:
    converted, _ = tf2onnx.convert.from_keras(
        _Classifier(interface),
        input_signature=[interface.image],
        opset=CONVERTED_OPSET,
        custom_op_handlers={"Erfc": (_erfc, [])},
        optimizers={each.__name__: each for each in OPTIMIZERS},
    )
    model = ir.from_proto(onnx.version_converter.convert_version(converted, OPSET))
    _order(model.graph)
    for node in model.graph:
        node.name = f"{layer_of([node.name or ''], layers) or INTERFACE}/{node.op_type}"
    _add_biases(model.graph)
    _store_int8(model.graph, {f"{layer}/Conv" for layer in int8})
    rewrite(model, round_all)
    _name(model.graph)
    model.metadata_props.update({name: json.dumps(value) for name, value in properties.items()})
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


class _Classifier(tf_keras.Model):
    """A model interface as a Keras model, for tf2onnx."""

    def __init__(self, interface: ModelInterface) -> None:
        super().__init__(name="focalnet")
        self._interface = interface

    def call(self, image: Any, training: bool = False) -> dict[str, Any]:
        return self._interface.classify(image)


def _erfc(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Convert `erfc(x)`, part of TensorFlow's GELU, to `1 - erf(x)`: ONNX has no `Erfc`."""
    (x,), outputs, shapes, dtypes = node.input, node.output, node.output_shapes, node.output_dtypes
    ctx.remove_node(name)
    erf = ctx.make_node("Erf", [x])
    one = ctx.make_const(f"{name}/one", np.array(1.0, np.float32))
    ctx.make_node("Sub", [one.output[0], erf.output[0]], name=name, outputs=outputs, shapes=shapes, dtypes=dtypes)


def _order(graph: ir.Graph) -> None:
    """Order nodes and initializers by use: tf2onnx orders by names, which number the conversions of a process."""
    ordered: dict[ir.Node, None] = {}
    stack = [output.producer() for output in reversed(graph.outputs)]
    while stack:
        node = stack[-1]
        waiting = [value.producer() for value in node.inputs if value is not None] if node is not None else []
        waiting = [each for each in waiting if each is not None and each not in ordered]
        if node is None or node in ordered or not waiting:
            if node is not None:
                ordered.setdefault(node)
            stack.pop()
        else:
            stack += reversed(waiting)
    graph.remove(list(graph))
    graph.extend(ordered)
    used = dict.fromkeys(
        value for node in ordered for value in node.inputs if value is not None and value.is_initializer()
    )
    graph.initializers.clear()
    for value in used:
        graph.register_initializer(value)


def _add_biases(graph: ir.Graph) -> None:
    """Add the zero biases that TensorFlow omits: the rewrite's patterns have biases."""
    nodes: list[Any] = list(graph)
    for node in nodes:
        if node.op_type == "Conv" and len(node.inputs) == 2 and node.attributes.get_int("group", 1) == 1:
            constant = constant_node(np.zeros(node.inputs[1].shape[0], np.float32))
            graph.insert_before(node, constant)
            node.resize_inputs(3)
            node.replace_input_with(2, constant.outputs[0])


def _store_int8(graph: ir.Graph, convolutions: Collection[str]) -> None:
    """Store convolution kernels as int8, one scale per output channel, and their biases as int32."""
    nodes: list[Any] = list(graph)
    for node in nodes:
        if node.op_type != "Conv" or node.name not in convolutions:
            continue
        kernel, *bias = map(values_of, node.inputs[1:])  # [out, in, h, w]; [out]
        scale = np.maximum(np.abs(kernel).max(axis=(1, 2, 3)) / np.float32(127.0), TINY)  # [out]
        stored = np.rint(kernel / scale[:, None, None, None]).astype(np.int8)
        node.replace_input_with(1, _dequantized(node, stored, scale))
        scales = [scale * source for source in _input_scales(node)]
        for values, each in zip(bias, scales, strict=False):
            node.replace_input_with(2, _dequantized(node, np.rint(values / each).astype(np.int32), each))


def _input_scales(node: Any) -> list[NDArray[np.float32]]:
    """Return the scale of a convolution's int8 input, transposes skipped; empty for a float input."""
    source = node.inputs[0].producer()
    if source is not None and source.op_type == "Transpose":
        source = source.inputs[0].producer()
    if source is None or source.op_type != "DequantizeLinear":
        return []
    return [source.inputs[1].const_value.numpy()]


def _dequantized(reader: Any, stored: NDArray[Any], scale: NDArray[np.float32]) -> ir.Value:
    """Insert constants, dequantized along their first axis, before their reader."""
    # ONNX Runtime does not fuse a product without zero points.
    values = (stored, scale, np.zeros(scale.shape, stored.dtype))
    constants = [constant_node(each) for each in values]
    dequantize = ir.node("DequantizeLinear", [each.outputs[0] for each in constants], {"axis": 0})
    dequantize.outputs[0].shape, dequantize.outputs[0].dtype = ir.Shape(stored.shape), ir.DataType.FLOAT
    reader.graph.insert_before(reader, [*constants, dequantize])
    return dequantize.outputs[0]


def _name(graph: ir.Graph) -> None:
    """Give nodes unique names; number values and drop their shapes, which are a fifth of a small artifact."""
    seen: Counter[str] = Counter()
    for node in graph:
        layer, named, _ = (node.name or "").rpartition("/")
        name = f"{layer}/{node.op_type}" if named else node.op_type
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}.{seen[name]}"
    inner = [value for node in graph for value in node.outputs if value not in graph.outputs]
    for value in inner:
        value.shape = value.type = None
    for index, value in enumerate([*graph.initializers.values(), *inner]):
        value.name = str(index)
