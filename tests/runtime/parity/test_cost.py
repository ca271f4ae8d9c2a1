"""What artifacts cost: starts in a fresh process, energy, peaks, and what the kernel tells."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime.parity.measures.cost
from runtime.core.errors import ArtifactError, FocalEdgeError
from runtime.core.machine import memory_bytes, usable_cores
from runtime.parity.measures.cost import cost_figures, energy_mj
from runtime.parity.measures.energy import EnergyMeter
from runtime.parity.measures.layer_error import blame_figures, find_ranking, read_ranking
from runtime.parity.measures.peak_throughput import measure_peaks
from runtime.parity.measures.probe import probe
from runtime.parity.pair import open_any, open_precisions
from tests.support.paths import SHIPPED


def counters(folder: Path, **energies_uj: int) -> EnergyMeter:
    for name, energy in energies_uj.items():
        path = folder / name.replace("_", ":")
        path.mkdir(exist_ok=True)
        (path / "energy_uj").write_text(f"{energy}\n")
        (path / "max_energy_range_uj").write_text("1000000\n")
    return EnergyMeter(folder)


def test_energy_is_that_of_all_packages_and_of_no_part_of_one(tmp_path: Path) -> None:
    names = {"intel-rapl_0": 100_000, "intel-rapl_1": 999_000, "intel-rapl_0_0": 50_000}
    meter = counters(tmp_path, **names)
    assert meter.is_readable
    meter.start()
    # The second counter began anew at 1,000,000.
    counters(tmp_path, **{"intel-rapl_0": 103_000, "intel-rapl_1": 2_000, "intel-rapl_0_0": 90_000})
    assert meter.stop_mj() == pytest.approx(3.0 + 3.0)


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    assert not EnergyMeter(tmp_path).is_readable
    assert not EnergyMeter(tmp_path / "none").is_readable


def test_the_energy_of_a_image_is_shared_by_the_runs(tmp_path: Path) -> None:
    meter = counters(tmp_path, **{"intel-rapl_0": 0})

    class Consumer:
        runs = 0

        def run(self, image: Any) -> None:
            self.runs += 1
            counters(tmp_path, **{"intel-rapl_0": 2000 * self.runs})

    engine: Any = Consumer()
    assert energy_mj(engine, [np.zeros((1, 2, 2, 3), np.uint8)], meter, lasting_s=0.02) == pytest.approx(2.0)
    assert engine.runs >= 1


def test_memory_is_read_as_the_kernel_tells_it(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t  123 kB\nVmRSS:\t 45 kB\n")
    assert memory_bytes("VmHWM", tmp_path / "status") == 123 * 1024
    assert memory_bytes("VmSwap", tmp_path / "status") is None
    assert memory_bytes("VmHWM", tmp_path / "none") is None
    assert usable_cores() >= 1


def test_a_fresh_process_tells_its_start_and_its_memory() -> None:
    figures = probe(SHIPPED, "int8", "tflite", 1)
    assert figures["cold_start_ms"] == pytest.approx(figures["open_ms"] + figures["first_run_ms"])
    assert figures["open_ms"] > figures["first_run_ms"] > 0
    # The interpreter and a network of half a megabyte; not this process, with all that its tests imported.
    assert 2**20 < figures["model_memory_bytes"] < figures["peak_memory_bytes"] < 2**29


def test_a_process_that_fails_is_an_error_not_a_figure(tmp_path: Path) -> None:
    with pytest.raises(FocalEdgeError, match="fresh process could not open the int8 artifact"):
        probe(tmp_path, "int8", "tflite", 1)


def test_peaks_are_above_what_networks_reach() -> None:
    peaks = measure_peaks(1)
    assert peaks.keys() == {"float32", "int8"}
    assert min(peaks.values()) > 1e8


def test_costs_of_a_bundle() -> None:
    pair = open_precisions(SHIPPED, "tflite", 1)
    batches = {role: [np.zeros((1, 32, 32, 3), np.uint8)] * 2 for role in ("reference", "candidate")}
    figures, missing = cost_figures(pair, batches, (1, 2), rounds=20, starts=1)
    assert [each["threads"] for each in figures["threads"]] == [1, 2]
    for each in figures["threads"]:
        for role in ("reference", "candidate"):
            latency = each[role]
            assert 0 < latency["min_ms"] <= latency["p50_ms"] <= latency["p90_ms"] <= latency["p99_ms"]
        assert each["speedup"] == pytest.approx(each["reference"]["p50_ms"] / each["candidate"]["p50_ms"])
        assert each["speedup_interval"]["low"] <= each["speedup"] <= each["speedup_interval"]["high"]
    assert figures["speedup"] == figures["threads"][0]["speedup"]
    assert 0 < figures["peaks"][0]["candidate_share_of_peak"] < 1
    sizes = [(SHIPPED / file).stat().st_size for file in ("float.tflite", "int8.tflite")]
    assert figures["size_ratio"] == sizes[0] / sizes[1]
    for role in ("reference", "candidate"):
        assert (figures[role]["energy_mj"] is None) is (f"cost.{role}.energy_mj" in missing)


def test_an_artifact_is_to_blame_for_nothing_against_itself() -> None:
    batches = [np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)]
    path = SHIPPED / "int8.tflite"
    figures = blame_figures(path, path, batches, "noise", [])
    assert figures["lowest_sqnr_db"] == figures["lowest_channel_sqnr_db"] == 150
    assert figures["noisiest_layer"] is None


def test_layers_are_worst_first_with_their_rank_and_what_is_clipped() -> None:
    generator = np.random.default_rng(0)
    batches = [generator.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8) for _ in range(4)]
    paths = SHIPPED / "float.tflite", SHIPPED / "int8.tflite"
    figures = blame_figures(*paths, batches, "noise", ["stage1.block0.expand", "embed.conv0"])
    sqnr = [entry["sqnr_db"] for entry in figures["layers"] if entry["sqnr_db"] is not None]
    assert sqnr == sorted(sqnr)
    assert sqnr[0] == figures["lowest_sqnr_db"]
    ranks = {entry["layer"]: entry["sensitivity_rank"] for entry in figures["layers"]}
    assert (ranks["stage1.block0.expand"], ranks["embed.conv0"], ranks["embed.conv1"]) == (1, 2, None)
    shares = [entry["clipped_share"] for entry in figures["layers"] if entry["clipped_share"] is not None]
    assert len(shares) > 20
    assert all(0 <= share < 0.2 for share in shares)
    for drawn in figures["ranges"]:
        assert drawn["span"][0] < drawn["low"] < drawn["high"] < drawn["span"][1]
        assert sum(drawn["histogram"]) > 0


def test_artifacts_of_other_networks_have_no_layer_to_blame() -> None:
    products = [
        Path(runtime.parity.measures.cost.__file__).with_name(f"product_{precision}.tflite") for precision in ("int8",)
    ]
    with pytest.raises((ArtifactError, ValueError)):
        blame_figures(SHIPPED / "int8.tflite", *products, [np.zeros((1, 32, 32, 3), np.uint8)], "zeros", [])


def test_two_artifacts_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    def names(first: Path, second: Path, engine: str | None = None) -> list[str]:
        return [subject.name for subject in open_any(first, second, engine, 1).subjects.values()]

    copies = [Path(shutil.copytree(SHIPPED, tmp_path / folder)) for folder in ("old", "new", "other/new")]
    assert names(copies[0], copies[0] / "float.tflite") == ["int8.tflite", "float.tflite"]
    assert names(copies[0], copies[1]) == ["old", "new"]
    assert names(copies[0], copies[1] / "int8.onnx") == ["old/int8.tflite", "new/int8.onnx"]
    assert names(copies[1], copies[2]) == [str(copies[1] / "int8.tflite"), str(copies[2] / "int8.tflite")]
    assert names(copies[0], copies[1] / "int8.onnx", "ort") == ["old", "new"]


def test_a_ranking_is_found_in_the_bundle_or_its_run(tmp_path: Path) -> None:
    bundle = tmp_path / "run" / "artifacts"
    bundle.mkdir(parents=True)
    assert find_ranking(bundle, None) is None
    folder = tmp_path / "run" / "sensitivity"
    folder.mkdir()
    (folder / "sensitivity.json").write_text('{"layers": [{"layer": "b"}, {"layer": "a"}]}')
    assert find_ranking(bundle, None) == ["b", "a"]
    with pytest.raises(FocalEdgeError, match="python -m export"):
        find_ranking(bundle, tmp_path / "none.json")
    (folder / "sensitivity.json").write_text('{"layers": 3}')
    with pytest.raises(ArtifactError, match="ranks no layers"):
        read_ranking(folder / "sensitivity.json")
