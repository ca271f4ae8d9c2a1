"""Merge products that read the same tokens: a runtime prepares the input of each product separately."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir


def merge_products(graph: ir.Graph) -> None:
    """Merge `Gemm`s with the same input into one `Gemm` and a `Split`, in place.

    `Gemm`s with a quantized output are not merged, as each has its own range.
    """
    alike: defaultdict[Hashable, list[Any]] = defaultdict(list)
    for node in graph:
        if node.op_type == "Gemm" and not any(use.node.op_type == "QuantizeLinear" for use in node.outputs[0].uses()):
            alike[_merge_key(node)].append(node)
    for products in alike.values():
        if len(products) > 1:
            _merge(graph, products)


def _merge_key(product: Any) -> Hashable:
    """Return a key that products to merge share: their input, its rounding, and how constants are stored."""
    source = product.inputs[0].producer()
    read = source.inputs if source is not None and source.op_type == "DequantizeLinear" else product.inputs[:1]
    return (tuple(read), *(_is_stored(value) for value in product.inputs[1:]))


def _is_stored(value: Any) -> bool:
    """Return whether a constant is stored as integers and dequantized."""
    return ir.convenience.get_const_tensor(value) is None


def _merge(graph: ir.Graph, products: Sequence[Any]) -> None:
    first = products[0]
    block = (first.name or "").rpartition("/")[0].rpartition(".")[0]
    kernels, *biases = zip(*(product.inputs[1:] for product in products), strict=True)
    nodes: list[ir.Node] = []
    constants = [_concatenated(kernels, 1, nodes), *(_concatenated(each, 0, nodes) for each in biases)]
    merged = ir.node("Gemm", [first.inputs[0], *constants], name=block + "/Gemm")
    widths = _constant(np.array([_as_stored(kernel).shape[1] for kernel in kernels]), nodes)
    split = ir.node("Split", [merged.outputs[0], widths], {"axis": 1}, num_outputs=len(products), name=merged.name)
    graph.insert_before(first, [*nodes, merged, split])
    for product, part in zip(products, split.outputs, strict=True):
        ir.convenience.replace_all_uses_with(product.outputs[0], part)
    graph.remove(products, safe=True)


def _concatenated(values: Sequence[Any], axis: int, nodes: list[ir.Node]) -> ir.Value:
    """Concatenate constants, which may be dequantized along that axis; append the new nodes to `nodes`."""
    if not _is_stored(values[0]):
        return _constant(np.concatenate([values_of(value) for value in values], axis), nodes)
    stored, *how = zip(*(value.producer().inputs for value in values), strict=True)
    parts = [_constant(np.concatenate([values_of(value) for value in stored], axis), nodes)]
    parts += [_constant(np.concatenate([values_of(value) for value in each]), nodes) for each in how]
    nodes.append(ir.node("DequantizeLinear", parts, {"axis": axis}))
    return nodes[-1].outputs[0]


def _as_stored(value: Any) -> Any:
    """Return the stored values of a constant."""
    return values_of(value.producer().inputs[0] if _is_stored(value) else value)


def values_of(value: Any) -> Any:
    """Return the values of a constant, from a node or an initializer."""
    tensor: Any = ir.convenience.get_const_tensor(value)
    return tensor.numpy()


def constant_node(values: Any) -> ir.Node:
    """Return a node with these values."""
    return ir.node("Constant", [], {"value": ir.tensor(values)})


def _constant(values: Any, nodes: list[ir.Node]) -> ir.Value:
    nodes.append(constant_node(values))
    return nodes[-1].outputs[0]
