"""The audit: operators, types and partitions against the interpreter's list, and artifacts that it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from export.artifacts import write_artifacts
from export.audit import describe, main
from export.quantize.schemes import INTERFACE, SELECTIVE, FloatOps, Scheme
from export.run_files import read_run_files
from export.tflite.operators import (
    Listing,
    Operator,
    check_scheme,
    list_operators,
    summarise,
    unlisted_float,
)
from runtime.bundle.manifest import read_manifest, write_manifest
from runtime.core.cli import run_cli
from runtime.core.errors import ArtifactError
from runtime.core.files import sha256_of
from tests.support.tiny_run import soft_images

ARTIFACTS = ("float", "int8", "stock")


@pytest.fixture(scope="module")
def layers(tiny_float: Any) -> list[str]:
    return [layer.name for layer in tiny_float.layers]


@pytest.fixture(scope="module")
def contents(tiny_export: Path, tiny_float: Any) -> dict[str, bytes]:
    """The tiny run's artifacts, and TensorFlow's full-integer quantization of its network."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(tiny_float)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    images = soft_images(8, seed=1).astype(np.float32)
    converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    bundle = tiny_export / "artifacts"
    return {
        "float": (bundle / "float.tflite").read_bytes(),
        "int8": (bundle / "int8.tflite").read_bytes(),
        "stock": converter.convert(),
    }


@pytest.fixture(scope="module")
def listings(contents: dict[str, bytes], layers: list[str]) -> dict[str, Listing]:
    return {name: list_operators(content, layers) for name, content in contents.items()}


def left_by_the_delegate(content: bytes) -> list[str]:
    """Return the operators that the interpreter runs outside the delegate's partitions."""
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    nodes = interpreter._get_ops_details()
    # A partition's node comes after all operators, and replaces the producers of its outputs.
    makers = {tensor: node for node in nodes for tensor in node["outputs"].tolist()}
    pending = [detail["index"] for detail in interpreter.get_output_details()]
    run: dict[int, str] = {}
    while pending:
        node = makers.get(pending.pop())
        if node is not None and node["index"] not in run:
            run[node["index"]] = node["op_name"]
            pending += node["inputs"].tolist()
    return [name for _, name in sorted(run.items()) if name != "DELEGATE"]


@pytest.mark.parametrize("name", ARTIFACTS)
def test_lists_the_operators_of_an_interpreter_without_delegates(
    name: str, contents: dict[str, bytes], listings: dict[str, Listing]
) -> None:
    interpreter = Interpreter(
        model_content=contents[name],
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    details = interpreter._get_ops_details()
    expected = [(each["op_name"], *(np.dtype(kind).name for kind in each["result_types"])) for each in details]
    assert [(each.name, *each.outputs) for each in listings[name].operators] == expected


@pytest.mark.parametrize("name", ARTIFACTS)
def test_the_interpreter_runs_the_operators_outside(
    name: str, contents: dict[str, bytes], listings: dict[str, Listing]
) -> None:
    outside = [each.name for each in listings[name].operators if each.partition is None]
    assert outside == left_by_the_delegate(contents[name])
    inside = {each.partition for each in listings[name].operators} - {None}
    assert inside == set(range(listings[name].partitions))


def test_the_stock_int8_artifact_has_many_partitions_and_ours_one(listings: dict[str, Listing]) -> None:
    assert listings["stock"].partitions > 5
    assert Counter(each.name for each in listings["stock"].operators if each.partition is None)["GELU"] > 1
    assert listings["int8"].partitions == listings["float"].partitions == 1


def test_operators_have_the_layers_of_their_network(listings: dict[str, Listing], tiny_float: Any) -> None:
    products = {layer.name for layer in tiny_float.layers if type(layer).__name__ == "Conv2D"}
    depthwise = {layer.name for layer in tiny_float.layers if type(layer).__name__ == "DepthwiseConv2D"}
    assert len(products) == 20
    for listing in listings.values():
        found = [(each.name, each.layer) for each in listing.operators]
        assert {layer for name, layer in found if name == "CONV_2D"} == products
        assert {layer for name, layer in found if name == "DEPTHWISE_CONV_2D"} == depthwise
        assert {layer for name, layer in found if name == "RSQRT"} >= {"embed.norm", "stage1.block0.norm2"}
    for name in ("float", "int8"):
        interface = [each.name for each in listings[name].operators if each.layer == INTERFACE]
        assert {"SQRT", "SUM"} <= set(interface) <= {"CAST", "QUANTIZE", "SQUARE", "SUM", "SQRT", "MUL", "ADD"}


def operator(name: str, inputs: str, output: str, layer: str = "stage0.block0.add1") -> Operator:
    return Operator(name, layer, (inputs,) if inputs else (), (output,), 0)


def test_types_in_short() -> None:
    assert operator("ADD", "int8", "int8").dtype == "int8"
    assert operator("QUANTIZE", "float32", "int8").dtype == "float32 -> int8"
    assert operator("FILL", "", "float32").dtype == "float32"
    assert Operator("PACK", "a", ("int8", "int8", "float32"), ("int8",), None).dtype == "int8/float32 -> int8"


@pytest.mark.parametrize(
    ("inputs", "output", "is_float"),
    [
        ("float32", "float32", True),
        ("int8", "float32", True),
        ("float16", "int8", True),
        ("int8", "int8", False),
        ("uint8", "int8", False),
        ("int32", "int64", False),
    ],
)
def test_an_operator_that_touches_float_is_float(inputs: str, output: str, is_float: bool) -> None:
    assert operator("ANY", inputs, output).is_float is is_float


def test_our_int8_artifact_fits_its_scheme_and_the_float_one_does_not(listings: dict[str, Listing]) -> None:
    check_scheme(listings["int8"], SELECTIVE)
    with pytest.raises(ArtifactError, match=r"CONV_2D \(embed\.proj\), .* and \d+ more in float"):
        check_scheme(listings["float"], SELECTIVE)


# This network reads the image without float arithmetic, and has no LayerNorm within its modulations.
@pytest.mark.parametrize(
    "allowed", [each for each in SELECTIVE.float_ops if each.pattern not in ("normalise", r".+\.modulated")]
)
def test_all_entries_of_the_scheme_are_needed(allowed: FloatOps, listings: dict[str, Listing]) -> None:
    stricter = dataclasses.replace(SELECTIVE, float_ops=tuple(e for e in SELECTIVE.float_ops if e is not allowed))
    unlisted = unlisted_float(listings["int8"], stricter)
    assert unlisted
    assert {each.name for each in unlisted} <= allowed.ops


def test_no_entry_of_the_scheme_lists_a_product() -> None:
    listed = {name for allowed in SELECTIVE.float_ops for name in allowed.ops}
    assert not listed & {"CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL", "TRANSPOSE_CONV"}


def test_an_entry_allows_its_layers_and_operators_only() -> None:
    scheme = Scheme("s", "a test", (), (FloatOps(r"a\d", frozenset({"ADD", "MUL"}), "why"),))
    assert scheme.allows_float("ADD", "a1")
    assert not scheme.allows_float("SUB", "a1")
    assert not scheme.allows_float("ADD", "a1.b")
    assert not scheme.allows_float("ADD", INTERFACE)


@pytest.mark.parametrize(("count", "ending"), [(1, "(a0) in float"), (6, "(a5) in float"), (9, "(a5) and 3 more in")])
def test_an_error_names_up_to_six_operators(count: int, ending: str) -> None:
    operators = tuple(operator("ADD", "float32", "float32", f"a{index}") for index in range(count))
    with pytest.raises(ArtifactError, match=r"the scheme 'strict' lists none.*float_ops") as caught:
        check_scheme(Listing("test", 1, operators), Scheme("strict", "a test", (), ()))
    assert ending in str(caught.value)
    assert str(caught.value).count("ADD (") == min(count, 6)


def test_an_unlisted_float_product_is_refused_and_the_bundle_unchanged(
    tiny_run: Path, tiny_export: Path, tmp_path: Path
) -> None:
    rules = tuple(
        dataclasses.replace(rule, pattern=rule.pattern.replace("query|", "")) if "query" in rule.pattern else rule
        for rule in SELECTIVE.rules
    )
    assert rules != SELECTIVE.rules
    files = read_run_files(tiny_run, dataclasses.replace(SELECTIVE, rules=rules))
    target = Path(shutil.copytree(tiny_export / "artifacts", tmp_path / "bundle"))
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(ArtifactError, match=r"CONV_2D \(stage0\.block0\.query\)"):
        write_artifacts(files, target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


def test_the_manifest_has_the_audit(tiny_export: Path, listings: dict[str, Listing]) -> None:
    manifest = read_manifest(tiny_export / "artifacts")
    for name, precision in (("float", "float32"), ("int8", "int8")):
        audit = manifest.artifact(precision).audit
        assert audit is not None
        assert audit.interpreter.startswith("ai-edge-litert ")
        assert audit.delegate_partitions == 1
        total = len(listings[name].operators)
        assert sum(sum(counts.values()) for counts in audit.operators.values()) == total
    floats = manifest.artifact("float32").audit
    assert floats is not None
    assert sum(len(names) for names in floats.float_operators.values()) == len(listings["float"].operators)
    assert floats.operators["CONV_2D"] == {"float32": 20}
    audit = manifest.artifact("int8").audit
    assert audit is not None
    assert audit.operators["CONV_2D"] == {"int8": 20}
    assert audit.float_operators["stage0.block0.focal1"] == ("DEPTHWISE_CONV_2D",)
    assert audit.float_operators["stage1.block0.add2"] == ("ADD",)
    assert "stage0.block0.query" not in audit.float_operators


def test_a_summary_counts_by_type_and_keeps_the_graphs_order() -> None:
    operators = (
        operator("MUL", "float32", "float32", "b"),
        operator("QUANTIZE", "float32", "int8", "b"),
        dataclasses.replace(operator("MUL", "int8", "int8", "a"), partition=None),
        operator("ADD", "float32", "float32", "b"),
    )
    audit = summarise(Listing("test 1.0", 1, operators))
    assert audit.operators == {
        "ADD": {"float32": 1},
        "MUL": {"float32": 1, "int8": 1},
        "QUANTIZE": {"float32 -> int8": 1},
    }
    assert audit.float_operators == {"b": ("MUL", "QUANTIZE", "ADD")}
    assert audit.outside_delegate == {"a": ("MUL",)}


def test_the_table_counts_inside_and_outside() -> None:
    operators = (
        operator("MUL", "float32", "float32", "b"),
        dataclasses.replace(operator("MUL", "int8", "int8", "a"), partition=None),
        operator("MUL", "int8", "int8", "a"),
    )
    rows = [line.split() for line in describe(Listing("test 1.0", 1, operators)).splitlines()]
    assert ["MUL", "float32", "1", "1", "0"] in rows
    assert ["MUL", "int8", "2", "1", "1"] in rows
    assert rows[-1] == ["b", "MUL"]
    assert "none" in describe(Listing("test 1.0", 1, operators[:1]))


def test_the_command_prints_a_table_of_each_artifact(tiny_export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(main, ["--bundle", str(tiny_export / "artifacts")]) == 0
    text = capsys.readouterr().out
    assert text.count("delegate partitions: 1 (ai-edge-litert ") == 2
    rows = [line.split() for line in text.splitlines()]
    assert ["CONV_2D", "float32", "20", "20", "0"] in rows
    assert ["CONV_2D", "int8", "20", "20", "0"] in rows
    assert ["stage1.block0.gated0", "MUL"] in rows


def test_the_command_prints_every_operator_as_json(
    tiny_export: Path, listings: dict[str, Listing], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(main, ["--bundle", str(tiny_export / "artifacts"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["precision"], each["delegate_partitions"]) for each in found] == [("float32", 1), ("int8", 1)]
    operators = listings["int8"].operators
    assert [(each["name"], each["layer"]) for each in found[1]["operators"]] == [(e.name, e.layer) for e in operators]
    assert [each["is_float"] for each in found[1]["operators"]] == [each.is_float for each in operators]


def test_the_command_refuses_an_int8_artifact_that_is_float(
    tiny_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(tiny_export / "artifacts", tmp_path / "bundle"))
    shutil.copy(bundle / "float.tflite", bundle / "int8.tflite")
    manifest = read_manifest(bundle)
    float32, int8, *others = manifest.artifacts
    size = (bundle / "int8.tflite").stat().st_size
    forged = dataclasses.replace(int8, sha256=sha256_of(bundle / "int8.tflite"), size_bytes=size)
    write_manifest(bundle, dataclasses.replace(manifest, artifacts=(float32, forged, *others)))
    assert run_cli(main, ["--bundle", str(bundle)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: the int8 artifact computes CONV_2D (embed.proj)")
    assert captured.out.count("CONV_2D              float32") == 2


def test_bytes_of_no_model_are_refused(layers: list[str]) -> None:
    with pytest.raises(ArtifactError, match="cannot open the TFLite model"):
        list_operators(b"no model at all", layers)


def test_a_model_of_two_graphs_is_refused(contents: dict[str, bytes], layers: list[str]) -> None:
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(contents["float"]))
    model.subgraphs = model.subgraphs * 2
    with pytest.raises(ArtifactError, match="a model with 2 graphs; expected one"):
        list_operators(bytes(flatbuffer_utils.convert_object_to_bytearray(model)), layers)
