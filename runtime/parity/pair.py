"""What is compared: two artifacts, each of a bundle, by any engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.bundle.manifest import MANIFEST_NAME, Artifact, Manifest, read_manifest
from runtime.core.errors import ArtifactError, ConfigError
from runtime.engines.engine import Engine, open_engine
from runtime.evaluation.split_file import LabelledImages, check_class_names

ROLES = ("reference", "candidate")


@dataclass(frozen=True)
class Subject:
    """One of the two.

    Attributes:
        name: what the report calls it, e.g. `"int8"`.
        engine: it, opened.
        manifest: of its bundle.
        artifact: its entry there.
        folder: its bundle; `None` where there is none on disk, and then it cannot be opened in another way.
    """

    name: str
    engine: Engine
    manifest: Manifest
    artifact: Artifact
    folder: Path | None

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
        return open_engine(self.folder, precision=self.artifact.precision, engine=self.artifact.engine, threads=threads)


@dataclass(frozen=True)
class Pair:
    """The two, and what kind of comparison it is."""

    reference: Subject
    candidate: Subject

    @property
    def is_quantization(self) -> bool:
        """Whether it asks what int8 costs, rather than what another release changes."""
        return (self.reference.artifact.precision, self.candidate.artifact.precision) == ("float32", "int8")

    @property
    def subjects(self) -> dict[str, Subject]:
        """Both by their role."""
        return {"reference": self.reference, "candidate": self.candidate}


def open_precisions(bundle: Path, engine: str | None, threads: int) -> Pair:
    """Open a bundle's float artifact as the reference and its int8 one as the candidate.

    Args:
        bundle: its folder.
        engine: `"tflite"` or `"ort"`; by default that of the manifest's first int8 artifact.
        threads: CPU threads, 1 or more.
    """
    manifest = read_manifest(bundle)
    engine = engine or manifest.artifact("int8").engine
    float32, int8 = (
        Subject(
            precision,
            open_engine(bundle, precision=precision, engine=engine, threads=threads),
            manifest,
            manifest.artifact(precision, engine),
            bundle,
        )
        for precision in ("float32", "int8")
    )
    return Pair(float32, int8)


def open_any(reference: Path, candidate: Path, engine: str | None, threads: int) -> Pair:
    """Open any two artifacts.

    Args:
        reference: an artifact in its bundle's folder, or a bundle, which stands for its int8 artifact.
        candidate: the same.
        engine: of a bundle's artifact; by default that of its first int8 one.
        threads: CPU threads, 1 or more.

    Raises:
        ArtifactError: there is no such artifact, or it is in no bundle.
        ConfigError: both are the same one.
    """
    found = [_locate(path, engine) for path in (reference, candidate)]
    (folder_1, _, first), (folder_2, _, second) = found
    if (folder_1.resolve(), first.file) == (folder_2.resolve(), second.file):
        raise ConfigError(f"received {folder_1 / first.file} twice; give two artifacts to compare")
    names = _names([(folder, artifact) for folder, _, artifact in found])
    subjects = [
        Subject(
            name,
            open_engine(folder, precision=artifact.precision, engine=artifact.engine, threads=threads),
            manifest,
            artifact,
            folder,
        )
        for name, (folder, manifest, artifact) in zip(names, found, strict=True)
    ]
    return Pair(*subjects)


def _names(found: Sequence[tuple[Path, Artifact]]) -> list[str]:
    """Name two artifacts by the least that tells them apart: file, bundle, both, or the whole path."""
    files = [artifact.file for _, artifact in found]
    folders = [folder.resolve().name for folder, _ in found]
    paths = [str(folder / artifact.file) for folder, artifact in found]
    if found[0][0].resolve() == found[1][0].resolve():
        return files
    if files[0] == files[1] and folders[0] != folders[1]:
        return folders
    both = [f"{folder}/{file}" for folder, file in zip(folders, files, strict=True)]
    return both if both[0] != both[1] else paths


def _locate(path: Path, engine: str | None) -> tuple[Path, Manifest, Artifact]:
    if path.is_dir():
        manifest = read_manifest(path)
        return path, manifest, manifest.artifact("int8", engine)
    if not path.exists():
        raise ArtifactError(f"{path} does not exist; give a bundle's folder or an artifact in one")
    if not (path.parent / MANIFEST_NAME).exists():
        raise ArtifactError(
            f"{path} has no {MANIFEST_NAME} beside it, so its labels are not known; give an artifact in its bundle"
        )
    manifest = read_manifest(path.parent)
    for artifact in manifest.artifacts:
        if artifact.file == path.name:
            return path.parent, manifest, artifact
    files = ", ".join(artifact.file for artifact in manifest.artifacts)
    raise ArtifactError(f"{path} is not in its bundle's manifest; give one of {files}")


def check_classes(pair: Pair, images: LabelledImages) -> None:
    """Hold both artifacts and the data to the same classes in the same order.

    Raises:
        DataError: they differ.
    """
    for subject in pair.subjects.values():
        labels, trained_on = subject.manifest.labels, subject.manifest.dataset
        remedy = f"give the data set that the bundle was trained on ({trained_on})"
        check_class_names(images.class_names, labels, remedy)


def describe(subject: Subject) -> dict[str, Any]:
    """Return what report.json says of a subject."""
    artifact, manifest = subject.artifact, subject.manifest
    scheme = manifest.scheme if artifact.precision == "int8" else None
    accuracy = artifact.accuracy
    return {
        "name": subject.name,
        "preset": manifest.preset,
        "file": artifact.file,
        "precision": artifact.precision,
        "engine": artifact.engine,
        "interpreter": subject.engine.name,
        "sha256": artifact.sha256,
        "overlay_layer": manifest.overlay.layer,
        "scheme": scheme.name if scheme else None,
        "float_layers": list(scheme.float_layers) if scheme else None,
        "fake_quant_agreement": accuracy.fake_quant_agreement if accuracy else None,
        "fake_quant_images": accuracy.images if accuracy and accuracy.fake_quant_agreement is not None else None,
    }
