"""TFLite graphs, as the installed interpreter lists them: operators, their layers, tensors, delegate partitions."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.core.errors import ArtifactError
from runtime.engines.tflite import load_interpreter

DELEGATE = "DELEGATE"
# The prefix of quantization-aware layers.
QUANTIZED_PREFIX = "quant_"


@dataclass(frozen=True)
class Tensor:
    """One tensor; `scale` and `zero_point` are 0 for floats and for integers that are not quantized."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0

    @property
    def range(self) -> tuple[float, float] | None:
        """The least and the greatest value that a quantized tensor can hold; `None` for other tensors."""
        if not self.scale:
            return None
        limits = np.iinfo(self.dtype)
        return self.scale * (int(limits.min) - self.zero_point), self.scale * (int(limits.max) - self.zero_point)


@dataclass(frozen=True)
class Node:
    """One operator.

    Attributes:
        name: TFLite's, e.g. `"CONV_2D"`.
        inputs: indices of the tensors it reads; -1 stands for an optional input that is left out.
        outputs: indices of the tensors it writes.
        partition: number of the delegate partition that it is in, from 0; `None` outside the delegate.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    partition: int | None = None


@dataclass(frozen=True)
class Graph:
    """A graph.

    Attributes:
        interpreter: the package that listed it, with its version.
        nodes: the operators, in the order of the graph.
        tensors: by their index.
        inputs: indices of the graph's inputs.
        partitions: number of delegate partitions; 1 is best.
    """

    interpreter: str
    nodes: tuple[Node, ...]
    tensors: dict[int, Tensor]
    inputs: tuple[int, ...]
    partitions: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of its convolutions and matrix products, padding included."""
        return sum(self._macs(node) for node in self.nodes)

    def _macs(self, node: Node) -> int:
        # Each weight of a kernel is used once at every position.
        if node.name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            positions = self.tensors[node.outputs[0]].shape[1:3]
        elif node.name == "FULLY_CONNECTED":
            positions = self.tensors[node.outputs[0]].shape[:-1]
        else:
            return 0
        return math.prod(positions) * math.prod(self.tensors[node.inputs[1]].shape)


def read_graph(content: bytes, load: Callable[[], tuple[str, Any]] = load_interpreter) -> Graph:
    """List the graph of a TFLite model, with the partitions of the installed interpreter's delegate.

    Args:
        content: the .tflite file.
        load: returns the interpreter's name and class.

    Raises:
        ArtifactError: no interpreter is installed, it cannot open the model, or it does not list operators; or
            the model has several graphs.
    """
    name, interpreter_class = load()
    try:
        interpreter = interpreter_class(model_content=content)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"{name} cannot open the TFLite model ({error}); rebuild it with `make export`") from error
    return list_graph(name, interpreter)


def list_graph(name: str, interpreter: Any) -> Graph:
    """List the graph of an open interpreter.

    Args:
        name: its package and version.
        interpreter: with its tensors allocated.

    Raises:
        ArtifactError: it does not list operators, or the model has several graphs.
    """
    # Operators have no public listing. All three interpreters have this method, "subject to change".
    list_operators = getattr(interpreter, "_get_ops_details", None)
    listed = list_operators() if callable(list_operators) else []
    if not listed or not all({"op_name", "inputs", "outputs"} <= node.keys() for node in listed):
        raise ArtifactError(
            f"{name} does not list operators and delegate partitions through _get_ops_details; expected a version "
            "that does: install ai-edge-litert 2.3.0"
        )
    count_graphs = getattr(interpreter, "num_subgraphs", None)
    graphs = count_graphs() if callable(count_graphs) else 1
    if graphs != 1:
        raise ArtifactError(f"received a model with {graphs} graphs; expected one, without control flow")
    nodes = [Node(node["op_name"], _indices(node["inputs"]), _indices(node["outputs"])) for node in listed]
    operators = [node for node in nodes if node.name != DELEGATE]
    delegated = [node for node in nodes if node.name == DELEGATE]
    partitions = partitions_of(operators, delegated)
    return Graph(
        interpreter=name,
        nodes=tuple(
            Node(node.name, node.inputs, node.outputs, partitions.get(index)) for index, node in enumerate(operators)
        ),
        tensors={int(detail["index"]): _tensor(detail) for detail in interpreter.get_tensor_details()},
        inputs=_indices([detail["index"] for detail in interpreter.get_input_details()]),
        partitions=len(delegated),
    )


def _indices(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _tensor(detail: dict[str, Any]) -> Tensor:
    dtype = np.dtype(detail["dtype"])
    scale, zero_point = detail["quantization"]
    quantized = dtype.kind in "iu" and scale > 0
    return Tensor(
        index=int(detail["index"]),
        name=str(detail["name"]),
        shape=_indices(detail["shape"]),
        dtype=dtype.name,
        scale=float(scale) if quantized else 0.0,
        zero_point=int(zero_point) if quantized else 0,
    )


def partitions_of(operators: Sequence[Node], delegated: Sequence[Node]) -> dict[int, int]:
    """Find the operators inside the delegate's partitions.

    Args:
        operators: those of the graph.
        delegated: one node a partition; its inputs and outputs are the tensors that cross its border.

    Returns:
        The number of its partition, from 0, by the index of every operator that is in one: all that compute a
        partition's outputs, back to its inputs.
    """
    makers = {tensor: index for index, node in enumerate(operators) for tensor in node.outputs}
    found: dict[int, int] = {}
    for partition, node in enumerate(delegated):
        pending = list(node.outputs)
        while pending:
            maker = makers.get(pending.pop())
            if maker is None or maker in found:
                continue
            found[maker] = partition
            pending += [tensor for tensor in operators[maker].inputs if tensor not in node.inputs]
    return found


def layer_of(tensors: Iterable[str], layers: Collection[str] | None = None) -> str | None:
    """Find the layer that an operator or a tensor belongs to.

    Converters name a tensor by its path in the network, such as `focalnet/quant_stage0.block0.norm1/Reshape`. A
    tensor of fused operations has all their names, the product's last:
    `focalnet/embed.act0/Relu;focalnet/embed.conv0/Conv2D`.

    Args:
        tensors: names of the tensor, or of the operator's outputs.
        layers: names of the network's layers; by default a layer is the second part of a path of three or more.

    Returns:
        The last layer named, without the prefix of quantization, e.g. `"embed.conv0"`; `None` if no layer is named.
    """
    paths = [path.split("/") for name in tensors for path in name.split(";")]
    if layers is None:
        parts = [path[1].removeprefix(QUANTIZED_PREFIX) for path in paths if len(path) > 2]
    else:
        parts = [part.removeprefix(QUANTIZED_PREFIX) for path in paths for part in path]
        parts = [part for part in parts if part in layers]
    return parts[-1] if parts else None
