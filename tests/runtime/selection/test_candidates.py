"""Candidates: int8 only at parity, only with an interpreter, on one thread and on several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from runtime.bundle.manifest import Accuracy, Manifest
from runtime.core.errors import ConfigError
from runtime.core.machine import Cpu
from runtime.selection.candidates import Machine, at_parity, plan, thread_counts
from tests.support.tiny_bundle import write_bundle

MACHINE = Machine(Cpu("A CPU", "aarch64", 2, ()), {"tflite_runtime": "2.14.0"})


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_bundle(tmp_path, b"a model", b"another")


def with_accuracies(manifest: Manifest, *accuracies: Accuracy | None) -> Manifest:
    """Return the manifest with these accuracies, in the order of its artifacts."""
    artifacts = tuple(
        replace(artifact, accuracy=accuracy) for artifact, accuracy in zip(manifest.artifacts, accuracies, strict=True)
    )
    return replace(manifest, artifacts=artifacts)


def accuracy(top1: float, images: int = 10_000, split: str = "test") -> Accuracy:
    return Accuracy("colours", split, images, top1)


def kinds(manifest: Manifest, max_drop_pp: float = 0.5) -> list[str]:
    kept, left_out = at_parity(manifest, max_drop_pp)
    assert len(kept) + len(left_out) == len(manifest.artifacts)
    return [f"{artifact.precision} {artifact.engine}" for artifact in kept]


def test_int8_is_at_parity_up_to_the_limit(manifest: Manifest) -> None:
    # 0.9049 - 0.8999 is more than 0.005 in floating point.
    exact = with_accuracies(manifest, accuracy(0.9049), accuracy(0.8999), accuracy(0.9049), accuracy(0.8998))
    assert kinds(exact) == ["float32 tflite", "int8 tflite", "float32 ort"]
    _, (reason,) = at_parity(exact, 0.5)
    assert reason == "int8 ort: loses 0.51 points of accuracy, more than 0.5"
    assert kinds(exact, 0.51) == ["float32 tflite", "int8 tflite", "float32 ort", "int8 ort"]
    better = with_accuracies(manifest, accuracy(0.9), accuracy(0.91), accuracy(0.9), accuracy(0.9))
    assert kinds(better, 0.0) == ["float32 tflite", "int8 tflite", "float32 ort", "int8 ort"]


@pytest.mark.parametrize(
    ("float32", "int8"),
    [
        (accuracy(0.9), None),
        (None, accuracy(0.9)),
        (accuracy(0.9), accuracy(0.9, split="val")),
        (accuracy(0.9), accuracy(0.9, images=100)),
    ],
)
def test_parity_needs_accuracies_on_the_same_images(
    manifest: Manifest, float32: Accuracy | None, int8: Accuracy | None
) -> None:
    assert kinds(with_accuracies(manifest, float32, int8, None, None)) == ["float32 tflite", "float32 ort"]


def test_the_other_engines_float32_is_a_reference_too(manifest: Manifest) -> None:
    changed = with_accuracies(manifest, accuracy(0.9), None, None, accuracy(0.897))
    assert kinds(changed) == ["float32 tflite", "float32 ort", "int8 ort"]


def test_an_int8_artifact_alone_is_a_candidate(manifest: Manifest) -> None:
    alone = replace(manifest, artifacts=manifest.artifacts[1:2])
    assert at_parity(alone, 0.5) == ([manifest.artifacts[1]], [])


@pytest.mark.parametrize("limit", [-0.1, float("nan")])
def test_an_impossible_limit_is_refused(manifest: Manifest, limit: float) -> None:
    with pytest.raises(ConfigError, match="largest drop"):
        plan(manifest, MACHINE, limit)


def test_artifacts_without_interpreter_are_left_out(manifest: Manifest) -> None:
    found = plan(manifest, MACHINE)
    assert [(each.precision, each.engine) for each in found.artifacts] == [("float32", "tflite"), ("int8", "tflite")]
    assert found.threads == (1, 2)
    assert "int8 ort: no interpreter is installed; run `pip install onnxruntime`" in found.left_out


def test_threads_to_try() -> None:
    assert [thread_counts(cores) for cores in (1, 2, 4, 64)] == [(1,), (1, 2), (1, 4), (1, 8)]
