"""Typed JSON: values that fit are read with their types; an error names the path of any other."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.errors import ArtifactError, ConfigError
from runtime.core.schema import check_field, former_names, parse, read_as, renamed, stored_as


@dataclass(frozen=True)
class Inner:
    count: int
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError(f"received count {self.count}; expected 0 or more")


@dataclass(frozen=True)
class Outer:
    name: str
    kind: Literal["a", "b"]
    shape: tuple[int, ...]
    range: tuple[float, float]
    inner: Inner
    parts: dict[str, tuple[Inner, ...]]
    note: str | None = None
    images: int = renamed("pictures", default=1)
    anything: Any = None
    on: bool = False


CONTENT: dict[str, Any] = {
    "name": "x",
    "kind": "a",
    "shape": [1, 2, 3],
    "range": [0, 1.5],
    "inner": {"count": 3},
    "parts": {"p": [{"count": 1, "share": 1}]},
    "pictures": 7,
    "anything": [{}],
    "on": True,
}
EXPECTED = Outer("x", "a", (1, 2, 3), (0.0, 1.5), Inner(3), {"p": (Inner(1, 1.0),)}, images=7, anything=[{}], on=True)


def test_every_type_is_read() -> None:
    assert parse(Outer, CONTENT) == EXPECTED


def test_written_content_is_read_back() -> None:
    assert parse(Outer, json.loads(json.dumps(asdict(EXPECTED)))) == EXPECTED


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "field `name` is 3; expected a string"),
        ({"kind": "c"}, "field `kind` is 'c'; expected one of a, b"),
        ({"kind": []}, "field `kind`"),
        ({"shape": [1, True]}, r"field `shape\[1\]` is True; expected an integer"),
        ({"shape": {}}, "field `shape` is {}; expected a JSON array"),
        ({"range": [1]}, "field `range` is .*expected 2 values"),
        ({"range": [0, float("nan")]}, r"field `range\[1\]` is nan; expected a finite number"),
        ({"range": [0, 10**400]}, r"field `range\[1\]` is 1000.*\.\.\.; expected a finite number"),
        ({"inner": {}}, "field `inner.count` is missing"),
        ({"inner": None}, "field `inner` is None; expected a JSON object"),
        ({"inner": {"count": -1}}, "field `inner`: received count -1"),
        ({"parts": {"p": [{"count": "1"}]}}, r"field `parts.p\[0\].count` is '1'"),
        ({"note": 1}, "field `note`"),
        ({"pictures": 1.5}, "field `pictures`"),
        ({"on": 1}, "field `on`"),
        ({"typo": 1}, "field `typo` is unknown; expected name, kind"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        parse(Outer, CONTENT | change)


def test_unknown_keys_can_be_ignored_at_every_depth() -> None:
    content = CONTENT | {"typo": 1, "inner": {"count": 3, "typo": 1}}
    assert parse(Outer, content, ignore_unknown=True) == EXPECTED


@pytest.mark.parametrize(
    ("version", "message"), [(3, "newer than this FocalEdge.*upgrade"), (0, "not known"), ("1", "schema_version")]
)
def test_other_versions_are_refused(tmp_path: Path, version: Any, message: str) -> None:
    path = tmp_path / "outer.json"
    path.write_text(json.dumps(CONTENT | {"schema_version": version}))
    with pytest.raises(ArtifactError, match=rf"outer\.json: .*{message}.*make it"):
        read_as(Outer, path, "make it", version=2)


def test_an_older_version_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "outer.json"
    old = {key: value for key, value in CONTENT.items() if key != "kind"}
    path.write_text(json.dumps(old | {"schema_version": 1}))
    assert read_as(Outer, path, "make it", version=2, migrate=lambda content: content | {"kind": "a"}) == EXPECTED


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(CONTENT)), JSON_VALUES)
def test_any_json_is_read_or_refused(key: str, value: Any) -> None:
    try:
        assert isinstance(parse(Outer, CONTENT | {key: value}), Outer)
    except ArtifactError as error:
        assert len(str(error)) < 400


@dataclass(frozen=True)
class Stored:
    words: tuple[str, ...] = field(metadata=stored_as(str, lambda text: tuple(text.split()), "text"))
    images: int = field(metadata=former_names("pictures"))
    most: int = 10

    def __post_init__(self) -> None:
        check_field(self, "images", self.images <= self.most, f"{self.most} or fewer")


def test_a_field_may_have_another_form_or_key() -> None:
    assert parse(Stored, {"text": "a b", "pictures": 3}) == Stored(("a", "b"), 3)
    assert parse(Stored, {"text": "", "images": 3}) == Stored((), 3)
    with pytest.raises(ArtifactError, match=r"field `x\.text` is missing"):
        parse(Stored, {"images": 3}, "x")
    with pytest.raises(ArtifactError, match=r"field `x\.images` is 11; expected 10 or fewer"):
        parse(Stored, {"text": "a", "images": 11}, "x")
