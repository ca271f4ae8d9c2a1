"""The choice: the fastest at parity, cached for this machine; a damaged cache is never an error."""

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

from runtime.bundle.manifest import Accuracy, read_manifest
from runtime.core.errors import ArtifactError
from runtime.core.machine import Cpu
from runtime.engines.outputs import Outputs
from runtime.evaluation.timing import Latency
from runtime.images.input_spec import InputSpec
from runtime.selection.candidates import Candidate, Machine, plan
from runtime.selection.choose import Choice, Measured, cache_file, choose, fastest, measure_for
from tests.support.tiny_bundle import SIDE, write_bundle

OUTPUTS = Outputs(np.zeros(3, np.float32), np.zeros((1, 1, 3), np.float32), np.zeros((1, 1), np.float32))
BOTH = {"ai_edge_litert": "2.3.0", "onnxruntime": "1.31.0"}
MACHINE = Machine(Cpu("A CPU", "aarch64", 2, ()), BOTH)
FAST_S, SLOW_S = 0.0005, 0.004


@dataclass
class Fake:
    """An engine that takes `pause_s` for each run."""

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


@dataclass
class Chooser:
    """Chooses quickly among fakes; int8 for ONNX Runtime on two threads is the fastest."""

    bundle: Path
    opened: list[Fake] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    fails: str = ""

    def open(self, folder: Path, *, precision: str, engine: str, threads: int) -> Fake:
        if engine == self.fails:
            raise ArtifactError("too old for this file")
        quick = (precision, engine, threads) == ("int8", "ort", 2)
        self.opened.append(Fake(FAST_S if quick else SLOW_S, engine, precision, threads))
        return self.opened[-1]

    def __call__(self, machine: Machine = MACHINE, **options: Any) -> Choice:
        return choose(self.bundle, log=self.logged.append, time_s=0.01, machine=machine, open_with=self.open, **options)


@pytest.fixture
def chooser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chooser:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_bundle(tmp_path / "bundle", b"a model", b"another")
    return Chooser(tmp_path / "bundle")


def measured(threads: int, p50_ms: float, precision: str = "int8") -> Measured:
    return Measured(Candidate("tflite", precision, threads), "fake", Latency(p50_ms, p50_ms, p50_ms))


def test_fewer_threads_win_within_five_percent() -> None:
    assert fastest([measured(4, 1.0), measured(1, 1.049)]).threads == 1
    assert fastest([measured(4, 1.0), measured(1, 1.06)]).threads == 4
    assert fastest([measured(1, 1.03, "float32"), measured(1, 1.0), measured(4, 0.99)]).precision == "int8"


def test_engines_take_turns_for_a_time() -> None:
    engines = {Candidate("tflite", "int8", 1): Fake(FAST_S, "tflite", "int8", 1)}
    engines[Candidate("ort", "int8", 1)] = Fake(SLOW_S, "ort", "int8", 1)
    fast, slow = measure_for(engines, 0.1).values()
    assert FAST_S <= fast.p50_ms / 1e3 < SLOW_S <= slow.p50_ms / 1e3
    first, second = (engine.runs for engine in engines.values())
    assert first == second
    # One run of warm-up, then two a round, and three rounds at least.
    measure_for(engines, 0.0)
    assert [engine.runs for engine in engines.values()] == [first + 7, first + 7]


def test_the_fastest_is_chosen(chooser: Chooser) -> None:
    result = chooser()
    assert result.candidate == result.measured[0].candidate == Candidate("ort", "int8", 2)
    assert len(chooser.opened) == len(result.measured) == 8
    assert chooser.logged == []


def test_artifacts_not_at_parity_are_not_measured(chooser: Chooser) -> None:
    *others, last = read_manifest(chooser.bundle).artifacts
    worse = replace(last, accuracy=Accuracy("colours", "test", 30, 0.8))
    write_bundle(chooser.bundle, b"a model", b"another", artifacts=(*others, worse))
    result = chooser()
    assert ("int8", "ort") not in {(engine.precision, engine.kind) for engine in chooser.opened}
    assert result.left_out == ("int8 ort: loses 10.00 points of accuracy, more than 0.5",)
    # A limit that lets it in is another question, which the cached choice does not answer.
    assert chooser(max_drop_pp=11.0).candidate == Candidate("ort", "int8", 2)


def test_the_choice_is_cached_for_this_machine(chooser: Chooser) -> None:
    first = chooser()
    assert chooser() == replace(first, cached=True)
    assert len(chooser.opened) == 8
    chooser(fresh=True)
    assert len(chooser.opened) == 16
    upgraded = replace(MACHINE, interpreters=BOTH | {"onnxruntime": "1.32.0"})
    assert not chooser(upgraded).cached
    assert not chooser(replace(upgraded, cpu=replace(MACHINE.cpu, model="Another"))).cached
    write_bundle(chooser.bundle, b"a model", b"a third")
    assert not chooser().cached
    assert chooser().cached


def with_latency(content: dict[str, Any], latency: dict[str, float]) -> str:
    return json.dumps(content | {"measured": [row | {"latency": latency} for row in content["measured"]]})


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
        lambda content: with_latency(content, {}),
        lambda content: with_latency(content, {"p50_ms": -1.0, "p90_ms": 1.0, "min_ms": 1.0}),
    ],
)
def test_a_damaged_cache_is_replaced(chooser: Chooser, damage: Callable[[Any], str]) -> None:
    chooser()
    path = cache_file(plan(read_manifest(chooser.bundle), MACHINE).key)
    assert path is not None
    path.write_text(damage(json.loads(path.read_text())))
    result = chooser()
    assert not result.cached
    assert result.candidate == Candidate("ort", "int8", 2)
    assert chooser().cached


def test_a_cache_that_cannot_be_written_is_logged(
    chooser: Chooser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert chooser().candidate == Candidate("ort", "int8", 2)
    assert chooser.logged[0].startswith("the choice is not cached: cannot write")


def test_the_cache_follows_the_specification(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert str(cache_file({})).startswith(str(tmp_path / "cache" / "focaledge"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert str(cache_file({})).startswith(str(tmp_path / "home" / ".cache" / "focaledge"))


def test_without_interpreters_there_is_no_choice(chooser: Chooser) -> None:
    only_tflite = replace(MACHINE, interpreters={"tflite_runtime": "2.14.0"})
    chooser(only_tflite)
    assert {engine.kind for engine in chooser.opened} == {"tflite"}
    assert chooser(only_tflite).cached
    with pytest.raises(ArtifactError, match=r"nothing in .* can be run here.*pip install ai-edge-litert"):
        chooser(replace(MACHINE, interpreters={}))


def test_an_artifact_that_cannot_be_opened_is_left_out_and_not_cached(chooser: Chooser) -> None:
    chooser.fails = "ort"
    result = chooser()
    assert result.candidate.engine == "tflite"
    assert "int8 ort: too old for this file" in result.left_out
    assert chooser.logged[0].startswith("the choice is not cached")
    assert not chooser().cached
