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
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from calibration.calibration_file import CALIBRATION_FILE, Calibration, read_calibration
from calibration.observers import Range
from export.audit import Listing, check_scheme, list_operators, summarise
from export.onnx import convert as onnx
from export.quantize.fake_quant import build_fake_quant, build_float
from export.quantize.network import QuantizedNetwork
from export.quantize.qat import logits
from export.quantize.scheme_file import SCHEME_FILE, read_scheme
from export.quantize.schemes import Scheme
from export.quantize.size_limit import check_weights_fit
from export.tflite.convert import convert_float, convert_int8
from runtime.benchmark import Latency, measure, speedup, synthetic_images
from runtime.bundle.manifest import (
    ENGINES,
    PRECISIONS,
    Accuracy,
    AppliedScheme,
    Artifact,
    Audit,
    Manifest,
    Overlay,
    read_manifest,
    write_manifest,
)
from runtime.core.cli import run_cli
from runtime.core.errors import ArtifactError, ConfigError
from runtime.core.files import replacing, sha256_of
from runtime.engines.engine import open_engine
from runtime.evaluation.metrics import Classes, agreement, top1
from runtime.evaluation.split_file import LabelledImages, read_split
from runtime.images.input_spec import InputSpec
from runtime.images.preprocess import preprocess
from runtime.parity.measures.predictions import predict_pair
from train.model.weights import read_tensors
from train.run import CONFIG_FILE, TEST_FILE, WEIGHTS_FILE, Run, read_run

QAT_WEIGHTS_FILE = "qat.safetensors"
TRAINING_FILES = ("train.json", "history.csv", "curves.png")
ARTIFACTS_FOLDER = "artifacts"
REPORT_FILE = "report.json"
TOOLS = ("tensorflow", "tensorflow-model-optimization", "tf_keras", "keras", "tf2onnx", "onnx", "onnxscript")
FILES = {
    ("float32", "tflite"): "float.tflite",
    ("int8", "tflite"): "int8.tflite",
    ("float32", "ort"): "float.onnx",
    ("int8", "ort"): "int8.onnx",
}
LATENCY_ROUNDS = 50


def write_artifacts(source: Path, target: Path, with_onnx: bool = True) -> Manifest:
    """Convert a run's weights to the artifacts, audit TFLite's, and write all of them with their manifest.

    Args:
        source: a folder with config.json, float.safetensors, calibration.json; after quantization-aware
            training, qat.safetensors; and, unless the scheme is the default one, scheme.json.
        target: the bundle's folder.
        with_onnx: the ONNX artifacts too.

    Returns:
        The manifest; an artifact has an accuracy only if it is, to the byte, the one that an earlier
        manifest of `target` gives it for.

    Raises:
        ArtifactError: a file of the source is missing, damaged or does not fit; or the int8 artifact
            computes in float what its scheme does not list, and then nothing of `target` is replaced.
        ConfigError: the network is too large for an artifact, or a layer to leave in float is no int8 product of it.
    """
    run, scheme = read_run(source), read_scheme(source)
    check_weights_fit(source / WEIGHTS_FILE)
    calibration = calibration_for(scheme, source)
    ranges = calibration.ranges if calibration else {}
    floats = read_tensors(source / WEIGHTS_FILE)
    model = build_float(run.deployed, floats, str(source / WEIGHTS_FILE))
    tuned = _weights_to_quantize(source)
    base = model if tuned.name == WEIGHTS_FILE else build_float(run.deployed, read_tensors(tuned), str(tuned))
    exact = convert_float(model, run.deployed)
    network = QuantizedNetwork(base, run.deployed, ranges, scheme)
    quantized, listing = convert_audited(network)
    audits = {
        FILES["float32", "tflite"]: summarise(list_operators(exact, [layer.name for layer in model.layers])),
        FILES["int8", "tflite"]: summarise(listing),
    }
    contents = {("float32", "tflite"): exact, ("int8", "tflite"): quantized}
    if with_onnx:
        properties = onnx_properties(run)
        contents["float32", "ort"] = onnx.convert_float(model, run.deployed, properties)
        contents["int8", "ort"] = onnx.convert_int8(network, properties)
    known = _known_accuracies(target)
    for kind, content in contents.items():
        with replacing(target / FILES[kind]) as temporary:
            temporary.write_bytes(content)
    manifest = dataclasses.replace(
        describe_run(run),
        calibration_sha256=calibration.sha256 if calibration else None,
        scheme=AppliedScheme(scheme.name, scheme.float_layers),
        artifacts=tuple(_describe(target / FILES[kind], *kind, known, audits.get(FILES[kind])) for kind in contents),
    )
    write_manifest(target, manifest)
    return manifest


def calibration_for(scheme: Scheme, folder: Path) -> Calibration | None:
    """Read the calibration of a run or bundle; none where the scheme needs none.

    Raises:
        ArtifactError: calibration.json is missing or damaged.
    """
    return None if scheme.activations == "dynamic" else read_calibration(folder)


def ranges_for(scheme: Scheme, folder: Path) -> Mapping[str, Range]:
    """Return the calibrated ranges of a run or bundle; none where the scheme needs none."""
    calibration = calibration_for(scheme, folder)
    return calibration.ranges if calibration else {}


def convert_audited(network: QuantizedNetwork) -> tuple[bytes, Listing]:
    """Convert a network to an int8 TFLite artifact, and audit it.

    Returns:
        The flatbuffer, and its operators.

    Raises:
        ArtifactError: it computes in float what the scheme does not list.
        ConfigError: a layer to leave in float is no int8 product of the network.
    """
    content = convert_int8(network)
    listing = list_operators(content, [layer.name for layer in network.model.layers])
    check_scheme(listing, network.scheme)
    return content, listing


def quantized_network(source: Path) -> Any:
    """Return the fake-quantized `tf_keras` network that a run's or a bundle's int8 artifact is converted from."""
    run, scheme = read_run(source), read_scheme(source)
    weights = _weights_to_quantize(source)
    model = build_float(run.deployed, read_tensors(weights), str(weights))
    return build_fake_quant(model, run.deployed, ranges_for(scheme, source), scheme)


def _weights_to_quantize(source: Path) -> Path:
    tuned = source / QAT_WEIGHTS_FILE
    return tuned if tuned.exists() else source / WEIGHTS_FILE


def measure_accuracy(source: Path, folder: Path, images: LabelledImages) -> Manifest:
    """Measure all artifacts on labelled images, and write what they reach into the manifest.

    Args:
        source: what the bundle was made from.
        folder: the bundle.
        images: the test split.

    Returns:
        The manifest as written.
    """
    manifest = read_manifest(folder)
    predicted: dict[tuple[str, str], Classes] = {}
    for engine in ENGINES:
        pair = [open_engine(folder, precision=precision, engine=engine) for precision in PRECISIONS]
        paired = predict_pair(pair[0], pair[1], list(images.images), len(manifest.labels))
        predicted |= {("float32", engine): paired.reference, ("int8", engine): paired.candidate}
    inputs = np.concatenate([preprocess(image, manifest.input_spec) for image in images.images])
    simulated = top1(logits(quantized_network(source), inputs))
    artifacts = []
    for artifact in manifest.artifacts:
        classes = predicted[artifact.precision, artifact.engine]
        accuracy = Accuracy(
            dataset=images.dataset,
            split=images.split,
            images=len(images.labels),
            top1=agreement(classes, images.labels),
            fake_quant_agreement=agreement(classes, simulated) if artifact.precision == "int8" else None,
        )
        artifacts.append(dataclasses.replace(artifact, accuracy=accuracy))
    manifest = dataclasses.replace(manifest, artifacts=tuple(artifacts))
    write_manifest(folder, manifest)
    return manifest


def _known_accuracies(folder: Path) -> dict[str, Accuracy | None]:
    """Return the accuracies of an earlier bundle by its artifacts' hashes; none if there is no sound one."""
    try:
        return {artifact.sha256: artifact.accuracy for artifact in read_manifest(folder).artifacts}
    except ArtifactError:
        return {}


def _describe(
    path: Path, precision: str, engine: str, known: dict[str, Accuracy | None], audit: Audit | None
) -> Artifact:
    digest = sha256_of(path)
    return Artifact(
        file=path.name,
        precision=precision,
        engine=engine,
        sha256=digest,
        size_bytes=path.stat().st_size,
        accuracy=known.get(digest),
        audit=audit,
    )


def describe_run(run: Run) -> Manifest:
    """Return the manifest of a run's network, of which there are no artifacts yet."""
    config = run.deployed
    side = config.input_size // config.overlay_stride_px
    levels = config.focal_levels[config.overlay_stage]
    return Manifest(
        preset=run.preset,
        config=dataclasses.asdict(config),
        input_spec=config.input_spec,
        labels=run.labels,
        outputs={
            "logits": (1, config.classes),
            "gates": (1, side, side, levels + 1),
            "modulator": (1, side, side),
        },
        overlay=Overlay(config.overlay_layer, config.overlay_stride_px, levels),
        dataset=run.dataset,
        calibration_sha256=None,
        artifacts=(),
        tools={tool: version(tool) for tool in TOOLS},
    )


def onnx_properties(run: Run) -> dict[str, Any]:
    """Return what an ONNX artifact says of itself: its labels, and what its input must be made of an image."""
    made = describe_preprocessing(run.deployed.input_spec)
    return {"labels": list(run.labels), "preprocessing": f"{made}; RGB, 0..255: normalised in the graph"}


def describe_preprocessing(spec: InputSpec) -> str:
    """Return in words what an artifact's input must be made of an image."""
    if spec.interpolation == "bicubic":
        return (
            f"the short side resized to {spec.resized_short_side} pixels, antialiased bicubic, and the centre of "
            f"{spec.size} pixels a side"
        )
    share = "" if spec.crop_fraction == 1.0 else f" of {spec.crop_fraction:g} of the short side"
    return f"the centred square{share}, resized to {spec.size} pixels a side"


def copy_sources(source: Path, target: Path) -> None:
    """Copy what a bundle's artifacts are made from, how it was trained, and the run's report if there is one.

    Of these files `target` keeps none that `source` has not: weights of another run's fine-tuning, say.
    """
    made_from = [CONFIG_FILE, WEIGHTS_FILE, QAT_WEIGHTS_FILE, CALIBRATION_FILE, SCHEME_FILE]
    wanted = [*made_from, *TRAINING_FILES, f"report/{REPORT_FILE}"]
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
            manifest = measure_accuracy(source, target, read_split(source / TEST_FILE))
        print_closing_lines(target, manifest, sys.stdout)
    return 0


def print_closing_lines(folder: Path, manifest: Manifest, out: TextIO) -> None:
    """Print what became of an export to `out`, and to stderr a warning if int8 is no faster than float.

    The latencies are measured here and now, in a second or two for a network of the edge presets' size.
    """
    print(describe_bundle(folder, manifest), file=out)
    for engine in ENGINES:
        latencies = measure_latencies(folder, engine)
        print(describe_latencies(latencies["float32"], latencies["int8"], engine), file=out)
        warning = latency_warning(latencies["float32"], latencies["int8"], engine)
        if warning is not None:
            print(f"warning: {warning}", file=sys.stderr)


def measure_latencies(folder: Path, engine: str) -> dict[str, Latency]:
    """Measure an engine's artifacts of a bundle by turns on noise images, one thread; by precision."""
    engines = {precision: open_engine(folder, precision=precision, engine=engine) for precision in PRECISIONS}
    return measure(engines, synthetic_images(engines["int8"].input_spec.size), LATENCY_ROUNDS)


def describe_latencies(float32: Latency, int8: Latency, engine: str) -> str:
    """Return a line on how fast the int8 artifact of an engine is, by the ratio of medians."""
    return (
        f"{engine}: int8 is {speedup(float32, int8):.2f} times as fast as float32 on this machine "
        f"(p50 {int8.p50_ms:.2f} against {float32.p50_ms:.2f} ms, {LATENCY_ROUNDS} rounds, one thread)"
    )


def latency_warning(float32: Latency, int8: Latency, engine: str) -> str | None:
    """Return what to warn of if the int8 artifact's median is not below the float one's, else `None`."""
    if int8.p50_ms < float32.p50_ms:
        return None
    slower = (
        f"the int8 artifact is not faster than the float one on this machine (p50 {int8.p50_ms:.2f} against "
        f"{float32.p50_ms:.2f} ms)"
    )
    if engine != "tflite":
        return f"{engine}: {slower}"
    return (
        f"{engine}: {slower}: see with `python -m export.audit` whether the delegate takes it in one partition, "
        "and measure again on the device with `python -m runtime.benchmark`"
    )


def describe_bundle(folder: Path, manifest: Manifest) -> str:
    """Return a line on each artifact: file, size, how the delegate takes it, and its accuracy where it is known."""
    lines = []
    for artifact in manifest.artifacts:
        reached = "accuracy not measured on these bytes"
        if artifact.accuracy is not None:
            reached = f"{artifact.accuracy.dataset} {artifact.accuracy.split} top-1 {artifact.accuracy.top1:.2%}"
            if artifact.accuracy.fake_quant_agreement is not None:
                reached += f", {artifact.accuracy.fake_quant_agreement:.2%} as the fake-quantized network"
        lines.append(f"{folder / artifact.file}  {artifact.size_bytes} bytes{_delegation(artifact)}  {reached}")
    return os.linesep.join(lines)


def _delegation(artifact: Artifact) -> str:
    if artifact.audit is None:
        return ""
    outside = sum(len(names) for names in artifact.audit.outside_delegate.values())
    return f"  delegate partitions: {artifact.audit.delegate_partitions}, operators outside: {outside}"


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
