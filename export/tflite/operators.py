"""Operators of a TFLite artifact: types, layers, delegate partitions, and the check against the scheme."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import tf_keras

from export.quantize.schemes import INTERFACE, PRODUCT_OPS, Scheme
from runtime.bundle.manifest import Audit
from runtime.core.errors import ArtifactError
from runtime.engines.tflite_graph import layer_of, read_graph
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet

NAMED_IN_ERRORS = 6
PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D")


@dataclass(frozen=True)
class Operator:
    """One operator of an artifact.

    Attributes:
        name: TFLite's, e.g. `"CONV_2D"`.
        layer: the layer of the network that it belongs to, or `schemes.INTERFACE`.
        inputs: types of its inputs, e.g. `("int8",)`, without constants such as weights and axes.
        outputs: types of its outputs.
        partition: number of its delegate partition; `None` outside the delegate.
        weights: type of a product's kernel.
    """

    name: str
    layer: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    partition: int | None
    weights: str | None = None

    @property
    def dtype(self) -> str:
        """The types in short: `"int8"`, or `"int8 -> float32"` if output and input differ."""
        before, after = ("/".join(dict.fromkeys(types)) for types in (self.inputs, self.outputs))
        dtype = after if before in ("", after) else f"{before} -> {after}"
        return dtype if self.weights in (None, before) else f"{dtype}, {self.weights} weights"

    @property
    def is_float(self) -> bool:
        """Whether an input or output is float, as in conversions between int8 and float."""
        return "float" in self.dtype


@dataclass(frozen=True)
class Listing:
    """The operators of an artifact, and the number of delegate partitions of an interpreter."""

    interpreter: str
    partitions: int
    operators: tuple[Operator, ...]


def layer_names(config: FocalNetConfig) -> list[str]:
    """Return the names of a network's layers, in order."""
    return [layer.name for layer in build_focalnet(config, tf_keras).layers]


def list_operators(content: bytes, layers: Iterable[str]) -> Listing:
    """List the operators of an artifact in the order of its graph.

    Args:
        content: the .tflite file.
        layers: the names of its network's layers.

    Returns:
        The operators, with their delegate partitions.

    Raises:
        ArtifactError: it is not a model with one graph, or the interpreter does not list operators.
    """
    graph, known = read_graph(content), frozenset(layers)
    computed = {tensor for node in graph.nodes for tensor in node.outputs} | set(graph.inputs)
    operators = []
    for node in graph.nodes:
        outputs = [graph.tensors[tensor] for tensor in node.outputs]
        operators.append(
            Operator(
                name=node.name,
                layer=layer_of([tensor.name for tensor in outputs], known) or INTERFACE,
                inputs=tuple(graph.tensors[tensor].dtype for tensor in node.inputs if tensor in computed),
                outputs=tuple(tensor.dtype for tensor in outputs),
                partition=node.partition,
                weights=graph.tensors[node.inputs[1]].dtype if node.name in PRODUCTS else None,
            )
        )
    return Listing(graph.interpreter, graph.partitions, tuple(operators))


def summarise(listing: Listing) -> Audit:
    """Return the manifest's summary of an artifact's operators."""
    counts: dict[str, Counter[str]] = {}
    for operator in listing.operators:
        counts.setdefault(operator.name, Counter())[operator.dtype] += 1
    return Audit(
        interpreter=listing.interpreter,
        operators={name: dict(sorted(counts[name].items())) for name in sorted(counts)},
        delegate_partitions=listing.partitions,
        outside_delegate=_by_layer(operator for operator in listing.operators if operator.partition is None),
        float_operators=_by_layer(operator for operator in listing.operators if operator.is_float),
    )


def _by_layer(operators: Iterable[Operator]) -> dict[str, tuple[str, ...]]:
    names: dict[str, list[str]] = {}
    for operator in operators:
        names.setdefault(operator.layer, []).append(operator.name)
    return {layer: tuple(each) for layer, each in names.items()}


def unlisted_float(listing: Listing, scheme: Scheme) -> list[Operator]:
    """Return the float operators that a scheme does not list, in the order of the graph."""
    return [each for each in listing.operators if each.is_float and not scheme.allows_float(each.name, each.layer)]


def check_scheme(listing: Listing, scheme: Scheme) -> None:
    """Check the operators of an int8 artifact against its scheme.

    Args:
        listing: the operators.
        scheme: the scheme of the artifact.

    Raises:
        ArtifactError: an operator is float that the scheme does not list, or int8 that it leaves in float.
    """
    int8 = [each.layer for each in listing.operators if each.name in PRODUCT_OPS and not each.is_float]
    if strays := [layer for layer in scheme.float_layers if layer in int8]:
        raise ArtifactError(
            f"the int8 artifact computes {', '.join(strays[:NAMED_IN_ERRORS])} in int8, but the scheme "
            f"{scheme.name!r} leaves them in float; rebuild it with `make export`"
        )
    unlisted = unlisted_float(listing, scheme)
    if not unlisted:
        return
    shown = ", ".join(f"{each.name} ({each.layer})" for each in unlisted[:NAMED_IN_ERRORS])
    more = f" and {len(unlisted) - NAMED_IN_ERRORS} more" if len(unlisted) > NAMED_IN_ERRORS else ""
    raise ArtifactError(
        f"the int8 artifact computes {shown}{more} in float, and the scheme {scheme.name!r} lists none of them; "
        "give the layers a rule in export/quantize/schemes.py that makes them int8, or add them to its float_ops"
    )
