"""Artifacts of a run: conversion, manifest, accuracy and latency."""

from __future__ import annotations

import dataclasses
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from export.onnx import convert as onnx
from export.quantize.network import QuantizedNetwork
from export.quantize.qat import logits
from export.run_files import RunFiles
from export.tflite.convert import convert_float, convert_int8
from export.tflite.operators import Listing, check_scheme, list_operators, summarise
from runtime.bundle.manifest import (
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
from runtime.core.cli import say
from runtime.core.errors import ArtifactError
from runtime.core.files import replacing, sha256_of
from runtime.core.text import printable
from runtime.engines.engine import open_engine
from runtime.engines.registry import ENGINES
from runtime.evaluation.metrics import Classes, agreement, top1
from runtime.evaluation.predict import finite_logits, predicted_classes, run_pair
from runtime.evaluation.split_file import LabelledImages
from runtime.evaluation.timing import Latency, latencies_of, measure_times, speedup, synthetic_images
from runtime.images.input_spec import InputSpec
from runtime.images.preprocess import preprocess
from train.run import Run

ARTIFACTS_FOLDER = "artifacts"
TOOLS = ("tensorflow", "tensorflow-model-optimization", "tf_keras", "keras", "tf2onnx", "onnx", "onnxscript")
FILES = {(precision, engine): file for engine, kind in ENGINES.items() for precision, file in kind.files.items()}
LATENCY_ROUNDS = 50


def write_artifacts(files: RunFiles, target: Path, *, with_onnx: bool = True) -> Manifest:
    """Convert a run's weights, audit the TFLite artifacts, and write all artifacts with their manifest.

    Args:
        files: the run.
        target: the bundle's folder.
        with_onnx: write the ONNX artifacts too.

    Returns:
        The manifest. An artifact has an accuracy only if `target` had the same bytes with an accuracy before.

    Raises:
        ArtifactError: a file of the run is missing, damaged or does not fit, or the int8 artifact computes something
            in float that its scheme does not list; `target` is then unchanged.
        ConfigError: a layer to leave in float is not an int8 product of the network.
    """
    run, model, network = files.run, files.float_model, files.network
    contents: dict[tuple[str, str], bytes] = {}
    audits: dict[tuple[str, str], Audit] = {}
    with tqdm(total=4 if with_onnx else 2, desc="converting", unit="artifact", disable=None, leave=False) as bar:
        contents["float32", "tflite"] = convert_float(model, run.deployed)
        audits["float32", "tflite"] = summarise(list_operators(contents["float32", "tflite"], network.layers))
        bar.update()
        contents["int8", "tflite"], listing = convert_audited(network)
        audits["int8", "tflite"] = summarise(listing)
        bar.update()
        if with_onnx:
            properties = onnx_properties(run)
            contents["float32", "ort"] = onnx.convert_float(model, run.deployed, properties)
            bar.update()
            contents["int8", "ort"] = onnx.convert_int8(network, properties)
            bar.update()
    known = _known_accuracies(target)
    for kind, content in contents.items():
        with replacing(target / FILES[kind]) as temporary:
            temporary.write_bytes(content)
    manifest = dataclasses.replace(
        describe_run(run),
        calibration_sha256=files.calibration.sha256 if files.calibration else None,
        scheme=AppliedScheme(files.scheme.name, files.scheme.float_layers),
        artifacts=tuple(_describe(target / FILES[kind], *kind, known, audits.get(kind)) for kind in contents),
    )
    write_manifest(target, manifest)
    return manifest


def convert_audited(network: QuantizedNetwork) -> tuple[bytes, Listing]:
    """Convert a network to an int8 TFLite artifact, and audit it.

    Returns:
        The flatbuffer and its operators.

    Raises:
        ArtifactError: it computes something in float that the scheme does not list.
        ConfigError: a layer to leave in float is not an int8 product of the network.
    """
    content = convert_int8(network)
    listing = list_operators(content, network.layers)
    check_scheme(listing, network.scheme)
    return content, listing


def measure_accuracy(files: RunFiles, folder: Path, images: LabelledImages) -> Manifest:
    """Measure the accuracy of all artifacts, and write it into the manifest.

    Args:
        files: the run that the bundle was made from.
        folder: the bundle.
        images: the test split.

    Returns:
        The manifest as written.
    """
    manifest = read_manifest(folder)
    predicted: dict[tuple[str, str], Classes] = {}
    for engine in ENGINES:
        pair = [open_engine(folder, precision=precision, engine=engine) for precision in PRECISIONS]
        outputs = run_pair(pair[0], pair[1], images.images, len(manifest.labels), engine)
        paired = [(float32.logits, finite_logits(int8)) for float32, int8 in outputs]
        for precision, found in zip(PRECISIONS, zip(*paired, strict=True), strict=True):
            predicted[precision, engine] = predicted_classes(found)
    inputs = np.concatenate([preprocess(image, manifest.input_spec) for image in images.images])
    simulated = top1(logits(files.network.fake_quant, inputs))
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
    """Return the accuracies in a bundle's manifest by the artifacts' hashes; empty without a valid manifest."""
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
    """Return the manifest of a run's network, without artifacts."""
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
    """Return the metadata of a run's ONNX artifacts: labels, and how to make the input from an image."""
    made = describe_preprocessing(run.deployed.input_spec)
    return {"labels": list(run.labels), "preprocessing": f"{made}; RGB, 0..255: normalised in the graph"}


def describe_preprocessing(spec: InputSpec) -> str:
    """Return in words how an artifact's input is made from an image."""
    if spec.interpolation != "area":
        return (
            f"the short side resized to {spec.resized_short_side} pixels, antialiased {spec.interpolation}, and "
            f"the centre of {spec.size} pixels a side"
        )
    share = "" if spec.crop_fraction == 1.0 else f" of {spec.crop_fraction:g} of the short side"
    return f"the centred square{share}, resized to {spec.size} pixels a side"


def print_closing_lines(folder: Path, manifest: Manifest, out: TextIO) -> None:
    """Print the result of an export to `out`, and a warning to stderr if int8 is not faster than float.

    The latencies are measured now, which takes a second or two for a network of the edge presets' size.
    """
    print(describe_bundle(folder, manifest), file=out)
    for engine in ENGINES:
        latencies = measure_latencies(folder, engine)
        print(describe_latencies(latencies["float32"], latencies["int8"], engine), file=out)
        warning = latency_warning(latencies["float32"], latencies["int8"], engine)
        if warning is not None:
            say(f"warning: {warning}", sys.stderr)


def measure_latencies(folder: Path, engine: str) -> dict[str, Latency]:
    """Measure an engine's artifacts of a bundle, interleaved, on noise images, with one thread; by precision."""
    engines = {precision: open_engine(folder, precision=precision, engine=engine) for precision in PRECISIONS}
    images = synthetic_images(engines["int8"].input_spec.size)
    return latencies_of(measure_times(engines, images, LATENCY_ROUNDS))


def describe_latencies(float32: Latency, int8: Latency, engine: str) -> str:
    """Return a line with the speedup of an engine's int8 artifact, the ratio of medians."""
    return (
        f"{engine}: int8 is {speedup(float32, int8):.2f} times as fast as float32 on this machine "
        f"(p50 {int8.p50_ms:.2f} against {float32.p50_ms:.2f} ms, {LATENCY_ROUNDS} rounds, one thread)"
    )


def latency_warning(float32: Latency, int8: Latency, engine: str) -> str | None:
    """Return the warning for an int8 artifact whose median is not below the float one's, else `None`."""
    if int8.p50_ms < float32.p50_ms:
        return None
    warning = (
        f"{engine}: the int8 artifact is not faster than the float one on this machine (p50 {int8.p50_ms:.2f} against "
        f"{float32.p50_ms:.2f} ms)"
    )
    if engine != "tflite":
        return warning
    return (
        f"{warning}: see with `python -m export.audit` whether the delegate takes it in one partition, "
        "and measure again on the device with `python -m runtime.benchmark`"
    )


def describe_bundle(folder: Path, manifest: Manifest) -> str:
    """Return a line for each artifact: file, size, the delegate's partitions, and accuracy if known."""
    lines = []
    for artifact in manifest.artifacts:
        parts = [f"{folder / artifact.file}  {artifact.size_bytes} bytes"]
        if artifact.audit is not None:
            outside = sum(map(len, artifact.audit.outside_delegate.values()))
            parts.append(f"delegate partitions: {artifact.audit.delegate_partitions}, operators outside: {outside}")
        lines.append("  ".join([*parts, _describe_accuracy(artifact.accuracy)]))
    return "\n".join(map(printable, lines))


def _describe_accuracy(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return "accuracy not measured on these bytes"
    text = f"{accuracy.dataset} {accuracy.split} top-1 {accuracy.top1:.2%}"
    if accuracy.fake_quant_agreement is None:
        return text
    return f"{text}, {accuracy.fake_quant_agreement:.2%} as the fake-quantized network"
