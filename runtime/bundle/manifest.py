"""The manifest of a bundle: what its files are; written by export, checked on every load."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from runtime.core.errors import ArtifactError, ConfigError, FieldError
from runtime.core.files import sha256_of, write_json
from runtime.core.schema import check_field, former_names, parse, read_as, stored_as
from runtime.core.text import check_labels
from runtime.engines.registry import ENGINES
from runtime.images.input_spec import InputSpec, Interpolation

# Version 1 had no crops, 1 and 2 said `pictures` for `images`.
SCHEMA_VERSION = 3
MANIFEST_NAME = "manifest.json"
MADE_BY = "make export"
PRECISIONS = ("float32", "int8")
INPUT_NAME = "image"
INPUT_DTYPE = "uint8"
INPUT_COLOUR = "RGB"


def _names(by_layer: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Split the operators of each layer; as JSON arrays they would be hundreds of lines."""
    return {layer: tuple(names.split()) for layer, names in by_layer.items()}


def _count(by_layer: dict[str, tuple[str, ...]]) -> Counter[str]:
    return Counter(name for names in by_layer.values() for name in names)


def _check_sha256(instance: object, name: str, value: str) -> None:
    check_field(instance, name, bool(re.fullmatch(r"[0-9a-f]{64}", value)), "64 lower-case hexadecimal digits")


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy of one artifact.

    Attributes:
        dataset: the dataset it was measured on.
        split: the split of that dataset.
        images: how many images were classified, 1 or more.
        top1: share of correct predictions, 0..1.
        fake_quant_agreement: share of these images, 0..1, on which the fake-quantized Keras network that an int8
            artifact was converted from predicts the same; `None` for a float artifact, or where not measured.
    """

    dataset: str
    split: str
    images: int = field(metadata=former_names("pictures"))
    top1: float
    fake_quant_agreement: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_field(self, "images", self.images >= 1, "1 or more")
        check_field(self, "top1", 0.0 <= self.top1 <= 1.0, "a fraction, 0..1")
        agreement = self.fake_quant_agreement
        check_field(self, "fake_quant_agreement", agreement is None or 0.0 <= agreement <= 1.0, "a fraction, 0..1")


@dataclass(frozen=True)
class Audit:
    """The operators of one artifact: their types, and which of them the interpreter's delegate takes.

    Attributes:
        interpreter: the one that was asked, e.g. `"ai-edge-litert 2.3.0"`; another may cut the graph elsewhere.
        operators: counts by name and type: `{"MUL": {"float32": 12, "int8": 3}}`. The type of an operator whose
            output differs from its input is `"int8 -> float32"`.
        delegate_partitions: the pieces of the graph that the delegate takes; 1 is best.
        outside_delegate: the operators that it leaves, by layer, in the order of the graph.
        float_operators: the operators with a float input or output, by layer, in the order of the graph.
    """

    interpreter: str
    operators: dict[str, dict[str, int]]
    delegate_partitions: int
    outside_delegate: dict[str, tuple[str, ...]] = field(metadata=stored_as(dict[str, str], _names))
    float_operators: dict[str, tuple[str, ...]] = field(metadata=stored_as(dict[str, str], _names))

    def __post_init__(self) -> None:
        """Check the counts against the lists."""
        check_field(self, "delegate_partitions", self.delegate_partitions >= 0, "0 or more")
        for name, counts in self.operators.items():
            if not counts or min(counts.values()) < 1:
                raise FieldError(f"operators.{name}", counts, "a count of 1 or more for each type")
        counted = Counter({name: sum(counts.values()) for name, counts in self.operators.items()})
        floats = Counter(
            {name: sum(counts[each] for each in counts if "float" in each) for name, counts in self.operators.items()}
        )
        outside, listed = _count(self.outside_delegate), _count(self.float_operators)
        if listed != floats:
            raise FieldError("float_operators", dict(listed), f"the float operators counted in `operators`, {floats}")
        if not outside <= counted:
            raise FieldError("outside_delegate", dict(outside), "some of the operators counted in `operators`")


@dataclass(frozen=True)
class Artifact:
    """One model file of a bundle.

    Attributes:
        file: a plain file name in the bundle's folder.
        precision: one of `PRECISIONS`.
        engine: a key of `runtime.engines.registry.ENGINES`.
        sha256: of the file, 64 lower-case hexadecimal digits.
        size_bytes: of the file.
        accuracy: `None` where it was not measured on these bytes.
        audit: `None` for engines without one and in older bundles.
    """

    file: str
    precision: str
    engine: str
    sha256: str
    size_bytes: int
    accuracy: Accuracy | None
    audit: Audit | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        # A name that leads out of the folder would let a bundle open any file of the machine.
        plain = self.file not in ("", ".", "..") and not re.search(r"[/\\\0]", self.file)
        check_field(self, "file", plain, "the plain name of a file in the bundle")
        check_field(self, "precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
        check_field(self, "engine", self.engine in ENGINES, f"one of {', '.join(ENGINES)}")
        _check_sha256(self, "sha256", self.sha256)
        check_field(self, "size_bytes", self.size_bytes >= 1, "1 or more")


@dataclass(frozen=True)
class Overlay:
    """The block whose gates the artifacts put out.

    Attributes:
        layer: the block's name.
        stride_px: input pixels that one gate cell covers, a side.
        focal_levels: gate maps without the global one.
    """

    layer: str
    stride_px: int
    focal_levels: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_field(self, "stride_px", self.stride_px >= 1, "1 or more")
        check_field(self, "focal_levels", self.focal_levels >= 1, "1 or more")


@dataclass(frozen=True)
class AppliedScheme:
    """The quantization scheme of the int8 artifact, by name, and the layers that it keeps in float."""

    name: str
    float_layers: tuple[str, ...]


@dataclass(frozen=True)
class _Input:
    """The input as the file has it; files without crops mean the whole centred square, resized by areas."""

    name: Literal["image"]
    shape: tuple[int, ...]
    dtype: Literal["uint8"]
    colour: Literal["RGB"]
    crop_fraction: float = InputSpec.crop_fraction
    interpolation: Interpolation = InputSpec.interpolation

    def __post_init__(self) -> None:
        side = self.shape[1] if len(self.shape) == 4 else 0
        check_field(self, "shape", side >= 1 and self.shape == (1, side, side, 3), "[1, S, S, 3]")

    def spec(self) -> InputSpec:
        return InputSpec(self.shape[1], self.crop_fraction, self.interpolation)


@dataclass(frozen=True)
class _Outputs:
    """The output shapes as the file has them."""

    logits: tuple[int, int]
    gates: tuple[int, int, int, int]
    modulator: tuple[int, int, int]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(vars(self))


def _one_or_more(artifacts: tuple[Artifact, ...]) -> tuple[Artifact, ...]:
    if not artifacts:
        raise ConfigError("received no artifact; expected one or more")
    return artifacts


@dataclass(frozen=True)
class Manifest:
    """A bundle: the model's interface (input, outputs, labels) and its files.

    Attributes:
        preset: the name of the network's preset.
        config: its configuration, as training wrote it.
        input_spec: how an image becomes the input.
        labels: the K class names.
        outputs: shapes by name: `logits` `[1, K]`, `gates` `[1, h, w, L+1]`, `modulator` `[1, h, w]`.
        overlay: the block that gates and modulator belong to.
        dataset: the training dataset.
        calibration_sha256: of calibration.json; `None` if no ranges were calibrated.
        scheme: `None` in bundles older than the choice of a scheme.
        artifacts: the files, at most one for each precision and engine.
        tools: versions by package.
    """

    preset: str
    config: dict[str, Any]
    input_spec: InputSpec = field(metadata=stored_as(_Input, _Input.spec, "input"))
    labels: tuple[str, ...]
    outputs: dict[str, tuple[int, ...]] = field(metadata=stored_as(_Outputs, _Outputs.shapes))
    overlay: Overlay
    dataset: str
    calibration_sha256: str | None
    scheme: AppliedScheme | None = field(default=None, kw_only=True)
    artifacts: tuple[Artifact, ...] = field(metadata=stored_as(tuple[Artifact, ...], _one_or_more))
    tools: dict[str, str]

    def __post_init__(self) -> None:
        """Check the fields against each other.

        Raises:
            FieldError: they contradict each other, or a label is not a class name.
        """
        check_labels(self.labels)
        if self.calibration_sha256 is not None:
            _check_sha256(self, "calibration_sha256", self.calibration_sha256)
        logits, gates, modulator = (self.outputs[name] for name in ("logits", "gates", "modulator"))
        if logits != (1, len(self.labels)):
            raise FieldError("outputs.logits", logits, f"{(1, len(self.labels))}, one logit a label")
        if modulator[0] != 1 or min(modulator) < 1:
            raise FieldError("outputs.modulator", modulator, "(1, h, w)")
        expected = (*modulator, self.overlay.focal_levels + 1)
        if gates != expected:
            raise FieldError("outputs.gates", gates, f"{expected}, one map a focal level and the global one")
        kinds = [(artifact.precision, artifact.engine) for artifact in self.artifacts]
        if len(set(kinds)) != len(kinds):
            raise FieldError("artifacts", kinds, "one a precision and engine")

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """The shape of the input, `[1, S, S, 3]`."""
        return (1, self.input_spec.size, self.input_spec.size, 3)

    def artifact(self, precision: str, engine: str | None = None) -> Artifact:
        """Return the artifact of a precision for an engine, or the first of that precision.

        Args:
            precision: `"float32"` or `"int8"`.
            engine: a key of `ENGINES`, or `None` for any.

        Raises:
            ArtifactError: the bundle has no such artifact; the message lists those it has.
        """
        for artifact in self.artifacts:
            if artifact.precision == precision and engine in (None, artifact.engine):
                return artifact
        available = ", ".join(f"{artifact.precision} {artifact.engine}" for artifact in self.artifacts)
        wanted = f"{precision} artifact" + (f" for {engine}" if engine else "")
        raise ArtifactError(f"the bundle has no {wanted}; choose one of: {available}")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest` as `folder/manifest.json`.

    Raises:
        ArtifactError: `read_manifest` would refuse it; the message names the field.
        FocalEdgeError: the file cannot be written.
    """
    content = _to_json(manifest)
    parse(Manifest, json.loads(json.dumps(content)), ignore_unknown=True)
    write_json(Path(folder) / MANIFEST_NAME, content)


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a bundle, without opening its artifacts.

    Args:
        folder: the bundle.

    Returns:
        The manifest.

    Raises:
        ArtifactError: the manifest is missing, not JSON, of another schema version, or has a missing or wrong
            field; the message names it.
    """
    path = Path(folder) / MANIFEST_NAME
    return read_as(Manifest, path, MADE_BY, version=SCHEMA_VERSION, ignore_unknown=True)


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
            f"rebuild the bundle with `{MADE_BY}`"
        ) from error
    if (size_bytes, sha256) != (artifact.size_bytes, artifact.sha256):
        raise ArtifactError(
            f"{path} has {size_bytes} bytes and SHA-256 {sha256[:12]}...; the manifest expects "
            f"{artifact.size_bytes} bytes and {artifact.sha256[:12]}...: the file is damaged or of another "
            f"bundle; copy the whole bundle again or rebuild it with `{MADE_BY}`"
        )
    return path


def _to_json(manifest: Manifest) -> dict[str, Any]:
    spec = manifest.input_spec
    content: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    content |= {"input" if key == "input_spec" else key: value for key, value in asdict(manifest).items()}
    content["input"] = {
        "name": INPUT_NAME,
        "shape": manifest.input_shape,
        "dtype": INPUT_DTYPE,
        "colour": INPUT_COLOUR,
    }
    if spec != InputSpec(spec.size):
        content["input"] |= {"crop_fraction": spec.crop_fraction, "interpolation": spec.interpolation}
    for audit in filter(None, (artifact["audit"] for artifact in content["artifacts"])):
        for name in ("outside_delegate", "float_operators"):
            audit[name] = {layer: " ".join(names) for layer, names in audit[name].items()}
    return content
