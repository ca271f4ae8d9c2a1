"""Faults planted into a shipped artifact or its data: each is caught by its own rule."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import Any

import cv2
import numpy as np
import pytest

from runtime.bundle.manifest import read_manifest, write_manifest
from runtime.core.files import sha256_of
from runtime.engines.engine import open_engine
from runtime.engines.outputs import Outputs
from runtime.evaluation.split_file import LabelledImages
from runtime.parity import comparison
from runtime.parity.comparison import Comparison, Effort, Extras
from runtime.parity.pair import Pair, open_precisions
from runtime.parity.rules import DEFAULT_LIMITS, Limit, read_limits
from runtime.video.sample_clip import sample_frames
from tests.support.parity import quick_measures
from tests.support.paths import SHIPPED

IMAGES = 240
LIMITS = read_limits(DEFAULT_LIMITS, "quantization")
# Speed and corruptions have their own tests, as they take long or need an idle machine.
TIMELESS = {name: limit for name, limit in LIMITS.items() if name not in ("min_speedup", "max_extra_drop_pp")}
EFFORT = Effort(corrupted_images=0, layer_images=24, rounds=10)


@pytest.fixture(scope="module")
def images() -> LabelledImages:
    """Crops of the sample clip and colour blobs, labelled with the float artifact's predictions."""
    engine, generator = open_engine(SHIPPED, precision="float32"), np.random.default_rng(0)
    frames = [frame for frame, _ in zip(sample_frames(), range(60), strict=False)]
    drawn = []
    for index in range(3 * IMAGES):
        frame = frames[index % len(frames)]
        top, left = (int(generator.integers(0, side - 96)) for side in frame.shape[:2])
        crop = cv2.resize(frame[top : top + 96, left : left + 96], (32, 32), interpolation=cv2.INTER_AREA)
        blob = cv2.resize(
            generator.integers(0, 256, (4, 4, 3), dtype=np.uint8), (32, 32), interpolation=cv2.INTER_CUBIC
        )
        drawn.append(crop if index % 2 else blob)
    logits = np.array([engine.run(image[np.newaxis]).logits for image in drawn])
    # The clearest predictions of float, so that sound rounding changes none.
    ordered = np.sort(logits, axis=1)
    clearest = np.sort(np.argsort(ordered[:, -2] - ordered[:, -1])[:IMAGES])
    labels = logits[clearest].argmax(axis=1).astype(np.int64)
    ids = tuple(f"crop/{index}" for index in range(IMAGES))
    return LabelledImages(np.stack(drawn)[clearest], labels, ids, read_manifest(SHIPPED).labels, "crops", "test")


def compare(
    pair: Pair,
    images: LabelledImages,
    limits: dict[str, Limit] = TIMELESS,
    effort: Effort = EFFORT,
    extras: Extras | None = None,
) -> Comparison:
    return comparison.compare(pair, images, limits, effort, extras, quick_measures())


def failed(pair: Pair, images: LabelledImages, *, limits: dict[str, Limit] = TIMELESS) -> set[str]:
    """Compare, and return the rules that fail; those that rest on few layers' images may warn."""
    return failures(compare(pair, images, limits).report)


def failures(report: dict[str, Any]) -> set[str]:
    return {rule["rule"] for rule in report["verdict"]["rules"] if rule["outcome"] == "fail"}


def open_damaged(folder: Path, damage: Callable[[Any], None]) -> Pair:
    """Damage a copy of the int8 artifact, and write its hash into the manifest."""
    from tensorflow.lite.tools import flatbuffer_utils

    shutil.copytree(SHIPPED, folder)
    path = folder / "int8.tflite"
    model = flatbuffer_utils.read_model(str(path))
    damage(model)
    path.write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    return open_vouched(folder)


def open_vouched(folder: Path) -> Pair:
    manifest = read_manifest(folder)
    artifacts = tuple(
        dataclasses.replace(each, sha256=sha256_of(folder / each.file), size_bytes=(folder / each.file).stat().st_size)
        for each in manifest.artifacts
    )
    write_manifest(folder, dataclasses.replace(manifest, artifacts=artifacts))
    return open_precisions(folder, "tflite", 1)


def convolution(model: Any, layer: str) -> tuple[Any, Any]:
    """Return the kernel and the bias of a layer's convolution."""
    graph = model.subgraphs[0]
    (operator,) = [
        each
        for each in graph.operators
        if f"quant_{layer}/Conv2D" in graph.tensors[each.outputs[0]].name.decode() and len(each.inputs) == 3
    ]
    return graph.tensors[operator.inputs[1]], graph.tensors[operator.inputs[2]]


def damage_output(pair: Pair, change: Callable[..., Outputs], *, with_image: bool = False) -> Pair:
    """Change the outputs of the int8 engine."""
    engine = pair.candidate.engine

    class Damaged:
        kind, name, precision = engine.kind, engine.name, engine.precision
        threads, input_spec = engine.threads, engine.input_spec

        def run(self, image: Any) -> Outputs:
            return change(engine.run(image), image) if with_image else change(engine.run(image))

    return Pair(pair.reference, dataclasses.replace(pair.candidate, engine=Damaged()))


@pytest.fixture
def pair() -> Pair:
    return open_precisions(SHIPPED, "tflite", 1)


def test_a_sound_artifact_fails_no_rule(pair: Pair, images: LabelledImages) -> None:
    assert failed(pair, images) == set()


def test_a_doubled_weight_scale(tmp_path: Path, images: LabelledImages) -> None:
    def double(model: Any) -> None:
        for tensor in convolution(model, "stage0.block1.expand"):
            tensor.quantization.scale = [2 * scale for scale in tensor.quantization.scale]

    damaged = open_damaged(tmp_path / "bundle", double)
    report = compare(damaged, images).report
    assert "min_layer_sqnr_db" in failures(report)
    assert report["layer_error"]["noisiest_layer"] == "stage0.block1.expand"


def test_a_zeroed_channel(tmp_path: Path, images: LabelledImages) -> None:
    zeroed = []

    def zero(model: Any) -> None:
        # The strongest one, as a network may have nearly dead channels.
        channel = int(np.argmax(convolution(model, "stage0.block1.context")[0].quantization.scale))
        zeroed.append(channel)
        for tensor, item in zip(convolution(model, "stage0.block1.context"), (np.int8, np.int32), strict=True):
            buffer = model.buffers[tensor.buffer]
            values = np.array(buffer.data, dtype=np.uint8).view(item).reshape(tensor.shape).copy()
            values[channel] = 0
            buffer.data = values.reshape(-1).view(np.uint8)

    damaged = open_damaged(tmp_path / "bundle", zero)
    report = compare(damaged, images).report
    assert "min_channel_sqnr_db" in failures(report)
    worst = next(each for each in report["layer_error"]["layers"] if each["layer"] == "stage0.block1.context")
    assert worst["channel"] == zeroed[0]
    assert worst["channel_sqnr_db"] == pytest.approx(0, abs=1.5)


def test_permuted_gates(pair: Pair, images: LabelledImages) -> None:
    permuted = damage_output(pair, lambda out: dataclasses.replace(out, gates=np.roll(out.gates, 1, axis=-1)))
    assert failed(permuted, images) == {"min_gate_cosine"}


def test_shuffled_labels(pair: Pair, images: LabelledImages) -> None:
    """Both artifacts are equally wrong: nothing drops, and only the reference's skill is low."""
    labels = np.random.default_rng(1).permutation(images.labels)
    assert failed(pair, dataclasses.replace(images, labels=labels)) == {"min_reference_skill"}


def test_a_nan_in_the_logits_of_one_image(pair: Pair, images: LabelledImages) -> None:
    seen = []

    def once(out: Outputs) -> Outputs:
        seen.append(out)
        return dataclasses.replace(out, logits=out.logits * np.nan) if len(seen) == 7 else out

    assert failed(damage_output(pair, once), images) == {"max_non_finite"}


def test_a_float_artifact_as_int8(tmp_path: Path, images: LabelledImages) -> None:
    shutil.copytree(SHIPPED, tmp_path / "bundle")
    shutil.copy(SHIPPED / "float.tflite", tmp_path / "bundle" / "int8.tflite")
    assert failed(open_vouched(tmp_path / "bundle"), images) == {"min_size_ratio"}


def test_a_slow_artifact(pair: Pair, images: LabelledImages) -> None:
    def slowly(out: Outputs) -> Outputs:
        sleep(0.003)
        return out

    few = dataclasses.replace(images, images=images.images[:200], labels=images.labels[:200], ids=images.ids[:200])
    assert failed(damage_output(pair, slowly), few, limits=TIMELESS | {"min_speedup": LIMITS["min_speedup"]}) == {
        "min_speedup"
    }


def test_an_artifact_that_fails_on_corrupted_images(pair: Pair, images: LabelledImages) -> None:
    known = {image.tobytes() for image in images.images}

    def blinded(out: Outputs, image: Any) -> Outputs:
        return out if image.tobytes() in known else dataclasses.replace(out, logits=np.roll(out.logits, 1))

    limits = TIMELESS | {"max_extra_drop_pp": LIMITS["max_extra_drop_pp"]}
    effort = dataclasses.replace(EFFORT, corrupted_images=20)
    report = compare(damage_output(pair, blinded, with_image=True), images, limits, effort).report
    assert failures(report) == {"max_extra_drop_pp"}
    assert report["corruptions"]["extra_drop_interval_pp"]["low"] > 5


def test_a_leaked_image(pair: Pair, images: LabelledImages) -> None:
    calibrated = "data_batch_1:4"
    named = dataclasses.replace(images, ids=(calibrated, *images.ids[1:]))
    assert failed(pair, named) == {"max_leaked_images"}
    # Under another name it is found by its pixels.
    calibration = dataclasses.replace(images, ids=tuple(f"train/{index}" for index in range(IMAGES)))
    few = dataclasses.replace(
        calibration, images=calibration.images[5:8], labels=calibration.labels[5:8], ids=calibration.ids[5:8]
    )
    report = compare(pair, images, extras=Extras(calibration=few)).report
    assert failures(report) == {"max_leaked_images"}
    assert report["calibration_leak"]["leaked_ids"] == ["crop/5", "crop/6", "crop/7"]


def test_a_bundle_without_its_calibration(tmp_path: Path, images: LabelledImages) -> None:
    shutil.copytree(SHIPPED, tmp_path / "run" / "bundle")
    (tmp_path / "run" / "bundle" / "calibration.json").unlink()
    alone = open_precisions(tmp_path / "run" / "bundle", "tflite", 1)
    assert failed(alone, images) == {"max_leaked_images"}
    # A run has it one folder up.
    shutil.copy(SHIPPED / "calibration.json", tmp_path / "run")
    assert failed(alone, images) == set()
