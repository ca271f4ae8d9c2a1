"""The demo, end to end: real bundles in, real videos out, and no half-written file whatever ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import runtime.camera_demo as demo
import runtime.demo.pipeline
import runtime.video.writer
from runtime.core.cli import run_cli
from runtime.core.errors import ConfigError, SourceError
from runtime.demo.controls import Command, Controls
from runtime.demo.pipeline import Pipeline, TimedOutputs
from runtime.demo.status import Status
from runtime.demo.window import Window
from runtime.engines.engine import Engine
from runtime.engines.outputs import Outputs
from runtime.evaluation.split_file import LabelledImages, write_split
from runtime.video.sources import Frame, Source
from runtime.video.writer import ROOM_BYTES
from tests.support.clips import read_video, write_clip
from tests.support.paths import ROOT
from tests.support.tiny_bundle import LABELS, write_bundle

SCRIPT = str(ROOT / "runtime" / "camera_demo.py")


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    """Run the command line in this process: exit code, stdout, stderr."""
    code = run_cli(demo.main, [str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_writes_a_video_of_every_frame(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    output = tmp_path / "new" / f"out{suffix}"
    code, out, _ = run(
        capsys, "--bundle", tiny_bundle, "--source", "sample", "--headless", "--output", output,
        "--max-frames", 7, "--json",
    )  # fmt: skip
    assert code == 0
    summary = json.loads(out)
    assert summary["frames"] == 7
    assert summary["output"] == str(output)
    assert summary["precision"] == "int8"
    assert summary["non_finite_frames"] == 0
    assert 0 < summary["latency_p50_ms"] <= summary["latency_p90_ms"] < 1_000
    frames = read_video(output)
    assert len(frames) == 7
    first, last = frames[0][70:280, 20:230].astype(int), frames[-1][70:280, 20:230].astype(int)
    # The red circle moves to the right over a still background.
    assert (first - last).max() > 80
    assert np.abs(frames[0].astype(int) - frames[0].mean()).mean() > 5
    assert os.listdir(output.parent) == [output.name]


def test_says_what_it_did(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.png").touch()
    cv2.imwrite(str(tmp_path / "one.png"), np.full((20, 30, 3), 200, np.uint8))
    code, out, err = run(capsys, "--bundle", tiny_bundle, "--source", tmp_path, "--headless", "--precision", "float32")
    assert code == 0
    assert "frames: 1 (float32, ai-edge-litert" in out
    assert "latency p50" in out and " ms" in out
    assert "unreadable images skipped: 1" in out
    assert err.count("warning: skipped") == 1


@pytest.mark.parametrize("level", ["all", "1", "global", "modulator"])
def test_image_output_holds_the_chosen_maps(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], level: str
) -> None:
    # All red: in the tiny model the first gate is high, the second and third (the global one) low.
    cv2.imwrite(str(tmp_path / "red.png"), np.full((32, 32, 3), (0, 0, 255), np.uint8))
    output = tmp_path / "panel.png"
    code, _, _ = run(
        capsys, "--bundle", tiny_bundle, "--source", tmp_path / "red.png", "--headless",
        "--output", output, "--level", level,
    )  # fmt: skip
    assert code == 0
    panel = cv2.imread(str(output))
    assert panel is not None
    blue, _, red = panel[150, panel.shape[1] - 40].astype(int)
    frame_blue, _, frame_red = panel[150, 60].astype(int)
    assert frame_red > 200 > 50 > frame_blue
    if level == "1":
        assert red > blue + 30
    if level == "global":
        assert blue > red + 30


def test_image_output_takes_the_first_frame_alone(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(
        capsys, "--bundle", tiny_bundle, "--source", "sample", "--headless",
        "--output", tmp_path / "panel.png", "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["frames"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "987"], "--source sample"),
        (["--source", "nowhere.mp4"], "nowhere.mp4"),
        (["--level", "3"], "--level 3; choose one of 1, 2, global, modulator, all"),
        (["--level", "0"], "--level 0"),
        (["--max-frames", "0"], "--max-frames"),
        (["--threads", "0"], "threads"),
        (["--output", "out.gif"], "out.gif"),
        (["--reconnect-s", "-1"], "--reconnect-s -1"),
        (["--images-per-s", "0"], "--images-per-s 0"),
        (["--token", "x"], "--token without --serve"),
        (["--bundle", "nowhere"], "nowhere"),
    ],
)
def test_bad_arguments_are_one_line(
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "--bundle", tiny_bundle, "--source", "sample", "--headless", *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["out.mp4", "out.avi", "out.png", "deeper/out.mp4"])
def test_unwritable_output(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("no folder")
    code, _, err = run(capsys, "--bundle", tiny_bundle, "--source", "sample", "--headless", "--output", blocker / name)
    assert code == 2
    assert "cannot write" in err
    assert os.listdir(tmp_path) == ["file"]


def test_failed_run_keeps_the_old_output(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.mp4"
    output.write_text("the old one")
    code, _, _ = run(capsys, "--bundle", tiny_bundle, "--source", "987", "--headless", "--output", output)
    assert code == 2
    assert output.read_text() == "the old one"
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_no_display_is_said_before_anything_is_opened(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    code, _, err = run(capsys, "--bundle", tiny_bundle, "--source", "sample")
    assert code == 2
    assert "--headless" in err


def failing_source(count: int) -> Any:
    """A source like a camera that is unplugged after `count` frames."""

    class Opened:
        def __enter__(self) -> Source:
            def frames() -> Any:
                for index in range(count):
                    yield Frame(np.full((24, 24, 3), 20 * index, np.uint8), f"fake:{index}")
                raise SourceError("the camera was unplugged")

            return Source(frames(), 30.0)

        def __exit__(self, *_: object) -> None:
            pass

    return lambda spec, **_: Opened()


def test_frames_before_a_failure_are_kept(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "open_source", failing_source(4))
    output = tmp_path / "out.mp4"
    code, _, err = run(capsys, "--bundle", tiny_bundle, "--headless", "--output", output)
    assert code == 2
    assert "unplugged (after 4 frames)" in err
    assert len(read_video(output)) == 4


def test_failure_before_any_frame_leaves_no_file(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "open_source", failing_source(0))
    code, _, err = run(capsys, "--bundle", tiny_bundle, "--headless", "--output", tmp_path / "out.mp4")
    assert code == 2
    assert "unplugged" in err
    assert os.listdir(tmp_path) == []


def test_values_that_are_not_finite_are_counted(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def classify(engine: Engine, frame: Frame) -> TimedOutputs:
        maps = np.zeros((4, 4), np.float32)
        logits = np.full(len(LABELS), np.nan if frame.name == "sample:1" else 1.0, np.float32)
        return TimedOutputs(Outputs(logits, np.zeros((4, 4, 3), np.float32), maps), 0.1, 1.0)

    monkeypatch.setattr(demo, "Pipeline", partial(Pipeline, classify=classify))
    code, out, err = run(
        capsys, "--bundle", tiny_bundle, "--source", "sample", "--headless", "--max-frames", 3, "--json"
    )
    assert code == 0
    assert json.loads(out)["non_finite_frames"] == 1
    assert "warning: frames with values not finite: 1" in err


class FakeScreen:
    """OpenCV's window functions: shows into a list, and presses the given keys, one a wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
        self.shown: list[NDArray[np.uint8]] = []
        self.sizes: list[tuple[int, int]] = []
        self.keys = list(keys)
        monkeypatch.setenv("DISPLAY", ":fake")
        monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
        monkeypatch.setattr(cv2, "resizeWindow", lambda _, width, height: self.sizes.append((width, height)))
        monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0)
        monkeypatch.setattr(cv2, "imshow", lambda _, panel: self.shown.append(np.array(panel)))
        monkeypatch.setattr(cv2, "waitKey", lambda _: self.press())

    def press(self) -> int:
        return ord(self.keys.pop(0)) if self.keys else -1


def test_keys_choose_the_level_save_and_quit(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    screen = FakeScreen(monkeypatch, "129s0q")
    Path("snapshot-000003.png").touch()
    code, out, _ = run(capsys, "--bundle", tiny_bundle, "--source", "sample", "--output", "out.mp4", "--json")
    assert code == 0
    assert json.loads(out)["frames"] == 6
    all_maps, one_map = screen.shown[0].shape, screen.shown[1].shape
    assert [panel.shape == one_map for panel in screen.shown] == [False, True, True, True, True, False]
    # The one that was there stays.
    saved = cv2.imread("snapshot-000003-2.png")
    np.testing.assert_array_equal(saved, screen.shown[3])
    frames = read_video(Path("out.mp4"))
    assert [frame.shape for frame in frames] == [all_maps] * 6
    assert sorted(os.listdir(tmp_path)) == ["out.mp4", "snapshot-000003-2.png", "snapshot-000003.png"]


def test_keys_change_layout_precision_and_comparison(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = FakeScreen(monkeypatch, "2lpcccq")
    code, out, _ = run(capsys, "--bundle", tiny_bundle, "--source", "sample", "--json")
    assert code == 0
    summary = json.loads(out)
    assert (summary["precision"], summary["agreement"], summary["frames"]) == ("float32", 1.0, 7)
    grid, single, blend, float32, compared, alone, compared_again = (panel.shape for panel in screen.shown)
    assert len({grid, single, blend, compared}) == 4
    assert (float32, alone, compared_again) == (blend, blend, compared)


def test_recordings_are_switched_by_a_key(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    screen = FakeScreen(monkeypatch, "xrxxr1rxq")
    code, _, err = run(capsys, "--bundle", tiny_bundle, "--source", "sample")
    assert code == 0
    assert len(screen.shown) == 9
    first, second = sorted(os.listdir(tmp_path), key=len)
    assert first.startswith("recording-") and first.endswith(".mp4")
    frames = read_video(Path(first))
    assert len(frames) == 3
    assert np.abs(frames[0].astype(int) - screen.shown[2]).mean() < 8
    # Begun again, and finished as the demo ends.
    assert len(read_video(Path(second))) == 2
    assert f"recorded {second}" in err


def test_a_recording_that_fills_the_disk_is_one_warning(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    room = iter([ROOM_BYTES, ROOM_BYTES])
    monkeypatch.setattr(runtime.video.writer, "free_bytes", lambda _: next(room, 0))
    screen = FakeScreen(monkeypatch, "r" + "x" * 8 + "q")
    code, out, err = run(capsys, "--bundle", tiny_bundle, "--source", "sample", "--json")
    assert code == 0
    assert json.loads(out)["frames"] == len(screen.shown) == 10
    assert err.count("warning: recording stopped: the disk has 0.0 MB left") == 1
    (name,) = os.listdir(tmp_path)
    assert len(read_video(Path(name))) == 2


def test_an_output_that_fills_the_disk_ends_the_run_and_is_kept(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = iter([ROOM_BYTES] * 3)
    monkeypatch.setattr(runtime.video.writer, "free_bytes", lambda _: next(room, 0))
    code, _, err = run(
        capsys, "--bundle", tiny_bundle, "--source", "sample", "--headless", "--output", tmp_path / "out.mp4"
    )
    assert code == 2
    assert "holds the 3 frames before" in err and err.count("\n") == 1
    assert len(read_video(tmp_path / "out.mp4")) == 3


def test_a_key_shows_the_same_image_another_way(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.full((20, 30, 3), 200, np.uint8))
    screen = FakeScreen(monkeypatch, "1l  ")
    code, out, _ = run(capsys, "--bundle", tiny_bundle, "--source", tmp_path, "--json")
    assert code == 0
    assert json.loads(out)["frames"] == 2
    assert len(screen.shown) == 4


def test_nothing_is_drawn_where_nobody_looks(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.demo.pipeline, "view_panel", None)
    code, out, _ = run(capsys, "--bundle", tiny_bundle, "--source", "sample", "--headless", "--max-frames", 3, "--json")
    assert (code, json.loads(out)["frames"]) == (0, 3)


def test_a_split_is_shown_with_its_running_accuracy(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    for index, channel in enumerate((0, 1, 0)):
        images[index, ..., channel] = 255
    split = LabelledImages(images, np.array([0, 1, 2]), ("a", "b", "c"), LABELS, "colours", "test")
    write_split(tmp_path / "test.npz", split)
    arguments = ["--bundle", tiny_bundle, "--source", tmp_path / "test.npz", "--headless"]
    code, out, _ = run(capsys, *arguments, "--compare", "--json")
    assert code == 0
    assert json.loads(out)["running_accuracy"] == pytest.approx(2 / 3)
    _, out, _ = run(capsys, *arguments, "--compare")
    assert "right: 66.67%" in out and "float32 and int8 agree: 100.00%" in out


class FakeView:
    """A web view that is told of panels, and whose viewer has wishes."""

    url = "http://127.0.0.1:8080/"

    def __init__(self, wishes: list[Command]) -> None:
        self.wishes = wishes
        self.shown: list[tuple[NDArray[np.uint8], Status]] = []
        self.shown_at_s: list[float] = []
        self.asked: tuple[Any, ...] = ()
        self.closed = False

    @contextmanager
    def serve_view(self, address: str, controls: Controls, *, token: str | None) -> Iterator[FakeView]:
        self.asked = (address, token)
        self.controls = controls
        yield self
        self.closed = True

    def publish(self, panel: NDArray[np.uint8], status: Status) -> None:
        self.shown.append((panel, status))
        self.shown_at_s.append(time.monotonic())
        if self.wishes:
            self.controls.put(self.wishes.pop(0))


def serve(monkeypatch: pytest.MonkeyPatch, *wishes: Command) -> FakeView:
    view = FakeView(list(wishes))
    module = ModuleType("runtime.web")
    module.serve_view = view.serve_view  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "runtime.web", module)
    return view


def test_a_web_page_takes_the_windows_place(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wishes = (Command("level", "1"), Command("record", "on"), Command("snapshot"), Command("record", "off"))
    view = serve(monkeypatch, *wishes, Command("record", "maybe"), Command("quit"))
    code, out, _ = run(
        capsys, "--bundle", tiny_bundle, "--source", "sample", "--loop", "--serve", "0.0.0.0:8080", "--token", "x",
        "--json",
    )  # fmt: skip
    assert code == 0
    assert view.asked == ("0.0.0.0:8080", "x") and view.closed
    assert json.loads(out)["frames"] == len(view.shown) == 6
    statuses = [status for _, status in view.shown]
    assert [status.settings.level for status in statuses] == [0, 1, 1, 1, 1, 1]
    assert [bool(status.recording) for status in statuses] == [False, False, True, True, False, False]
    assert "saved snapshot-" in statuses[3].note
    assert "'maybe'" in statuses[5].note
    assert len(os.listdir(tmp_path)) == 2
    assert view.shown[1][0].shape == view.shown[5][0].shape != view.shown[0][0].shape


def test_a_web_page_shows_a_video_at_its_own_rate(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "clip.avi", 15)
    view = serve(monkeypatch)
    code, _, err = run(capsys, "--bundle", tiny_bundle, "--source", tmp_path / "clip.avi", "--serve", "8080")
    assert code == 0
    assert f"watch it at {view.url}" in err
    # 20 frames a second, where this machine makes hundreds.
    assert view.shown_at_s[-1] - view.shown_at_s[0] > 0.9 * 14 / 20


def test_an_installation_without_web_view_says_so(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "runtime.web", None)
    code, _, err = run(capsys, "--bundle", tiny_bundle, "--source", "sample", "--serve", "8080")
    assert code == 2
    assert "--serve" in err and err.count("\n") == 1


def test_auto_takes_what_is_chosen_for_this_machine(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose_engine(bundle: Path, *, log: Any) -> tuple[str, str, int]:
        log(f"measured {bundle.name}")
        return "tflite", "float32", 2

    module = ModuleType("runtime.engine_choice")
    module.choose_engine = choose_engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "runtime.engine_choice", module)
    code, out, err = run(
        capsys, "--bundle", tiny_bundle, "--source", "sample", "--headless", "--max-frames", 2, "--engine", "auto",
        "--json",
    )  # fmt: skip
    assert code == 0
    summary = json.loads(out)
    assert (summary["precision"], summary["threads"]) == ("float32", 2)
    assert f"measured {tiny_bundle.name}" in err


def test_stopping_before_the_first_frame_is_no_error_of_the_source(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent:
        def __enter__(self) -> Source:
            return Source(iter(lambda: self.stall(), None), 30.0, live=True)

        def stall(self) -> Frame:
            os.kill(os.getpid(), signal.SIGTERM)
            return Frame(np.zeros((1, 1, 3), np.uint8), "none yet", stalled="opening")

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(demo, "open_source", lambda *_, **__: Silent())
    code, _, err = run(capsys, "--bundle", tiny_bundle, "--headless", "--output", tmp_path / "out.mp4")
    assert (code, err) == (130, "stopped\n")
    assert os.listdir(tmp_path) == []


def test_a_camera_away_for_a_while_adds_no_frames_to_the_video(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away:
        def __enter__(self) -> Source:
            images = [np.full((24, 24, 3), 20 * index, np.uint8) for index in range(3)]
            shown = [Frame(images[index], f"camera:{index}") for index in range(3)]
            stalls = [Frame(images[1], "camera:1", stalled="reconnecting")] * 4
            return Source(iter([*shown[:2], *stalls, shown[2]]), 30.0, True, lambda: 7)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(demo, "open_source", lambda *_, **__: Away())
    arguments = ["--bundle", tiny_bundle, "--headless", "--output", tmp_path / "out.mp4"]
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    assert (json.loads(out)["frames"], json.loads(out)["dropped_frames"]) == (3, 7)
    assert len(read_video(tmp_path / "out.mp4")) == 3
    assert "dropped frames: 7" in run(capsys, *arguments)[1]


def test_many_frames_to_skip_are_not_as_many_lines(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(12):
        (tmp_path / f"{index}.png").touch()
    cv2.imwrite(str(tmp_path / "z.png"), np.full((20, 30, 3), 200, np.uint8))
    code, out, err = run(capsys, "--bundle", tiny_bundle, "--source", tmp_path, "--headless")
    assert code == 0
    assert "skipped: 12" in out
    assert err.count("warning: skipped") == 5 and err.count("\n") == 6


def test_escape_and_a_closed_window_quit(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = FakeScreen(monkeypatch, "xx\x1b")
    run(capsys, "--bundle", tiny_bundle, "--source", "sample")
    assert len(screen.shown) == 3
    screen = FakeScreen(monkeypatch, "")
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 0.0)
    run(capsys, "--bundle", tiny_bundle, "--source", "sample")
    assert len(screen.shown) == 1


def test_the_window_takes_the_size_of_the_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = FakeScreen(monkeypatch, "")
    window = Window(1000.0, demo.threading.Event())
    for shape in ((4, 6, 3), (4, 6, 3), (8, 2, 3)):
        window.show(np.zeros(shape, np.uint8))
    assert screen.sizes == [(6, 4), (2, 8)]


def test_images_wait_for_a_key_and_clips_for_their_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = FakeScreen(monkeypatch, "")
    waits = iter([-1, -1, ord("x")])
    monkeypatch.setattr(cv2, "waitKey", lambda _: next(waits))
    stopped = demo.threading.Event()
    assert Window(None, stopped).show(np.zeros((2, 2, 3), np.uint8)) == "x"
    assert next(waits, None) is None
    stopped.set()
    assert Window(None, stopped).show(np.zeros((2, 2, 3), np.uint8)) == ""
    waits_ms: list[int] = []

    def press_nothing(wait_ms: int) -> int:
        waits_ms.append(wait_ms)
        return -1

    monkeypatch.setattr(cv2, "waitKey", press_nothing)
    assert Window(20.0, stopped).show(np.zeros((2, 2, 3), np.uint8)) == ""
    assert 30 <= waits_ms[0] <= 50
    assert len(screen.shown) == 3


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_levels_by_name(levels: int) -> None:
    assert demo.parse_level("all", levels) is None
    assert demo.parse_level("1", levels) == 1
    assert demo.parse_level(str(levels), levels) == levels
    assert demo.parse_level("global", levels) == levels + 1
    assert demo.parse_level("modulator", levels) == levels + 2
    with pytest.raises(ConfigError):
        demo.parse_level(str(levels + 1), levels)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_playable_video(tiny_bundle: Path, tmp_path: Path, number: signal.Signals) -> None:
    write_clip(tmp_path / "clip.avi", 2_000)
    output = tmp_path / "out" / "out.mp4"
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--bundle", str(tiny_bundle), "--source", str(tmp_path / "clip.avi"),
         "--headless", "--output", str(output), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s and process.poll() is None:
        if any(path.stat().st_size > 10_000 for path in output.parent.glob(".out*")):
            break
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    count = json.loads(out)["frames"]
    assert 0 < count < 2_000
    assert len(read_video(output)) == count
    assert os.listdir(output.parent) == ["out.mp4"]


@pytest.mark.parametrize("command", [[SCRIPT], ["-m", "runtime.camera_demo"]])
def test_runs_as_script_and_as_module(tiny_bundle: Path, tmp_path: Path, command: list[str]) -> None:
    as_script = command == [SCRIPT]
    finished = subprocess.run(
        [sys.executable, *command, "--bundle", str(tiny_bundle), "--source", "0987", "--headless"],
        capture_output=True, text=True, cwd=tmp_path if as_script else ROOT, timeout=30,
    )  # fmt: skip
    assert finished.returncode == 2
    assert finished.stdout == ""
    error = finished.stderr.splitlines()[-1]
    assert error.startswith("error: there is no camera /dev/video987")
    assert "Traceback" not in finished.stderr


def test_damaged_bundle_is_one_line(tiny_model: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle(tmp_path / "bundle", tiny_model)
    (tmp_path / "bundle" / "int8.tflite").write_bytes(tiny_model[:-1])
    code, _, err = run(capsys, "--bundle", tmp_path / "bundle", "--source", "sample", "--headless")
    assert code == 2
    assert "int8.tflite" in err and err.count("\n") == 1
