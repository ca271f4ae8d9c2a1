"""Recordings and snapshots replace no file, and their failures do not end the demo."""

from __future__ import annotations

import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime.demo.controls import Command
from runtime.demo.recorder import Recorder
from tests.support.clips import read_video
from tests.support.disk import Disk, panel


def test_recordings_start_and_stop_and_replace_nothing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    assert recorder.stop() == "nothing is being recorded"
    assert recorder.take(panel(1), 0, 20.0) == ""
    names = []
    for count in (3, 4):
        note = recorder.start()
        assert recorder.path is not None
        names.append(recorder.path.name)
        assert names[-1] in note
        for index in range(count):
            assert recorder.take(panel(index), index, 20.0) == ""
        assert recorder.stop() == f"recorded {tmp_path / names[-1]}"
        assert recorder.path is None
    assert all(re.fullmatch(r"recording-\d{8}-\d{6}(-2)?\.mp4", name) for name in names)
    assert [len(read_video(tmp_path / name)) for name in names] == [3, 4]
    assert sorted(os.listdir(tmp_path)) == sorted(set(names))


def test_a_recording_without_a_frame_leaves_no_file(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.start()
    assert recorder.stop() == "nothing was recorded"
    assert os.listdir(tmp_path) == []


def test_a_full_disk_ends_a_recording_with_one_warning_and_the_next_may_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, 5)
    recorder = Recorder(tmp_path)
    recorder.start()
    warnings = [recorder.take(panel(index), index, 20.0) for index in range(12)]
    assert [bool(warning) for warning in warnings] == [False] * 5 + [True] + [False] * 6
    assert warnings[5].startswith("recording stopped: the disk has 2.0 MB left")
    (name,) = os.listdir(tmp_path)
    assert len(read_video(tmp_path / name)) == 5
    disk.panels = 5
    recorder.start()
    recorder.take(panel(0), 0, 20.0)
    recorder.stop()
    assert len(os.listdir(tmp_path)) == 2


def test_an_unwritable_folder_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    recorder = Recorder(tmp_path / "file")
    recorder.start()
    assert "cannot write" in recorder.take(panel(0), 0, 20.0)
    assert recorder.path is None


def test_snapshots_hold_the_last_panel_and_replace_nothing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    assert recorder.perform(Command("snapshot")) == "there is nothing to save yet"
    recorder.take(panel(7), 12, 20.0)
    assert recorder.perform(Command("snapshot")) == "saved snapshot-000012.png"
    recorder.take(panel(9), 12, 20.0, repeated=True)
    assert recorder.perform(Command("snapshot")) == "saved snapshot-000012-2.png"
    first, second = (cv2.imread(str(tmp_path / name)) for name in ("snapshot-000012.png", "snapshot-000012-2.png"))
    np.testing.assert_array_equal(first, panel(7))
    np.testing.assert_array_equal(second, panel(9))


def test_an_unwritable_snapshot_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    recorder = Recorder(tmp_path / "file")
    recorder.take(panel(7), 0, 20.0)
    assert recorder.perform(Command("snapshot")).startswith("snapshot failed: cannot write")


def test_repeated_panels_are_not_recorded(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.perform(Command("record"))
    for repeated in (False, True, True, False):
        recorder.take(panel(7), 0, 20.0, repeated=repeated)
    recorder.perform(Command("record", "off"))
    (name,) = os.listdir(tmp_path)
    assert len(read_video(tmp_path / name)) == 2
    assert "expected on or off" in recorder.perform(Command("record", "later"))
