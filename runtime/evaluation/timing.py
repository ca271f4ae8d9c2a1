"""Latency of several engines, measured side by side: they take turns, image by image.

A processor's clock, caches and other programs change over seconds. What slows the machine slows every engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns, sleep
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.core.cli import BAR_DELAY_S
from runtime.core.errors import ConfigError, FocalEdgeError
from runtime.evaluation.metrics import percentile

WARM_UP_RUNS = 10
SYNTHETIC_IMAGES = 8

Name = TypeVar("Name")


class Timed(Protocol):
    """What can be timed: a `runtime.engines.engine.Engine`, or anything else that runs on one image."""

    def run(self, image: NDArray[np.uint8], /) -> object:
        """Run on uint8 `[1, S, S, 3]`, and return when it is done."""


@dataclass(frozen=True)
class Latency:
    """The time of one image, in milliseconds."""

    p50_ms: float
    p90_ms: float
    min_ms: float


def measure_times(
    engines: Mapping[Name, Timed],
    images: Sequence[NDArray[np.uint8]],
    rounds: int,
    *,
    lasting_s: float = 0.0,
    rest_s: float = 0.0,
    runs_before: int = 0,
    warm_up_runs: int = WARM_UP_RUNS,
    task: str = "latency",
    clock_ns: Callable[[], int] = perf_counter_ns,
    pause: Callable[[float], None] = sleep,
) -> dict[Name, list[float]]:
    """Time every `run`, the engines taking turns.

    Every round gives one image to every engine. The engine that goes first rotates, because the first one after a
    pause finds colder caches.

    Args:
        engines: the engines by name.
        images: uint8 `[1, S, S, 3]` each, RGB, of the engines' input size; used in turn.
        rounds: measured runs of each engine, 1 or more; the least number of them where `lasting_s` is given.
        lasting_s: rounds go on until so many seconds have passed.
        rest_s: a pause before each engine's turn, in which the last one's threads fall asleep, in seconds.
        runs_before: unmeasured runs that begin each turn. Where many engines take turns, their weights push each
            other out of the caches; a device that runs one of them does not see that.
        warm_up_runs: unmeasured runs of each engine before the first round.
        task: label of the progress bar.
        clock_ns: returns the time in nanoseconds.
        pause: sleeps for a number of seconds.

    Returns:
        The times of each engine in milliseconds, one a round, by its name.

    Raises:
        ConfigError: there is no engine, no image or no round.
    """
    if not engines or not images or rounds < 1:
        raise ConfigError(
            f"received {len(engines)} engines, {len(images)} images and {rounds} rounds; expected one or more of each"
        )
    for index in range(warm_up_runs):
        for engine in engines.values():
            engine.run(images[index % len(images)])
    names, index, start_ns = list(engines), 0, clock_ns()
    times_ms: dict[Name, list[float]] = {name: [] for name in names}
    total = None if lasting_s else rounds
    with tqdm(total=total, desc=task, unit="round", disable=None, leave=False, delay=BAR_DELAY_S) as bar:
        while index < rounds or clock_ns() - start_ns < 1e9 * lasting_s:
            first, image = index % len(names), images[index % len(images)]
            for name in names[first:] + names[:first]:
                if rest_s:
                    pause(rest_s)
                for _ in range(runs_before):
                    engines[name].run(image)
                run_ns = clock_ns()
                engines[name].run(image)
                times_ms[name].append((clock_ns() - run_ns) / 1e6)
            index += 1
            bar.update()
    return times_ms


def summarise(times_ms: Sequence[float]) -> Latency:
    """Summarise measured times.

    Args:
        times_ms: one time a run, in milliseconds.

    Returns:
        Their median, 90th percentile and minimum.

    Raises:
        FocalEdgeError: there is no time, or one is not finite.
    """
    return Latency(percentile(times_ms, 50), percentile(times_ms, 90), percentile(times_ms, 0))


def latencies_of(times_ms: Mapping[Name, Sequence[float]]) -> dict[Name, Latency]:
    """Summarise what `measure_times` returns: the latency of each engine, by its name."""
    return {name: summarise(values) for name, values in times_ms.items()}


def speedup(baseline: Latency, other: Latency) -> float:
    """Return the ratio of medians, baseline to other; 2 means that `other` takes half the time.

    Args:
        baseline: the latency to compare with.
        other: another one of the same run.

    Raises:
        FocalEdgeError: a median is not positive.
    """
    if baseline.p50_ms <= 0 or other.p50_ms <= 0:
        raise FocalEdgeError(
            f"received median latencies {baseline.p50_ms} and {other.p50_ms} ms; expected positive ones: "
            "the clock is too coarse for this model"
        )
    return baseline.p50_ms / other.p50_ms


def synthetic_images(size: int) -> list[NDArray[np.uint8]]:
    """Return seeded noise images, uint8 `[1, size, size, 3]`, to time engines without a dataset."""
    shape = (SYNTHETIC_IMAGES, 1, size, size, 3)
    return list(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
