"""Image and video files: the right colours, and the old file if the new one fails."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from runtime.core.errors import FocalEdgeError
from runtime.video.writer import DiskFullError, free_name, open_output, save_image
from tests.support.clips import read_video
from tests.support.disk import Disk, panel
from tests.support.paths import ROOT

IMAGE = np.full((4, 5, 3), (200, 90, 10), dtype=np.uint8)  # R, G, B


def test_an_image_keeps_its_colours(tmp_path: Path) -> None:
    save_image(tmp_path / "new" / "image.png", IMAGE)
    found = cv2.imread(str(tmp_path / "new" / "image.png"))
    assert found is not None
    assert found.shape == IMAGE.shape
    assert found[3, 4].tolist() == [10, 90, 200]  # B, G, R


def test_a_full_disk_is_named_and_keeps_the_old_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "image.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FocalEdgeError, match=r"cannot write .*image\.png: No space left"):
        save_image(path, IMAGE)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


ODD_NAMES = [
    b"Stra\xdfe", b"line\nbreak", "caf\u00e9 \U0001f408".encode(), b"x" * 250, b"-rf", b"100%03d [1]", b"a:b",
    b"\x1b[31m",
    b"'\"$$`",
]  # fmt: skip


@pytest.mark.parametrize("suffix", ["png", "mp4", "avi"])
@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_a_file_may_have_any_name(tmp_path: Path, name: bytes, suffix: str) -> None:
    for path in (tmp_path / f"{os.fsdecode(name)}.{suffix}", tmp_path / os.fsdecode(name) / f"out.{suffix}"):
        with open_output(path) as write:
            write(np.full((48, 64, 3), (200, 90, 10), dtype=np.uint8), 20.0)
        assert [each.name for each in path.parent.iterdir() if each.is_file()] == [path.name]
        # By a name that OpenCV takes.
        plain = tmp_path / f"plain.{suffix}"
        path.rename(plain)
        (frame,) = read_video(plain)
        assert np.abs(frame.mean(axis=(0, 1)) - (10, 90, 200)).max() < 8
        plain.unlink()


def test_a_relative_name_is_no_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_output(Path("a:b.mp4")) as write:
        write(panel(9), 20.0)
    assert len(read_video(tmp_path / "a:b.mp4")) == 1


def test_a_link_that_is_not_text_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / os.fsdecode(b"Stra\xdfe.mp4")
    odd = tmp_path / os.fsdecode(b"\xff")
    odd.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    with pytest.raises(FocalEdgeError, match="rename it, or set TMPDIR"), open_output(path) as write:
        write(panel(9), 20.0)
    assert list(tmp_path.iterdir()) == [odd] and list(odd.iterdir()) == []


@pytest.mark.parametrize("shape", [(0, 5, 3), (4, 5, 7)])
def test_arrays_that_are_not_images_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(FocalEdgeError, match="expected uint8"):
        save_image(tmp_path / "image.png", np.zeros(shape, dtype=np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FocalEdgeError, match="cannot write"):
        save_image(tmp_path / "file" / "image.png", IMAGE)


@pytest.mark.parametrize("name", ["out.mp4", "out.avi"])
def test_a_full_disk_leaves_a_playable_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    Disk(monkeypatch, 7)
    with pytest.raises(DiskFullError, match=r"2\.0 MB left.*holds the 7 frames before"):
        record(tmp_path / name, 20)
    assert len(read_video(tmp_path / name)) == 7
    assert os.listdir(tmp_path) == [name]


def record(path: Path, count: int) -> None:
    with open_output(path) as write:
        for index in range(count):
            write(panel(index), 20.0)


def test_a_disk_without_any_room_keeps_the_old_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out.mp4").write_bytes(b"old")
    Disk(monkeypatch, 0)
    with pytest.raises(DiskFullError, match=r"2\.0 MB left, and a video needs 16\.8 MB"):
        record(tmp_path / "out.mp4", 3)
    assert (tmp_path / "out.mp4").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_a_video_cut_by_a_file_size_limit_is_an_error(tmp_path: Path) -> None:
    # The limit is not known in advance: a broken video must not pass for a complete one.
    program = (
        "import resource, sys; from pathlib import Path; import cv2, numpy as np\n"
        "from runtime.video.writer import open_output; from runtime.core.errors import SourceError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        "noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)\n"
        "try:\n"
        "    with open_output(Path(sys.argv[1])) as write:\n"
        "        for i in range(40): write(np.roll(noise, i), 20.0)\n"
        "except SourceError as error: print(error)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out.mp4")],
        capture_output=True, text=True, timeout=30, cwd=ROOT,
    )  # fmt: skip
    assert "of 40 frames; choose a folder with more room" in finished.stdout, finished.stderr
    assert os.listdir(tmp_path) == []


def test_existing_files_are_not_replaced(tmp_path: Path) -> None:
    assert free_name(tmp_path / "a.png") == tmp_path / "a.png"
    for name in ("a.png", "a-2.png"):
        (tmp_path / name).touch()
    assert free_name(tmp_path / "a.png") == tmp_path / "a-3.png"


def test_a_video_keeps_its_colours_and_takes_panels_of_other_sizes(tmp_path: Path) -> None:
    with open_output(tmp_path / "out.avi") as write:
        write(np.full((48, 64, 3), (200, 90, 10), np.uint8), 20.0)
        write(panel(255, 200, 64), 20.0)
    first, second = read_video(tmp_path / "out.avi")
    assert np.abs(first[24, 32].astype(int) - (10, 90, 200)).max() < 12  # B, G, R
    assert second.shape == first.shape
    assert second[24, 32].min() > 230 and second[24, 2].max() < 60
