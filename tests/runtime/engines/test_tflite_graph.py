"""The reader of TFLite graphs: layers, partitions, multiply-accumulates, and what it must refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.core.errors import ArtifactError
from runtime.engines.tflite_graph import Node, Tensor, layer_of, partitions_of, read_graph
from tests.support.paths import SHIPPED

LAYERS = {"stage0.block0.norm1", "embed.conv0", "embed.act0", "logits"}
# 0 -A-> 1 -B-> 2 -C-> 4 -E-> 5, and 1 -D-> 3 -E; the delegate takes A and B, and E, with a weight 9 to each.
OPERATORS = [
    Node("A", (0, 9), (1,)),
    Node("B", (1, 9), (2,)),
    Node("C", (2, -1), (4,)),
    Node("D", (1,), (3,)),
    Node("E", (4, 3, 9), (5,)),
]
DELEGATED = [Node("DELEGATE", (0, 9), (1, 2)), Node("DELEGATE", (3, 4, 9), (5,))]


@pytest.mark.parametrize(
    ("tensors", "layer"),
    [
        (["views/quant_stage0.block0.norm1/FixedQuantize/FakeQuantWithMinMaxArgs"], "stage0.block0.norm1"),
        (["views/embed.act0/Relu;views/embed.conv0/BiasAdd;views/embed.conv0/Conv2D"], "embed.conv0"),
        (["StatefulPartitionedCall/views/quant_logits/Conv2D"], "logits"),
        (["logits"], "logits"),
        (["embed.act0/Relu/float"], "embed.act0"),
        (["unknown", "views/embed.conv0/split"], "embed.conv0"),
        (["views/embed.conv01/Conv2D"], None),
        (["StatefulPartitionedCall:0"], None),
        (["gates"], None),
        ([""], None),
        ([], None),
    ],
)
def test_the_layer_is_the_last_known_one_in_the_name(tensors: list[str], layer: str | None) -> None:
    assert layer_of(tensors, LAYERS) == layer


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [
        ("focalnet/quant_stage0.block0.norm1/Reshape", "stage0.block0.norm1"),
        ("focalnet/embed.act0/Relu;focalnet/embed.conv0/Conv2D", "embed.conv0"),
        ("gates", None),
        ("overlay/Square", None),
    ],
)
def test_without_known_layers_the_second_part_of_the_path_is_the_layer(tensor: str, layer: str | None) -> None:
    assert layer_of([tensor]) == layer


def test_a_partition_holds_what_computes_its_outputs_back_to_its_inputs() -> None:
    assert partitions_of(OPERATORS, DELEGATED) == {0: 0, 1: 0, 4: 1}
    assert partitions_of(OPERATORS, []) == {}


def test_the_range_of_a_tensor_is_what_its_integers_stand_for() -> None:
    assert Tensor(0, "a", (1,), "int8", 0.5, -128).range == (0.0, 127.5)
    assert Tensor(0, "a", (1,), "int8").range is None
    assert Tensor(0, "a", (1,), "float32").range is None


def test_a_bundle_has_one_partition_and_the_macs_of_its_network() -> None:
    bundle = SHIPPED.with_name("edge-nano-cifar10")
    graphs = [read_graph((bundle / file).read_bytes()) for file in ("float.tflite", "int8.tflite")]
    assert [graph.partitions for graph in graphs] == [1, 1]
    # As train/model/cost.py counts them from the network's layers.
    macs = json.loads((bundle / "train.json").read_text())["macs"]
    assert [graph.macs for graph in graphs] == [macs, macs]


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(ArtifactError, match=r"cannot open the TFLite model .*rebuild"):
        read_graph(b"not a model")


class SilentInterpreter:
    """An interpreter of a version that lists no operators."""

    def __init__(self, model_content: bytes) -> None:
        """Take a model."""

    def allocate_tensors(self) -> None:
        """Do nothing."""


class StrangeInterpreter(SilentInterpreter):
    """An interpreter of a version that lists them in another form."""

    def _get_ops_details(self) -> list[dict[str, Any]]:
        return [{"name": "CONV_2D", "inputs": [], "outputs": []}]


@pytest.mark.parametrize("interpreter", [SilentInterpreter, StrangeInterpreter])
def test_an_interpreter_that_lists_no_operators_is_named(interpreter: type) -> None:
    with pytest.raises(ArtifactError, match=r"litert 9\.0 does not list operators.*install"):
        read_graph(b"model", load=lambda: ("litert 9.0", interpreter))
