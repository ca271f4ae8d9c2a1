"""The manifest of a bundle: what the files in the folder are; written by export, checked on every load."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from runtime.core.errors import ArtifactError
from runtime.core.files import read_json, sha256_of, write_json
from runtime.engines.registry import ENGINES
from runtime.images.input_spec import INTERPOLATIONS, InputSpec, Interpolation

SCHEMA_VERSION = 2
# What a runtime that knows no other input reads: the whole centred square, resized by areas.
PLAIN_VERSION = 1
MANIFEST_NAME = "manifest.json"
MADE_BY = "make export"
PRECISIONS = ("float32", "int8")
INPUT_NAME = "image"
INPUT_DTYPE = "uint8"
INPUT_COLOUR = "RGB"

T = TypeVar("T")


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy (0..1) of one artifact, and what it was measured on.

    `fake_quant_agreement` is the share (0..1) of these images on which the fake-quantized Keras network that an int8
    artifact was converted from predicts the same; `None` of a float one, and where it was not measured.
    """

    dataset: str
    split: str
    images: int
    top1: float
    fake_quant_agreement: float | None = None


@dataclass(frozen=True)
class Audit:
    """What the operators of one artifact compute in, and which of them the interpreter's delegate takes.

    Attributes:
        interpreter: the one that was asked, e.g. `"ai-edge-litert 2.3.0"`; another may cut the graph elsewhere.
        operators: how many there are by name and type: `{"MUL": {"float32": 12, "int8": 3}}`. Where what an
            operator gives differs from what it reads, its type is `"int8 -> float32"`.
        delegate_partitions: the pieces of the graph that the delegate takes; 1 is best.
        outside_delegate: the operators that it leaves, by layer, in the order of the graph.
        float_operators: those that read or give a float tensor, by layer, in the order of the graph.
    """

    interpreter: str
    operators: dict[str, dict[str, int]]
    delegate_partitions: int
    outside_delegate: dict[str, tuple[str, ...]]
    float_operators: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Artifact:
    """One model file of a bundle; `file` is a plain name inside the bundle's folder.

    `accuracy` is `None` where it was not measured on these bytes, `audit` in bundles of before there was one.
    """

    file: str
    precision: str
    engine: str
    sha256: str
    size_bytes: int
    accuracy: Accuracy | None
    audit: Audit | None = None


@dataclass(frozen=True)
class Overlay:
    """The block whose gates the artifacts put out; one gate cell covers `stride_px` input pixels a side."""

    layer: str
    stride_px: int
    focal_levels: int


@dataclass(frozen=True)
class AppliedScheme:
    """The quantization scheme of the int8 artifact, by name, and the layers that it leaves in float all the same."""

    name: str
    float_layers: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds: the model's face (input, outputs, labels) and its files.

    `scheme` is `None` in bundles of before there was more than one. `input_spec` is what the input is to be made of an
    image; bundles of before there was a choice do not say it, and mean the centred square, resized by areas.
    """

    preset: str
    config: dict[str, Any]
    input_spec: InputSpec
    labels: tuple[str, ...]
    outputs: dict[str, tuple[int, ...]]
    overlay: Overlay
    dataset: str
    calibration_sha256: str | None
    artifacts: tuple[Artifact, ...]
    tools: dict[str, str]
    scheme: AppliedScheme | None = None

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """The shape of the input, `[1, S, S, 3]`."""
        return (1, self.input_spec.size, self.input_spec.size, 3)

    def artifact(self, precision: str, engine: str | None = None) -> Artifact:
        """Return the artifact of a precision for an engine, or the first of that precision.

        Args:
            precision: `"float32"` or `"int8"`.
            engine: one of `ENGINES`, or `None` for any.

        Raises:
            ArtifactError: the bundle has none; the message lists those it has.
        """
        for artifact in self.artifacts:
            if artifact.precision == precision and engine in (None, artifact.engine):
                return artifact
        available = ", ".join(f"{artifact.precision} {artifact.engine}" for artifact in self.artifacts)
        wanted = f"{precision} artifact" + (f" for {engine}" if engine else "")
        raise ArtifactError(f"the bundle has no {wanted}; choose one of: {available}")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest` as `folder/manifest.json`, after the same checks as `read_manifest`.

    Raises:
        ArtifactError: the manifest contradicts itself; the message names the field.
        FocalEdgeError: the file cannot be written.
    """
    path = Path(folder) / MANIFEST_NAME
    content = _to_json(manifest)
    _parse(path, content)
    write_json(path, content)


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a bundle; the artifacts themselves are not opened.

    Args:
        folder: the bundle.

    Returns:
        The manifest, every field of the right type and consistent with the others.

    Raises:
        ArtifactError: the manifest is missing, not JSON, of another schema version, or has a
            missing or wrong field; the message names it.
    """
    path = Path(folder) / MANIFEST_NAME
    return _parse(path, read_json(path, MADE_BY))


def verified_file(folder: Path, artifact: Artifact) -> Path:
    """Return the path of an artifact after checking its size and SHA-256.

    Raises:
        ArtifactError: the file is missing, unreadable, or not the one the manifest describes.
    """
    path = Path(folder) / artifact.file
    try:
        size_bytes = path.stat().st_size
        sha256 = sha256_of(path)
    except OSError as error:
        raise ArtifactError(
            f"{path}, named in the manifest, cannot be read ({error.strerror or error}); "
            f"make the bundle anew with `{MADE_BY}`"
        ) from error
    if (size_bytes, sha256) != (artifact.size_bytes, artifact.sha256):
        raise ArtifactError(
            f"{path} has {size_bytes} bytes and SHA-256 {sha256[:12]}...; the manifest expects "
            f"{artifact.size_bytes} bytes and {artifact.sha256[:12]}...: the file is damaged or of another "
            f"bundle; copy the whole bundle again or make it anew with `{MADE_BY}`"
        )
    return path


def _to_json(manifest: Manifest) -> dict[str, Any]:
    fields, spec = asdict(manifest), manifest.input_spec
    plain = spec == InputSpec(spec.size)
    return {
        "schema_version": PLAIN_VERSION if plain else SCHEMA_VERSION,
        "preset": fields["preset"],
        "config": fields["config"],
        "input": {
            "name": INPUT_NAME,
            "shape": list(manifest.input_shape),
            "dtype": INPUT_DTYPE,
            "colour": INPUT_COLOUR,
        }
        | ({} if plain else {"crop_fraction": spec.crop_fraction, "interpolation": spec.interpolation}),
        "labels": list(manifest.labels),
        "outputs": {name: list(shape) for name, shape in manifest.outputs.items()},
        "overlay": fields["overlay"],
        "dataset": fields["dataset"],
        "calibration_sha256": fields["calibration_sha256"],
        "scheme": None
        if manifest.scheme is None
        else {"name": manifest.scheme.name, "float_layers": list(manifest.scheme.float_layers)},
        "artifacts": [artifact | {"audit": _audit_to_json(artifact["audit"])} for artifact in fields["artifacts"]],
        "tools": fields["tools"],
    }


def _audit_to_json(audit: dict[str, Any] | None) -> dict[str, Any] | None:
    """Join the operators of each layer to one string: as lists they would be hundreds of lines."""
    if audit is None:
        return None
    joined = {
        field: {layer: " ".join(names) for layer, names in audit[field].items()}
        for field in ("outside_delegate", "float_operators")
    }
    return audit | joined


def _parse(path: Path, content: Any) -> Manifest:
    try:
        return _manifest(content)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from None


def _manifest(content: Any) -> Manifest:
    if not isinstance(content, dict):
        raise _wrong("the whole file", content, "a JSON object")
    _check_version(_get(content, "schema_version", int))
    labels = tuple(_items(content, "labels", str))
    if not labels or len(set(labels)) != len(labels):
        raise _wrong("labels", labels, "one distinct name a class")
    overlay = _overlay(_get(content, "overlay", dict))
    calibration_sha256 = None
    if _has(content, "calibration_sha256") is not None:
        calibration_sha256 = _sha256(content, "calibration_sha256")
    return Manifest(
        preset=_get(content, "preset", str),
        config=_get(content, "config", dict),
        input_spec=_input_spec(_get(content, "input", dict)),
        labels=labels,
        outputs=_outputs(_get(content, "outputs", dict), len(labels), overlay.focal_levels),
        overlay=overlay,
        dataset=_get(content, "dataset", str),
        calibration_sha256=calibration_sha256,
        artifacts=_artifacts(_items(content, "artifacts", dict)),
        tools=_tools(_get(content, "tools", dict)),
        scheme=_scheme(content),
    )


def _scheme(content: dict[str, Any]) -> AppliedScheme | None:
    if content.get("scheme") is None:
        return None
    scheme = _get(content, "scheme", dict)
    return AppliedScheme(_get(scheme, "name", str, "scheme."), tuple(_items(scheme, "float_layers", str, "scheme.")))


def _check_version(version: int) -> None:
    if version > SCHEMA_VERSION:
        raise ArtifactError(
            f"the manifest has schema version {version}, and this FocalEdge reads version {SCHEMA_VERSION}; "
            "upgrade FocalEdge on this machine"
        )
    if version < PLAIN_VERSION:
        raise ArtifactError(
            f"the manifest has schema version {version}, and this FocalEdge reads version {SCHEMA_VERSION}; "
            f"make the bundle anew with `{MADE_BY}`"
        )


def _input_spec(content: dict[str, Any]) -> InputSpec:
    for key, expected in (("name", INPUT_NAME), ("dtype", INPUT_DTYPE), ("colour", INPUT_COLOUR)):
        if _get(content, key, str, "input.") != expected:
            raise _wrong(f"input.{key}", content[key], repr(expected))
    shape = _items(content, "shape", int, "input.")
    if len(shape) != 4 or shape[0] != 1 or shape[1] != shape[2] or shape[1] < 1 or shape[3] != 3:
        raise _wrong("input.shape", shape, "[1, S, S, 3]")
    spec = InputSpec(shape[1])
    if "crop_fraction" in content:
        crop_fraction = _get(content, "crop_fraction", float, "input.")
        if not 0.0 < crop_fraction <= 1.0:
            raise _wrong("input.crop_fraction", crop_fraction, "a fraction above 0, at most 1")
        spec = replace(spec, crop_fraction=crop_fraction)
    if "interpolation" in content:
        interpolation = cast(Interpolation, _choice(content, "interpolation", INTERPOLATIONS, "input."))
        spec = replace(spec, interpolation=interpolation)
    return spec


def _outputs(content: dict[str, Any], classes: int, focal_levels: int) -> dict[str, tuple[int, ...]]:
    shapes = {name: tuple(_items(content, name, int, "outputs.")) for name in ("logits", "gates", "modulator")}
    if shapes["logits"] != (1, classes):
        raise _wrong("outputs.logits", content["logits"], f"[1, {classes}], one logit a label")
    modulator = shapes["modulator"]
    if len(modulator) != 3 or modulator[0] != 1 or min(modulator) < 1:
        raise _wrong("outputs.modulator", content["modulator"], "[1, h, w]")
    if shapes["gates"] != (*modulator, focal_levels + 1):
        raise _wrong(
            "outputs.gates",
            content["gates"],
            f"{[*modulator, focal_levels + 1]}, one map a focal level and the global one",
        )
    return shapes


def _overlay(content: dict[str, Any]) -> Overlay:
    overlay = Overlay(
        layer=_get(content, "layer", str, "overlay."),
        stride_px=_get(content, "stride_px", int, "overlay."),
        focal_levels=_get(content, "focal_levels", int, "overlay."),
    )
    for key, value in (("stride_px", overlay.stride_px), ("focal_levels", overlay.focal_levels)):
        if value < 1:
            raise _wrong(f"overlay.{key}", value, "1 or more")
    return overlay


def _artifacts(contents: list[dict[str, Any]]) -> tuple[Artifact, ...]:
    artifacts = tuple(_artifact(content, f"artifacts[{i}].") for i, content in enumerate(contents))
    kinds = [(artifact.precision, artifact.engine) for artifact in artifacts]
    if not kinds or len(set(kinds)) != len(kinds):
        raise _wrong("artifacts", kinds, "one or more, each of its own precision and engine")
    return artifacts


def _artifact(content: dict[str, Any], at: str) -> Artifact:
    file = _get(content, "file", str, at)
    # A name that leads out of the folder would let a bundle open any file of the machine.
    if file in ("", ".", "..") or re.search(r"[/\\\0]", file):
        raise _wrong(f"{at}file", file, "the plain name of a file in the bundle")
    accuracy = None
    if _has(content, "accuracy", at) is not None:
        accuracy = _accuracy(_get(content, "accuracy", dict, at), f"{at}accuracy.")
    audit = None
    if content.get("audit") is not None:
        audit = _audit(_get(content, "audit", dict, at), f"{at}audit.")
    artifact = Artifact(
        file=file,
        precision=_choice(content, "precision", PRECISIONS, at),
        engine=_choice(content, "engine", tuple(ENGINES), at),
        sha256=_sha256(content, "sha256", at),
        size_bytes=_get(content, "size_bytes", int, at),
        accuracy=accuracy,
        audit=audit,
    )
    if artifact.size_bytes < 1:
        raise _wrong(f"{at}size_bytes", artifact.size_bytes, "1 or more")
    return artifact


def _accuracy(content: dict[str, Any], at: str) -> Accuracy:
    accuracy = Accuracy(
        dataset=_get(content, "dataset", str, at),
        split=_get(content, "split", str, at),
        images=_get(content, "images", int, at),
        top1=_get(content, "top1", float, at),
    )
    if content.get("fake_quant_agreement") is not None:
        share = _get(content, "fake_quant_agreement", float, at)
        accuracy = replace(accuracy, fake_quant_agreement=share)
        if not 0.0 <= share <= 1.0:
            raise _wrong(f"{at}fake_quant_agreement", share, "a fraction, 0..1")
    if accuracy.images < 1:
        raise _wrong(f"{at}images", accuracy.images, "1 or more")
    if not 0.0 <= accuracy.top1 <= 1.0:
        raise _wrong(f"{at}top1", accuracy.top1, "a fraction, 0..1")
    return accuracy


def _audit(content: dict[str, Any], at: str) -> Audit:
    audit = Audit(
        interpreter=_get(content, "interpreter", str, at),
        operators=_operators(_get(content, "operators", dict, at), f"{at}operators."),
        delegate_partitions=_get(content, "delegate_partitions", int, at),
        outside_delegate=_by_layer(content, "outside_delegate", at),
        float_operators=_by_layer(content, "float_operators", at),
    )
    if audit.delegate_partitions < 0:
        raise _wrong(f"{at}delegate_partitions", audit.delegate_partitions, "0 or more")
    floats = {
        name: sum(count for dtype, count in counts.items() if "float" in dtype)
        for name, counts in audit.operators.items()
    }
    listed = _count(audit.float_operators)
    if listed != Counter(floats):
        raise _wrong(f"{at}float_operators", dict(listed), f"the float operators counted in {at}operators, {floats}")
    outside = _count(audit.outside_delegate)
    counted = Counter({name: sum(counts.values()) for name, counts in audit.operators.items()})
    if not outside <= counted:
        raise _wrong(f"{at}outside_delegate", dict(outside), f"some of the operators counted in {at}operators")
    return audit


def _operators(content: dict[str, Any], at: str) -> dict[str, dict[str, int]]:
    operators = {}
    for name in content:
        counts = _get(content, name, dict, at)
        operators[name] = {dtype: _get(counts, dtype, int, f"{at}{name}.") for dtype in counts}
        if not counts or min(counts.values()) < 1:
            raise _wrong(f"{at}{name}", counts, "a count of 1 or more for each type")
    return operators


def _by_layer(content: dict[str, Any], key: str, at: str) -> dict[str, tuple[str, ...]]:
    layers = _get(content, key, dict, at)
    return {layer: tuple(_get(layers, layer, str, f"{at}{key}.").split()) for layer in layers}


def _count(by_layer: dict[str, tuple[str, ...]]) -> Counter[str]:
    return Counter(name for names in by_layer.values() for name in names)


def _tools(content: dict[str, Any]) -> dict[str, str]:
    return {name: _get(content, name, str, "tools.") for name in content}


def _choice(content: dict[str, Any], key: str, choices: tuple[str, ...], at: str) -> str:
    value = _get(content, key, str, at)
    if value not in choices:
        raise _wrong(f"{at}{key}", value, f"one of {', '.join(choices)}")
    return value


def _sha256(content: dict[str, Any], key: str, at: str = "") -> str:
    value = _get(content, key, str, at)
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise _wrong(f"{at}{key}", value, "64 lower-case hexadecimal digits")
    return value


def _items(content: dict[str, Any], key: str, kind: type[T], at: str = "") -> list[T]:
    values = _get(content, key, list, at)
    return [_typed(value, kind, f"{at}{key}[{i}]") for i, value in enumerate(values)]


def _get(content: dict[str, Any], key: str, kind: type[T], at: str = "") -> T:
    return _typed(_has(content, key, at), kind, f"{at}{key}")


def _has(content: dict[str, Any], key: str, at: str = "") -> Any:
    if key not in content:
        raise ArtifactError(f"field `{at}{key}` is missing; make the bundle anew with `{MADE_BY}`")
    return content[key]


def _typed(value: Any, kind: type[T], field: str) -> T:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return kind(value)  # type: ignore[call-arg]
    # JSON's true is no number, though Python's bool is an int.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _wrong(field, value, f"a value of type {kind.__name__}")
    return value


def _wrong(field: str, received: Any, expected: str) -> ArtifactError:
    shown = repr(received)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return ArtifactError(f"field `{field}` is {shown}; expected {expected}; make the bundle anew with `{MADE_BY}`")
