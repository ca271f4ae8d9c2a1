"""Images of a training run: gate panels, their animation and the curves."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import PIL.Image
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from runtime.core.errors import DataError, TrainingError
from runtime.core.files import replacing
from runtime.draw.canvas import BACKGROUND, BRIGHT, DIM, letterbox, write_text
from runtime.draw.overlay import gate_panel
from runtime.engines.outputs import Outputs
from runtime.images.decode import read_image
from runtime.images.preprocess import Image
from runtime.video.writer import save_image
from train.loop.checkpoint import History
from train.model.config import FocalNetConfig
from train.model.focalnet import with_overlay

PANEL_NAME = re.compile(r"epoch_(\d{3,})\.png")
ANIMATION_FILE = "training.webp"
ANIMATION_WIDTH_PX = 960
ANIMATION_QUALITY = 70
# Long runs show some of their panels, so that the file stays small.
MAX_FRAMES = 30
FRAME_MS = 500
LAST_FRAME_MS = 2000
BANNER_HEIGHT_PX = 44
# Heights of capitals.
TITLE_PX = 17.0
NOTE_PX = 10.5
# The bar at the left of each row.
RIGHT_COLOUR = (64, 200, 150)
WRONG_COLOUR = (235, 70, 95)
BAR_WIDTH_PX = 5


def draw_panels(
    model: Any,
    config: FocalNetConfig,
    images: Image,
    labels: Sequence[str],
    *,
    truths: NDArray[np.int64] | None = None,
    title: str = "",
) -> Image:
    """Draw images beside their gates and modulator, one row each, under a banner (the tutorial's TrainMonitor).

    Args:
        model: a model of `build_focalnet`, from Keras 3.
        config: its configuration.
        images: uint8 `[N, S, S, 3]` RGB at the network's input size.
        labels: class names.
        truths: int64 `[N]`, the true classes, if they are known.
        title: what the banner says, e.g. the epoch; the share of right images follows it.

    Returns:
        uint8 `[H, W, 3]` RGB.
    """
    # Called, not predicted: TensorFlow would trace the new model of each panel.
    outputs = with_overlay(model, config, keras)(images.astype(np.float32), training=False)
    views = {name: keras.ops.convert_to_numpy(keras.ops.cast(values, "float32")) for name, values in outputs.items()}
    modulators = np.linalg.norm(views["modulator"], axis=-1)
    notes, bars = [""] * len(images), [BACKGROUND] * len(images)
    if truths is not None:
        # NaN logits are wrong.
        right = (views["logits"].argmax(axis=-1) == truths) & np.isfinite(views["logits"]).all(axis=-1)
        notes = [f"true: {labels[t]} ({'right' if r else 'wrong'})" for t, r in zip(truths, right, strict=True)]
        bars = [RIGHT_COLOUR if r else WRONG_COLOUR for r in right]
        title = f"{title}   {np.count_nonzero(right)} of {len(images)} right".lstrip()
    rows = [
        gate_panel(image, Outputs(logits, gates, modulator), labels, note=note)
        for image, logits, gates, modulator, note in zip(
            images, views["logits"], views["gates"], modulators, notes, strict=True
        )
    ]
    for row, bar in zip(rows, bars, strict=True):
        row[2 * BAR_WIDTH_PX : -2 * BAR_WIDTH_PX, :BAR_WIDTH_PX] = bar
    return np.concatenate([_banner(rows[0].shape[1], title, config.overlay_layer), *rows])


def _banner(width_px: int, title: str, note: str) -> Image:
    banner = np.full((BANNER_HEIGHT_PX, width_px, 3), BACKGROUND, dtype=np.uint8)
    margin, baseline = 14, BANNER_HEIGHT_PX - 12
    right, room_px = width_px - margin, width_px - 2 * margin
    used_px = write_text(banner, note, (right, baseline), NOTE_PX, DIM, room_px // 2, align="right")
    write_text(banner, title, (margin, baseline), TITLE_PX, BRIGHT, room_px - used_px - margin, bold=True)
    banner[-2:, margin:-margin] = DIM
    return banner


class PanelMonitor(keras.callbacks.Callback):
    """Draw the panel of sample images before training, every `every` epochs, and after the last one.

    It draws as a validation ends, which is when the weights are those that are validated: give it to `fit` before
    `SwapEMAWeights`, which then takes the average out again.
    """

    def __init__(
        self,
        folder: Path | None,
        config: FocalNetConfig,
        images: Image,
        labels: Sequence[str],
        every: int,
        truths: NDArray[np.int64] | None = None,
        draw: Callable[..., Image] = draw_panels,
    ) -> None:
        """Keep the sample images.

        Args:
            folder: where `epoch_NNN.png` go, if anywhere; `epoch_000.png` is the network before training.
            config: the network.
            images: uint8 `[N, S, S, 3]` RGB at the network's input size.
            labels: class names.
            every: epochs between two panels, 1 or more.
            truths: int64 `[N]`, the true classes of the sample images, if they are known.
            draw: draws a panel, as `draw_panels` does.
        """
        super().__init__()
        self._folder = folder
        self._config = config
        self._images = images
        self._labels = labels
        self._every = every
        self._truths = truths
        self._draw_panels = draw
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Draw the untrained network, if the run begins here."""
        self._epoch = epoch + 1
        if epoch == 0:
            for stale in panel_files(self._folder) if self._folder else ():
                stale.unlink()
            self._draw(0, "before training")

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        """Draw the panel of every `every`-th epoch."""
        epochs = self.params["epochs"]
        if self._epoch % self._every == 0 or self._epoch == epochs:
            accuracy = (logs or {}).get("accuracy")
            note = "" if accuracy is None else f"   validation {accuracy:.1%}"
            self._draw(self._epoch, f"epoch {self._epoch} of {epochs}{note}")

    def _draw(self, epoch: int, title: str) -> None:
        panel = self._draw_panels(
            self.model.network, self._config, self._images, self._labels, truths=self._truths, title=title
        )
        if self._folder:
            save_image(self._folder / f"epoch_{epoch:03d}.png", panel)


def panel_files(folder: Path) -> list[Path]:
    """Return the panels that `PanelMonitor` drew in a folder, by epoch."""
    epochs = {path: match for path in folder.glob("*.png") if (match := PANEL_NAME.fullmatch(path.name))}
    return sorted(epochs, key=lambda path: int(epochs[path][1]))


def write_animation(folder: Path) -> Path | None:
    """Join the panels of a folder into one animated WebP: two a second, the last one held for two seconds.

    Args:
        folder: where `PanelMonitor` drew; the animation goes there too.

    Returns:
        The animation, of 30 panels at most, evenly chosen; `None` where there is no panel.

    Raises:
        TrainingError: a panel cannot be read.
        FocalEdgeError: the animation cannot be written.
    """
    panels = panel_files(folder)
    if not panels:
        return None
    chosen = np.linspace(0, len(panels) - 1, min(len(panels), MAX_FRAMES)).round().astype(int)
    images = [_read_panel(panels[index]) for index in chosen]
    # The latest panel's; frames must have one size.
    height, width = images[-1].shape[:2]
    scale = min(1.0, ANIMATION_WIDTH_PX / width)
    size = (round(height * scale), round(width * scale))
    first, *others = (PIL.Image.fromarray(letterbox(image, *size)) for image in images)
    path = folder / ANIMATION_FILE
    with replacing(path) as temporary:
        first.save(
            temporary,
            format="WEBP",
            save_all=True,
            append_images=others,
            duration=[FRAME_MS] * len(others) + [LAST_FRAME_MS],
            loop=0,
            quality=ANIMATION_QUALITY,
        )
    return path


def _read_panel(path: Path) -> Image:
    try:
        return read_image(path)
    except DataError as error:
        raise TrainingError(f"{error}; expected a panel of this run: delete it") from error


def write_curves(path: Path, history: History) -> None:
    """Plot loss, accuracy and learning rate over the epochs; the best validation epoch is marked.

    Args:
        path: the PNG.
        history: one row an epoch with `loss`, `accuracy`, `val_loss`, `val_accuracy` and `learning_rate`.
    """
    with replacing(path) as temporary:
        draw_curves(history).savefig(temporary, dpi=120, format="png")


def draw_curves(history: History) -> Figure:
    """Return the figure of `write_curves`: axes of the loss, the accuracy and, smaller, the learning rate."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    losses, accuracies, rates = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    epochs = np.arange(1, len(history) + 1)
    # argmax would choose NaN.
    best = int(np.argmax([np.nan_to_num(row["val_accuracy"], nan=-1.0) for row in history]))
    for axes, name in ((losses, "loss"), (accuracies, "accuracy")):
        axes.plot(epochs, [row[name] for row in history], "o-", label="train (augmented)", markersize=3)
        axes.plot(epochs, [row[f"val_{name}"] for row in history], "s--", label="validation", markersize=3)
        value = history[best][f"val_{name}"]
        axes.axvline(best + 1, color="grey", linewidth=0.8, linestyle=":")
        label = f"best validated: epoch {best + 1}, {value:.4g}"
        axes.plot(best + 1, value, "*", color="black", fillstyle="none", markersize=11, label=label)
        axes.legend(fontsize="small")
    rates.plot(epochs, [row["learning_rate"] for row in history], "o-", color="grey", markersize=2)
    rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for axes, name in ((losses, "loss"), (accuracies, "accuracy"), (rates, "learning rate")):
        axes.set(xlabel="epoch", ylabel=name, xlim=(0.5, len(history) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
    return figure
