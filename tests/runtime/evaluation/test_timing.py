"""The interleaved timing loop: turns, rotation, warm-up, and when it stops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.core.errors import ConfigError, FocalEdgeError
from runtime.evaluation.timing import (
    WARM_UP_RUNS,
    Latency,
    latencies_of,
    measure_times,
    speedup,
    summarise,
    synthetic_images,
)
from tests.support.clocked_engine import Clock, ClockedEngine


@pytest.fixture
def clock() -> Clock:
    return Clock()


def images(count: int) -> list[NDArray[np.uint8]]:
    return [np.full((1, 4, 4, 3), index, np.uint8) for index in range(count)]


def measure(engines: dict[str, ClockedEngine], count: int, rounds: int, **settings: Any) -> dict[str, Latency]:
    clock = next(iter(engines.values())).clock
    return latencies_of(measure_times(engines, images(count), rounds, clock_ns=clock, **settings))


def test_latencies_are_those_of_each_engine_in_milliseconds(clock: Clock) -> None:
    assert WARM_UP_RUNS % 10 == 0
    times_ms = [float(time) for time in range(1, 11)]
    engines = {"float32": ClockedEngine("float32", clock, times_ms), "int8": ClockedEngine("int8", clock, [2])}
    latencies = measure(engines, 3, rounds=10)
    assert latencies["float32"] == Latency(p50_ms=5.5, p90_ms=pytest.approx(9.1), min_ms=1.0)
    assert latencies["int8"] == Latency(2.0, 2.0, 2.0)
    assert speedup(latencies["float32"], latencies["int8"]) == 2.75


def test_warm_up_runs_are_not_measured(clock: Clock) -> None:
    slow_start = [1000.0] * WARM_UP_RUNS + [3.0] * 5
    latencies = measure({"int8": ClockedEngine("int8", clock, slow_start)}, 1, rounds=5)
    assert latencies["int8"] == Latency(3.0, 3.0, 3.0)


def test_engines_take_turns_on_the_same_image_and_rotate(clock: Clock) -> None:
    log: list[tuple[str, int]] = []
    measure({name: ClockedEngine(name, clock, [1], log) for name in "abc"}, 2, rounds=4)
    rounds = log[3 * WARM_UP_RUNS :]
    assert [name for name, _ in rounds] == list("abcbcacababc")
    assert [image for _, image in rounds] == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]


def test_a_turn_may_begin_with_a_pause_and_runs_that_are_not_measured(clock: Clock) -> None:
    log: list[tuple[str, int]] = []
    pauses: list[tuple[float, int]] = []
    engines = {name: ClockedEngine(name, clock, [5.0, 5.0, 1.0], log) for name in "ab"}
    for engine in engines.values():
        engine.runs = -WARM_UP_RUNS  # so that a turn's last run is the short one
    latencies = measure(
        engines, 2, rounds=2, rest_s=0.25, runs_before=2, pause=lambda pause_s: pauses.append((pause_s, len(log)))
    )
    assert [name for name, _ in log[2 * WARM_UP_RUNS :]] == [*"aaabbb", *"bbbaaa"]
    assert [image for _, image in log[2 * WARM_UP_RUNS :]] == [0] * 6 + [1] * 6
    assert pauses == [(0.25, 2 * WARM_UP_RUNS + 3 * turn) for turn in range(4)]
    assert latencies == {name: Latency(1.0, 1.0, 1.0) for name in "ab"}


@pytest.mark.parametrize(("lasting_s", "rounds"), [(0.0, 3), (0.02, 3), (0.05, 5), (0.051, 6)])
def test_rounds_go_on_for_a_time_and_are_so_many_at_least(clock: Clock, lasting_s: float, rounds: int) -> None:
    engines = {"fast": ClockedEngine("fast", clock, [2.0]), "slow": ClockedEngine("slow", clock, [8.0])}
    times_ms = measure_times(engines, images(2), 3, lasting_s=lasting_s, warm_up_runs=1, clock_ns=clock)
    assert times_ms == {"fast": [2.0] * rounds, "slow": [8.0] * rounds}
    assert engines["fast"].runs == engines["slow"].runs == rounds + 1


@pytest.mark.parametrize(("engines", "count", "rounds"), [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, -3)])
def test_a_measurement_of_nothing_is_refused(clock: Clock, engines: int, count: int, rounds: int) -> None:
    with pytest.raises(ConfigError, match="one or more of each"):
        measure_times({"int8": ClockedEngine("int8", clock, [1])} if engines else {}, images(count), rounds)


def test_a_clock_that_stands_still_gives_no_ratio() -> None:
    still, moving = summarise([0.0, 0.0]), summarise([1.0, 1.0])
    for pair in ((still, moving), (moving, still)):
        with pytest.raises(FocalEdgeError, match="too coarse"):
            speedup(*pair)


def test_synthetic_images_are_inputs_and_always_the_same() -> None:
    first, again = synthetic_images(6), synthetic_images(6)
    assert all(image.shape == (1, 6, 6, 3) and image.dtype == np.uint8 for image in first)
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert not np.array_equal(first[0], first[1])
