"""Rewrite a network from tf2onnx into operators that ONNX runtimes are fast at.

Without its transpose optimizer, tf2onnx gives a graph in `[1, H, W, C]` with a pair of transposes around each
convolution, and LayerNorms of eight operators. The rules here, for onnxscript's rewriter, result in:

1. `LayerNormalization` and `Gelu` operators;
2. for each 1x1 convolution, a `Gemm` over tokens `[H*W, C]`, with its bias;
3. tokens between two `Gemm`s, so that a block changes to grids for its depthwise convolutions only;
4. no transposes but those around convolutions wider than 1x1;
5. no rounding of a product that is read as float, as int8 products of runtimes give float;
6. one product in place of several with the same input, such as a block's query, context and gates.

A `Flatten` makes tokens from a grid `[1, H, W, C]`, and a `Reshape` to `[1, H, W, -1]` a grid from tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import (
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
    ShapeInferencePass,
)
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

from export.onnx.merge_products import merge_products

CHANNELS_FIRST = [0, 3, 1, 2]
CHANNELS_LAST = [0, 2, 3, 1]
ACTIVATIONS = ("Relu", "Gelu")
ROUNDINGS = ("QuantizeLinear", "DequantizeLinear")
BROADCASTS = ("Add", "Mul")
PRODUCTS = ("Conv", "Gemm")
# Index of the input with the kernel's zero point.
ZERO_POINTS = {"DequantizeLinear": 2, "MatMulInteger": 3}
SHAPES = ("Flatten", "Reshape", "Transpose")


def rewrite(model: ir.Model, round_all: bool) -> None:
    """Rewrite a network in place; parts that no rule matches do not change.

    Args:
        model: a network from tf2onnx, with int8 kernels stored as int8.
        round_all: keep all roundings, for integer-only networks.
    """
    ShapeInferencePass()(model)
    _apply(model, [*LAYER_NORMS, GELU])
    _apply(model, [NORM_OFFSET])
    _apply(model, [LINEAR, BACK_TO_BACK, *TRANSPOSE_LAST])
    _apply(model, [*NORMS_OF_TOKENS, POOL_OF_TOKENS, TOKENS_OF_GRID, DEQUANTIZE_LAST, *GRID_LAST])
    if not round_all:
        _apply(model, [ROUNDED_FOR_FLOAT])
    merge_products(model.graph)
    _apply(model, [DYNAMIC])
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    DeduplicateInitializersPass()(model)
    _separate_zero_points(model.graph)


def _separate_zero_points(graph: ir.Graph) -> None:
    """Give each int8 kernel its own zero point.

    On CPUs whose uint8 by int8 products may saturate, ONNX Runtime makes kernels uint8, and fails if two share one.
    """
    taken: set[Any] = set()
    for node in graph:
        place = ZERO_POINTS.get(node.op_type)
        shared = node.inputs[place] if place is not None else None
        if shared is None or shared.const_value is None or shared.const_value.dtype != ir.DataType.INT8:
            continue
        if shared in taken:
            own = ir.Value(name=f"{shared.name}_{node.name}", const_value=shared.const_value)
            own.shape, own.type = shared.shape, shared.type
            graph.register_initializer(own)
            node.replace_input_with(place, own)  # type: ignore[arg-type]
        taken.add(shared)


def _apply(model: ir.Model, rules: Sequence[Any]) -> None:
    # Replaced nodes stay, as they may have other readers; unused ones would match again in the next round.
    while RewriteRuleSet(rules).apply_to_model(model):
        IdentityEliminationPass()(model)
        RemoveUnusedNodesPass()(model)


def _rule(pattern: Callable[..., Any], rewrite: Callable[..., Any], check: Callable[..., Any] | None = None) -> Any:
    return RewriteRule(pattern, rewrite, check, name=pattern.__name__, remove_nodes=False)


def _layer_norm(op: Any, x: Any, epsilon: Any, of_mean: Any, axes: Any) -> Any:
    """Match `(x - E[x]) / sqrt(Var[x] + epsilon)`."""
    centred = op.Sub(x, op.ReduceMean(x, of_mean))
    return op.Mul(centred, _reciprocal_deviation(op, centred, epsilon, axes))


def _scaled_layer_norm(op: Any, x: Any, epsilon: Any, of_mean: Any, axes: Any, scale: Any) -> Any:
    """Match a LayerNorm whose scale TensorFlow multiplies by the reciprocal deviation first."""
    centred = op.Sub(x, op.ReduceMean(x, of_mean))
    return op.Mul(centred, op.Mul(_reciprocal_deviation(op, centred, epsilon, axes), scale))


def _reciprocal_deviation(op: Any, centred: Any, epsilon: Any, axes: Any) -> Any:
    variance = op.ReduceMean(op.Mul(centred, centred), axes)
    return op.Reciprocal(op.Sqrt(op.Add(variance, epsilon)))


def _is_over_channels(context: Any, x: Any, of_mean: Any, axes: Any, **_: Any) -> bool:
    last = ([-1], [len(x.shape) - 1])
    return _values(of_mean) in last and _values(axes) in last


def _as_layer_norm(op: Any, x: Any, epsilon: Any, scale: Any = None, **_: Any) -> Any:
    if scale is None:
        scale = _constant(op, np.ones(x.shape[-1], np.float32))
    return op.LayerNormalization(x, scale, axis=-1, epsilon=_values(epsilon)[0])


LAYER_NORMS = tuple(_rule(each, _as_layer_norm, _is_over_channels) for each in (_layer_norm, _scaled_layer_norm))


def _offset_norm(op: Any, x: Any, scale: Any, epsilon: Any, offset: Any) -> Any:
    return op.Add(op.LayerNormalization(x, scale, axis=-1, epsilon=epsilon), offset)


def _is_vector(context: Any, x: Any, offset: Any, **_: Any) -> bool:
    return len(_values(offset)) == x.shape[-1]


NORM_OFFSET = _rule(
    _offset_norm,
    lambda op, x, scale, epsilon, offset: op.LayerNormalization(x, scale, offset, axis=-1, epsilon=epsilon),
    _is_vector,
)


def _gelu(op: Any, x: Any, half: Any, one: Any, root: Any) -> Any:
    """Match `x/2 (1 - erf(-x/sqrt(2)))`, TensorFlow's GELU."""
    return op.Mul(op.Mul(half, x), op.Sub(one, op.Erf(op.Mul(op.Neg(x), root))))


def _is_gelu(context: Any, half: Any, one: Any, root: Any, **_: Any) -> bool:
    found = [*_values(half), *_values(one), *_values(root)]
    return len(found) == 3 and bool(np.allclose(found, [0.5, 1.0, 0.5**0.5]))


GELU = _rule(_gelu, lambda op, x, **_: op.Gelu(x), _is_gelu)


def _convolution(op: Any, x: Any, kernel: Any, bias: Any) -> Any:
    return op.Conv(op.Transpose(x, perm=CHANNELS_FIRST), kernel, bias, _outputs=["product"])


def _is_linear(context: Any, kernel: Any, product: Any, **_: Any) -> bool:
    attributes = product.producer().attributes
    return (
        list(kernel.shape[2:]) == [1, 1]
        and attributes.get_int("group", 1) == 1
        and set(attributes.get_ints("strides", [1])) == {1}
    )


def _as_gemm(op: Any, x: Any, kernel: Any, bias: Any, product: Any) -> Any:
    y = op.Gemm(op.Flatten(x, axis=3), _as_matrix(op, kernel), bias)
    y.producer().name = product.producer().name
    return op.Transpose(_grid(op, y, product.shape[2:]), perm=CHANNELS_FIRST)


def _as_matrix(op: Any, kernel: Any) -> Any:
    """Convert a kernel `[out, in, 1, 1]`, which may be dequantized per output channel, to `[in, out]`."""
    tensor = ir.convenience.get_const_tensor(kernel)
    if tensor is not None:
        return _constant(op, tensor.numpy()[:, :, 0, 0].T.copy())
    stored, *how = kernel.producer().inputs
    return op.DequantizeLinear(_as_matrix(op, stored), *how, axis=1)


LINEAR = _rule(_convolution, _as_gemm, _is_linear)


def _two_transposes(op: Any, x: Any, inner: Any, outer: Any) -> Any:
    return op.Transpose(op.Transpose(x, perm=inner), perm=outer)


def _undo_each_other(context: Any, inner: Any, outer: Any, **_: Any) -> bool:
    return [inner.as_ints()[axis] for axis in outer.as_ints()] == sorted(outer.as_ints())


BACK_TO_BACK = _rule(_two_transposes, lambda op, x, **_: op.Identity(x), _undo_each_other)


def _activation_of_transpose(name: str) -> Any:
    def pattern(op: Any, x: Any) -> Any:
        return getattr(op, name)(op.Transpose(x, perm=CHANNELS_LAST))

    def transposed_last(op: Any, x: Any) -> Any:
        return op.Transpose(getattr(op, name)(x), perm=CHANNELS_LAST)

    return _rule(pattern, transposed_last)


def _rounding_of_transpose(name: str) -> Any:
    def pattern(op: Any, x: Any, scale: Any, zero_point: Any) -> Any:
        return getattr(op, name)(op.Transpose(x, perm=CHANNELS_LAST), scale, zero_point)

    def transposed_last(op: Any, x: Any, scale: Any, zero_point: Any) -> Any:
        return op.Transpose(getattr(op, name)(x, scale, zero_point), perm=CHANNELS_LAST)

    return _rule(pattern, transposed_last)


TRANSPOSE_LAST = (*map(_activation_of_transpose, ACTIVATIONS), *map(_rounding_of_transpose, ROUNDINGS))


def _is_grid(value: Any) -> bool:
    """Return whether a value is a grid made from tokens."""
    node = value.producer()
    return (
        node is not None
        and node.op_type == "Reshape"
        and len(node.inputs) == 2
        and _values(node.inputs[1])[-1:] == [-1]
    )


def _activation_of_grid(name: str) -> Any:
    def pattern(op: Any, x: Any, shape: Any) -> Any:
        return getattr(op, name)(op.Reshape(x, shape, _outputs=["grid"]))

    def of_tokens(op: Any, x: Any, shape: Any, **_: Any) -> Any:
        return op.Reshape(getattr(op, name)(x), shape)

    return _rule(pattern, of_tokens, _made_of_tokens)


def _rounding_of_grid(name: str) -> Any:
    def pattern(op: Any, x: Any, shape: Any, scale: Any, zero_point: Any) -> Any:
        return getattr(op, name)(op.Reshape(x, shape, _outputs=["grid"]), scale, zero_point)

    def of_tokens(op: Any, x: Any, shape: Any, scale: Any, zero_point: Any, **_: Any) -> Any:
        return op.Reshape(getattr(op, name)(x, scale, zero_point), shape)

    return _rule(pattern, of_tokens, _made_of_tokens)


def _broadcast_of_grid(name: str, second: bool) -> Any:
    def pattern(op: Any, x: Any, shape: Any, other: Any) -> Any:
        grid = op.Reshape(x, shape, _outputs=["grid"])
        return getattr(op, name)(other, grid) if second else getattr(op, name)(grid, other)

    def of_tokens(op: Any, x: Any, shape: Any, other: Any, **_: Any) -> Any:
        if _is_grid(other):
            other = other.producer().inputs[0]
        elif not _values(other):
            other = op.Flatten(other, axis=3)
        return op.Reshape(getattr(op, name)(*((other, x) if second else (x, other))), shape)

    def fits(context: Any, grid: Any, other: Any, **_: Any) -> bool:
        return _is_grid(grid) and (not _values(other) or len(other.shape) <= 1)

    return _rule(pattern, of_tokens, fits)


def _made_of_tokens(context: Any, grid: Any, **_: Any) -> bool:
    return _is_grid(grid)


GRID_LAST = (
    *map(_activation_of_grid, ACTIVATIONS),
    *map(_rounding_of_grid, ROUNDINGS),
    *(_broadcast_of_grid(name, second) for name in BROADCASTS for second in (False, True)),
)


def _norm(op: Any, x: Any, scale: Any, epsilon: Any) -> Any:
    return op.LayerNormalization(x, scale, axis=-1, epsilon=epsilon)


def _norm_with_offset(op: Any, x: Any, scale: Any, offset: Any, epsilon: Any) -> Any:
    return op.LayerNormalization(x, scale, offset, axis=-1, epsilon=epsilon)


def _is_of_grid(context: Any, x: Any, **_: Any) -> bool:
    return x.shape is not None and len(x.shape) == 4


def _norm_of_tokens(op: Any, x: Any, scale: Any, epsilon: Any, offset: Any = None) -> Any:
    y = op.LayerNormalization(op.Flatten(x, axis=3), scale, offset, axis=-1, epsilon=epsilon)
    return _grid(op, y, x.shape[1:3])


NORMS_OF_TOKENS = (
    _rule(_norm, _norm_of_tokens, _is_of_grid),
    _rule(_norm_with_offset, _norm_of_tokens, _is_of_grid),
)


def _flatten(op: Any, x: Any, shape: Any) -> Any:
    return op.Flatten(op.Reshape(x, shape, _outputs=["grid"]), axis=3)


TOKENS_OF_GRID = _rule(_flatten, lambda op, x, **_: op.Identity(x), _made_of_tokens)


def _flatten_of_dequantized(op: Any, x: Any, scale: Any, zero_point: Any) -> Any:
    return op.Flatten(op.DequantizeLinear(x, scale, zero_point), axis=3)


def _dequantize_last(op: Any, x: Any, scale: Any, zero_point: Any) -> Any:
    """Dequantize right before the product: runtimes fuse the two."""
    return op.DequantizeLinear(op.Flatten(x, axis=3), scale, zero_point)


DEQUANTIZE_LAST = _rule(_flatten_of_dequantized, _dequantize_last)


def _pool(op: Any, x: Any, shape: Any, axes: Any) -> Any:
    return op.ReduceMean(op.Reshape(x, shape, _outputs=["grid"]), axes)


def _is_global(context: Any, grid: Any, axes: Any, **_: Any) -> bool:
    return _is_grid(grid) and _values(axes) == [1, 2]


def _pool_of_tokens(op: Any, x: Any, **_: Any) -> Any:
    over = _constant(op, np.array([0]))
    return _grid(op, op.ReduceMean(x, over, keepdims=1), (1, 1))


POOL_OF_TOKENS = _rule(_pool, _pool_of_tokens, _is_global)


def _rounded_product(op: Any, x: Any, kernel: Any, bias: Any, scale: Any, zero_point: Any) -> Any:
    y = op.Gemm(x, kernel, bias, _outputs=["product"])
    return op.DequantizeLinear(op.QuantizeLinear(y, scale, zero_point), scale, zero_point, _outputs=["rounded"])


def _is_read_as_float(context: Any, rounded: Any, **_: Any) -> bool:
    return not _reaches_product(rounded)


def _reaches_product(value: Any) -> bool:
    """Return whether a product with an int8 kernel reads a value, as tokens or as a grid."""
    for use in value.uses():
        node, kernel = use.node, use.node.inputs[1].producer() if use.node.op_type in PRODUCTS else None
        if kernel is not None and kernel.op_type == "DequantizeLinear" and use.idx == 0:
            return True
        if node.op_type in SHAPES and _reaches_product(node.outputs[0]):
            return True
    return False


ROUNDED_FOR_FLOAT = _rule(_rounded_product, lambda op, product, **_: op.Identity(product), _is_read_as_float)


def _product(op: Any, x: Any, stored: Any, scale: Any, zero_point: Any, bias: Any) -> Any:
    return op.Gemm(x, op.DequantizeLinear(stored, scale, zero_point), bias, _outputs=["product"])


def _reads_float(context: Any, x: Any, **_: Any) -> bool:
    node = x.producer()
    return node is None or node.op_type != "DequantizeLinear"


def _dynamic(op: Any, x: Any, stored: Any, scale: Any, zero_point: Any, bias: Any, **_: Any) -> Any:
    """Quantize a product's input at run time, over the range of that input."""
    read, read_scale, read_zero_point = op.DynamicQuantizeLinear(x, _outputs=3)
    total = op.Cast(op.MatMulInteger(read, stored, read_zero_point, zero_point), to=ir.DataType.FLOAT)
    return op.Add(op.Mul(total, op.Mul(read_scale, scale)), bias)


DYNAMIC = _rule(_product, _dynamic, _reads_float)


def _grid(op: Any, tokens: Any, sides: Sequence[int]) -> Any:
    height, width = sides
    return op.Reshape(tokens, _constant(op, np.array([1, height, width, -1])))


def _constant(op: Any, values: Any) -> Any:
    return op.Constant(value=ir.tensor(values))


def _values(value: Any) -> list[Any]:
    """Return a constant's values as a flat list; empty if the value is not a constant."""
    tensor = ir.convenience.get_const_tensor(value)
    return [] if tensor is None else tensor.numpy().flatten().tolist()
