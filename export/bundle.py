"""Bundles: every artifact of a run made from its weights, with the manifest that vouches for them.

python -m export.bundle --source runs/first --out models/mine    a bundle that can be shipped
python -m export.bundle --source models/mine                     its artifacts made anew
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from calibration.record import CALIBRATION_FILE, read_calibration
from export.fake_quant import PREFIX, build_fake_quant, build_float
from export.schemes import SELECTIVE
from export.tflite import convert
from runtime.compare import classify
from runtime.engine import open_engine
from runtime.errors import ArtifactError, ConfigError, run_cli
from runtime.files import replacing, sha256_of
from runtime.manifest import Accuracy, Artifact, Manifest, Overlay, read_manifest, write_manifest
from runtime.metrics import agreement
from runtime.split_file import LabelledPictures, read_split
from train.run import CONFIG_FILE, TEST_FILE, WEIGHTS_FILE, Run, read_run
from train.weights import read_tensors

QAT_WEIGHTS_FILE = "qat.safetensors"
TRAINING_FILES = ("train.json", "history.csv", "curves.png")
ARTIFACTS_FOLDER = "artifacts"
REPORT_FILE = "report.json"
TOOLS = ("tensorflow", "tensorflow-model-optimization", "tf_keras", "keras")
FILES = {"float32": "float.tflite", "int8": "int8.tflite"}


def write_artifacts(source: Path, target: Path) -> Manifest:
    """Convert a run's weights to both artifacts, and write their manifest.

    Args:
        source: a folder with config.json, float.safetensors, calibration.json and, after
            quantization-aware training, qat.safetensors.
        target: the bundle's folder.

    Returns:
        The manifest; an artifact has an accuracy only if it is, to the byte, the one that an earlier
        manifest of `target` gives it for.

    Raises:
        ArtifactError: a file of the source is missing, damaged or does not fit.
    """
    run, calibration = read_run(source), read_calibration(source)
    floats = read_tensors(source / WEIGHTS_FILE)
    model = build_float(run.deployed, floats, str(source / WEIGHTS_FILE))
    tuned = source / QAT_WEIGHTS_FILE
    base = build_float(run.deployed, read_tensors(tuned), str(tuned)) if tuned.exists() else model
    quantized = build_fake_quant(base, run.deployed, calibration.ranges, SELECTIVE)
    contents = {"float32": convert(model, run.deployed), "int8": convert(quantized, run.deployed, PREFIX)}
    known = _known_accuracies(target)
    for precision, content in contents.items():
        with replacing(target / FILES[precision]) as temporary:
            temporary.write_bytes(content)
    artifacts = tuple(_describe(target, precision, known) for precision in contents)
    manifest = _manifest(run, calibration.sha256, artifacts)
    write_manifest(target, manifest)
    return manifest


def measure_accuracy(folder: Path, pictures: LabelledPictures) -> Manifest:
    """Measure both artifacts on labelled pictures, and write what they reach into the manifest.

    Args:
        folder: the bundle.
        pictures: the test split.

    Returns:
        The manifest as written.
    """
    manifest = read_manifest(folder)
    engines = [open_engine(folder, precision=precision) for precision in FILES]
    paired = classify(engines[0], engines[1], list(pictures.images), len(manifest.labels))
    reached = {
        "float32": agreement(paired.float32, pictures.labels),
        "int8": agreement(paired.int8, pictures.labels),
    }
    artifacts = tuple(
        dataclasses.replace(
            artifact,
            accuracy=Accuracy(pictures.dataset, pictures.split, len(pictures.labels), reached[artifact.precision]),
        )
        for artifact in manifest.artifacts
    )
    manifest = dataclasses.replace(manifest, artifacts=artifacts)
    write_manifest(folder, manifest)
    return manifest


def _known_accuracies(folder: Path) -> dict[str, Accuracy | None]:
    """Return the accuracies of an earlier bundle by its artifacts' hashes; none if there is no sound one."""
    try:
        return {artifact.sha256: artifact.accuracy for artifact in read_manifest(folder).artifacts}
    except ArtifactError:
        return {}


def _describe(folder: Path, precision: str, known: dict[str, Accuracy | None]) -> Artifact:
    path = folder / FILES[precision]
    digest = sha256_of(path)
    return Artifact(
        file=path.name,
        precision=precision,
        engine="tflite",
        sha256=digest,
        size_bytes=path.stat().st_size,
        accuracy=known.get(digest),
    )


def _manifest(run: Run, calibration_sha256: str, artifacts: tuple[Artifact, ...]) -> Manifest:
    config = run.deployed
    side = config.input_size // config.overlay_stride_px
    levels = config.focal_levels[config.overlay_stage]
    return Manifest(
        preset=run.preset,
        config=dataclasses.asdict(config),
        input_shape=(1, config.input_size, config.input_size, 3),
        labels=run.labels,
        outputs={
            "logits": (1, config.classes),
            "gates": (1, side, side, levels + 1),
            "modulator": (1, side, side),
        },
        overlay=Overlay(config.overlay_layer, config.overlay_stride_px, levels),
        dataset=run.dataset,
        calibration_sha256=calibration_sha256,
        artifacts=artifacts,
        tools={tool: version(tool) for tool in TOOLS},
    )


def copy_sources(source: Path, target: Path) -> None:
    """Copy what a bundle's artifacts are made from, how it was trained, and the run's report if there is one.

    Of these files `target` keeps none that `source` has not: weights of another run's fine-tuning, say.
    """
    wanted = [CONFIG_FILE, WEIGHTS_FILE, QAT_WEIGHTS_FILE, CALIBRATION_FILE, *TRAINING_FILES, f"report/{REPORT_FILE}"]
    for name in wanted:
        copy = target / Path(name).name
        if (source / name).exists():
            with replacing(copy) as temporary:
                shutil.copyfile(source / name, temporary)
        else:
            copy.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Make bundles, from runs or anew from themselves."""
    args = _parser().parse_args(argv)
    if args.out and len(args.source) > 1:
        raise ConfigError(f"received {len(args.source)} sources for the one bundle {args.out}; give one --source")
    for source in args.source:
        target = args.out or source
        if target.resolve() != source.resolve():
            copy_sources(source, target)
        manifest = write_artifacts(source, target)
        if (source / TEST_FILE).exists():
            manifest = measure_accuracy(target, read_split(source / TEST_FILE))
        print(describe_bundle(target, manifest))
    return 0


def describe_bundle(folder: Path, manifest: Manifest) -> str:
    """Return a line on each artifact: file, size and accuracy, or that it is not known."""
    lines = []
    for artifact in manifest.artifacts:
        reached = "accuracy not measured on these bytes"
        if artifact.accuracy is not None:
            reached = f"{artifact.accuracy.dataset} {artifact.accuracy.split} top-1 {artifact.accuracy.top1:.2%}"
        lines.append(f"{folder / artifact.file}  {artifact.size_bytes} bytes  {reached}")
    return os.linesep.join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export.bundle", description="Make bundles from weights.")
    parser.add_argument(
        "--source",
        type=Path,
        nargs="+",
        required=True,
        help="folders with weights, calibration and config.json",
    )
    parser.add_argument("--out", type=Path, help="folder of the bundle (default: the source itself)")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
