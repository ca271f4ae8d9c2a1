"""One product of those that read the same tokens: a runtime prepares what a product reads anew for each of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir


def join_products(graph: ir.Graph) -> None:
    """Join the `Gemm`s of a graph that read the same into one and a `Split`, in place.

    Those whose output is quantized stay by themselves: each has a range of its own.
    """
    alike: defaultdict[Hashable, list[Any]] = defaultdict(list)
    for node in graph:
        if node.op_type == "Gemm" and not any(use.node.op_type == "QuantizeLinear" for use in node.outputs[0].uses()):
            alike[_kind(node)].append(node)
    for products in alike.values():
        if len(products) > 1:
            _join(graph, products)


def _kind(product: Any) -> Hashable:
    """Return what products must have in common: what they read, by its rounding, and how their constants are stored."""
    source = product.inputs[0].producer()
    read = source.inputs if source is not None and source.op_type == "DequantizeLinear" else product.inputs[:1]
    return (tuple(read), *(_is_stored(value) for value in product.inputs[1:]))


def _is_stored(value: Any) -> bool:
    """Tell whether a constant is stored as integers, and dequantized."""
    return ir.convenience.get_const_tensor(value) is None


def _join(graph: ir.Graph, products: Sequence[Any]) -> None:
    first = products[0]
    block = (first.name or "").rpartition("/")[0].rpartition(".")[0]
    kernels, *biases = zip(*(product.inputs[1:] for product in products), strict=True)
    nodes: list[ir.Node] = []
    constants = [_side_by_side(kernels, 1, nodes), *(_side_by_side(each, 0, nodes) for each in biases)]
    joint = ir.node("Gemm", [first.inputs[0], *constants], name=block + "/Gemm")
    widths = _constant(np.array([_as_stored(kernel).shape[1] for kernel in kernels]), nodes)
    split = ir.node("Split", [joint.outputs[0], widths], {"axis": 1}, num_outputs=len(products), name=joint.name)
    graph.insert_before(first, [*nodes, joint, split])
    for product, part in zip(products, split.outputs, strict=True):
        ir.convenience.replace_all_uses_with(product.outputs[0], part)
    graph.remove(products, safe=True)


def _side_by_side(values: Sequence[Any], axis: int, nodes: list[ir.Node]) -> ir.Value:
    """Concatenate constants, which may be dequantized along that axis; add the nodes that this takes."""
    if not _is_stored(values[0]):
        return _constant(np.concatenate([numbers_of(value) for value in values], axis), nodes)
    stored, *how = zip(*(value.producer().inputs for value in values), strict=True)
    parts = [_constant(np.concatenate([numbers_of(value) for value in stored], axis), nodes)]
    parts += [_constant(np.concatenate([numbers_of(value) for value in each]), nodes) for each in how]
    nodes.append(ir.node("DequantizeLinear", parts, {"axis": axis}))
    return nodes[-1].outputs[0]


def _as_stored(value: Any) -> Any:
    """Return the numbers of a constant as they are stored."""
    return numbers_of(value.producer().inputs[0] if _is_stored(value) else value)


def numbers_of(value: Any) -> Any:
    """Return the numbers of a constant, made by a node or an initializer."""
    tensor: Any = ir.convenience.get_const_tensor(value)
    return tensor.numpy()


def constant_node(numbers: Any) -> ir.Node:
    """Make a node that gives these numbers."""
    return ir.node("Constant", [], {"value": ir.tensor(numbers)})


def _constant(numbers: Any, nodes: list[ir.Node]) -> ir.Value:
    nodes.append(constant_node(numbers))
    return nodes[-1].outputs[0]
