"""The pictures of a run: drawn from the network's own outputs, when it is their turn."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import keras
import numpy as np
import pytest

from runtime.engine import Outputs
from runtime.errors import FocalEdgeError
from runtime.preprocess import Image
from tests.tiny_training import LABELS, NETWORK, easy_dataset
from train import monitor as monitor_module
from train.focalnet import build_focalnet
from train.monitor import PanelMonitor, draw_panels, write_curves, write_picture

IMAGES = easy_dataset().test.images[:2, :8, :8]
FIGURES = {"loss": 1.0, "accuracy": 0.5, "val_loss": 1.5, "val_accuracy": 0.25}


@pytest.fixture(scope="module")
def model() -> Any:
    keras.utils.set_random_seed(0)
    return build_focalnet(NETWORK, keras)


def test_a_row_is_drawn_for_each_picture(model: Any) -> None:
    one, two = (draw_panels(model, NETWORK, IMAGES[:count], LABELS) for count in (1, 2))
    assert (two.dtype, two.shape) == (np.uint8, (2 * one.shape[0], one.shape[1], 3))
    # Batches of 1 and 2 may round differently.
    assert np.abs(two[: one.shape[0]].astype(int) - one).mean() < 0.5
    assert np.abs(two[one.shape[0] :].astype(int) - one).mean() > 1


def test_panels_show_the_network_s_outputs(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Image, Outputs, str]] = []

    def collect(image: Image, outputs: Outputs, labels: Any, *, note: str) -> Image:
        drawn.append((image, outputs, note))
        return np.zeros((4, 6, 3), dtype=np.uint8)

    monkeypatch.setattr(monitor_module, "gate_panel", collect)
    draw_panels(model, NETWORK, IMAGES, LABELS)
    block = NETWORK.overlay_layer
    names = [f"{block}.gate0", f"{block}.gate1", f"{block}.modulator"]
    inner = keras.Model(model.input, [model.output, *(model.get_layer(name).output for name in names)])
    logits, first, second, modulator = (np.asarray(value) for value in inner(IMAGES.astype(np.float32)))
    for index, (image, outputs, note) in enumerate(drawn):
        assert np.array_equal(image, IMAGES[index])
        assert note == block
        np.testing.assert_allclose(outputs.logits, logits[index], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(outputs.gates[..., 0], first[index, ..., 0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(outputs.gates[..., 1], second[index, ..., 0], rtol=1e-4, atol=1e-5)
        norm = np.sqrt((modulator[index] ** 2).sum(axis=-1))
        np.testing.assert_allclose(outputs.modulator, norm, rtol=1e-4, atol=1e-5)
    assert len(drawn) == len(IMAGES)


def test_a_picture_keeps_its_colours(tmp_path: Path) -> None:
    picture = np.zeros((4, 5, 3), dtype=np.uint8)
    picture[..., 0], picture[..., 2] = 200, 10  # R, B
    write_picture(tmp_path / "new" / "picture.png", picture)
    found = cv2.imread(str(tmp_path / "new" / "picture.png"))
    assert found is not None
    assert found[0, 0].tolist() == [10, 0, 200]  # B, G, R


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(cv2, "imwrite", lambda *_: False)
    with pytest.raises(FocalEdgeError, match="cannot write"):
        write_picture(path, np.zeros((4, 5, 3), dtype=np.uint8))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


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


@pytest.mark.parametrize(("every", "turns"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4]), (3, [3]), (6, [])])
def test_panels_are_drawn_every_so_many_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, turns: list[int]
) -> None:
    monkeypatch.setattr(monitor_module, "draw_panels", lambda *_: np.zeros((4, 6, 3), dtype=np.uint8))
    callback = PanelMonitor(tmp_path, NETWORK, IMAGES, LABELS, every)
    for epoch in range(5):
        callback.on_epoch_end(epoch)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"epoch_{turn:03}.png" for turn in turns]
