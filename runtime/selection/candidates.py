"""The ways to run a bundle on this machine without a loss of accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from runtime.bundle.manifest import Artifact, Manifest
from runtime.core.errors import ConfigError
from runtime.core.machine import Cpu, read_cpu
from runtime.engines.registry import ENGINES, interpreter_versions
from runtime.evaluation.metrics import drop_pp

CACHE_VERSION = 1
DEFAULT_MAX_DROP_PP = 0.5
# With more threads, networks of this size gain nothing and other programs lose.
MOST_THREADS = 8


@dataclass(frozen=True)
class Machine:
    """What a choice depends on, besides the bundle.

    Attributes:
        cpu: the processor.
        interpreters: versions of the installed ones, by top-level module.
    """

    cpu: Cpu
    interpreters: Mapping[str, str]


@dataclass(frozen=True)
class Candidate:
    """One way to run a bundle; `engine` is a key of `ENGINES`."""

    engine: str
    precision: str
    threads: int

    def __str__(self) -> str:
        """Name it in a log."""
        return f"{self.precision} {self.engine}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Plan:
    """The candidates.

    Attributes:
        artifacts: those at parity whose interpreter is installed.
        threads: the numbers of threads to try.
        left_out: a reason for each other artifact.
        key: what a choice depends on: the machine, its interpreters and the artifacts, as JSON.
    """

    artifacts: tuple[Artifact, ...]
    threads: tuple[int, ...]
    left_out: tuple[str, ...]
    key: dict[str, Any]


def this_machine() -> Machine:
    """Describe the machine without importing an interpreter."""
    return Machine(read_cpu(), interpreter_versions())


def plan(manifest: Manifest, machine: Machine, max_drop_pp: float = DEFAULT_MAX_DROP_PP) -> Plan:
    """List the candidates; nothing is opened.

    Args:
        manifest: the bundle's.
        machine: where it will run.
        max_drop_pp: how much less accurate than float32 an int8 artifact may be, in percentage points.

    Raises:
        ConfigError: `max_drop_pp` is negative or not a number.
    """
    if not max_drop_pp >= 0:
        raise ConfigError(f"received a largest drop of {max_drop_pp}; give percentage points, 0 or more")
    kept, left_out = at_parity(manifest, max_drop_pp)
    runnable = []
    for artifact in kept:
        kind = ENGINES[artifact.engine]
        if any(each.package in machine.interpreters for each in kind.interpreters):
            runnable.append(artifact)
        else:
            name = f"{artifact.precision} {artifact.engine}"
            left_out.append(f"{name}: no interpreter is installed; run `pip install {kind.install}`")
    key = {
        "version": CACHE_VERSION,
        **asdict(machine),
        "artifacts": [[each.engine, each.precision, each.sha256] for each in runnable],
    }
    # As it will be read again: with lists for tuples.
    return Plan(tuple(runnable), thread_counts(machine.cpu.cores), tuple(left_out), json.loads(json.dumps(key)))


def at_parity(manifest: Manifest, max_drop_pp: float) -> tuple[list[Artifact], list[str]]:
    """Divide the artifacts into those as accurate as float32 and the others.

    Args:
        manifest: with the accuracies, which count only if measured on the same images.
        max_drop_pp: what an int8 artifact may lose, in percentage points.

    Returns:
        The artifacts at parity, all float32 ones among them, and a reason for each other one. If no artifact is at
        parity, as in a bundle with an int8 artifact only: all of them and no reason, since nothing else can run.
    """
    kept, left_out = [], []
    for artifact in manifest.artifacts:
        reason = None if artifact.precision == "float32" else _not_at_parity(artifact, manifest, max_drop_pp)
        if reason is None:
            kept.append(artifact)
        else:
            left_out.append(f"{artifact.precision} {artifact.engine}: {reason}")
    return (kept, left_out) if kept else (list(manifest.artifacts), [])


def thread_counts(cores: int) -> tuple[int, ...]:
    """Return the numbers of threads to try: 1, and one for each core up to a limit."""
    return tuple(sorted({1, min(cores, MOST_THREADS)}))


def _not_at_parity(artifact: Artifact, manifest: Manifest, max_drop_pp: float) -> str | None:
    floats = [each for each in manifest.artifacts if each.precision == "float32"]
    # The one for the same engine first.
    floats.sort(key=lambda each: each.engine != artifact.engine)
    ours = artifact.accuracy
    for reference in (each.accuracy for each in floats):
        if ours is None or reference is None:
            continue
        if (ours.dataset, ours.split, ours.images) != (reference.dataset, reference.split, reference.images):
            continue
        # Of whole images: a difference of two rounded accuracies may exceed a limit that it meets.
        correct = [round(accuracy.top1 * ours.images) for accuracy in (reference, ours)]
        drop = drop_pp(correct[0], correct[1], ours.images)
        return None if drop <= max_drop_pp else f"loses {drop:.2f} points of accuracy, more than {max_drop_pp:g}"
    return "the manifest has no accuracies of it and of float32 on the same images"
