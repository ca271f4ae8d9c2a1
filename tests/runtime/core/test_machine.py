"""CPU and memory, read from the descriptions of several kernels."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runtime.core.machine import (
    Memory,
    cpu_model,
    installed_version,
    read_cpu,
    read_memory,
    usable_cores,
)

XEON = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu sse2 avx avx2 avx_vnni avx512_vnni amx_tile amx_int8

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""
PI_5 = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes crc32 atomics asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU part\t: 0xd0b

Revision\t: d04170
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""


def test_an_x86_machine(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(XEON)
    cpu = read_cpu(tmp_path / "cpuinfo", tmp_path / "no board")
    assert cpu.model == "Intel(R) Xeon(R) Processor"
    assert cpu.features == ("AVX2", "AVX-VNNI", "AVX512-VNNI", "AMX-INT8")
    assert cpu.cores == usable_cores() >= 1


def test_an_arm_board(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(PI_5)
    (tmp_path / "model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    cpu = read_cpu(tmp_path / "cpuinfo", tmp_path / "model")
    assert cpu.model == "Raspberry Pi 5 Model B Rev 1.0"
    assert cpu.features == ("NEON", "dotprod")


def test_32_bit_arm_names_neon_differently(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: ARMv7 Processor rev 3 (v7l)\nFeatures\t: half vfpv4 neon crc32\n")
    cpu = read_cpu(tmp_path / "cpuinfo", tmp_path / "no board")
    assert (cpu.model, cpu.features) == ("ARMv7 Processor rev 3 (v7l)", ("NEON",))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel\t\t: 143\nmodel name\t: Fast CPU @ 2GHz\nflags\t: a b\n", "Fast CPU @ 2GHz"),
        ("processor\t: 0\nBogoMIPS\t: 108\n\nModel\t\t: Some Board Rev 1.2\n", "Some Board Rev 1.2"),
    ],
)
def test_the_cpu_has_the_kernels_name(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_model(tmp_path / "cpuinfo", tmp_path / "no board") == name
    assert cpu_model(tmp_path / "none", tmp_path / "no board") not in ("", name)


def test_without_the_kernels_files(tmp_path: Path) -> None:
    cpu = read_cpu(tmp_path / "nothing", tmp_path / "nothing")
    assert cpu.model
    assert cpu.features == ()
    assert read_memory(tmp_path / "nothing") is None


def test_memory_is_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:        1000 kB\nMemFree:   5 kB\nMemAvailable:     400 kB\n")
    assert read_memory(tmp_path / "meminfo") == Memory(1_024_000, 409_600)
    (tmp_path / "meminfo").write_text("MemTotal:        much\n")
    assert read_memory(tmp_path / "meminfo") is None


def test_installed_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "homemade.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed_version("homemade", ("homemade-dist",)) == "unknown"
    assert "homemade" not in sys.modules
    assert installed_version("nowhere_to_be_found", ("numpy",)) is None
    monkeypatch.setitem(sys.modules, "homemade", None)
    assert installed_version("homemade", ("homemade-dist",)) is None
