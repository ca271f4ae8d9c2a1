"""Videos: a whole file gives every frame, a damaged one says how many it gave, and no animation is its first frame."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from runtime.core.errors import SourceError
from runtime.video.container import Extent, read_extent
from runtime.video.sources import Source, open_source
from tests.support.paths import ROOT

FRAMES = 40
CODECS = {"a.mp4": "mp4v", "a.avi": "MJPG", "a.mkv": "mp4v", "a.webm": "VP80"}
# Reads a source in a process of its own, and prints how it ended.
READ = """
import sys
from runtime.core.cli import run_cli
from runtime.video.opencv_log import silence_opencv
from runtime.video.sources import open_source

def main(argv):
    silence_opencv()
    with open_source(sys.argv[1], on_skip=lambda reason: None, timeout_s=2) as source:
        count = 0
        for frame in source.frames:
            count += 1
            print(count)
    return 0

sys.exit(run_cli(main))
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    noise = np.random.default_rng(0)
    images = [noise.integers(60, 90, (48, 64, 3), dtype=np.uint8) for _ in range(FRAMES)]
    for index, image in enumerate(images):
        image[10:20, index : index + 10] = 220
    for name, codec in CODECS.items():
        writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter.fourcc(*codec), 20.0, (64, 48))
        for image in images:
            writer.write(image)
        writer.release()
    drawn = [Pillow.new("RGB", (32, 24), (20 * index, 10, 10)) for index in range(7)]
    for suffix in ("gif", "png", "webp"):
        drawn[0].save(folder / f"moving.{suffix}", save_all=True, append_images=drawn[1:], duration=100)
        drawn[3].save(folder / f"still.{suffix}")
    return folder


def read(path: Path) -> tuple[Source, list[Any]]:
    with open_source(str(path), on_skip=pytest.fail) as source:
        return source, [frame.image_rgb for frame in source.frames]


def read_apart(path: Path | str) -> tuple[int, int, str]:
    """Read a source in a process of its own: frames, exit code, stderr."""
    ended = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    return len(ended.stdout.split()), ended.returncode, ended.stderr


@pytest.mark.parametrize("name", CODECS)
def test_a_whole_video_gives_every_frame(name: str, clips: Path) -> None:
    source, images = read(clips / name)
    assert source.video is not None
    assert len(images) == source.video.read == FRAMES
    assert source.video.extent.fault == ""
    counted = name in ("a.mp4", "a.avi")
    assert source.video.extent.frames == (FRAMES if counted else None)
    assert bool(source.video.extent.note) is not counted


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("name", [b"\xff\xfe.avi", b"a:b.avi", b"a%03d.avi", b"http:x.avi", b"\x1b[31m.avi"])
def test_a_video_of_any_name_is_read_whole_or_called_damaged(name: bytes, clips: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes((clips / "a.avi").read_bytes())
    assert read_apart(path) == (FRAMES, 0, "")
    path.write_bytes((clips / "a.avi").read_bytes()[:-20_000])
    _, code, error = read_apart(path)
    assert code == 2 and error.count("\n") == 1 and "is damaged" in error
    assert "\x1b" not in error


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.webm"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_video_that_is_cut_off_says_so(name: str, share: float, clips: Path, tmp_path: Path) -> None:
    content = (clips / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    frames, code, error = read_apart(tmp_path / name)
    if frames < FRAMES:
        assert code == 2 and error.count("\n") == 1
        stated = f"{frames} of {FRAMES} frames" if name == "a.avi" else f"{frames} frames"
        assert stated in error and "the file is cut short" in error


def with_the_index_first(content: bytes) -> bytes:
    """Move an MP4's index before its frames, as for the web."""
    boxes, place = {}, 0
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        boxes[kind] = content[place : place + length]
        place += length
    moved, table = len(boxes[b"moov"]), bytearray(boxes[b"moov"])
    at = table.index(b"stco") + 8
    for entry in range(struct.unpack_from(">I", table, at)[0]):
        (offset,) = struct.unpack_from(">I", table, at + 4 + 4 * entry)
        struct.pack_into(">I", table, at + 4 + 4 * entry, offset + moved)
    others = [box for kind, box in boxes.items() if kind not in (b"ftyp", b"moov")]
    return boxes[b"ftyp"] + bytes(table) + b"".join(others)


@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_a_download_that_stopped_says_how_many_frames_it_has(share: float, clips: Path, tmp_path: Path) -> None:
    content = with_the_index_first((clips / "a.mp4").read_bytes())
    (tmp_path / "whole.mp4").write_bytes(content)
    assert len(read(tmp_path / "whole.mp4")[1]) == FRAMES
    (tmp_path / "cut.mp4").write_bytes(content[: int(share * len(content))])
    frames, code, error = read_apart(tmp_path / "cut.mp4")
    assert 0 < frames < FRAMES and code == 2
    assert f"{frames} of {FRAMES} frames were read (the file is cut short)" in error


def test_a_video_without_its_index_is_refused(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes((clips / "a.mp4").read_bytes()[:-100])
    with pytest.raises(SourceError, match="cannot be read as an image or a video"):
        read(tmp_path / "a.mp4")


def test_frames_after_a_damaged_one_are_read(clips: Path, tmp_path: Path) -> None:
    content = bytearray((clips / "a.avi").read_bytes())
    starts = [at for at in range(len(content) - 8) if content[at : at + 4] == b"00dc" and content[at + 8] == 0xFF]
    assert len(starts) == FRAMES
    content[starts[12] + 8 : starts[13]] = bytes(starts[13] - starts[12] - 8)
    (tmp_path / "a.avi").write_bytes(content)
    skipped: list[str] = []
    names = []
    with (
        pytest.raises(SourceError, match=rf"{FRAMES - 1} of {FRAMES} frames were read .*cannot be decoded"),
        open_source(str(tmp_path / "a.avi"), on_skip=skipped.append) as source,
    ):
        for frame in source.frames:
            names.append(frame.name)
    assert skipped == ["a.avi:12: it cannot be decoded"]
    assert names == [f"a.avi:{index}" for index in range(FRAMES) if index != 12]


@pytest.mark.parametrize("name", [*CODECS, "moving.gif", "moving.png"])
def test_bytes_that_flipped_end_no_process(name: str, clips: Path, tmp_path: Path) -> None:
    content = (clips / name).read_bytes()
    for seed in range(4):
        draw, damaged = random.Random(seed), bytearray(content)
        for _ in range((1, 8, 60, 400)[seed]):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        (tmp_path / name).write_bytes(damaged)
        frames, code, error = read_apart(tmp_path / name)
        assert code in (0, 2) and error.count("\n") == (code == 2), error
        stated = read_extent(tmp_path / name).frames
        if code == 0 and stated is not None:
            assert frames >= stated - read_extent(tmp_path / name).slack


@pytest.mark.parametrize("suffix", ["gif", "png"])
def test_an_animation_is_read_whole(suffix: str, clips: Path) -> None:
    source, images = read(clips / f"moving.{suffix}")
    assert source.fps == pytest.approx(10)
    assert [int(image[5, 5, 0]) for image in images] == pytest.approx([20 * index for index in range(7)], abs=4)


def test_an_animation_that_cannot_be_read_whole_is_refused(clips: Path) -> None:
    with pytest.raises(SourceError, match="an animation of 7 frames, of which OpenCV reads one; convert it"):
        read(clips / "moving.webp")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_an_image_of_the_same_format_is_an_image(suffix: str, clips: Path) -> None:
    if suffix == "gif" and cv2.__version__ < "5":
        pytest.skip("this OpenCV decodes no GIF as an image")
    source, images = read(clips / f"still.{suffix}")
    assert len(images) == 1 and source.fps is None and source.video is None


@pytest.mark.parametrize("suffix", ["gif", "png"])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.97])
def test_an_animation_that_is_cut_off_is_never_whole(suffix: str, share: float, clips: Path, tmp_path: Path) -> None:
    content = (clips / f"moving.{suffix}").read_bytes()
    (tmp_path / f"m.{suffix}").write_bytes(content[: int(share * len(content))])
    _, code, error = read_apart(tmp_path / f"m.{suffix}")
    assert code == 2 and error.count("\n") == 1
    assert "cut short" in error


def trimmed(content: bytes, shown: float) -> bytes:
    """Let an MP4's edit list show a share of its frames."""
    table = bytearray(content)
    at = table.index(b"elst") + 4
    (duration,) = struct.unpack_from(">I", table, at + 8)
    struct.pack_into(">I", table, at + 8, int(shown * duration))
    return bytes(table)


def test_a_trimmed_video_is_whole(clips: Path, tmp_path: Path) -> None:
    content = (clips / "a.mp4").read_bytes()
    if b"elst" not in content:
        pytest.skip("this OpenCV writes no edit list")
    (tmp_path / "a.mp4").write_bytes(trimmed(content, 0.5))
    extent = read_extent(tmp_path / "a.mp4")
    assert extent.frames == FRAMES // 2 and extent.slack == 2
    assert len(read(tmp_path / "a.mp4")[1]) == pytest.approx(FRAMES // 2, abs=2)


def test_dropped_frames_of_an_avi_are_not_missing(clips: Path, tmp_path: Path) -> None:
    content = bytearray((clips / "a.avi").read_bytes())
    index = content.rindex(b"idx1") + 8
    struct.pack_into("<I", content, index + 16 * 3 + 12, 0)
    (tmp_path / "a.avi").write_bytes(content)
    assert read_extent(tmp_path / "a.avi") == Extent(FRAMES - 1)


@pytest.mark.parametrize(
    "content", [b"", b"RIFF\0\0\0\0AVI ", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\0\0\0\0ftyp", b"\x1a\x45\xdf\xa3"]
)
def test_a_container_that_ends_early_states_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    assert read_extent(tmp_path / "a").frames in (None, 1)
