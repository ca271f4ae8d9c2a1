"""Device bundle: one archive of code, artifacts, requirements, service and README for a device.

python -m export.device_bundle --bundle models/edge-nano-cifar10 --out dist/edge-nano-cifar10.tar.gz
"""

from __future__ import annotations

import argparse
import gzip
import re
import shlex
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any

from runtime.bundle.default import default_bundle
from runtime.bundle.manifest import MANIFEST_NAME, Artifact, Manifest, read_manifest, verified_file, write_manifest
from runtime.core.cli import command_parser, run_cli, say, shared_options
from runtime.core.errors import ArtifactError, ConfigError, FocalEdgeError
from runtime.core.files import json_text, replacing, sha256_of
from runtime.engines.registry import ENGINES

ROOT = Path(__file__).resolve().parents[1]
SUFFIX = ".tar.gz"
DEFAULT_FOLDER = Path("dist")
# The folder where the service expects the code, and the service's name.
DEVICE_FOLDER = "/opt/focaledge"
SERVICE = "focaledge-demo.service"
TEMPLATES = Path("export/templates")
# A constant date, so that the same input gives the same archive; all tools accept 1980.
DATE_S = 315_532_800
FILE_MODE = 0o644
WEB_EXTRA = "web"


def device_files(
    bundle: Path, artifacts: Sequence[str] | None = None, *, windows: bool = False, root: Path = ROOT
) -> dict[str, bytes]:
    """Collect the files of the archive.

    Args:
        bundle: folder with manifest.json and artifacts; each included artifact is checked against the manifest.
        artifacts: file names of those to include; `None` takes the TFLite ones.
        windows: require OpenCV with windows, which needs a display and its libraries, instead of the headless one.
        root: the checkout.

    Returns:
        File contents by path in the archive, all in one folder.

    Raises:
        ArtifactError: the bundle is damaged, or an artifact is unknown.
        FocalEdgeError: the checkout lacks a file.
    """
    whole = read_manifest(bundle)
    chosen = _chosen(whole, artifacts)
    manifest = replace(whole, artifacts=chosen)
    name = bundle_name(manifest)
    project = _read_project(root)
    facts = {
        "artifacts": " and ".join(f"`{artifact.file}` ({artifact.precision})" for artifact in chosen),
        "bundle": name,
        "folder": DEVICE_FOLDER,
        "labels": ", ".join(manifest.labels),
        "service": SERVICE,
    }
    engines = {artifact.engine for artifact in chosen}
    files = {
        "LICENSE": _read(root / "LICENSE"),
        "README.md": _filled(root / TEMPLATES / "device_readme.template", facts),
        SERVICE: _filled(root / TEMPLATES / "device_service.template", facts),
        "requirements.txt": "".join(f"{line}\n" for line in requirements(project, engines, windows=windows)).encode(),
        f"models/{name}/{MANIFEST_NAME}": _manifest_bytes(manifest),
    }
    files |= {f"models/{name}/{artifact.file}": _read(verified_file(bundle, artifact)) for artifact in chosen}
    files |= {str(path.relative_to(root)): _read(path) for path in runtime_files(project, root)}
    return {f"focaledge-{name}/{path}": content for path, content in sorted(files.items())}


def bundle_name(manifest: Manifest) -> str:
    """Return a name for folder and archive, e.g. "edge-nano-cifar10"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{manifest.preset}-{manifest.dataset}").strip("-.")


def _chosen(manifest: Manifest, names: Sequence[str] | None) -> tuple[Artifact, ...]:
    available = ", ".join(artifact.file for artifact in manifest.artifacts)
    if names is None:
        chosen = tuple(artifact for artifact in manifest.artifacts if artifact.engine == "tflite")
        if not chosen:
            raise ArtifactError(f"the bundle has no TFLite artifact; choose with --artifacts among {available}")
        return chosen
    missing = sorted(set(names) - {artifact.file for artifact in manifest.artifacts})
    if missing:
        raise ArtifactError(f"the bundle has no artifact {', '.join(missing)}; choose among {available}")
    return tuple(artifact for artifact in manifest.artifacts if artifact.file in names)


def requirements(project: Mapping[str, Any], engines: set[str], *, windows: bool) -> list[str]:
    """Return the requirements of a device, with the version bounds of pyproject.toml.

    Args:
        project: content of pyproject.toml.
        engines: of the artifacts, `"tflite"` or `"ort"`.
        windows: require OpenCV with windows.
    """
    extras = project["project"]["optional-dependencies"]
    lines = [
        *project["project"]["dependencies"],
        *(line for each in sorted(engines) for line in extras[ENGINES[each].extra]),
    ]
    lines += extras[WEB_EXTRA]
    if not windows:
        lines = [re.sub(r"^opencv-python\b(?!-)", "opencv-python-headless", line) for line in lines]
    return sorted(lines)


def runtime_files(project: Mapping[str, Any], root: Path) -> list[Path]:
    """Return the files of the runtime package: code, and the package data that pyproject.toml lists."""
    patterns = ["*.py", *project["tool"]["setuptools"]["package-data"]["*"]]
    found = {path for pattern in patterns for path in (root / "runtime").rglob(pattern) if path.is_file()}
    return sorted(found)


def _manifest_bytes(manifest: Manifest) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder), manifest)
        return (Path(folder) / MANIFEST_NAME).read_bytes()


def _read_project(root: Path) -> dict[str, Any]:
    return tomllib.loads(_read(root / "pyproject.toml").decode())


def _filled(path: Path, facts: Mapping[str, str]) -> bytes:
    return Template(_read(path).decode()).substitute(facts).encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FocalEdgeError(
            f"{path} cannot be read ({error.strerror or error}); make the archive from a whole checkout of FocalEdge"
        ) from error


def archive(files: Mapping[str, bytes]) -> bytes:
    """Pack file contents by path into a .tar.gz; the same files give the same bytes."""
    packed = BytesIO()
    # No file name and no time in gzip's header.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=9, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(files[name]), DATE_S, FILE_MODE
            tar.addfile(entry, BytesIO(files[name]))
    return packed.getvalue()


def write_device_bundle(
    bundle: Path, out: Path, artifacts: Sequence[str] | None = None, *, windows: bool = False
) -> list[str]:
    """Write the archive for a device.

    Args:
        bundle: folder with manifest.json and artifacts.
        out: path of the archive; ends in .tar.gz.
        artifacts: file names of those to include; `None` takes the TFLite ones.
        windows: require OpenCV with windows.

    Returns:
        The paths in the archive, sorted.

    Raises:
        ConfigError: `out` has another suffix.
        FocalEdgeError: the bundle is damaged, the checkout lacks a file, or the archive cannot be written.
    """
    if not out.name.endswith(SUFFIX):
        raise ConfigError(f"received --out {out}; expected a name that ends in {SUFFIX}")
    files = device_files(bundle, artifacts, windows=windows)
    packed = archive(files)
    with replacing(out) as temporary:
        temporary.write_bytes(packed)
    return list(files)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "python -m export.device_bundle",
        "Write one archive of code, artifacts, requirements, service and README for a device.",
        parents=[shared_options("--json", json="print path, size, SHA-256 and files as JSON")],
    )
    add = parser.add_argument
    add("--bundle", type=Path, default=default_bundle(), metavar="FOLDER", help="folder with manifest.json")
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"archive (default: {DEFAULT_FOLDER}/PRESET-DATASET{SUFFIX})",
    )
    add("--artifacts", nargs="+", metavar="FILE", help="artifacts to include (default: the TFLite ones)")
    add("--windows", action="store_true", help="require OpenCV with windows (default: the headless one)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`."""
    args = _parser().parse_args(argv)
    out = args.out or DEFAULT_FOLDER / f"{bundle_name(read_manifest(args.bundle))}{SUFFIX}"
    names = write_device_bundle(args.bundle, out, args.artifacts, windows=args.windows)
    facts = {"out": str(out), "size_bytes": out.stat().st_size, "sha256": sha256_of(out), "files": names}
    if args.json:
        print(json_text(facts))
        return 0
    say(f"wrote {out}: {facts['size_bytes']:,} bytes, {len(names)} files, SHA-256 {facts['sha256']}")
    say(f"on the device: tar -xzf {shlex.quote(out.name)}, then see README.md in the new folder")
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
