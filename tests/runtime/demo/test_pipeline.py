"""The pipeline: commands between frames, correct counts, and no viewer or file that ends it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.bundle.precisions import Precisions
from runtime.core.errors import ArtifactError
from runtime.demo.controls import Command, Controls, Settings
from runtime.demo.pipeline import Pipeline, Result, TimedOutputs
from runtime.engines.engine import Engine
from runtime.engines.outputs import Outputs
from runtime.images.input_spec import InputSpec
from runtime.video.sources import Frame, Source
from tests.support.tiny_bundle import CELLS, LABELS, SIDE, tiny_onnx, write_bundle

COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}


def image(colour: str, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    return np.full((height, width, 3), COLOURS[colour], np.uint8)


def frames(*colours: str, true_label: str | None = None) -> list[Frame]:
    return [Frame(image(colour), f"frame:{i}", true_label) for i, colour in enumerate(colours)]


def pipeline_of(
    bundle: Path, shown: list[Frame], settings: Settings | None = None, fps: float | None = 30.0
) -> tuple[Pipeline, Controls]:
    controls = Controls()
    settings = settings or Settings()
    artifacts = Precisions(bundle, precision=settings.precision)
    return Pipeline(artifacts, Source(iter(shown), fps), controls, settings=settings), controls


def test_every_frame_gives_a_panel_and_a_status(tiny_bundle: Path) -> None:
    pipeline, _ = pipeline_of(tiny_bundle, frames("red", "green", "blue"))
    results = list(pipeline)
    assert [result.status.frames for result in results] == [1, 2, 3]
    assert [result.status.top5[0][0] for result in results] == ["red", "green", "blue"]
    status = results[-1].status
    assert status.frame == "frame:2"
    assert status.maps == ("gate, level 1", "gate, level 2", "gate, global", "modulator")
    assert status.precisions == ("float32", "int8")
    assert sum(share for _, share in status.top5) == pytest.approx(1.0)
    assert 0 < status.latency_p50_ms <= status.latency_p90_ms < 1000
    assert status.frames_per_s > 0
    assert (status.running_accuracy, status.agreement, status.true_label) == (None, None, None)
    for result in results:
        assert result.panel.dtype == np.uint8
        assert result.panel.shape == results[0].panel.shape
        assert result.panel.shape[0] % 2 == result.panel.shape[1] % 2 == 0


@pytest.mark.parametrize(("fraction", "label"), [(0.5, "red"), (1.0, "blue")])
def test_a_bundle_with_a_crop_classifies_and_shows_the_centre(
    tiny_model: bytes, tmp_path: Path, fraction: float, label: str
) -> None:
    write_bundle(tmp_path, tiny_model, input_spec=InputSpec(SIDE, fraction, "bicubic"))
    image = np.full((120, 160, 3), (0, 0, 255), np.uint8)
    image[28:92, 48:112] = (255, 0, 0)  # half of the short side, and what the kernel reaches
    pipeline, _ = pipeline_of(tmp_path, [Frame(image, "frame:0")])
    (result,) = pipeline
    assert result.status.top5[0][0] == label
    tile = result.panel[46 + 20 : 46 + 20 + 224, 14 : 14 + 224]
    assert (tile == (255, 0, 0)).all() == (label == "red")


def test_a_panel_is_drawn_on_first_use(tiny_bundle: Path) -> None:
    pipeline, _ = pipeline_of(tiny_bundle, frames("red", "green"))
    first, second = pipeline
    assert "panel" not in vars(first)
    assert first.panel is first.panel
    assert "panel" not in vars(second)


def test_commands_take_effect_between_frames(tiny_bundle: Path) -> None:
    pipeline, controls = pipeline_of(tiny_bundle, frames(*["red"] * 6))
    results = iter(pipeline)
    seen = [next(results).status.settings]
    for command in (Command("level", "2"), Command("layout"), Command("precision"), Command("compare")):
        controls.put(command)
        seen.append(next(results).status.settings)
    assert seen == [
        Settings(),
        Settings(2, "single"),
        Settings(2, "blend"),
        Settings(2, "blend", "float32"),
        Settings(2, "blend", "float32", compare=True),
    ]
    controls.put(Command("quit"))
    assert list(results) == []


@pytest.mark.parametrize("command", [Command("level", "9"), Command("layout", "x"), Command("precision", "int4")])
def test_an_invalid_command_is_a_note_and_changes_nothing(tiny_bundle: Path, command: Command) -> None:
    pipeline, controls = pipeline_of(tiny_bundle, frames("red"))
    controls.put(command)
    (result,) = pipeline
    assert result.status.settings == Settings()
    assert result.status.note.startswith(f"{command.action}: ")
    assert repr(command.value) in result.status.note


def test_a_bundle_of_one_precision_offers_no_other(tiny_model: bytes, tmp_path: Path) -> None:
    manifest = write_bundle(tmp_path, tiny_model)
    write_bundle(tmp_path, tiny_model, artifacts=manifest.artifacts[1:])
    pipeline, controls = pipeline_of(tmp_path, frames("red", "red"))
    for action in ("precision", "compare"):
        controls.put(Command(action))
    result = next(iter(pipeline))
    assert result.status.precisions == ("int8",)
    assert result.status.settings == Settings()
    with pytest.raises(ArtifactError, match="no float32 artifact"):
        pipeline_of(tmp_path, [], Settings(precision="float32"))


def test_record_and_snapshot_are_left_to_the_caller(tiny_bundle: Path) -> None:
    asked: list[Command] = []

    def perform(command: Command) -> str:
        asked.append(command)
        return f"did {command.action}"

    controls = Controls()
    pipeline = Pipeline(
        Precisions(tiny_bundle), Source(iter(frames("red")), 30.0), controls, settings=Settings(), perform=perform
    )
    controls.put(Command("record", "on"))
    controls.put(Command("snapshot"))
    (result,) = pipeline
    assert asked == [Command("record", "on"), Command("snapshot")]
    assert result.status.note == "did snapshot"


def test_accuracy_counts_only_known_labels(tiny_bundle: Path) -> None:
    shown = [
        Frame(image("red"), "1", "red"),
        Frame(image("green"), "2", "blue"),
        Frame(image("blue"), "3", "a class of another dataset"),
        Frame(image("blue"), "4", "blue"),
    ]
    pipeline, _ = pipeline_of(tiny_bundle, shown)
    results = list(pipeline)
    assert [result.status.running_accuracy for result in results] == [1.0, 0.5, 0.5, pytest.approx(2 / 3)]
    assert results[2].status.true_label == "a class of another dataset"


def test_agreement_of_two_artifacts(tiny_bundle: Path) -> None:
    predictions = {"int8": iter([0, 1, 2, None]), "float32": iter([0, 2, 2, None])}

    def classify(engine: Engine, frame: Frame) -> TimedOutputs:
        best = next(predictions[engine.precision])
        logits = np.full(3, np.nan, np.float32) if best is None else np.eye(3, dtype=np.float32)[best]
        maps = np.ones((CELLS, CELLS), np.float32)
        return TimedOutputs(Outputs(logits, np.ones((CELLS, CELLS, 3), np.float32), maps), 0.0, 2.0)

    source = Source(iter(frames(*["red"] * 4)), 30.0)
    pipeline = Pipeline(Precisions(tiny_bundle), source, Controls(), settings=Settings(compare=True), classify=classify)
    results = list(pipeline)
    assert [result.status.agreement for result in results] == [1.0, 0.5, pytest.approx(2 / 3), 0.5]
    assert [view.title for view in results[0].views] == ["float32", "int8"]
    assert results[0].stages.inference_ms == 4.0
    assert [result.is_finite() for result in results] == [True, True, True, False]
    assert results[3].panel.std() > 0


@pytest.mark.parametrize(
    "odd",
    [
        np.zeros((480, 1, 3), np.uint8),
        np.zeros((1, 640, 3), np.uint8),
        np.zeros((1, 1, 3), np.uint8),
        np.zeros((31, 17, 3), np.uint8)[::2, ::-1],
    ],
)
def test_frames_of_any_size_are_shown(tiny_bundle: Path, odd: NDArray[np.uint8]) -> None:
    for settings in (Settings(), Settings(1, "single"), Settings(4, "blend"), Settings(2, "blend", compare=True)):
        shown = [Frame(image("red"), "before"), Frame(odd, "odd"), Frame(image("red", 90, 20), "after")]
        panels = [result.panel for result in pipeline_of(tiny_bundle, shown, settings)[0]]
        assert len({panel.shape for panel in panels}) == 1
        assert len(panels) == 3


def test_a_command_repeats_an_image_without_counting_it(tiny_bundle: Path) -> None:
    pipeline, controls = pipeline_of(tiny_bundle, frames("red", "green", true_label="red"), fps=None)
    results = iter(pipeline)
    assert next(results).status.frame == "frame:0"
    controls.put(Command("precision", "float32"))
    again = next(results)
    assert (again.status.frame, again.status.settings.precision, again.repeated) == ("frame:0", "float32", True)
    assert again.status.frames == 1
    following = next(results)
    assert (following.status.frame, following.status.frames, following.repeated) == ("frame:1", 2, False)


def test_a_stalled_source_is_a_note_and_commands_still_work(tiny_bundle: Path) -> None:
    controls = Controls()

    def stalling() -> Iterator[Frame]:
        yield Frame(np.zeros((1, 1, 3), np.uint8), "none yet", stalled="opening")
        yield Frame(image("red"), "camera:0")
        controls.put(Command("level", "1"))
        yield Frame(image("red"), "camera:0", stalled="reconnecting")
        yield Frame(image("blue"), "camera:1")

    pipeline = Pipeline(Precisions(tiny_bundle), Source(stalling(), 30.0, live=True), controls, settings=Settings())
    results = list(pipeline)
    assert [result.status.note for result in results] == ["", "reconnecting", ""]
    assert [result.repeated for result in results] == [False, True, False]
    assert [result.status.frames for result in results] == [1, 1, 2]
    assert results[2].status.settings == Settings(1, "single")


def test_quit_and_stop_end_a_source_without_frames(tiny_bundle: Path) -> None:
    def never() -> Iterator[Frame]:
        while True:
            yield Frame(np.zeros((1, 1, 3), np.uint8), "none yet", stalled="opening")

    for quit_by_command in (True, False):
        controls, stopped = Controls(), threading.Event()
        source = Source(never(), 30.0, live=True)
        pipeline = Pipeline(Precisions(tiny_bundle), source, controls, settings=Settings(), stopped=stopped)
        if quit_by_command:
            controls.put(Command("quit"))
        else:
            threading.Timer(0.05, stopped.set).start()
        assert list(pipeline) == []
        assert stopped.is_set()


def swap(file: Path, model: bytes) -> None:
    """Replace an artifact as an update does, by rename."""
    other = file.with_suffix(".new")
    other.write_bytes(model + b"\0" * 16)
    other.replace(file)


def seen(results: Iterator[Result]) -> tuple[str, str]:
    status = next(results).status
    return status.top5[0][0], status.settings.precision


def test_an_artifact_replaced_under_a_running_demo(tiny_model: bytes, tmp_path: Path) -> None:
    write_bundle(tmp_path, tiny_model)
    pipeline, controls = pipeline_of(tmp_path, frames(*["green"] * 9))
    results = iter(pipeline)
    assert seen(results) == ("green", "int8")
    swap(tmp_path / "int8.tflite", tiny_model)
    # The open engine continues, and the other precision can be chosen.
    assert seen(results) == ("green", "int8")
    controls.put(Command("precision", "float32"))
    assert seen(results) == ("green", "float32")
    # The replaced file is refused.
    controls.put(Command("precision", "int8"))
    refused = next(results)
    assert refused.status.settings.precision == "float32"
    assert "int8.tflite has" in refused.status.note and "the manifest expects" in refused.status.note
    controls.put(Command("compare", "on"))
    assert not next(results).status.settings.compare
    # A whole new bundle with a matching manifest is refused too, unless the file is the old one.
    write_bundle(tmp_path, tiny_model, labels=LABELS[::-1])
    controls.put(Command("precision", "int8"))
    assert seen(results) == ("green", "int8")
    write_bundle(tmp_path, tiny_model + b"\0" * 16)
    controls.put(Command("precision", "float32"))
    assert seen(results) == ("green", "int8")


def test_overwriting_an_artifact_does_not_affect_the_open_one(tiny_model: bytes, tmp_path: Path) -> None:
    write_bundle(tmp_path, tiny_model, tiny_onnx())
    for engine, file in (("tflite", "int8.tflite"), ("ort", "int8.onnx")):
        artifacts = Precisions(tmp_path, engine=engine)
        results = iter(Pipeline(artifacts, Source(iter(frames(*["blue"] * 3)), 30.0), Controls(), settings=Settings()))
        assert seen(results) == ("blue", "int8")
        size_bytes = (tmp_path / file).stat().st_size
        # Like `cp`: the same file with other content, first of the same size and then shorter than a page.
        for content in (b"\0" * size_bytes, b"no model"):
            (tmp_path / file).write_bytes(content)
            assert seen(results) == ("blue", "int8")


def test_compare_can_end_after_a_file_was_replaced(tiny_model: bytes, tmp_path: Path) -> None:
    write_bundle(tmp_path, tiny_model)
    pipeline, controls = pipeline_of(tmp_path, frames("red", "red"), Settings(compare=True))
    results = iter(pipeline)
    assert len(next(results).views) == 2
    swap(tmp_path / "int8.tflite", tiny_model)
    controls.put(Command("compare", "off"))
    assert len(next(results).views) == 1


def test_a_removed_bundle_does_not_end_a_running_demo(tiny_model: bytes, tmp_path: Path) -> None:
    write_bundle(tmp_path, tiny_model)
    pipeline, controls = pipeline_of(tmp_path, frames("blue", "blue"))
    results = iter(pipeline)
    next(results)
    for path in tmp_path.iterdir():
        path.unlink()
    controls.put(Command("precision"))
    result = next(results)
    assert result.status.top5[0][0] == "blue"
    assert "float.tflite" in result.status.note


def test_both_precisions_use_the_same_engine(tiny_model: bytes, tmp_path: Path) -> None:
    write_bundle(tmp_path, tiny_model, tiny_onnx())
    artifacts = Precisions(tmp_path, engine="ort")
    artifacts.switch_to("float32")
    assert {artifacts.engine(precision).kind for precision in artifacts.precisions} == {"ort"}
