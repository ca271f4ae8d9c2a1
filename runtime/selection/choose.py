"""Measure the candidates and choose the fastest; the choice is kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from runtime.bundle.manifest import read_manifest
from runtime.core.errors import ArtifactError, FocalEdgeError
from runtime.core.files import read_json, write_json
from runtime.core.schema import check_field, parse
from runtime.core.text import printable
from runtime.engines.engine import Engine, open_engine
from runtime.evaluation.timing import Latency, latencies_of, measure_times, synthetic_images
from runtime.selection.candidates import DEFAULT_MAX_DROP_PP, Candidate, Machine, Plan, plan, this_machine

DEFAULT_TIME_S = 1.0
# More threads must be worth it: they take cores from the camera, and this much is noise.
FEWER_THREADS_WITHIN = 0.05
LEAST_ROUNDS = 3
REST_S = 0.002


@dataclass(frozen=True)
class Measured:
    """A candidate, the interpreter that ran it and its latency."""

    candidate: Candidate
    interpreter: str
    latency: Latency

    def __post_init__(self) -> None:
        """Check the latency."""
        fits = all(isfinite(value) and value > 0 for value in vars(self.latency).values())
        check_field(self, "latency", fits, "positive times")


@dataclass(frozen=True)
class Choice:
    """The choice and its figures.

    Attributes:
        candidate: the choice.
        measured: every candidate, the fastest first.
        left_out: why other artifacts were not measured.
        cached: `True` if the figures are from an earlier run on this machine.
    """

    candidate: Candidate
    measured: tuple[Measured, ...]
    left_out: tuple[str, ...]
    cached: bool


@dataclass(frozen=True)
class _Remembered:
    """The content of a cache file."""

    key: dict[str, Any]
    measured: tuple[Measured, ...]


def choose(
    bundle: Path,
    *,
    log: Callable[[str], None],
    max_drop_pp: float = DEFAULT_MAX_DROP_PP,
    fresh: bool = False,
    time_s: float = DEFAULT_TIME_S,
    machine: Machine | None = None,
    open_with: Callable[..., Engine] = open_engine,
) -> Choice:
    """Measure the artifacts at parity, on one thread and on several, and choose the fastest.

    Float32 is at parity, and int8 if the manifest's accuracies say so. The choice is kept in the user's cache, for
    this bundle, CPU and set of interpreters.

    Args:
        bundle: folder with manifest.json and artifacts.
        log: receives what goes wrong with the cache, a line at a time.
        max_drop_pp: how much less accurate than float32 an int8 artifact may be, in percentage points.
        fresh: measure again, even where the choice is cached.
        time_s: about how long to measure, in seconds; a slow network takes at least three rounds.
        machine: where the bundle runs; by default this machine.
        open_with: opens an artifact, as `open_engine` does.

    Returns:
        The choice and its figures.

    Raises:
        ConfigError: `max_drop_pp` is negative or not a number.
        ArtifactError: the bundle is damaged, or nothing in it can be run here.
    """
    candidates = plan(read_manifest(bundle), machine or this_machine(), max_drop_pp)
    choice = None if fresh else remembered(candidates)
    if choice is None:
        choice = _measure(bundle, candidates, time_s, open_with)
        _remember(candidates, choice, log)
    return choice


def fastest(measured: Sequence[Measured]) -> Candidate:
    """Return the candidate with the least median latency, or one with fewer threads within 5% of it."""
    limit_ms = min(each.latency.p50_ms for each in measured) * (1 + FEWER_THREADS_WITHIN)
    near = [each for each in measured if each.latency.p50_ms <= limit_ms]
    return min(near, key=lambda each: (each.candidate.threads, each.latency.p50_ms)).candidate


def remembered(candidates: Plan) -> Choice | None:
    """Return the cached choice among these candidates on this machine.

    Returns:
        The choice; `None` without one, or if its file is damaged or another machine's.
    """
    path = cache_file(candidates.key)
    if path is None:
        return None
    try:
        cached = parse(_Remembered, read_json(path, "python -m runtime.engine_choice --fresh"))
    except FocalEdgeError:
        return None
    known = {
        Candidate(each.engine, each.precision, threads)
        for each in candidates.artifacts
        for threads in candidates.threads
    }
    measured = tuple(cached.measured)
    if cached.key != candidates.key or not measured or not {each.candidate for each in measured} <= known:
        return None
    return Choice(fastest(measured), measured, candidates.left_out, cached=True)


def cache_file(key: Mapping[str, Any]) -> Path | None:
    """Return the cache file for `key`, below `XDG_CACHE_HOME` or ~/.cache; `None` without a home folder."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    try:
        # By that variable's specification, a relative path in it is ignored.
        named = Path(os.environ.get("XDG_CACHE_HOME", ""))
        folder = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return folder / "focaledge" / "engine" / f"{digest[:32]}.json"


def _measure(bundle: Path, candidates: Plan, time_s: float, open_with: Callable[..., Engine]) -> Choice:
    engines: dict[Candidate, Engine] = {}
    left_out = list(candidates.left_out)
    for artifact in candidates.artifacts:
        try:
            for threads in candidates.threads:
                candidate = Candidate(artifact.engine, artifact.precision, threads)
                engines[candidate] = open_with(bundle, **vars(candidate))
        except ArtifactError as error:
            left_out.append(printable(f"{artifact.precision} {artifact.engine}: {error}"))
    if not engines:
        raise ArtifactError(f"nothing in {bundle} can be run here: {'; '.join(left_out)}")
    found = measure_for(engines, time_s)
    measured = [Measured(candidate, engines[candidate].name, found[candidate]) for candidate in engines]
    measured.sort(key=lambda each: each.latency.p50_ms)
    return Choice(fastest(measured), tuple(measured), tuple(left_out), cached=False)


def measure_for(engines: Mapping[Candidate, Engine], time_s: float) -> dict[Candidate, Latency]:
    """Measure engines side by side for `time_s` seconds and at least three rounds; all have the same input size."""
    # Each turn begins with a pause, so that the last engine's threads fall asleep, and an unmeasured run, because
    # the other engines' weights have pushed this one's out of the caches.
    times_ms = measure_times(
        engines,
        synthetic_images(next(iter(engines.values())).input_spec.size),
        LEAST_ROUNDS,
        lasting_s=time_s,
        rest_s=REST_S,
        runs_before=1,
        warm_up_runs=1,
        task="choosing an engine",
    )
    return latencies_of(times_ms)


def _remember(candidates: Plan, choice: Choice, log: Callable[[str], None]) -> None:
    path = cache_file(candidates.key)
    try:
        if len(choice.left_out) > len(candidates.left_out):
            raise FocalEdgeError("an artifact could not be opened; copy or rebuild the bundle")
        if path is None:
            raise FocalEdgeError("there is no home folder; set XDG_CACHE_HOME")
        write_json(path, asdict(_Remembered(candidates.key, choice.measured)))
    # The choice stands; it is measured again the next time.
    except FocalEdgeError as error:
        log(f"the choice is not cached: {error}")
