"""The demo end to end: real bundles and videos, and no half-written file however a run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
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
from tests.support.clips import read_video, write_clip
from tests.support.disk import Disk
from tests.support.paths import ROOT
from tests.support.tiny_bundle import LABELS, write_bundle

SCRIPT = str(ROOT / "runtime" / "camera_demo.py")


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process, on the tiny bundle and its own clip: exit code, stdout, stderr."""

    def run(*arguments: Any, **parts: Any) -> tuple[int, str, str]:
        argv = ["--bundle", tiny_bundle, "--source", "sample", *arguments]
        code = run_cli(partial(demo.main, **parts), [str(argument) for argument in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_writes_a_video_of_every_frame(run: Run, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / "new" / f"out{suffix}"
    code, out, _ = run("--headless", "--output", output, "--max-frames", 7, "--json")
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


def test_prints_a_summary(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.png").touch()
    cv2.imwrite(str(tmp_path / "one.png"), np.full((20, 30, 3), 200, np.uint8))
    code, out, err = run("--source", tmp_path, "--headless", "--precision", "float32")
    assert code == 0
    assert "frames: 1 (float32, ai-edge-litert" in out
    assert "latency p50" in out and " ms" in out
    assert "unreadable images skipped: 1" in out
    assert err.count("warning: skipped") == 1


@pytest.mark.parametrize("level", ["all", "1", "global", "modulator"])
def test_image_output_holds_the_chosen_maps(run: Run, tmp_path: Path, level: str) -> None:
    # All red: in the tiny model the first gate is high, the second and third (the global one) low.
    cv2.imwrite(str(tmp_path / "red.png"), np.full((32, 32, 3), (0, 0, 255), np.uint8))
    output = tmp_path / "panel.png"
    code, _, _ = run("--source", tmp_path / "red.png", "--headless", "--output", output, "--level", level)
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


def test_image_output_takes_only_the_first_frame(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("--headless", "--output", tmp_path / "panel.png", "--json")
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
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("--headless", *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["out.mp4", "out.avi", "out.png", "deeper/out.mp4"])
def test_unwritable_output(run: Run, tmp_path: Path, name: str) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("no folder")
    code, _, err = run("--headless", "--output", blocker / name)
    assert code == 2
    assert "cannot write" in err
    assert os.listdir(tmp_path) == ["file"]


def test_failed_run_keeps_the_old_output(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    output.write_text("the old one")
    code, _, _ = run("--source", "987", "--headless", "--output", output)
    assert code == 2
    assert output.read_text() == "the old one"
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_a_missing_display_is_an_error_before_anything_is_opened(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    code, _, err = run()
    assert code == 2
    assert "--headless" in err


def opens(frames: Iterable[Frame], **settings: Any) -> Any:
    """An `open_source` whose source gives these frames."""
    return lambda spec, **_: nullcontext(Source(iter(frames), 30.0, **settings))


def unplugged_after(count: int) -> Iterator[Frame]:
    """Frames of a camera that is then unplugged."""
    for index in range(count):
        yield Frame(np.full((24, 24, 3), 20 * index, np.uint8), f"fake:{index}")
    raise SourceError("the camera was unplugged")


def test_frames_before_a_failure_are_kept(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    code, _, err = run("--headless", "--output", output, open_source=opens(unplugged_after(4)))
    assert code == 2
    assert "unplugged (after 4 frames)" in err
    assert len(read_video(output)) == 4


def test_failure_before_any_frame_leaves_no_file(run: Run, tmp_path: Path) -> None:
    code, _, err = run("--headless", "--output", tmp_path / "out.mp4", open_source=opens(unplugged_after(0)))
    assert code == 2
    assert "unplugged" in err
    assert os.listdir(tmp_path) == []


def test_non_finite_frames_are_counted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def classify(engine: Engine, frame: Frame) -> TimedOutputs:
        maps = np.zeros((4, 4), np.float32)
        logits = np.full(len(LABELS), np.nan if frame.name == "sample:1" else 1.0, np.float32)
        return TimedOutputs(Outputs(logits, np.zeros((4, 4, 3), np.float32), maps), 0.1, 1.0)

    monkeypatch.setattr(demo, "Pipeline", partial(Pipeline, classify=classify))
    code, out, err = run("--headless", "--max-frames", 3, "--json")
    assert code == 0
    assert json.loads(out)["non_finite_frames"] == 1
    assert "warning: frames with non-finite values: 1" in err


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


def test_keys_choose_the_level_save_and_quit(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    screen = FakeScreen(monkeypatch, "129s0q")
    Path("snapshot-000003.png").touch()
    code, out, _ = run("--output", "out.mp4", "--json")
    assert code == 0
    assert json.loads(out)["frames"] == 6
    all_maps, one_map = screen.shown[0].shape, screen.shown[1].shape
    assert [panel.shape == one_map for panel in screen.shown] == [False, True, True, True, True, False]
    # The existing file stays.
    saved = cv2.imread("snapshot-000003-2.png")
    np.testing.assert_array_equal(saved, screen.shown[3])
    frames = read_video(Path("out.mp4"))
    assert [frame.shape for frame in frames] == [all_maps] * 6
    assert sorted(os.listdir(tmp_path)) == ["out.mp4", "snapshot-000003-2.png", "snapshot-000003.png"]


def test_keys_change_layout_precision_and_comparison(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = FakeScreen(monkeypatch, "2lpcccq")
    code, out, _ = run("--json")
    assert code == 0
    summary = json.loads(out)
    assert (summary["precision"], summary["agreement"], summary["frames"]) == ("float32", 1.0, 7)
    grid, single, blend, float32, compared, alone, compared_again = (panel.shape for panel in screen.shown)
    assert len({grid, single, blend, compared}) == 4
    assert (float32, alone, compared_again) == (blend, blend, compared)


def test_a_key_starts_and_stops_recordings(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    screen = FakeScreen(monkeypatch, "xrxxr1rxq")
    code, _, err = run()
    assert code == 0
    assert len(screen.shown) == 9
    first, second = sorted(os.listdir(tmp_path), key=lambda name: (len(name), name))
    assert first.startswith("recording-") and first.endswith(".mp4")
    frames = read_video(Path(first))
    assert len(frames) == 3
    assert np.abs(frames[0].astype(int) - screen.shown[2]).mean() < 8
    # Started again, and finished when the demo ends.
    assert len(read_video(Path(second))) == 2
    assert f"recorded {second}" in err


def test_a_recording_that_fills_the_disk_is_one_warning(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Disk(monkeypatch, 2)
    screen = FakeScreen(monkeypatch, "r" + "x" * 8 + "q")
    code, out, err = run("--json")
    assert code == 0
    assert json.loads(out)["frames"] == len(screen.shown) == 10
    assert err.count("warning: recording stopped: the disk has 2.0 MB left") == 1
    (name,) = os.listdir(tmp_path)
    assert len(read_video(Path(name))) == 2


def test_an_output_that_fills_the_disk_ends_the_run_and_is_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Disk(monkeypatch, 3)
    code, _, err = run("--headless", "--output", tmp_path / "out.mp4")
    assert code == 2
    assert "holds the 3 frames before" in err and err.count("\n") == 1
    assert len(read_video(tmp_path / "out.mp4")) == 3


def test_a_key_shows_the_same_image_another_way(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.full((20, 30, 3), 200, np.uint8))
    screen = FakeScreen(monkeypatch, "1l  ")
    code, out, _ = run("--source", tmp_path, "--json")
    assert code == 0
    assert json.loads(out)["frames"] == 2
    assert len(screen.shown) == 4


def test_nothing_is_drawn_without_an_outlet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.demo.pipeline, "view_panel", None)
    code, out, _ = run("--headless", "--max-frames", 3, "--json")
    assert (code, json.loads(out)["frames"]) == (0, 3)


def test_a_split_is_shown_with_its_running_accuracy(run: Run, tmp_path: Path) -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    for index, channel in enumerate((0, 1, 0)):
        images[index, ..., channel] = 255
    split = LabelledImages(images, np.array([0, 1, 2]), ("a", "b", "c"), LABELS, "colours", "test")
    write_split(tmp_path / "test.npz", split)
    arguments = ["--source", tmp_path / "test.npz", "--headless"]
    code, out, _ = run(*arguments, "--compare", "--json")
    assert code == 0
    assert json.loads(out)["running_accuracy"] == pytest.approx(2 / 3)
    _, out, _ = run(*arguments, "--compare")
    assert "right: 66.67%" in out and "float32 and int8 agree: 100.00%" in out


class FakeView:
    """A web view that keeps the panels, and whose viewer sends one command after each."""

    url = "http://127.0.0.1:8080/"

    def __init__(self, commands: list[Command]) -> None:
        self.commands = commands
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
        if self.commands:
            self.controls.put(self.commands.pop(0))


def serve(monkeypatch: pytest.MonkeyPatch, *commands: Command) -> FakeView:
    view = FakeView(list(commands))
    module = ModuleType("runtime.web")
    module.serve_view = view.serve_view  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "runtime.web", module)
    return view


def test_a_web_page_replaces_the_window(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = (Command("level", "1"), Command("record", "on"), Command("snapshot"), Command("record", "off"))
    view = serve(monkeypatch, *commands, Command("record", "maybe"), Command("quit"))
    code, out, _ = run("--loop", "--serve", "0.0.0.0:8080", "--token", "x", "--json")
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


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_damaged_video_is_no_success(form: str, run: Run, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.avi", 30)
    content = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    output = tmp_path / "out" / "out.mp4"
    options = ["--headless", "--output", output, *(["--json"] if form == "json" else [])]
    code, out, err = run("--source", tmp_path / "cut.avi", *options)
    read = len(read_video(output))
    assert code == 2 and 0 < read < 30
    assert err.count("\n") == 1 and f"{read} of 30 frames were read (the file is cut short)" in err
    if form == "json":
        summary = json.loads(out)
        assert (summary["frames"], summary["frames_read"], summary["frames_expected"]) == (read, read, 30)
    else:
        assert f"frames read of the video: {read} of 30" in out
    code, out, err = run("--source", tmp_path / "clip.avi", *options)
    assert (code, err) == (0, "")
    assert len(read_video(output)) == 30


def test_a_container_without_a_count_says_so(run: Run, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mkv", 9)
    code, out, _ = run("--source", tmp_path / "clip.mkv", "--headless")
    assert code == 0
    assert "frames read of the video: 9 (the container states no number)" in out
    code, out, _ = run("--source", tmp_path / "clip.mkv", "--headless", "--json", "--max-frames", 4)
    assert json.loads(out)["frames_read"] == 4 and json.loads(out)["frames_expected"] is None
    assert json.loads(run("--headless", "--json", "--max-frames", 4)[1])["frames_read"] is None


def test_a_web_page_shows_a_video_at_its_own_rate(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "clip.avi", 15)
    view = serve(monkeypatch)
    code, _, err = run("--source", tmp_path / "clip.avi", "--serve", "8080")
    assert code == 0
    assert f"watch it at {view.url}" in err
    # The clip has 20 frames a second; this machine could show hundreds.
    assert view.shown_at_s[-1] - view.shown_at_s[0] > 0.9 * 14 / 20


def test_a_missing_web_view_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "runtime.web", None)
    code, _, err = run("--serve", "8080")
    assert code == 2
    assert "--serve" in err and err.count("\n") == 1


def test_auto_takes_the_choice_for_this_machine(run: Run, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def choose_engine(bundle: Path, *, log: Any) -> tuple[str, str, int]:
        log(f"measured {bundle.name}")
        return "tflite", "float32", 2

    module = ModuleType("runtime.engine_choice")
    module.choose_engine = choose_engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "runtime.engine_choice", module)
    code, out, err = run("--headless", "--max-frames", 2, "--engine", "auto", "--json")
    assert code == 0
    summary = json.loads(out)
    assert (summary["precision"], summary["threads"]) == ("float32", 2)
    assert f"measured {tiny_bundle.name}" in err


def test_stopping_before_the_first_frame_is_no_source_error(run: Run, tmp_path: Path) -> None:
    def silent() -> Iterator[Frame]:
        while True:
            os.kill(os.getpid(), signal.SIGTERM)
            yield Frame(np.zeros((1, 1, 3), np.uint8), "none yet", stalled="opening")

    code, _, err = run("--headless", "--output", tmp_path / "out.mp4", open_source=opens(silent(), live=True))
    assert (code, err) == (130, "stopped\n")
    assert os.listdir(tmp_path) == []


def test_a_camera_that_stalls_adds_no_frames_to_the_video(run: Run, tmp_path: Path) -> None:
    images = [np.full((24, 24, 3), 20 * index, np.uint8) for index in range(3)]
    shown = [Frame(images[index], f"camera:{index}") for index in range(3)]
    stalls = [Frame(images[1], "camera:1", stalled="reconnecting")] * 4
    source = opens([*shown[:2], *stalls, shown[2]], live=True, dropped_frames=lambda: 7)
    code, out, _ = run("--headless", "--output", tmp_path / "out.mp4", open_source=source)
    assert code == 0
    assert "frames: 3 " in out and "dropped frames: 7" in out
    assert len(read_video(tmp_path / "out.mp4")) == 3


def test_many_skipped_images_give_few_warnings(run: Run, tmp_path: Path) -> None:
    for index in range(12):
        (tmp_path / f"{index}.png").touch()
    cv2.imwrite(str(tmp_path / "z.png"), np.full((20, 30, 3), 200, np.uint8))
    code, out, err = run("--source", tmp_path, "--headless")
    assert code == 0
    assert "skipped: 12" in out
    assert err.count("warning: skipped") == 5 and err.count("\n") == 6


def test_escape_and_a_closed_window_quit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = FakeScreen(monkeypatch, "xx\x1b")
    run()
    assert len(screen.shown) == 3
    screen = FakeScreen(monkeypatch, "")
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 0.0)
    run()
    assert len(screen.shown) == 1


def test_the_window_takes_the_size_of_the_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = FakeScreen(monkeypatch, "")
    window = Window(1000.0, demo.threading.Event())
    for shape in ((4, 6, 3), (4, 6, 3), (8, 2, 3)):
        window.show(np.zeros(shape, np.uint8))
    assert screen.sizes == [(6, 4), (2, 8)]


def test_images_wait_for_a_key_and_clips_for_their_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = FakeScreen(monkeypatch, "")
    waits = iter([-1, -1, ord("r")])
    monkeypatch.setattr(cv2, "waitKey", lambda _: next(waits))
    stopped = demo.threading.Event()
    assert Window(None, stopped).show(np.zeros((2, 2, 3), np.uint8)) == Command("record")
    assert next(waits, None) is None
    stopped.set()
    assert Window(None, stopped).show(np.zeros((2, 2, 3), np.uint8)) is None
    waits_ms: list[int] = []

    def press_nothing(wait_ms: int) -> int:
        waits_ms.append(wait_ms)
        return -1

    monkeypatch.setattr(cv2, "waitKey", press_nothing)
    assert Window(20.0, stopped).show(np.zeros((2, 2, 3), np.uint8)) is None
    assert 30 <= waits_ms[0] <= 50
    assert len(screen.shown) == 3


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_levels_by_name(levels: int) -> None:
    assert demo.parse_level("all", levels) == 0
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
    finished = subprocess.run(
        [sys.executable, *command, "--bundle", str(tiny_bundle), "--source", "0987", "--headless"],
        capture_output=True,
        text=True,
        cwd=tmp_path if command == [SCRIPT] else ROOT,
        timeout=30,
    )
    assert finished.returncode == 2
    assert finished.stdout == ""
    error = finished.stderr.splitlines()[-1]
    assert error.startswith("error: there is no camera /dev/video987")
    assert "Traceback" not in finished.stderr


def test_damaged_bundle_is_one_line(run: Run, tiny_model: bytes, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", tiny_model)
    (tmp_path / "bundle" / "int8.tflite").write_bytes(tiny_model[:-1])
    code, _, err = run("--bundle", tmp_path / "bundle", "--headless")
    assert code == 2
    assert "int8.tflite" in err and err.count("\n") == 1
