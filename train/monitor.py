"""Pictures of a training run: what its gates see, and how its loss falls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np

from runtime.files import replacing
from runtime.outputs import Outputs
from runtime.overlay import gate_panel
from runtime.preprocess import Image
from train.checkpoint import History
from train.config import FocalNetConfig
from train.focalnet import with_overlay


def draw_panels(model: Any, config: FocalNetConfig, images: Image, labels: Sequence[str]) -> Image:
    """Draw pictures beside their gates and modulator, one row each (the tutorial's TrainMonitor).

    Args:
        model: a model of `build_focalnet`, from Keras 3.
        config: its configuration.
        images: uint8 `[N, S, S, 3]` RGB at the network's input size.
        labels: class names.

    Returns:
        uint8 `[H, W, 3]` RGB.
    """
    # Called, not predicted: each panel's model is a new one, and TensorFlow would trace each.
    outputs = with_overlay(model, config, keras)(images.astype(np.float32), training=False)
    views = {name: keras.ops.convert_to_numpy(values) for name, values in outputs.items()}
    modulators = np.linalg.norm(views["modulator"], axis=-1)
    panels = [
        gate_panel(image, Outputs(logits, gates, modulator), labels, note=config.overlay_layer)
        for image, logits, gates, modulator in zip(images, views["logits"], views["gates"], modulators, strict=True)
    ]
    return np.concatenate(panels)


def write_picture(path: Path, image: Image) -> None:
    """Write an RGB picture as PNG, by temporary name and rename."""
    with replacing(path) as temporary:
        if not cv2.imwrite(str(temporary), image[..., ::-1]):
            raise OSError("OpenCV could not encode the picture")


def write_curves(path: Path, history: History) -> None:
    """Plot loss and accuracy, of the train and the validation split, over the epochs.

    Args:
        path: the PNG.
        history: one row an epoch with `loss`, `accuracy`, `val_loss` and `val_accuracy`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    epochs = np.arange(1, len(history) + 1)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(epochs, [row[name] for row in history], "o-", label="train (augmented)", markersize=3)
        axes.plot(epochs, [row[f"val_{name}"] for row in history], "s--", label="validation", markersize=3)
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


class PanelMonitor(keras.callbacks.Callback):
    """Draw the panel of sample pictures every `every` epochs."""

    def __init__(self, folder: Path, config: FocalNetConfig, images: Image, labels: Sequence[str], every: int) -> None:
        """Keep the sample pictures.

        Args:
            folder: where `epoch_NNN.png` go.
            config: the network.
            images: uint8 `[N, S, S, 3]` RGB at the network's input size.
            labels: class names.
            every: epochs between two panels, 1 or more.
        """
        super().__init__()
        self._folder = folder
        self._config = config
        self._images = images
        self._labels = labels
        self._every = every

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Draw the panel if it is this epoch's turn."""
        if (epoch + 1) % self._every == 0:
            panel = draw_panels(self.model, self._config, self._images, self._labels)
            write_picture(self._folder / f"epoch_{epoch + 1:03d}.png", panel)
