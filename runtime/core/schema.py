"""Typed JSON: build dataclasses from parsed JSON; errors give the path in the file, what was received and expected."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from runtime.core.errors import ArtifactError, ConfigError, FieldError
from runtime.core.files import read_json

T = TypeVar("T")
FORMER_NAMES = "former_names"
STORED = "stored"
LONGEST_SHOWN = 80


class _Field(NamedTuple):
    """How a field is read: the keys it may have, the type of its value and the conversion to the field's own type."""

    keys: tuple[str, ...]
    kind: Any
    decode: Callable[[Any], Any] = lambda value: value
    required: bool = False


def renamed(*former: str, **settings: Any) -> Any:
    """Return an optional dataclass field that older files call by another name.

    Args:
        former: keys that are read where the field's own name is missing.
        settings: as `dataclasses.field` takes them.
    """
    return dataclasses.field(metadata=former_names(*former), **settings)


def former_names(*names: str) -> dict[str, Any]:
    """Return the metadata of a dataclass field that older files call by another name; `renamed` without a default."""
    return {FORMER_NAMES: names}


def stored_as(kind: Any, decode: Callable[[Any], Any], key: str = "") -> dict[str, Any]:
    """Return the metadata of a dataclass field that files have in another form.

    Args:
        kind: the type of the file's value.
        decode: converts that value to the field's; it may raise `ConfigError`.
        key: the key in the file, by default the field's name.
    """
    return {STORED: _Field((key,) if key else (), kind, decode)}


def check_field(instance: object, name: str, holds: bool, expected: str) -> None:
    """Check a field of a dataclass, in its `__post_init__`.

    Args:
        instance: the dataclass.
        name: the field.
        holds: `True` if its value fits.
        expected: what would fit, in words.

    Raises:
        FieldError: the value does not fit.
    """
    if not holds:
        raise FieldError(name, getattr(instance, name), expected)


def read_as(
    kind: type[T],
    path: Path,
    made_by: str,
    *,
    version: int,
    oldest: int = 1,
    migrate: Callable[[dict[str, Any]], dict[str, Any]] = lambda content: content,
    ignore_unknown: bool = False,
) -> T:
    """Read a JSON file of an earlier stage as a dataclass.

    Args:
        kind: the dataclass; the file has its fields and `schema_version`.
        path: the file.
        made_by: the command that writes it, named in errors.
        version: the latest schema version that is understood.
        oldest: the oldest one.
        migrate: brings the content of an older version into the form of the latest.
        ignore_unknown: accept keys that are not fields of a dataclass.

    Returns:
        An instance whose fields have the annotated types.

    Raises:
        ArtifactError: the file is missing, not JSON, of another version, or does not have these fields.
    """
    content = read_json(path, made_by)
    try:
        check_version(content, version, oldest)
        fields = {key: value for key, value in content.items() if key != "schema_version"}
        return cast(T, parse(kind, migrate(fields), ignore_unknown=ignore_unknown))
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}; rebuild it with `{made_by}`") from None


def check_version(content: Any, latest: int, oldest: int = 1) -> None:
    """Check that a file's content is an object of a known schema version.

    Raises:
        ArtifactError: it is something else, or its version is older or newer.
    """
    if not isinstance(content, dict):
        raise wrong("", content, "a JSON object")
    version = parse(int, content.get("schema_version"), "schema_version")
    known = f"version {latest}" if oldest == latest else f"versions {oldest} to {latest}"
    if version > latest:
        raise ArtifactError(
            f"schema version {version} is newer than this FocalEdge, which reads {known}; upgrade FocalEdge"
        )
    if version < oldest:
        raise ArtifactError(f"schema version {version} is not known; expected {known}")


def parse(kind: Any, content: Any, at: str = "", *, ignore_unknown: bool = False) -> Any:
    """Convert parsed JSON to an annotated type.

    Args:
        kind: a dataclass, `bool`, `int`, `float` (finite), `str`, `Any`, `Literal`, `X | None`, `tuple[X, ...]`,
            `tuple[X, Y]` or `dict[str, X]`.
        content: what the JSON parser returned.
        at: the path of `content` in the file, such as `artifacts[0].audit`; "" for the whole file.
        ignore_unknown: accept keys that are not fields of a dataclass.

    Returns:
        A value of that type. A dataclass checks the rest in its `__post_init__`, by raising `ConfigError`.

    Raises:
        ArtifactError: the content does not fit; the message names its path.
    """
    origin = get_origin(kind)
    if kind is Any:
        return content
    if dataclasses.is_dataclass(kind):
        return _parse_dataclass(kind, content, at, ignore_unknown)
    if origin in (Union, types.UnionType):
        return _parse_optional(kind, content, at, ignore_unknown)
    if origin is Literal:
        if not isinstance(content, str) or content not in get_args(kind):
            raise wrong(at, content, f"one of {', '.join(get_args(kind))}")
        return content
    if origin is tuple:
        return _parse_tuple(get_args(kind), content, at, ignore_unknown)
    if origin is dict:
        values = _of_type(dict, content, at)
        value_kind = get_args(kind)[1]
        return {key: parse(value_kind, values[key], _join(at, key), ignore_unknown=ignore_unknown) for key in values}
    return _of_type(kind, content, at)


def wrong(at: str, received: Any, expected: str) -> ArtifactError:
    """Return the error for a value that does not fit.

    Args:
        at: its path in the file, "" for the whole file.
        received: the value.
        expected: what would fit, in words.
    """
    shown = repr(received)
    shown = shown if len(shown) <= LONGEST_SHOWN else f"{shown[: LONGEST_SHOWN - 3]}..."
    return ArtifactError(f"{f'field `{at}`' if at else 'the file'} is {shown}; expected {expected}")


def _parse_dataclass(kind: Any, content: Any, at: str, ignore_unknown: bool) -> Any:
    values = _of_type(dict, content, at)
    fields = _fields(kind)
    arguments, read = {}, set()
    for name, field in fields.items():
        key = next((each for each in field.keys if each in values), None)
        if key is not None:
            read.add(key)
            value = parse(field.kind, values[key], _join(at, key), ignore_unknown=ignore_unknown)
            arguments[name] = _build(_join(at, key), field.decode, value)
        elif field.required:
            raise ArtifactError(f"field `{_join(at, field.keys[0])}` is missing")
    if unknown := sorted(values.keys() - read) if not ignore_unknown else []:
        raise ArtifactError(f"field `{_join(at, unknown[0])}` is unknown; expected {', '.join(fields)}")
    return _build(at, kind, **arguments)


def _build(at: str, make: Callable[..., Any], /, *values: Any, **arguments: Any) -> Any:
    try:
        return make(*values, **arguments)
    except FieldError as error:
        raise wrong(_join(at, error.field), error.received, error.expected) from None
    except ConfigError as error:
        raise ArtifactError(f"field `{at}`: {error}" if at else str(error)) from None


def _parse_optional(kind: Any, content: Any, at: str, ignore_unknown: bool) -> Any:
    (inner,) = (each for each in get_args(kind) if each is not types.NoneType)
    return None if content is None else parse(inner, content, at, ignore_unknown=ignore_unknown)


def _parse_tuple(kinds: tuple[Any, ...], content: Any, at: str, ignore_unknown: bool) -> tuple[Any, ...]:
    values = _of_type(list, content, at)
    kinds = kinds[:1] * len(values) if kinds[1:] == (...,) else kinds
    if len(values) != len(kinds):
        raise wrong(at, content, f"{len(kinds)} values")
    return tuple(
        parse(kind, value, f"{at}[{index}]", ignore_unknown=ignore_unknown)
        for index, (kind, value) in enumerate(zip(kinds, values, strict=True))
    )


@cache
def _fields(dataclass: Any) -> Mapping[str, _Field]:
    """Return how each field of a dataclass is read."""
    hints, missing = get_type_hints(dataclass), dataclasses.MISSING
    fields = {}
    for each in dataclasses.fields(dataclass):
        if each.init:
            usual = _Field((each.name, *each.metadata.get(FORMER_NAMES, ())), hints[each.name])
            field = each.metadata.get(STORED, usual)
            required = each.default is missing and each.default_factory is missing
            fields[each.name] = field._replace(keys=field.keys or usual.keys, required=required)
    return fields


def _of_type(kind: Any, value: Any, at: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise wrong(at, value, "a finite number") from None
    # JSON's true is not a number, although Python's bool is an int.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = {dict: "a JSON object", list: "a JSON array", str: "a string", int: "an integer"}
        raise wrong(at, value, names.get(kind, f"a value of type {kind.__name__}"))
    if kind is float and not math.isfinite(value):
        raise wrong(at, value, "a finite number")
    return value


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key
