"""The images of a run: drawn from the network's own outputs, when it is their turn, and joined in their order."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import keras
import numpy as np
import PIL.Image
import pytest

from runtime.core.errors import TrainingError
from runtime.engines.engine import Outputs
from runtime.images.preprocess import Image
from runtime.video.writer import save_image
from tests.support.tiny_training import LABELS, NETWORK, easy_dataset
from train.loop import monitor as monitor_module
from train.loop.monitor import (
    BANNER_HEIGHT_PX,
    BAR_WIDTH_PX,
    MAX_FRAMES,
    RIGHT_COLOUR,
    WRONG_COLOUR,
    PanelMonitor,
    draw_curves,
    draw_panels,
    panel_files,
    write_animation,
    write_curves,
)
from train.model.focalnet import build_focalnet

IMAGES = easy_dataset().test.images[:2, :8, :8]
FIGURES = {"loss": 1.0, "accuracy": 0.5, "val_loss": 1.5, "val_accuracy": 0.25, "learning_rate": 0.001}
Drawn = list[tuple[Image, Outputs, str]]


@pytest.fixture(scope="module")
def model() -> Any:
    keras.utils.set_random_seed(0)
    return build_focalnet(NETWORK, keras)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    calls: Drawn = []

    def collect(image: Image, outputs: Outputs, labels: Any, *, note: str) -> Image:
        calls.append((image, outputs, note))
        return np.zeros((40, 60, 3), dtype=np.uint8)

    monkeypatch.setattr(monitor_module, "gate_panel", collect)
    return calls


def classes_of(model: Any) -> np.ndarray:
    return np.asarray(model(IMAGES.astype(np.float32))).argmax(axis=-1)


def test_a_row_is_drawn_for_each_image(model: Any) -> None:
    one, two = (draw_panels(model, NETWORK, IMAGES[:count], LABELS)[BANNER_HEIGHT_PX:] for count in (1, 2))
    assert (two.dtype, two.shape) == (np.uint8, (2 * one.shape[0], one.shape[1], 3))
    # Batches of 1 and 2 may round differently.
    assert np.abs(two[: one.shape[0]].astype(int) - one).mean() < 0.5
    assert np.abs(two[one.shape[0] :].astype(int) - one).mean() > 1


def test_panels_show_the_network_s_outputs(model: Any, drawn: Drawn) -> None:
    draw_panels(model, NETWORK, IMAGES, LABELS)
    block = NETWORK.overlay_layer
    names = [f"{block}.gate0", f"{block}.gate1", f"{block}.modulator"]
    inner = keras.Model(model.input, [model.output, *(model.get_layer(name).output for name in names)])
    logits, first, second, modulator = (np.asarray(value) for value in inner(IMAGES.astype(np.float32)))
    for index, (image, outputs, note) in enumerate(drawn):
        assert np.array_equal(image, IMAGES[index])
        assert note == ""
        np.testing.assert_allclose(outputs.logits, logits[index], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(outputs.gates[..., 0], first[index, ..., 0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(outputs.gates[..., 1], second[index, ..., 0], rtol=1e-4, atol=1e-5)
        norm = np.sqrt((modulator[index] ** 2).sum(axis=-1))
        np.testing.assert_allclose(outputs.modulator, norm, rtol=1e-4, atol=1e-5)
    assert len(drawn) == len(IMAGES)


def test_rows_say_the_true_class_and_whether_it_was_found(model: Any, drawn: Drawn) -> None:
    found = classes_of(model)
    truths = np.array([found[0], (found[1] + 1) % len(LABELS)])
    panel = draw_panels(model, NETWORK, IMAGES, LABELS, truths=truths)
    first, second = (LABELS[truth] for truth in truths)
    assert [note for _, _, note in drawn] == [f"true: {first} (right)", f"true: {second} (wrong)"]
    bars = panel[[BANNER_HEIGHT_PX + 20, BANNER_HEIGHT_PX + 40 + 20], BAR_WIDTH_PX - 1]
    assert bars.tolist() == [list(RIGHT_COLOUR), list(WRONG_COLOUR)]


def test_a_network_that_gives_nan_is_right_about_nothing(model: Any, drawn: Drawn) -> None:
    broken = keras.Model(model.input, model.output * float("nan"))
    draw_panels(broken, NETWORK, IMAGES, LABELS, truths=np.array([0, 0]))
    assert [note for _, _, note in drawn] == [f"true: {LABELS[0]} (wrong)"] * 2


def test_the_banner_alone_shows_the_title(model: Any) -> None:
    first, second = (draw_panels(model, NETWORK, IMAGES, LABELS, title=f"epoch {epoch}") for epoch in (1, 2))
    differing = np.flatnonzero((first != second).any(axis=(1, 2)))
    assert differing.size
    assert differing.max() < BANNER_HEIGHT_PX


def run_epochs(folder: Path, every: int, first: int, last: int, of: int) -> list[str]:
    """Run the monitor's epochs with empty panels; return the titles of the panels."""
    titles: list[str] = []

    def draw(*_: Any, title: str, **__: Any) -> Image:
        titles.append(title)
        return np.zeros((4, 6, 3), dtype=np.uint8)

    callback = PanelMonitor(folder, NETWORK, IMAGES, LABELS, every, draw=draw)
    callback.set_params({"epochs": of})
    callback.set_model(SimpleNamespace(network=None))
    for epoch in range(first - 1, last):
        callback.on_epoch_begin(epoch)
        callback.on_test_end({"accuracy": 0.25})
    return titles


@pytest.mark.parametrize(("every", "turns"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5]), (3, [0, 3, 5]), (6, [0, 5])])
def test_panels_are_drawn_at_first_at_last_and_in_between(tmp_path: Path, every: int, turns: list[int]) -> None:
    titles = run_epochs(tmp_path, every, 1, 5, of=5)
    assert [path.name for path in panel_files(tmp_path)] == [f"epoch_{turn:03}.png" for turn in turns]
    assert titles[0] == "before training"
    assert titles[-1] == "epoch 5 of 5   validation 25.0%"


def test_a_resumed_run_goes_on_with_the_series(tmp_path: Path) -> None:
    titles = run_epochs(tmp_path, 2, 1, 3, of=6)
    early = {path: path.stat().st_mtime_ns for path in panel_files(tmp_path)}
    titles += run_epochs(tmp_path, 2, 4, 6, of=6)
    assert [path.name for path in panel_files(tmp_path)] == [f"epoch_{turn:03}.png" for turn in (0, 2, 4, 6)]
    assert {path: path.stat().st_mtime_ns for path in early} == early
    assert titles.count("before training") == 1


def test_a_new_run_does_not_mix_with_the_panels_of_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "epoch_090.png").write_bytes(b"of a longer run")
    (tmp_path / "mine.png").write_bytes(b"no panel")
    run_epochs(tmp_path, 1, 1, 1, of=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch_000.png", "epoch_001.png", "mine.png"]


def test_the_averaged_weights_are_drawn(tmp_path: Path, model: Any) -> None:
    seen: list[float] = []

    def draw(network: Any, *_: Any, **__: Any) -> Image:
        seen.append(float(np.asarray(network.trainable_variables[0]).flat[0]))
        return np.zeros((4, 6, 3), dtype=np.uint8)

    network = keras.models.clone_model(model)
    optimizer = keras.optimizers.AdamW(use_ema=True)
    optimizer.build(network.trainable_variables)
    variable, average = network.trainable_variables[0], optimizer._model_variables_moving_average[0]
    variable.assign(np.full(variable.shape, 1.0))
    average.assign(np.full(variable.shape, 2.0))
    callbacks = keras.callbacks.CallbackList(
        [PanelMonitor(tmp_path, NETWORK, IMAGES, LABELS, 1, draw=draw), keras.callbacks.SwapEMAWeights()],
        model=SimpleNamespace(network=network, optimizer=optimizer),
        epochs=1,
    )
    callbacks.on_epoch_begin(0)
    callbacks.on_test_begin()
    callbacks.on_test_end({"accuracy": 0.5})
    assert seen == [1.0, 2.0]
    assert float(np.asarray(variable).flat[0]) == 1.0


def grey_panel(folder: Path, epoch: int, value: int, side_px: int = 16) -> None:
    save_image(folder / f"epoch_{epoch:03d}.png", np.full((side_px, side_px, 3), value, dtype=np.uint8))


def frames_of(path: Path) -> list[tuple[float, int]]:
    """Mean value and duration in ms of each frame."""
    with PIL.Image.open(path) as animation:
        found = []
        for index in range(animation.n_frames):
            animation.seek(index)
            animation.load()
            found.append((float(np.asarray(animation.convert("RGB")).mean()), int(animation.info["duration"])))
    return found


def test_the_animation_goes_through_the_epochs_and_rests_on_the_last(tmp_path: Path) -> None:
    for epoch, value in ((0, 20), (999, 90), (1000, 160), (50, 60)):
        grey_panel(tmp_path, epoch, value)
    grey_panel(tmp_path, 1000, 160, side_px=12)  # of another size, as after a change of version
    path = write_animation(tmp_path)
    assert path == tmp_path / "training.webp"
    values, durations_ms = zip(*frames_of(path), strict=True)
    assert durations_ms == (500, 500, 500, 2000)
    assert values == pytest.approx((20, 60, 90, 160), abs=4)
    assert len(list(tmp_path.iterdir())) == 5


def test_one_panel_is_an_animation_too(tmp_path: Path) -> None:
    grey_panel(tmp_path, 0, 100)
    path = write_animation(tmp_path)
    assert path is not None
    with PIL.Image.open(path) as still:
        assert still.size == (16, 16)


def test_a_long_series_is_thinned_but_keeps_its_ends(tmp_path: Path) -> None:
    count = MAX_FRAMES * 3
    for epoch in range(count):
        grey_panel(tmp_path, epoch, 255 if epoch == count - 1 else epoch, side_px=8)
    path = write_animation(tmp_path)
    assert path is not None
    values, durations_ms = zip(*frames_of(path), strict=True)
    # Not counted: WebP may hold a frame for longer, in place of one that hardly differs.
    assert sum(durations_ms) == (MAX_FRAMES - 1) * 500 + 2000
    assert values[0] == pytest.approx(0, abs=4)
    assert values[-1] == pytest.approx(255, abs=4)


def test_no_panels_make_no_animation(tmp_path: Path) -> None:
    assert write_animation(tmp_path / "missing") is None
    save_image(tmp_path / "other.png", IMAGES[0])
    assert write_animation(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == ["other.png"]


def test_a_damaged_panel_is_named(tmp_path: Path) -> None:
    grey_panel(tmp_path, 0, 100)
    (tmp_path / "epoch_001.png").write_bytes(b"half")
    with pytest.raises(TrainingError, match=r"epoch_001\.png: not an image of a known format.* delete it"):
        write_animation(tmp_path)


@pytest.mark.parametrize("value", [0.7, float("nan")])
def test_curves_are_drawn_from_the_first_epoch_on(tmp_path: Path, value: float) -> None:
    path = tmp_path / "curves.png"
    write_curves(path, [FIGURES])
    first = cv2.imread(str(path))
    write_curves(path, [FIGURES, FIGURES | {"val_loss": value}, FIGURES])
    later = cv2.imread(str(path))
    assert first is not None
    assert later is not None
    assert first.shape == later.shape
    assert not np.array_equal(first, later)
    assert list(tmp_path.iterdir()) == [path]


def test_curves_mark_the_best_validated_epoch_and_show_the_rate() -> None:
    accuracies = [0.2, 0.6, float("nan"), 0.6]
    history = [FIGURES | {"val_accuracy": value, "learning_rate": 0.1 / (i + 1)} for i, value in enumerate(accuracies)]
    losses, accuracy, rates = draw_curves(history).axes
    for axes, value in ((losses, 1.5), (accuracy, 0.6)):
        (star,) = [line for line in axes.lines if line.get_marker() == "*"]
        assert (list(star.get_xdata()), list(star.get_ydata())) == ([2], [value])
    np.testing.assert_allclose(rates.lines[0].get_ydata(), [0.1, 0.05, 0.1 / 3, 0.025])
