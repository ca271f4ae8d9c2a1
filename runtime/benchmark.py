"""Latency of several engines, measured side by side in one run.

A processor's clock, caches and neighbours change over seconds. So the engines take turns, image by
image, and whatever slows the machine slows all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter_ns, sleep
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.core.cli import run_cli
from runtime.core.errors import ConfigError, FocalEdgeError
from runtime.engines.engine import open_engine
from runtime.engines.registry import ENGINES
from runtime.evaluation.metrics import percentile

WARM_UP_RUNS = 10
DEFAULT_ROUNDS = 200
WHAT = ("latency", "pipeline", "cold-start")
SYNTHETIC_IMAGES = 8


class Timed(Protocol):
    """What can be timed: a `runtime.engines.engine.Engine`, or anything else that runs on one image."""

    def run(self, image: NDArray[np.uint8], /) -> object:
        """Run on uint8 `[1, S, S, 3]`, and return when it is done."""


@dataclass(frozen=True)
class Latency:
    """The time of one classification, in milliseconds."""

    p50_ms: float
    p90_ms: float
    min_ms: float


def measure(
    engines: Mapping[str, Timed],
    images: Sequence[NDArray[np.uint8]],
    rounds: int,
    *,
    rest_s: float = 0.0,
    runs_before: int = 0,
) -> dict[str, Latency]:
    """Measure the latency of `run`, the engines taking turns; see `measure_times`.

    Returns:
        The latency of each engine, under its name.
    """
    times_ms = measure_times(engines, images, rounds, rest_s=rest_s, runs_before=runs_before)
    return {name: summarise(values) for name, values in times_ms.items()}


def measure_times(
    engines: Mapping[str, Timed],
    images: Sequence[NDArray[np.uint8]],
    rounds: int,
    *,
    rest_s: float = 0.0,
    runs_before: int = 0,
) -> dict[str, list[float]]:
    """Time every `run`, the engines taking turns.

    Each engine first runs a few times unmeasured. Then every round gives one image to every engine;
    the engine that goes first rotates, because the first one after a pause finds colder caches.

    Args:
        engines: the engines by name.
        images: uint8 `[1, S, S, 3]` each, RGB, of the engines' input size; used in turn.
        rounds: measured runs of each engine.
        rest_s: a pause before each engine's turn, in which the last one's threads fall asleep; in seconds.
        runs_before: unmeasured runs that begin each turn. Where many engines take turns, their weights
            push each other out of the caches, which a device that runs one of them does not see.

    Returns:
        The times of each engine in milliseconds, one a round, under its name.

    Raises:
        ConfigError: there is no engine, no image or no round.
    """
    if not engines or not images or rounds < 1:
        raise ConfigError(
            f"received {len(engines)} engines, {len(images)} images and {rounds} rounds; "
            "a benchmark needs at least one of each"
        )
    for index in range(WARM_UP_RUNS):
        for engine in engines.values():
            engine.run(images[index % len(images)])
    names = list(engines)
    times_ms: dict[str, list[float]] = {name: [] for name in names}
    for index in tqdm(range(rounds), desc="latency", unit="round", disable=None, leave=False):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            if rest_s:
                sleep(rest_s)
            for _ in range(runs_before):
                engines[name].run(images[index % len(images)])
            times_ms[name].append(_run_ms(engines[name], images[index % len(images)]))
    return times_ms


def _run_ms(engine: Timed, image: NDArray[np.uint8]) -> float:
    start_ns = perf_counter_ns()
    engine.run(image)
    return (perf_counter_ns() - start_ns) / 1e6


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


def speedup(baseline: Latency, other: Latency) -> float:
    """Return the ratio of medians, baseline to other: 2 means that `other` takes half the time.

    Args:
        baseline: the latency to compare with, of the same run.
        other: the latency in question.

    Returns:
        A positive ratio.

    Raises:
        FocalEdgeError: a median is not positive, so that the clock measured nothing.
    """
    if baseline.p50_ms <= 0 or other.p50_ms <= 0:
        raise FocalEdgeError(
            f"received median latencies {baseline.p50_ms} and {other.p50_ms} ms; expected positive ones: "
            "the clock is too coarse for this model"
        )
    return baseline.p50_ms / other.p50_ms


def synthetic_images(size: int) -> list[NDArray[np.uint8]]:
    """Return seeded noise images, uint8 `[1, size, size, 3]`, for when there is no data at hand."""
    generator = np.random.default_rng(0)
    shape = (SYNTHETIC_IMAGES, 1, size, size, 3)
    return list(generator.integers(0, 256, shape, dtype=np.uint8))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.benchmark",
        description="Measure the float and the int8 artifact of a bundle side by side on noise images, or what a "
        "device does with the int8 one.",
    )
    parser.add_argument(
        "--what",
        choices=WHAT,
        default=WHAT[0],
        help="one classification; the demo's whole pipeline on a video (runtime.soak); or the first image of a fresh "
        "process (runtime.cold_start) (%(default)s)",
    )
    parser.add_argument("--bundle", type=Path, required=True, help="folder with manifest.json and artifacts")
    parser.add_argument("--rounds", type=int, default=DEFAULT_ROUNDS, help="measured runs each (%(default)s)")
    parser.add_argument("--engine", choices=ENGINES, help="TFLite or ONNX Runtime (the manifest's first)")
    parser.add_argument("--threads", type=int, default=1, help="interpreter threads (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`."""
    arguments = _parser().parse_args(argv)
    if arguments.threads < 1:
        raise ConfigError(f"received --threads {arguments.threads}; expected 1 or more")
    if arguments.what != WHAT[0]:
        return _measure_elsewhere(arguments)
    engines = {
        precision: open_engine(
            arguments.bundle, precision=precision, engine=arguments.engine, threads=arguments.threads
        )
        for precision in ("float32", "int8")
    }
    images = synthetic_images(engines["float32"].input_spec.size)
    latencies = measure(engines, images, arguments.rounds)
    ratio = speedup(latencies["float32"], latencies["int8"])
    if arguments.json:
        figures = {name: asdict(latency) for name, latency in latencies.items()}
        run = {"engine": engines["int8"].name, "threads": arguments.threads, "rounds": arguments.rounds}
        print(json.dumps({**run, **figures, "speedup": ratio}, indent=2))
        return 0
    print(f"{engines['int8'].name}, {arguments.threads} thread(s), {arguments.rounds} rounds, ms per image")
    print(f"{'':8} {'p50':>9} {'p90':>9} {'min':>9}")
    for name, latency in latencies.items():
        print(f"{name:8} {latency.p50_ms:9.3f} {latency.p90_ms:9.3f} {latency.min_ms:9.3f}")
    print(f"int8 is {ratio:.2f} times as fast as float32 (ratio of medians)")
    return 0


def _measure_elsewhere(arguments: argparse.Namespace) -> int:
    """Run the module that measures a pipeline or a cold start, and return its exit code."""
    options = ["--bundle", str(arguments.bundle)]
    options += ["--engine", arguments.engine] if arguments.engine else []
    options += ["--json"] if arguments.json else []
    # Imported here: both use what most measurements of latency do without.
    if arguments.what == "pipeline":
        from runtime import soak

        return soak.main([*options, "--threads", str(arguments.threads)])
    from runtime import cold_start

    return cold_start.main(options)


if __name__ == "__main__":
    sys.exit(run_cli(main))
