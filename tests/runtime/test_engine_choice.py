"""The choice of an engine: the fastest at parity, remembered for this machine, and never an error of the cache's."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import runtime.engine_choice as choice_module
from runtime.bundle.manifest import Accuracy, Manifest, read_manifest
from runtime.core.cli import run_cli
from runtime.core.errors import ArtifactError, ConfigError
from runtime.engine_choice import (
    Candidate,
    Measured,
    at_parity,
    cache_file,
    choose,
    choose_engine,
    fastest,
    main,
    measure_within,
    plan,
    thread_counts,
)
from runtime.engines.outputs import Outputs
from runtime.evaluation.timing import Latency
from runtime.images.input_spec import InputSpec
from tests.support.tiny_bundle import SIDE, write_bundle

OUTPUTS = Outputs(np.zeros(3, np.float32), np.zeros((1, 1, 3), np.float32), np.zeros((1, 1), np.float32))
BOTH = {"ai_edge_litert": "2.3.0", "onnxruntime": "1.31.0"}
FAST_S, SLOW_S = 0.0005, 0.004


@dataclass
class Fake:
    """Takes `pause_s` for each run."""

    pause_s: float
    kind: str
    precision: str
    threads: int
    name: str = "fake 1.0"
    input_spec: InputSpec = field(default_factory=lambda: InputSpec(SIDE))
    runs: int = 0

    def run(self, image: NDArray[np.uint8]) -> Outputs:
        assert image.shape == (1, SIDE, SIDE, 3)
        self.runs += 1
        time.sleep(self.pause_s)
        return OUTPUTS


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle", b"a model", b"another")
    return tmp_path / "bundle"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of two cores with both interpreters and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(choice_module, "usable_cores", lambda: 2)
    monkeypatch.setattr(choice_module, "interpreter_versions", lambda: BOTH)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Fake]:
    """What was opened; int8 for ONNX Runtime on two threads is the fastest."""
    engines: list[Fake] = []

    def open_fake(folder: Path, *, precision: str, engine: str, threads: int) -> Fake:
        quick = (precision, engine, threads) == ("int8", "ort", 2)
        engines.append(Fake(FAST_S if quick else SLOW_S, engine, precision, threads))
        return engines[-1]

    monkeypatch.setattr(choice_module, "open_engine", open_fake)
    return engines


def quickly(bundle: Path, log: Callable[[str], None] = lambda _: None, **options: Any) -> choice_module.Choice:
    return choose(bundle, log=log, budget_s=0.01, **options)


def with_accuracies(manifest: Manifest, *accuracies: Accuracy | None) -> Manifest:
    """The manifest with these accuracies, in the order of its artifacts."""
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


def test_int8_is_at_parity_up_to_the_limit(bundle: Path) -> None:
    manifest = read_manifest(bundle)
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
def test_without_accuracies_of_the_same_images_there_is_no_parity(
    bundle: Path, float32: Accuracy | None, int8: Accuracy | None
) -> None:
    manifest = with_accuracies(read_manifest(bundle), float32, int8, None, None)
    assert kinds(manifest) == ["float32 tflite", "float32 ort"]


def test_the_other_engines_float32_is_a_reference_too(bundle: Path) -> None:
    manifest = with_accuracies(read_manifest(bundle), accuracy(0.9), None, None, accuracy(0.897))
    assert kinds(manifest) == ["float32 tflite", "float32 ort", "int8 ort"]


def test_int8_alone_is_run_all_the_same(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    alone = replace(manifest, artifacts=manifest.artifacts[1:2])
    assert at_parity(alone, 0.5) == ([manifest.artifacts[1]], [])


@pytest.mark.parametrize("limit", [-0.1, float("nan")])
def test_a_limit_that_none_can_meet_is_refused(bundle: Path, limit: float) -> None:
    with pytest.raises(ConfigError, match="largest drop"):
        plan(read_manifest(bundle), limit)


def test_threads_to_try() -> None:
    assert [thread_counts(cores) for cores in (1, 2, 4, 64)] == [(1,), (1, 2), (1, 4), (1, 8)]


def measured(threads: int, p50_ms: float, precision: str = "int8") -> Measured:
    return Measured(Candidate("tflite", precision, threads), "fake", Latency(p50_ms, p50_ms, p50_ms))


def test_fewer_threads_win_within_five_percent() -> None:
    assert fastest([measured(4, 1.0), measured(1, 1.049)]).threads == 1
    assert fastest([measured(4, 1.0), measured(1, 1.06)]).threads == 4
    assert fastest([measured(1, 1.03, "float32"), measured(1, 1.0), measured(4, 0.99)]).precision == "int8"


def test_engines_take_turns_for_a_time() -> None:
    engines = {Candidate("tflite", "int8", 1): Fake(FAST_S, "tflite", "int8", 1)}
    engines[Candidate("ort", "int8", 1)] = Fake(SLOW_S, "ort", "int8", 1)
    start_s = time.perf_counter()
    fast, slow = measure_within(engines, 0.2).values()
    assert 0.2 <= time.perf_counter() - start_s < 2.0
    assert FAST_S <= fast.p50_ms / 1e3 < SLOW_S <= slow.p50_ms / 1e3
    first, second = (engine.runs for engine in engines.values())
    assert first == second
    # One run of warm-up, then two a round, and three rounds at least.
    measure_within(engines, 0.0)
    assert [engine.runs for engine in engines.values()] == [first + 7, first + 7]


def test_the_fastest_is_chosen_and_logged(bundle: Path, opened: list[Fake]) -> None:
    told: list[str] = []
    assert choose_engine(bundle, log=told.append) == ("ort", "int8", 2)
    assert len(opened) == 8
    assert told[0].startswith("int8 ort, 2 threads: p50 ")
    assert len(told) == 9
    assert told[-1] == "chosen: int8 ort, 2 threads"


def test_what_is_not_at_parity_is_not_measured(bundle: Path, opened: list[Fake]) -> None:
    manifest = read_manifest(bundle)
    write = {"artifacts": with_accuracies(manifest, *[accuracy(0.9)] * 3, accuracy(0.8)).artifacts}
    write_bundle(bundle, b"a model", b"another", **write)
    result = quickly(bundle)
    assert ("int8", "ort") not in {(engine.precision, engine.kind) for engine in opened}
    assert result.left_out == ("int8 ort: loses 10.00 points of accuracy, more than 0.5",)
    # A limit that lets it in asks another question, which the remembered answer is not for.
    assert quickly(bundle, max_drop_pp=11.0).candidate == Candidate("ort", "int8", 2)


def test_the_choice_is_remembered_for_this_machine(
    bundle: Path, opened: list[Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = quickly(bundle)
    again = quickly(bundle)
    assert len(opened) == 8
    assert again == replace(first, cached=True)
    quickly(bundle, fresh=True)
    assert len(opened) == 16
    monkeypatch.setattr(choice_module, "interpreter_versions", lambda: BOTH | {"onnxruntime": "1.32.0"})
    assert not quickly(bundle).cached
    monkeypatch.setattr(choice_module, "read_cpu", lambda: OTHER_CPU)
    assert not quickly(bundle).cached
    write_bundle(bundle, b"a model", b"a third")
    assert not quickly(bundle).cached
    assert quickly(bundle).cached


OTHER_CPU = choice_module.read_cpu(Path("/nowhere"), Path("/nowhere"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "",
        lambda _: "[]",
        lambda _: "null",
        lambda content: json.dumps(content)[:-20],
        lambda content: json.dumps(content | {"measured": []}),
        lambda content: json.dumps(content | {"key": content["key"] | {"version": 0}}),
        lambda content: json.dumps(content).replace('"int8"', '"int4"'),
        lambda content: json.dumps(content).replace('"threads": 2', '"threads": 512'),
        lambda content: json.dumps(content | {"measured": [row | {"latency": {}} for row in content["measured"]]}),
        lambda content: json.dumps(
            content
            | {
                "measured": [
                    row | {"latency": {"p50_ms": -1.0, "p90_ms": 1.0, "min_ms": 1.0}} for row in content["measured"]
                ]
            }
        ),
    ],
)
def test_a_damaged_memory_is_measured_anew(bundle: Path, opened: list[Fake], damage: Callable[[Any], str]) -> None:
    quickly(bundle)
    path = cache_file(plan(read_manifest(bundle)).key)
    assert path is not None
    path.write_text(damage(json.loads(path.read_text())))
    result = quickly(bundle)
    assert not result.cached
    assert result.candidate == Candidate("ort", "int8", 2)
    assert quickly(bundle).cached


def test_a_cache_that_cannot_be_written_is_told(
    bundle: Path, opened: list[Fake], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    told: list[str] = []
    assert quickly(bundle, told.append).candidate == Candidate("ort", "int8", 2)
    assert told[0].startswith("the choice is not remembered: cannot write")


def test_the_cache_is_where_it_should_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert str(cache_file({})).startswith(str(tmp_path / "cache" / "focaledge"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for nowhere in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", nowhere)
        assert str(cache_file({})).startswith(str(tmp_path / "home" / ".cache" / "focaledge"))


def test_an_artifact_without_interpreter_is_left_out(
    bundle: Path, opened: list[Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice_module, "interpreter_versions", lambda: {"tflite_runtime": "2.14.0"})
    result = quickly(bundle)
    assert {engine.kind for engine in opened} == {"tflite"}
    assert "int8 ort: no interpreter is installed; run `pip install onnxruntime`" in result.left_out
    assert quickly(bundle).cached
    monkeypatch.setattr(choice_module, "interpreter_versions", dict)
    with pytest.raises(ArtifactError, match=r"nothing in .* can be run here.*pip install ai-edge-litert"):
        quickly(bundle)


def test_an_artifact_that_cannot_be_opened_is_left_out_and_not_remembered(
    bundle: Path, opened: list[Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_fake = choice_module.open_engine

    def fail_for_ort(folder: Path, *, precision: str, engine: str, threads: int) -> Any:
        if engine == "ort":
            raise ArtifactError("too old for this file")
        return open_fake(folder, precision=precision, engine=engine, threads=threads)

    monkeypatch.setattr(choice_module, "open_engine", fail_for_ort)
    told: list[str] = []
    assert quickly(bundle, told.append).candidate.engine == "tflite"
    assert "left out: int8 ort: too old for this file" in told
    assert told[0].startswith("the choice is not remembered")
    assert not quickly(bundle).cached


def test_the_command_measures_a_real_bundle(
    tiny_model: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "real"
    write_bundle(folder, tiny_model)
    assert main(["--bundle", str(folder), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["cached"] is False
    assert {row["precision"] for row in content["measured"]} == {"float32", "int8"}
    assert all(0 < row["min_ms"] <= row["p50_ms"] <= row["p90_ms"] for row in content["measured"])
    assert main(["--bundle", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "measured earlier on this machine" in text
    assert text.count("tflite") >= 4


def test_a_missing_bundle_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(main, ["--bundle", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
