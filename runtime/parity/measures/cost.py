"""Cost: latency, start, memory, size and graph of each artifact on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.core.errors import ArtifactError, FocalEdgeError
from runtime.core.machine import cpu_model, load_average
from runtime.engines.engine import Engine
from runtime.engines.tflite_graph import read_graph
from runtime.evaluation.metrics import percentile
from runtime.evaluation.timing import measure_times
from runtime.parity.measure import Context, Missing
from runtime.parity.measures.probe import probe
from runtime.parity.pair import ComparedArtifact
from runtime.parity.statistics import SEED, Interval

# Time for the other engine's threads to fall asleep, and untimed runs after it.
REST_S, RUNS_AFTER_REST = 0.002, 3
PROBE_FIGURES = ("cold_start_ms", "open_ms", "first_run_ms", "peak_memory_bytes", "model_memory_bytes")
GRAPH_FIGURES = ("delegate_partitions", "operators", "macs")

Probe = Callable[..., dict[str, Any]]


def measure_cost(context: Context, *, probe: Probe = probe) -> dict[str, Any]:
    """Measure `cost`.

    Args:
        context: see `Context`.
        probe: starts an artifact in a fresh process; see `runtime.parity.measures.probe.probe`.
    """
    artifacts, load_before = context.pair.artifacts, load_average()
    latencies = [_latency_figures(context, threads) for threads in context.effort.threads]
    started = {role: _start_figures(each, context.effort.starts, probe) for role, each in artifacts.items()}
    sizes = {role: each.artifact.size_bytes for role, each in artifacts.items()}
    return {
        "rounds": context.effort.rounds,
        "cpu": cpu_model(),
        "load_before": load_before,
        "threads": latencies,
        "speedup": next((each["speedup"] for each in latencies if not isinstance(each, Missing)), None),
        "size_ratio": sizes["reference"] / sizes["candidate"],
        **{
            role: {"size_bytes": sizes[role], **started[role], **_graph_figures(each)}
            for role, each in artifacts.items()
        },
        "load_after": load_average(),
    }


def _latency_figures(context: Context, threads: int) -> dict[str, Any] | Missing:
    artifacts = context.pair.artifacts
    try:
        engines = {role: _Feeding(each.opened(threads), context.batches(each)) for role, each in artifacts.items()}
    except ArtifactError as error:
        return Missing(str(error))
    # Both engines are given an image's index, as their inputs may differ in size.
    turns = [np.full((1, 1, 1, 3), index, np.uint8) for index in range(len(context.batches(context.pair.reference)))]
    # Waiting threads of the other engine would keep the cores busy.
    rest = {"rest_s": REST_S, "runs_before": RUNS_AFTER_REST} if threads > 1 else {}
    times_ms = measure_times(engines, turns, context.effort.rounds, **rest)  # type: ignore[arg-type]
    summaries = {role: _summary(values) for role, values in times_ms.items()}
    return {"threads": threads, **summaries, **_speedup(times_ms["reference"], times_ms["candidate"])}


class _Feeding:
    """An engine that is given the index of its input."""

    def __init__(self, engine: Engine, batches: Sequence[NDArray[np.uint8]]) -> None:
        self._engine, self._batches = engine, batches

    def run(self, image: NDArray[np.uint8], /) -> object:
        return self._engine.run(self._batches[int(image[0, 0, 0, 0])])


def _summary(times_ms: Sequence[float]) -> dict[str, float]:
    return {f"p{percent}_ms": percentile(times_ms, percent) for percent in (50, 90, 99)} | {"min_ms": min(times_ms)}


def _speedup(reference_ms: Sequence[float], candidate_ms: Sequence[float]) -> dict[str, Any]:
    """Return the ratio of medians, reference to candidate, with its bootstrap interval over rounds."""
    medians = percentile(reference_ms, 50), percentile(candidate_ms, 50)
    if medians[1] <= 0:
        raise FocalEdgeError("the candidate's median latency is 0 ms; expected a positive one: the clock is too coarse")
    first, second = np.asarray(reference_ms), np.asarray(candidate_ms)
    # Both times of a round are drawn together, as a busy machine slows both.
    drawn = np.random.default_rng(SEED).integers(0, len(first), (1000, len(first)))
    ratios = np.median(first[drawn], axis=1) / np.maximum(np.median(second[drawn], axis=1), 1e-9)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return {"speedup": medians[0] / medians[1], "speedup_interval": asdict(Interval(float(low), float(high)))}


def _start_figures(compared: ComparedArtifact, starts: int, probe: Probe) -> dict[str, Any]:
    """Return the median of each of `PROBE_FIGURES` over fresh processes."""
    artifact, threads = compared.artifact, compared.engine.threads
    if compared.folder is None:
        return dict.fromkeys(PROBE_FIGURES, Missing("the artifact is not on disk"))
    try:
        found = [
            probe(compared.folder, artifact.precision, artifact.engine, threads)
            for _ in tqdm(range(starts), desc="cold starts", unit="start", disable=None, leave=False)
        ]
    except FocalEdgeError as error:
        return dict.fromkeys(PROBE_FIGURES, Missing(str(error)))
    medians: dict[str, Any] = {}
    for key in PROBE_FIGURES:
        values = [each[key] for each in found if each[key] is not None]
        medians[key] = type(values[0])(np.median(values)) if values else Missing("this system does not report it")
    return medians


def _graph_figures(compared: ComparedArtifact) -> dict[str, Any]:
    if compared.path is None:
        return dict.fromkeys(GRAPH_FIGURES, Missing("the artifact is not on disk"))
    if compared.artifact.engine != "tflite":
        return dict.fromkeys(GRAPH_FIGURES, Missing("only TFLite interpreters list their graph"))
    try:
        graph = read_graph(compared.path.read_bytes())
    except (ArtifactError, OSError) as error:
        return dict.fromkeys(GRAPH_FIGURES, Missing(str(error)))
    return dict(zip(GRAPH_FIGURES, (graph.partitions, len(graph.nodes), graph.macs), strict=True))
