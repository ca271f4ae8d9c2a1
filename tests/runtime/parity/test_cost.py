"""Costs: starts in a fresh process, memory, energy and peaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.core.errors import FocalEdgeError
from runtime.core.machine import memory_bytes, usable_cores
from runtime.parity.measure import Effort, Missing
from runtime.parity.measures.cost import measure_cost
from runtime.parity.measures.energy import EnergyMeter, energy_mj, measure_energy
from runtime.parity.measures.peak_throughput import measure_peak_throughput, measure_peaks
from runtime.parity.measures.probe import probe
from runtime.parity.pair import open_precisions
from tests.support.parity import context_of
from tests.support.paths import SHIPPED


def counters(folder: Path, **energies_uj: int) -> EnergyMeter:
    for name, energy in energies_uj.items():
        path = folder / name.replace("_", ":")
        path.mkdir(exist_ok=True)
        (path / "energy_uj").write_text(f"{energy}\n")
        (path / "max_energy_range_uj").write_text("1000000\n")
    return EnergyMeter(folder)


def test_energy_is_the_sum_over_packages(tmp_path: Path) -> None:
    names = {"intel-rapl_0": 100_000, "intel-rapl_1": 999_000, "intel-rapl_0_0": 50_000}
    meter = counters(tmp_path, **names)
    assert meter.is_readable
    meter.start()
    # The second counter wrapped around at 1,000,000.
    counters(tmp_path, **{"intel-rapl_0": 103_000, "intel-rapl_1": 2_000, "intel-rapl_0_0": 90_000})
    assert meter.stop_mj() == pytest.approx(3.0 + 3.0)


def test_a_machine_without_counters_is_not_readable(tmp_path: Path) -> None:
    assert not EnergyMeter(tmp_path).is_readable
    assert not EnergyMeter(tmp_path / "none").is_readable


def test_the_energy_is_divided_by_the_runs(tmp_path: Path) -> None:
    meter = counters(tmp_path, **{"intel-rapl_0": 0})

    class Consumer:
        runs = 0

        def run(self, image: Any) -> None:
            self.runs += 1
            counters(tmp_path, **{"intel-rapl_0": 2000 * self.runs})

    engine: Any = Consumer()
    assert energy_mj(engine, [np.zeros((1, 2, 2, 3), np.uint8)], meter, lasting_s=0.02) == pytest.approx(2.0)
    assert engine.runs >= 1


def test_memory_is_read_from_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t  123 kB\nVmRSS:\t 45 kB\n")
    assert memory_bytes("VmHWM", tmp_path / "status") == 123 * 1024
    assert memory_bytes("VmSwap", tmp_path / "status") is None
    assert memory_bytes("VmHWM", tmp_path / "none") is None
    assert usable_cores() >= 1


def test_a_fresh_process_reports_its_start_and_memory() -> None:
    figures = probe(SHIPPED, "int8", "tflite", 1)
    assert figures["cold_start_ms"] == pytest.approx(figures["open_ms"] + figures["first_run_ms"])
    assert figures["open_ms"] > figures["first_run_ms"] > 0
    # The interpreter and a network of half a megabyte, without this process's imports.
    assert 2**20 < figures["model_memory_bytes"] < figures["peak_memory_bytes"] < 2**29


def test_a_process_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FocalEdgeError, match="fresh process could not open the int8 artifact"):
        probe(tmp_path, "int8", "tflite", 1)


def test_peaks_are_high() -> None:
    peaks = measure_peaks(1)
    assert peaks.keys() == {"float32", "int8"}
    assert min(peaks.values()) > 1e8


def test_costs_of_a_bundle() -> None:
    context = context_of(open_precisions(SHIPPED, "tflite", 1), Effort(rounds=20, starts=1, threads=(1, 2)))
    figures = measure_cost(context)
    assert [each["threads"] for each in figures["threads"]] == [1, 2]
    for each in figures["threads"]:
        for role in ("reference", "candidate"):
            latency = each[role]
            assert 0 < latency["min_ms"] <= latency["p50_ms"] <= latency["p90_ms"] <= latency["p99_ms"]
        assert each["speedup"] == pytest.approx(each["reference"]["p50_ms"] / each["candidate"]["p50_ms"])
        assert each["speedup_interval"]["low"] <= each["speedup"] <= each["speedup_interval"]["high"]
    assert figures["speedup"] == figures["threads"][0]["speedup"]
    sizes = [(SHIPPED / file).stat().st_size for file in ("float.tflite", "int8.tflite")]
    assert figures["size_ratio"] == sizes[0] / sizes[1]
    peaks: Any = measure_peak_throughput(replace(context, report={"cost": figures}))
    assert [each["threads"] for each in peaks] == [1, 2]
    assert 0 < peaks[0]["candidate_share_of_peak"] < 1


def test_energy_without_counters_is_missing(tmp_path: Path) -> None:
    found = measure_energy(context_of(open_precisions(SHIPPED, "tflite", 1)), folder=tmp_path)
    assert isinstance(found, Missing) and "RAPL" in found.reason
