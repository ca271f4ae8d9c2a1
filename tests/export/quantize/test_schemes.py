"""Schemes matched against the layers of presets, and scheme.json."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from export.quantize.schemes import (
    DYNAMIC,
    INTEGER_ONLY,
    SCHEMES,
    SELECTIVE,
    Rule,
    Scheme,
    find_scheme,
    match_rules,
    read_scheme,
    write_scheme,
)
from runtime.core.errors import ArtifactError, ConfigError
from train.model.focalnet import build_focalnet
from train.model.fold_norms import folded
from train.model.presets import PRESETS

# One preset per family: presets of a family differ in widths, depths and levels only.
FAMILIES = (
    "seed-cifar10",
    "edge-nano",
    "focalnet_tiny_lrf",
    "focalnet_base_iso",
    "focalnet_large_fl4",
    "focalnet_huge_fl3",
)


@pytest.fixture(scope="module", params=FAMILIES)
def layers(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The layers of a preset's network by name, with small widths and depths to build it fast."""
    import keras

    config = folded(PRESETS[request.param].model)
    small = dataclasses.replace(
        config,
        input_size=config.patch_size * 2 ** (len(config.dims) - 1),
        dims=tuple(4 * 2**stage for stage in range(len(config.dims))),
        depths=tuple(min(depth, 2) for depth in config.depths),
    )
    return {layer.name: layer for layer in build_focalnet(small, keras).layers}


def kind(layer: Any) -> str:
    return type(layer).__name__


def test_exactly_the_matrix_products_have_int8_kernels(layers: dict[str, Any]) -> None:
    matched = match_rules(SELECTIVE.rules, layers)
    int8 = {name for name, rule in matched.items() if rule.weights}
    assert int8 == {name for name, layer in layers.items() if kind(layer) == "Conv2D"}
    assert {"embed.proj", "embed.conv0"} & int8
    assert {"stage0.block1.gate2", "logits"} <= int8
    assert ("stage1.embed.proj" in int8) == any(name.startswith("stage1.") for name in layers)


def test_depthwise_convolutions_sums_and_the_norms_of_the_stream_stay_float(layers: dict[str, Any]) -> None:
    matched = match_rules(SELECTIVE.rules, layers)
    float_kinds = {kind(layer) for name, layer in layers.items() if name not in matched}
    assert {"DepthwiseConv2D", "Add", "Multiply"} <= float_kinds
    assert not any(kind(layers[name]) == "DepthwiseConv2D" for name in matched)
    residual = [name for name in layers if re.search(r"\.add[12]$|embed\.norm|head\.norm", name)]
    assert len(residual) >= 6
    assert not set(residual) & set(matched)


def source(layer: Any) -> str:
    """Return the name of the layer that a layer reads, padding skipped."""
    read = layer.input._keras_history.operation
    return source(read) if kind(read) == "ZeroPadding2D" else str(read.name)


def test_every_matrix_product_reads_int8(layers: dict[str, Any]) -> None:
    matched = match_rules(SELECTIVE.rules, layers)
    products = [layer for layer in layers.values() if kind(layer) == "Conv2D"]
    sources = {layer.name: source(layer) for layer in products}
    assert [(name, source) for name, source in sources.items() if source not in matched] == []


def test_integer_only_has_all_layers_that_compute(layers: dict[str, Any]) -> None:
    matched = match_rules(INTEGER_ONLY.rules, layers)
    assert {kind(layer) for name, layer in layers.items() if name not in matched} <= {
        "InputLayer",
        "Flatten",
        "Dropout",
        "ZeroPadding2D",
    }
    kernels = {name for name, rule in matched.items() if rule.weights}
    assert kernels == {name for name, layer in layers.items() if kind(layer) in ("Conv2D", "DepthwiseConv2D")}


def test_dynamic_has_all_products_but_the_gates(layers: dict[str, Any]) -> None:
    matched = match_rules(DYNAMIC.rules, layers)
    products = {name for name, layer in layers.items() if kind(layer) == "Conv2D"}
    assert set(matched) == {name for name in products if ".gate" not in name}
    assert all(rule.weights for rule in matched.values())


@pytest.mark.parametrize(
    ("scheme", "place"), [(scheme, place) for scheme in SCHEMES.values() for place in range(len(scheme.rules))]
)
def test_an_error_names_a_rule_without_layers(scheme: Scheme, place: int, layers: dict[str, Any]) -> None:
    rules = scheme.rules
    stale = dataclasses.replace(rules[place], pattern=f"old_({rules[place].pattern})")
    with pytest.raises(ConfigError, match="matches no layer") as caught:
        match_rules([*rules[:place], stale, *rules[place + 1 :]], layers)
    assert repr(stale.pattern) in str(caught.value)


def test_schemes_are_found_by_name() -> None:
    assert [find_scheme(name) for name in ("selective", "integer-only", "dynamic")] == [
        SELECTIVE,
        INTEGER_ONLY,
        DYNAMIC,
    ]
    with pytest.raises(ConfigError, match=r"received scheme 'int4'; expected one of selective, integer-only, dynamic"):
        find_scheme("int4")


def test_the_first_matching_rule_applies() -> None:
    first, second = Rule("a.*", True, "first"), Rule(".*b", False, "second")
    assert match_rules([first, second], ["ab", "b", "ac", "c"]) == {"ab": first, "ac": first, "b": second}


def test_a_rule_matches_whole_names() -> None:
    with pytest.raises(ConfigError, match="matches no layer"):
        match_rules([Rule("logits", True, "the head")], ["logits2", "my.logits"])


@pytest.mark.parametrize("layers", [(), ("logits",), ("stage0.block0.query", "embed.proj")])
def test_a_written_scheme_is_read_back(layers: tuple[str, ...], tmp_path: Path) -> None:
    assert read_scheme(tmp_path) == SELECTIVE
    write_scheme(tmp_path, SELECTIVE.leaving_float(layers))
    assert json.loads((tmp_path / "scheme.json").read_text()) == {"scheme": "selective", "float_layers": list(layers)}
    assert read_scheme(tmp_path) == SELECTIVE.leaving_float(layers)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is not readable JSON"),
        ("[]", "the file is []; expected a JSON object"),
        ('{"scheme": "selective"}', "field `float_layers` is missing"),
        ('{"scheme": "selective", "float_layers": [], "more": 1}', "field `more` is unknown"),
        ('{"scheme": "selective", "float_layers": "logits"}', "field `float_layers` is 'logits'"),
        ('{"scheme": "selective", "float_layers": [1]}', "field `float_layers[0]` is 1; expected a string"),
        ('{"scheme": 8, "float_layers": []}', "field `scheme` is 8; expected a string"),
        ('{"scheme": "daring", "float_layers": []}', "received scheme 'daring'; expected one of selective"),
        ('{"scheme": "integer-only", "float_layers": ["logits"]}', "received logits to leave in float; expected none"),
    ],
)
def test_a_damaged_scheme_file_is_refused(content: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "scheme.json").write_text(content)
    with pytest.raises(ArtifactError) as caught:
        read_scheme(tmp_path)
    assert complaint in str(caught.value)
    assert "scheme.json" in str(caught.value)


def test_float_layers_are_unique_and_replaced() -> None:
    assert SELECTIVE.leaving_float(["a", "b", "a"]).float_layers == ("a", "b")
    assert SELECTIVE.leaving_float(["a"]).leaving_float(["b"]).float_layers == ("b",)
    assert SELECTIVE.float_layers == ()
