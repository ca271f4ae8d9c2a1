"""The soak measures the whole pipeline, whose memory does not grow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.core.cli import run_cli
from runtime.soak import main, rss_bytes
from tests.support.clips import write_clip


def test_the_figures_as_json(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(tmp_path / "clip.avi", 40)
    source = ["--source", str(tmp_path / "clip.avi")]
    assert main(["--bundle", str(tiny_bundle), "--frames", "300", *source, "--json"], warm_up_frames=150) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["frames"] == 300
    stages_ms = figures["stages_ms"]
    assert list(stages_ms) == ["decode", "preprocess", "inference", "overlay"]
    assert min(stages_ms.values()) > 0
    # The stages make up the frame, apart from the counting between them.
    frame_ms = 1e3 / figures["frames_per_s"]
    assert 0.5 * frame_ms < sum(stages_ms.values()) < frame_ms
    assert figures["slowest_ms"] >= sum(stages_ms.values())
    grown_bytes = figures["rss_end_bytes"] - figures["rss_start_bytes"]
    # A panel kept for each frame would be 300 times 1.5 MB.
    assert abs(grown_bytes) < 20e6
    assert 20e6 < figures["rss_start_bytes"] < 10e9


def test_the_figures_as_text(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--layout", "blend", "--compare"]
    assert main(["--bundle", str(tiny_bundle), "--frames", "20", *arguments], warm_up_frames=5) == 0
    out = capsys.readouterr().out
    assert "20 frames (int8, blend, ai-edge-litert" in out
    assert "frames/s" in out and "overlay" in out and "after warm-up" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--frames", "0"], "--frames 0"), (["--source", "0"], "live source"), (["--source", "none.mp4"], "none.mp4")],
)
def test_refuses(tiny_bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert run_cli(main, ["--bundle", str(tiny_bundle), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert captured.out == ""


def test_resident_memory_follows_allocations() -> None:
    before = rss_bytes()
    block = bytearray(64 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    assert 60e6 < rss_bytes() - before < 80e6
