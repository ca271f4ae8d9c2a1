"""What an interpreter tells of a TFLite artifact's graph: operators, partitions, multiply-accumulates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.core.errors import ArtifactError
from runtime.engines.tflite import load_interpreter

DELEGATE = "DELEGATE"


@dataclass(frozen=True)
class Graph:
    """An artifact's graph.

    Attributes:
        operators: how many there are.
        delegate_partitions: pieces of it that the delegate takes; 1 is best.
        macs: multiply-accumulates of its convolutions and matrix products, padding included.
    """

    operators: int
    delegate_partitions: int
    macs: int


def read_graph(path: Path) -> Graph | None:
    """Ask the installed interpreter how it would run an artifact.

    Args:
        path: a .tflite file.

    Returns:
        Its graph; `None` where this interpreter does not tell.

    Raises:
        ArtifactError: no interpreter is installed, or it cannot open the file.
    """
    name, interpreter_class = load_interpreter()
    try:
        interpreter = interpreter_class(model_path=str(path))
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"{name} cannot open {path} ({error}); make it anew with `make export`") from error
    nodes = operator_nodes(interpreter)
    if nodes is None:
        return None
    shapes = {
        int(detail["index"]): tuple(int(side) for side in detail["shape"])
        for detail in interpreter.get_tensor_details()
    }
    own = [node for node in nodes if node["op_name"] != DELEGATE]
    return Graph(len(own), len(nodes) - len(own), sum(_macs(node, shapes) for node in own))


def operator_nodes(interpreter: Any) -> list[dict[str, Any]] | None:
    """Return an interpreter's operators and, after them, its partitions; `None` where it does not tell."""
    # There is no public way to learn of operators. All three interpreters have this one, "subject to change".
    list_nodes = getattr(interpreter, "_get_ops_details", None)
    nodes = list_nodes() if callable(list_nodes) else None
    if not nodes or not all({"op_name", "inputs", "outputs"} <= node.keys() for node in nodes):
        return None
    return list(nodes)


def _macs(node: dict[str, Any], shapes: dict[int, tuple[int, ...]]) -> int:
    """Count an operator's multiply-accumulates: each weight of a kernel is used once at every position."""
    inputs = [int(index) for index in node["inputs"]]
    outputs = [int(index) for index in node["outputs"]]
    if node["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return math.prod(shapes[outputs[0]][1:3]) * math.prod(shapes[inputs[1]])
    if node["op_name"] == "FULLY_CONNECTED":
        return math.prod(shapes[outputs[0]][:-1]) * math.prod(shapes[inputs[1]])
    return 0
