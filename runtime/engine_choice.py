"""Which artifact and interpreter are the fastest here without a loss of accuracy: measured once, then remembered."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtime.bundle.default import default_bundle
from runtime.bundle.manifest import Artifact, Manifest, read_manifest
from runtime.core.cli import run_cli
from runtime.core.errors import ArtifactError, ConfigError, FocalEdgeError
from runtime.core.files import read_json, write_json
from runtime.core.machine import read_cpu, usable_cores
from runtime.engines.engine import Engine, open_engine
from runtime.engines.registry import ENGINES, interpreter_versions
from runtime.evaluation.metrics import drop_pp
from runtime.evaluation.timing import Latency, latencies_of, measure_times, synthetic_images

CACHE_VERSION = 1
DEFAULT_BUDGET_S = 1.0
DEFAULT_MAX_DROP_PP = 0.5
# Above this the networks that are meant here gain nothing, and other programs lose.
MOST_THREADS = 8
# More threads must be worth it: they take cores from the camera, and this much is noise.
FEWER_THREADS_WITHIN = 0.05
LEAST_ROUNDS = 3
REST_S = 0.002


@dataclass(frozen=True)
class Candidate:
    """One way to run the bundle; `engine` is `"tflite"` or `"ort"`."""

    engine: str
    precision: str
    threads: int

    def __str__(self) -> str:
        """Name it in a log."""
        return f"{self.precision} {self.engine}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Measured:
    """A candidate, the interpreter that ran it and its latency."""

    candidate: Candidate
    interpreter: str
    latency: Latency


@dataclass(frozen=True)
class Plan:
    """What there is to choose from.

    Attributes:
        artifacts: those at parity whose interpreter is installed.
        left_out: why the others are not.
        key: what a choice depends on: the machine, its interpreters and the artifacts.
    """

    artifacts: tuple[Artifact, ...]
    left_out: tuple[str, ...]
    key: dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """What was chosen, and from what.

    Attributes:
        candidate: the choice.
        measured: every candidate, the fastest first.
        left_out: why other artifacts were not measured.
        cached: whether the figures are of an earlier run on this machine.
    """

    candidate: Candidate
    measured: tuple[Measured, ...]
    left_out: tuple[str, ...]
    cached: bool


def choose_engine(
    bundle: Path,
    *,
    log: Callable[[str], None],
    max_drop_pp: float = DEFAULT_MAX_DROP_PP,
    fresh: bool = False,
) -> tuple[str, str, int]:
    """Choose what runs a bundle fastest on this machine; see `choose`.

    Args:
        bundle: folder with manifest.json and artifacts.
        log: is told what was measured and chosen, a line at a time.
        max_drop_pp: how much less accurate than float32 an int8 artifact may be, in percentage points.
        fresh: measure again, even where the choice is remembered.

    Returns:
        The engine, `"tflite"` or `"ort"`, the precision and the number of threads, as `open_engine` takes them.

    Raises:
        ConfigError: `max_drop_pp` is negative or not a number.
        ArtifactError: the bundle is damaged, or nothing in it can be run here.
    """
    candidate = choose(bundle, log=log, max_drop_pp=max_drop_pp, fresh=fresh).candidate
    return candidate.engine, candidate.precision, candidate.threads


def choose(
    bundle: Path,
    *,
    log: Callable[[str], None],
    max_drop_pp: float = DEFAULT_MAX_DROP_PP,
    fresh: bool = False,
    budget_s: float = DEFAULT_BUDGET_S,
) -> Choice:
    """Measure the artifacts at parity, on one thread and on several, and choose the fastest.

    At parity is float32, and int8 if the manifest's accuracies say so. The choice is remembered in the user's cache,
    for this bundle, CPU and set of interpreters.

    Args:
        bundle: folder with manifest.json and artifacts.
        log: is told what was measured and chosen, a line at a time.
        max_drop_pp: how much less accurate than float32 an int8 artifact may be, in percentage points.
        fresh: measure again, even where the choice is remembered.
        budget_s: about how long to measure, in seconds; a slow network takes three rounds all the same.

    Returns:
        The choice and its figures.

    Raises:
        ConfigError: `max_drop_pp` is negative or not a number.
        ArtifactError: the bundle is damaged, or nothing in it can be run here.
    """
    candidates = plan(read_manifest(bundle), max_drop_pp)
    choice = None if fresh else remembered(candidates)
    if choice is None:
        choice = _measured_choice(bundle, candidates, budget_s)
        _remember(candidates, choice, log)
    for line in describe(choice):
        log(line)
    return choice


def plan(manifest: Manifest, max_drop_pp: float = DEFAULT_MAX_DROP_PP) -> Plan:
    """Return what there is to choose from on this machine; nothing is opened.

    Args:
        manifest: that of the bundle.
        max_drop_pp: how much less accurate than float32 an int8 artifact may be, in percentage points.

    Raises:
        ConfigError: `max_drop_pp` is negative or not a number.
    """
    if not max_drop_pp >= 0:
        raise ConfigError(f"received a largest drop of {max_drop_pp}; give percentage points, 0 or more")
    kept, left_out = at_parity(manifest, max_drop_pp)
    versions = interpreter_versions()
    runnable = [
        artifact for artifact in kept if any(each.package in versions for each in ENGINES[artifact.engine].interpreters)
    ]
    left_out += [
        f"{each.precision} {each.engine}: no interpreter is installed; run `pip install {ENGINES[each.engine].install}`"
        for each in kept
        if each not in runnable
    ]
    key = {
        "version": CACHE_VERSION,
        "cpu": asdict(read_cpu()),
        "interpreters": versions,
        "artifacts": [[each.engine, each.precision, each.sha256] for each in runnable],
    }
    # As it will be read again: with lists for tuples.
    return Plan(tuple(runnable), tuple(left_out), json.loads(json.dumps(key)))


def at_parity(manifest: Manifest, max_drop_pp: float) -> tuple[list[Artifact], list[str]]:
    """Divide the artifacts into those that are as accurate as float32 and the others.

    Args:
        manifest: with the accuracies. They count only if they were measured on the same images.
        max_drop_pp: what an int8 artifact may lose, in percentage points.

    Returns:
        The artifacts at parity, all float32 ones among them, and the reason why each other one is not. Where none
        is, as in a bundle of an int8 artifact alone, all of them and no reason: there is nothing else to run.
    """
    kept, left_out = [], []
    for artifact in manifest.artifacts:
        reason = None if artifact.precision == "float32" else _not_at_parity(artifact, manifest, max_drop_pp)
        if reason is None:
            kept.append(artifact)
        else:
            left_out.append(f"{artifact.precision} {artifact.engine}: {reason}")
    return (kept, left_out) if kept else (list(manifest.artifacts), [])


def _not_at_parity(artifact: Artifact, manifest: Manifest, max_drop_pp: float) -> str | None:
    floats = [each for each in manifest.artifacts if each.precision == "float32"]
    # That of the same engine, if there is one.
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
    return "the manifest does not tell its accuracy and float32's on the same images"


def thread_counts(cores: int) -> tuple[int, ...]:
    """Return the numbers of threads to try: 1, and as many as there are cores, to a limit."""
    return tuple(sorted({1, min(cores, MOST_THREADS)}))


def _measured_choice(bundle: Path, candidates: Plan, budget_s: float) -> Choice:
    engines: dict[Candidate, Engine] = {}
    left_out = list(candidates.left_out)
    for artifact in candidates.artifacts:
        try:
            for threads in thread_counts(usable_cores()):
                candidate = Candidate(artifact.engine, artifact.precision, threads)
                engines[candidate] = open_engine(
                    bundle, precision=artifact.precision, engine=artifact.engine, threads=threads
                )
        except ArtifactError as error:
            left_out.append(f"{artifact.precision} {artifact.engine}: {error}")
    if not engines:
        raise ArtifactError(f"nothing in {bundle} can be run here: {'; '.join(left_out)}")
    found = measure_within(engines, budget_s)
    measured = [Measured(candidate, engines[candidate].name, found[candidate]) for candidate in engines]
    measured.sort(key=lambda each: each.latency.p50_ms)
    return Choice(fastest(measured), tuple(measured), tuple(left_out), cached=False)


def measure_within(engines: Mapping[Candidate, Engine], budget_s: float) -> dict[Candidate, Latency]:
    """Measure engines side by side for a time, not for a count of rounds.

    Each turn begins with an unmeasured run, as the other engines' weights have pushed this one's out of the caches,
    and after a pause in which the last one's threads fall asleep.

    Args:
        engines: all of one input size.
        budget_s: after so many seconds no round begins, once there were three.

    Returns:
        The latency of each.
    """
    images = synthetic_images(next(iter(engines.values())).input_spec.size)
    return latencies_of(
        measure_times(
            engines,
            images,
            LEAST_ROUNDS,
            lasting_s=budget_s,
            rest_s=REST_S,
            runs_before=1,
            warm_up_runs=1,
            task="choosing an engine",
        )
    )


def fastest(measured: Sequence[Measured]) -> Candidate:
    """Return the candidate with the least median latency, or one with fewer threads that is within 5% of it."""
    limit_ms = min(each.latency.p50_ms for each in measured) * (1 + FEWER_THREADS_WITHIN)
    near = [each for each in measured if each.latency.p50_ms <= limit_ms]
    return min(near, key=lambda each: (each.candidate.threads, each.latency.p50_ms)).candidate


def cache_file(key: Mapping[str, Any]) -> Path | None:
    """Return where the choice for `key` is remembered, below `XDG_CACHE_HOME` or ~/.cache; `None` without a home."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    try:
        # By that variable's specification, a relative path in it counts for nothing.
        named = Path(os.environ.get("XDG_CACHE_HOME", ""))
        folder = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return folder / "focaledge" / "engine" / f"{digest[:32]}.json"


def remembered(candidates: Plan) -> Choice | None:
    """Return the choice that was made before of these candidates on this machine.

    Returns:
        The choice; `None` where there is none, or where its file is damaged or another machine's.
    """
    path = cache_file(candidates.key)
    if path is None:
        return None
    try:
        content = read_json(path, "python -m runtime.engine_choice --fresh")
        if content["key"] != candidates.key:
            return None
        measured = tuple(
            Measured(Candidate(**each["candidate"]), str(each["interpreter"]), Latency(**each["latency"]))
            for each in content["measured"]
        )
        for each in measured:
            _check(each, candidates.key)
        return Choice(fastest(measured), measured, candidates.left_out, cached=True)
    except (FocalEdgeError, KeyError, TypeError, ValueError):
        return None


def _check(measured: Measured, key: Mapping[str, Any]) -> None:
    """Refuse, with a ValueError, a figure that no measurement can have written."""
    candidate, latency = measured.candidate, measured.latency
    known = [(engine, precision) for engine, precision, _ in key["artifacts"]]
    times_ms = (latency.p50_ms, latency.p90_ms, latency.min_ms)
    if (candidate.engine, candidate.precision) not in known or candidate.threads not in thread_counts(usable_cores()):
        raise ValueError(f"no such candidate: {candidate}")
    if not all(isinstance(value, float) and 0 < value < float("inf") for value in times_ms):
        raise ValueError(f"no such latency: {latency}")


def _remember(candidates: Plan, choice: Choice, log: Callable[[str], None]) -> None:
    path = cache_file(candidates.key)
    content = {"key": candidates.key, "measured": asdict(choice)["measured"]}
    try:
        if len(choice.left_out) > len(candidates.left_out):
            raise FocalEdgeError("an artifact could not be opened; mend or copy the bundle again")
        if path is None:
            raise FocalEdgeError("there is no home folder; set XDG_CACHE_HOME")
        write_json(path, content)
    # The choice is made all the same, and is measured again the next time.
    except FocalEdgeError as error:
        log(f"the choice is not remembered: {error}")


def describe(choice: Choice) -> list[str]:
    """Return the choice and its figures as lines."""
    lines = [f"left out: {reason}" for reason in choice.left_out]
    for each in choice.measured:
        latency = f"p50 {each.latency.p50_ms:.3f} ms, p90 {each.latency.p90_ms:.3f} ms"
        lines.append(f"{each.candidate}: {latency} ({each.interpreter})")
    return [*lines, f"chosen: {choice.candidate}" + (" (measured earlier on this machine)" if choice.cached else "")]


def table(choice: Choice) -> str:
    """Return the choice and its figures as an aligned table."""
    lines = [f"  {'precision':9} {'engine':7} {'threads':>7} {'p50 ms':>9} {'p90 ms':>9} {'min ms':>9}  interpreter"]
    for each in choice.measured:
        candidate, latency = each.candidate, each.latency
        mark = "*" if candidate == choice.candidate else " "
        lines.append(
            f"{mark} {candidate.precision:9} {candidate.engine:7} {candidate.threads:7} "
            f"{latency.p50_ms:9.3f} {latency.p90_ms:9.3f} {latency.min_ms:9.3f}  {each.interpreter}"
        )
    lines += [f"left out: {reason}" for reason in choice.left_out]
    earlier = "; measured earlier on this machine, --fresh measures again" if choice.cached else ""
    return "\n".join([*lines, f"* chosen: {choice.candidate}{earlier}"])


def as_json(choice: Choice) -> dict[str, Any]:
    """Return the choice and its figures for JSON."""
    rows = [
        asdict(each.candidate) | {"interpreter": each.interpreter} | asdict(each.latency) for each in choice.measured
    ]
    return {
        "chosen": asdict(choice.candidate),
        "cached": choice.cached,
        "measured": rows,
        "left_out": list(choice.left_out),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.engine_choice",
        description="Measure the artifacts of a bundle that are at parity on this device, and choose the fastest.",
    )
    add = parser.add_argument
    add("--bundle", type=Path, default=default_bundle(), help="folder with manifest.json (default: %(default)s)")
    add("--fresh", action="store_true", help="measure again, even where the choice is remembered")
    add(
        "--max-drop",
        type=float,
        default=DEFAULT_MAX_DROP_PP,
        help="largest loss of an int8 artifact by the manifest, percentage points (default: %(default)s)",
    )
    add("--json", action="store_true", help="print the figures as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`."""
    args = _parser().parse_args(argv)
    told: list[str] = []
    choice = choose(args.bundle, log=told.append, max_drop_pp=args.max_drop, fresh=args.fresh)
    for line in told:
        if line.startswith("the choice is not remembered"):
            print(f"warning: {line}", file=sys.stderr)
    print(json.dumps(as_json(choice), indent=2) if args.json else table(choice))
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
