"""The two artifacts of a comparison, each of a bundle, for any engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from runtime.bundle.manifest import MANIFEST_NAME, Artifact, Manifest, read_manifest
from runtime.core.errors import ArtifactError, ConfigError
from runtime.engines.engine import Engine, open_engine
from runtime.evaluation.split_file import LabelledImages, check_class_names

ROLES = ("reference", "candidate")


class OpenEngine(Protocol):
    """Opens an artifact of a bundle; see `runtime.engines.engine.open_engine`."""

    def __call__(self, folder: Path, *, precision: str, engine: str | None, threads: int) -> Engine:
        """Open it."""


@dataclass(frozen=True)
class ComparedArtifact:
    """One of the two.

    Attributes:
        name: its name in the report, e.g. `"int8"`.
        engine: its opened engine.
        manifest: its bundle's.
        artifact: its entry in the manifest.
        folder: its bundle; `None` for an engine without files.
        open_engine: opens its artifact.
    """

    name: str
    engine: Engine
    manifest: Manifest
    artifact: Artifact
    folder: Path | None
    open_engine: OpenEngine = open_engine

    @property
    def path(self) -> Path | None:
        """The artifact's file."""
        return None if self.folder is None else self.folder / self.artifact.file

    def opened(self, threads: int) -> Engine:
        """Open the artifact for another number of threads.

        Raises:
            ArtifactError: there is no bundle on disk.
        """
        if threads == self.engine.threads:
            return self.engine
        if self.folder is None:
            raise ArtifactError(f"{self.name} is not on disk; expected a bundle's folder to open it from")
        return _open(self.folder, self.artifact, threads, self.open_engine)

    def describe(self) -> dict[str, Any]:
        """Return its entry of `artifacts` in report.json."""
        artifact, manifest = self.artifact, self.manifest
        scheme = manifest.scheme if artifact.precision == "int8" else None
        accuracy = artifact.accuracy
        return {
            "name": self.name,
            "preset": manifest.preset,
            "file": artifact.file,
            "precision": artifact.precision,
            "engine": artifact.engine,
            "interpreter": self.engine.name,
            "sha256": artifact.sha256,
            "overlay_layer": manifest.overlay.layer,
            "scheme": scheme.name if scheme else None,
            "float_layers": list(scheme.float_layers) if scheme else None,
            "fake_quant_agreement": accuracy.fake_quant_agreement if accuracy else None,
            "fake_quant_images": accuracy.images if accuracy and accuracy.fake_quant_agreement is not None else None,
        }


@dataclass(frozen=True)
class Pair:
    """The reference and the candidate."""

    reference: ComparedArtifact
    candidate: ComparedArtifact

    @property
    def kind(self) -> str:
        """`"quantization"` for float32 against int8, `"release"` for any other two."""
        precisions = self.reference.artifact.precision, self.candidate.artifact.precision
        return "quantization" if precisions == ("float32", "int8") else "release"

    @property
    def artifacts(self) -> dict[str, ComparedArtifact]:
        """Both by their role."""
        return dict(zip(ROLES, (self.reference, self.candidate), strict=True))


def open_precisions(bundle: Path, engine: str | None, threads: int, open_engine: OpenEngine = open_engine) -> Pair:
    """Open a bundle's float artifact as the reference and its int8 one as the candidate.

    Args:
        bundle: its folder.
        engine: `"tflite"` or `"ort"`; by default that of the manifest's first int8 artifact.
        threads: CPU threads, 1 or more.
        open_engine: opens an artifact.
    """
    manifest = read_manifest(bundle)
    engine = engine or manifest.artifact("int8").engine
    found = [(bundle, manifest, manifest.artifact(precision, engine)) for precision in ("float32", "int8")]
    return _pair(found, ["float32", "int8"], threads, open_engine)


def open_any(
    reference: Path, candidate: Path, engine: str | None, threads: int, open_engine: OpenEngine = open_engine
) -> Pair:
    """Open any two artifacts.

    Args:
        reference: an artifact in its bundle's folder, or a bundle, which stands for its int8 artifact.
        candidate: the same.
        engine: the engine of a bundle's artifact; by default that of its first int8 one.
        threads: CPU threads, 1 or more.
        open_engine: opens an artifact.

    Raises:
        ArtifactError: an artifact does not exist, or is not in a bundle.
        ConfigError: both are the same one.
    """
    found = [_locate(path, engine) for path in (reference, candidate)]
    (folder, _, first), (other_folder, _, second) = found
    if (folder.resolve(), first.file) == (other_folder.resolve(), second.file):
        raise ConfigError(f"received {folder / first.file} twice; give two artifacts to compare")
    return _pair(found, _names(found), threads, open_engine)


_Located = tuple[Path, Manifest, Artifact]


def _pair(found: list[_Located], names: list[str], threads: int, open_engine: OpenEngine) -> Pair:
    return Pair(
        *(
            ComparedArtifact(
                name, _open(folder, artifact, threads, open_engine), manifest, artifact, folder, open_engine
            )
            for name, (folder, manifest, artifact) in zip(names, found, strict=True)
        )
    )


def _open(folder: Path, artifact: Artifact, threads: int, open_engine: OpenEngine) -> Engine:
    return open_engine(folder, precision=artifact.precision, engine=artifact.engine, threads=threads)


def _names(found: list[_Located]) -> list[str]:
    """Name two artifacts by the first that differs: file, bundle, both, or the whole path."""
    files = [artifact.file for _, _, artifact in found]
    folders = [folder.resolve().name for folder, _, _ in found]
    if found[0][0].resolve() == found[1][0].resolve():
        return files
    if files[0] == files[1] and folders[0] != folders[1]:
        return folders
    both = [f"{folder}/{file}" for folder, file in zip(folders, files, strict=True)]
    return both if both[0] != both[1] else [str(folder / artifact.file) for folder, _, artifact in found]


def _locate(path: Path, engine: str | None) -> _Located:
    if path.is_dir():
        manifest = read_manifest(path)
        return path, manifest, manifest.artifact("int8", engine)
    if not path.exists():
        raise ArtifactError(f"{path} does not exist; give a bundle's folder or an artifact in one")
    if not (path.parent / MANIFEST_NAME).exists():
        raise ArtifactError(f"{path} has no {MANIFEST_NAME} in its folder, which has its labels; give one in a bundle")
    manifest = read_manifest(path.parent)
    for artifact in manifest.artifacts:
        if artifact.file == path.name:
            return path.parent, manifest, artifact
    files = ", ".join(artifact.file for artifact in manifest.artifacts)
    raise ArtifactError(f"{path} is not in its bundle's manifest; give one of {files}")


def check_classes(pair: Pair, images: LabelledImages) -> None:
    """Check that both artifacts and the data have the same classes in the same order.

    Raises:
        DataError: they differ.
    """
    for compared in pair.artifacts.values():
        labels, trained_on = compared.manifest.labels, compared.manifest.dataset
        remedy = f"give the dataset that the bundle was trained on ({trained_on})"
        check_class_names(images.class_names, labels, remedy)
