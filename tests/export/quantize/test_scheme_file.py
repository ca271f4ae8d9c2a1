"""scheme.json: what is written is read, its absence is the default, and nothing else passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export.quantize.scheme_file import read_scheme, write_scheme
from export.quantize.schemes import SCHEMES, SELECTIVE, find_scheme
from runtime.core.errors import ArtifactError, ConfigError


@pytest.mark.parametrize("layers", [(), ("logits",), ("stage0.block0.query", "embed.proj")])
def test_what_is_written_is_read(layers: tuple[str, ...], tmp_path: Path) -> None:
    write_scheme(tmp_path, SELECTIVE.leaving_float(layers))
    assert json.loads((tmp_path / "scheme.json").read_text()) == {"scheme": "selective", "float_layers": list(layers)}
    scheme = read_scheme(tmp_path)
    assert scheme == SELECTIVE.leaving_float(layers)
    assert scheme.float_layers == layers
    assert scheme.rules == SELECTIVE.rules


def test_without_a_file_it_is_the_selective_one(tmp_path: Path) -> None:
    assert read_scheme(tmp_path) == SELECTIVE


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is not readable JSON"),
        ("[]", "is not {"),
        ('{"scheme": "selective"}', "is not {"),
        ('{"scheme": "selective", "float_layers": [], "more": 1}', "is not {"),
        ('{"scheme": "selective", "float_layers": "logits"}', "is not {"),
        ('{"scheme": "selective", "float_layers": [1]}', "is not {"),
        ('{"scheme": 8, "float_layers": []}', "is not {"),
        ('{"scheme": "daring", "float_layers": []}', "received scheme 'daring'; expected one of selective"),
    ],
)
def test_refuses_what_is_no_scheme(content: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "scheme.json").write_text(content)
    with pytest.raises(ArtifactError) as caught:
        read_scheme(tmp_path)
    assert complaint in str(caught.value)
    assert "scheme.json" in str(caught.value)


def test_schemes_are_found_by_their_names() -> None:
    assert all(find_scheme(name).name == name for name in SCHEMES)
    with pytest.raises(ConfigError, match=r"received scheme 'Selective'; expected one of selective"):
        find_scheme("Selective")


def test_a_layer_is_left_in_float_once() -> None:
    assert SELECTIVE.leaving_float(["a", "b", "a"]).float_layers == ("a", "b")
    assert SELECTIVE.leaving_float(["a"]).leaving_float(["b"]).float_layers == ("b",)
    assert SELECTIVE.float_layers == ()
