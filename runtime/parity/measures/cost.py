"""What each artifact costs here: time, start, memory, size, energy, and how much of the machine it makes use of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from time import perf_counter
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
from runtime.parity.measures.energy import EnergyMeter
from runtime.parity.measures.peak_throughput import measure_peaks
from runtime.parity.measures.probe import probe
from runtime.parity.pair import Pair, Subject
from runtime.parity.statistics import SEED, Interval

ENERGY_S = 2.0
# In which the last engine's threads fall asleep, and how many runs it takes to be awake again.
REST_S, RUNS_AFTER_REST = 0.002, 3
PROBE_FIGURES = ("cold_start_ms", "open_ms", "first_run_ms", "peak_memory_bytes", "model_memory_bytes")


def cost_figures(
    pair: Pair, batches: Mapping[str, Sequence[NDArray[np.uint8]]], threads: Sequence[int], rounds: int, starts: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return `cost` of report.json, and why what is missing there is.

    Args:
        pair: the two.
        batches: images, uint8 `[1, S, S, 3]` each, of each role's input size; as many for both.
        threads: numbers of CPU threads to measure with; the first is that of the verdict.
        rounds: measured runs of each artifact with each number of threads.
        starts: fresh processes that each artifact is started in.

    Returns:
        The figures, and reasons by the path of a figure.
    """
    missing: dict[str, str] = {}
    load_before = load_average()
    latencies = _latency_figures(pair, batches, threads, rounds, missing)
    probed = {role: _start_figures(role, subject, starts, missing) for role, subject in pair.subjects.items()}
    sizes = {role: subject.artifact.size_bytes for role, subject in pair.subjects.items()}
    figures: dict[str, Any] = {
        "rounds": rounds,
        "cpu": cpu_model(),
        "load_before": load_before,
        "threads": latencies,
        "speedup": latencies[0]["speedup"] if latencies else None,
        "size_ratio": sizes["reference"] / sizes["candidate"],
        **{
            role: {"size_bytes": sizes[role], **probed[role], **_graph_figures(role, subject, missing)}
            for role, subject in pair.subjects.items()
        },
    }
    _add_energy(figures, pair, batches, missing)
    _add_peaks(figures, pair, threads, missing)
    return figures | {"load_after": load_average()}, missing


def _latency_figures(
    pair: Pair,
    batches: Mapping[str, Sequence[NDArray[np.uint8]]],
    threads: Sequence[int],
    rounds: int,
    missing: dict[str, str],
) -> list[dict[str, Any]]:
    # Each finds its own images by their place in turn, as two networks may have inputs of different sizes.
    turns = [np.full((1, 1, 1, 3), index, np.uint8) for index in range(len(batches["reference"]))]
    figures = []
    for count in threads:
        try:
            engines = {role: _Feeding(subject.opened(count), batches[role]) for role, subject in pair.subjects.items()}
        except ArtifactError as error:
            missing[f"cost.threads.{count}"] = str(error)
            continue
        # Threads of the engine before would else still wait awake on cores that this one needs.
        rest = {"rest_s": REST_S, "runs_before": RUNS_AFTER_REST} if count > 1 else {}
        times_ms = measure_times(engines, turns, rounds, **rest)  # type: ignore[arg-type]
        summaries = {role: _summary(values) for role, values in times_ms.items()}
        figures.append({"threads": count, **summaries, **_speedup(times_ms["reference"], times_ms["candidate"])})
    return figures


class _Feeding:
    """An engine that takes the number of an image for the image."""

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
    # A round's runs are drawn together: what slows the machine slows both.
    drawn = np.random.default_rng(SEED).integers(0, len(first), (1000, len(first)))
    ratios = np.median(first[drawn], axis=1) / np.maximum(np.median(second[drawn], axis=1), 1e-9)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return {"speedup": medians[0] / medians[1], "speedup_interval": asdict(Interval(float(low), float(high)))}


def _start_figures(role: str, subject: Subject, starts: int, missing: dict[str, str]) -> dict[str, Any]:
    empty: dict[str, Any] = dict.fromkeys(PROBE_FIGURES)
    if subject.folder is None:
        missing[f"cost.{role}.cold_start_ms"] = "the artifact is not on disk"
        return empty
    artifact, threads = subject.artifact, subject.engine.threads
    try:
        found = [
            probe(subject.folder, artifact.precision, artifact.engine, threads)
            for _ in tqdm(range(starts), desc="cold starts", unit="start", disable=None, leave=False)
        ]
    except FocalEdgeError as error:
        missing[f"cost.{role}.cold_start_ms"] = str(error)
        return empty
    if found[0]["peak_memory_bytes"] is None:
        missing[f"cost.{role}.peak_memory_bytes"] = "this system does not tell a process's memory"
    medians = {}
    for key in PROBE_FIGURES:
        values = [each[key] for each in found if each[key] is not None]
        medians[key] = type(values[0])(np.median(values)) if values else None
    return medians


def _graph_figures(role: str, subject: Subject, missing: dict[str, str]) -> dict[str, Any]:
    reason = "ONNX Runtime does not tell its graph"
    if subject.path is None:
        reason = "the artifact is not on disk"
    elif subject.artifact.engine == "tflite":
        try:
            graph = read_graph(subject.path.read_bytes())
            return {"delegate_partitions": graph.partitions, "operators": len(graph.nodes), "macs": graph.macs}
        except (ArtifactError, OSError) as error:
            reason = str(error)
    missing |= {f"cost.{role}.{key}": reason for key in ("delegate_partitions", "macs")}
    return {"delegate_partitions": None, "operators": None, "macs": None}


def _add_energy(
    figures: dict[str, Any],
    pair: Pair,
    batches: Mapping[str, Sequence[NDArray[np.uint8]]],
    missing: dict[str, str],
) -> None:
    meter = EnergyMeter()
    for role, subject in pair.subjects.items():
        figures[role]["energy_mj"] = None
        if meter.is_readable:
            figures[role]["energy_mj"] = energy_mj(subject.engine, batches[role], meter)
        else:
            missing[f"cost.{role}.energy_mj"] = "this machine exposes no RAPL counter that this user may read"


def energy_mj(
    engine: Engine, batches: Sequence[NDArray[np.uint8]], meter: EnergyMeter, lasting_s: float = ENERGY_S
) -> float:
    """Measure the energy of one image: of all processor packages, and so of all else that runs on them.

    Args:
        engine: runs over and over.
        batches: uint8 `[1, S, S, 3]` each, used in turn.
        meter: with a counter to read.
        lasting_s: how long it runs, in seconds.

    Returns:
        Millijoules an image.
    """
    end_s, runs = perf_counter() + lasting_s, 0
    meter.start()
    while runs == 0 or perf_counter() < end_s:
        engine.run(batches[runs % len(batches)])
        runs += 1
    return meter.stop_mj() / runs


def _add_peaks(figures: dict[str, Any], pair: Pair, threads: Sequence[int], missing: dict[str, str]) -> None:
    """Measure the machine's peaks, and what share of them each artifact reaches."""
    figures["peaks"] = []
    for count in threads:
        try:
            peaks = measure_peaks(count)
        except ArtifactError as error:
            missing["cost.peaks"] = str(error)
            break
        found: dict[str, Any] = {"threads": count, **{f"{key}_macs_per_s": value for key, value in peaks.items()}}
        for role, subject in pair.subjects.items():
            rates = [each[role]["p50_ms"] for each in figures["threads"] if each["threads"] == count]
            macs = figures[role]["macs"]
            share = None
            if rates and macs and rates[0] > 0:
                share = macs / (rates[0] / 1e3) / peaks[subject.artifact.precision]
            found[f"{role}_share_of_peak"] = share
        figures["peaks"].append(found)
