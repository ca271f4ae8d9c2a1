import json
from dataclasses import dataclass, field

import numpy as np
import pytest

import runtime.benchmark
from runtime.benchmark import WARM_UP_RUNS, Latency, main, measure, speedup, summarise, synthetic_images
from runtime.core.cli import run_cli
from runtime.core.errors import ConfigError, FocalEdgeError
from runtime.engines.outputs import Outputs
from runtime.images.input_spec import InputSpec

OUTPUTS = Outputs(np.zeros(2, np.float32), np.zeros((1, 1, 2), np.float32), np.zeros((1, 1), np.float32))


@dataclass
class Clock:
    now_ns: int = 0

    def __call__(self) -> int:
        return self.now_ns


@dataclass
class ClockedEngine:
    """Takes a given time for each run, on a clock of its own, and logs who ran with what."""

    precision: str
    clock: Clock
    times_ms: list[float]
    log: list[tuple[str, int]] = field(default_factory=list)
    kind: str = "tflite"
    name: str = "clocked 1.0"
    threads: int = 1
    input_spec: InputSpec = field(default_factory=lambda: InputSpec(4))
    runs: int = 0

    def run(self, image: np.ndarray) -> Outputs:
        self.clock.now_ns += round(1e6 * self.times_ms[self.runs % len(self.times_ms)])
        self.runs += 1
        self.log.append((self.precision, int(image.flat[0])))
        return OUTPUTS


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(runtime.benchmark, "perf_counter_ns", clock)
    return clock


def images(count):
    return [np.full((1, 4, 4, 3), index, np.uint8) for index in range(count)]


def test_latencies_are_those_of_each_engine_in_milliseconds(clock):
    assert WARM_UP_RUNS % 10 == 0
    times_ms = [float(time) for time in range(1, 11)]
    engines = {
        "float32": ClockedEngine("float32", clock, times_ms),
        "int8": ClockedEngine("int8", clock, [2]),
    }
    latencies = measure(engines, images(3), rounds=10)
    assert latencies["float32"] == Latency(p50_ms=5.5, p90_ms=pytest.approx(9.1), min_ms=1.0)
    assert latencies["int8"] == Latency(2.0, 2.0, 2.0)
    assert speedup(latencies["float32"], latencies["int8"]) == 2.75


def test_warm_up_runs_are_not_measured(clock):
    slow_start = [1000.0] * WARM_UP_RUNS + [3.0] * 5
    latencies = measure({"int8": ClockedEngine("int8", clock, slow_start)}, images(1), rounds=5)
    assert latencies["int8"] == Latency(3.0, 3.0, 3.0)


def test_engines_take_turns_on_the_same_image_and_rotate(clock):
    log = []
    engines = {name: ClockedEngine(name, clock, [1], log) for name in "abc"}
    measure(engines, images(2), rounds=4)
    rounds = log[3 * WARM_UP_RUNS :]
    assert [name for name, _ in rounds] == list("abcbcacababc")
    assert [image for _, image in rounds] == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]


def test_a_turn_may_begin_with_a_pause_and_runs_that_are_not_measured(clock, monkeypatch):
    log, pauses = [], []
    monkeypatch.setattr(runtime.benchmark, "sleep", lambda pause_s: pauses.append((pause_s, len(log))))
    engines = {name: ClockedEngine(name, clock, [5.0, 5.0, 1.0], log) for name in "ab"}
    for engine in engines.values():
        engine.runs = -WARM_UP_RUNS  # so that a turn's last run is the short one
    latencies = measure(engines, images(2), rounds=2, rest_s=0.25, runs_before=2)
    assert [name for name, _ in log[2 * WARM_UP_RUNS :]] == [*"aaabbb", *"bbbaaa"]
    assert [image for _, image in log[2 * WARM_UP_RUNS :]] == [0] * 6 + [1] * 6
    assert pauses == [(0.25, 2 * WARM_UP_RUNS + 3 * turn) for turn in range(4)]
    assert latencies == {name: Latency(1.0, 1.0, 1.0) for name in "ab"}


@pytest.mark.parametrize(("engines", "count", "rounds"), [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, -3)])
def test_a_benchmark_of_nothing_is_refused(clock, engines, count, rounds):
    with pytest.raises(ConfigError, match="at least one of each"):
        measure({"int8": ClockedEngine("int8", clock, [1])} if engines else {}, images(count), rounds)


def test_a_clock_that_stands_still_gives_no_ratio():
    still, moving = summarise([0.0, 0.0]), summarise([1.0, 1.0])
    for pair in ((still, moving), (moving, still)):
        with pytest.raises(FocalEdgeError, match="too coarse"):
            speedup(*pair)


def test_synthetic_images_are_inputs_and_always_the_same():
    first, again = synthetic_images(6), synthetic_images(6)
    assert all(image.shape == (1, 6, 6, 3) and image.dtype == np.uint8 for image in first)
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert not np.array_equal(first[0], first[1])


@pytest.fixture
def fake_bundle(monkeypatch, clock):
    times_ms = {"float32": [4.0], "int8": [1.0]}
    monkeypatch.setattr(
        runtime.benchmark,
        "open_engine",
        lambda folder, precision, engine, threads: ClockedEngine(
            precision, clock, times_ms[precision], threads=threads
        ),
    )


def test_the_command_prints_figures_as_json(fake_bundle, capsys):
    assert main(["--bundle", "b", "--rounds", "5", "--threads", "2", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures == {
        "engine": "clocked 1.0",
        "threads": 2,
        "rounds": 5,
        "float32": {"p50_ms": 4.0, "p90_ms": 4.0, "min_ms": 4.0},
        "int8": {"p50_ms": 1.0, "p90_ms": 1.0, "min_ms": 1.0},
        "speedup": 4.0,
    }


def test_the_command_prints_a_table(fake_bundle, capsys):
    assert main(["--bundle", "b", "--rounds", "5"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["float32", "4.000", "4.000", "4.000"] in rows
    assert ["int8", "1.000", "1.000", "1.000"] in rows
    assert "4.00" in rows[-1]


@pytest.mark.parametrize("wrong", [["--threads", "0"], ["--rounds", "0"]])
def test_the_command_refuses_bad_numbers(fake_bundle, capsys, wrong):
    assert run_cli(main, ["--bundle", "b", *wrong]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_the_command_names_a_bundle_that_is_not_there(tmp_path, capsys):
    assert run_cli(main, ["--bundle", str(tmp_path / "none")]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err


@pytest.mark.parametrize(("what", "module"), [("pipeline", "soak"), ("cold-start", "cold_start")])
def test_the_command_measures_a_pipeline_and_a_cold_start_too(monkeypatch, what, module):
    received = []
    monkeypatch.setattr(f"runtime.{module}.main", lambda argv: received.extend(argv) or 7)
    assert main(["--bundle", "b", "--what", what, "--engine", "ort", "--json"]) == 7
    assert received[:5] == ["--bundle", "b", "--engine", "ort", "--json"]
