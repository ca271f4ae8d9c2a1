"""One training run: compile, fit, checkpoint, resume."""

from __future__ import annotations

import csv
import math
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.errors import TrainingError
from runtime.files import replacing
from runtime.preprocess import Image
from train.augment import TrainBatches
from train.checkpoint import CHECKPOINT_FILE, Checkpoint, History, load_checkpoint, save_checkpoint
from train.config import TrainConfig
from train.focalnet import build_focalnet
from train.monitor import PanelMonitor, write_curves
from train.run import Run
from train.splits import Dataset, resize_all


def learning_rate_schedule(recipe: TrainConfig, total_steps: int) -> Any:
    """Return the tutorial's schedule: a linear warm-up, then a cosine to 0.

    Args:
        recipe: rates and warm-up fraction.
        total_steps: optimizer steps of the whole run.

    Returns:
        A Keras learning-rate schedule.
    """
    warmup_steps = int(total_steps * recipe.warmup_fraction)
    return keras.optimizers.schedules.CosineDecay(
        recipe.warmup_learning_rate if warmup_steps else recipe.learning_rate,
        decay_steps=total_steps - warmup_steps,
        warmup_target=recipe.learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


def compile_model(model: Any, recipe: TrainConfig, total_steps: int) -> None:
    """Give a model its optimizer, loss and metric.

    Args:
        model: a model of `build_focalnet`, from Keras 3.
        recipe: the training recipe.
        total_steps: optimizer steps of the whole run.
    """
    optimizer = keras.optimizers.AdamW(
        learning_rate_schedule(recipe, total_steps),
        weight_decay=recipe.weight_decay,
        global_clipnorm=recipe.clip_norm or None,
        name="adam_w",  # else Keras counts the optimizers of a process, and a checkpoint's keys with them
    )
    if recipe.decay_kernels_only:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    # XLA makes a GPU fast, and JAX anywhere; on a CPU, TensorFlow trains this network three times slower with it.
    slower_by_xla = keras.backend.backend() == "tensorflow" and device_name() == "cpu"
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing),
        metrics=["accuracy"],
        jit_compile=False if slower_by_xla else "auto",
    )


def device_name() -> str:
    """Return "cpu" or the kind of accelerator that this backend trains on, such as "gpu"."""
    # Unasked for a kind, every backend lists its accelerators, and JAX those alone.
    kinds = {str(device).split(":")[0] for device in keras.distribution.list_devices()}
    return next(iter(sorted(kinds - {"cpu"})), "cpu")


def fit(run: Run, dataset: Dataset, folder: Path, resume: bool) -> tuple[Any, History]:
    """Train a run's network, from its start or from its last whole epoch.

    Args:
        run: what to train and how.
        dataset: its pictures.
        folder: where checkpoint, history and pictures go.
        resume: go on from the folder's checkpoint, if there is one.

    Returns:
        The trained model and its history, one row an epoch.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    recipe = run.recipe
    keras.utils.set_random_seed(recipe.seed)
    model = build_focalnet(run.model, keras)
    steps_per_epoch = max(1, len(dataset.train.labels) // recipe.batch_size)
    compile_model(model, recipe, steps_per_epoch * recipe.epochs)
    checkpoint = Checkpoint([])
    if resume and (folder / CHECKPOINT_FILE).exists():
        checkpoint = load_checkpoint(folder / CHECKPOINT_FILE, model)
    history = checkpoint.history
    if checkpoint.epochs_done < recipe.epochs:
        _fit_epochs(model, run, dataset, folder, history)
    return model, history


def _fit_epochs(model: Any, run: Run, dataset: Dataset, folder: Path, history: History) -> None:
    size, recipe, done = run.model.input_size, run.recipe, len(history)
    batches = TrainBatches(dataset.train.images, dataset.train.labels, run.model, recipe, first_epoch=done)
    val_images = resize_all(dataset.val.images, size)
    callbacks: list[Any] = [Progress(recipe.epochs, done)]
    if recipe.monitor_every:
        callbacks.append(PanelMonitor(folder / "monitor", run.model, val_images[:4], run.labels, recipe.monitor_every))
    callbacks.append(EveryEpoch(folder, history))
    model.fit(
        batches,
        validation_data=EvalBatches(val_images, dataset.val.labels, run.model.classes),
        initial_epoch=done,
        epochs=recipe.epochs,
        shuffle=False,  # TrainBatches shuffles, by seed and epoch
        verbose=0,
        callbacks=callbacks,
    )


class EvalBatches(keras.utils.PyDataset):
    """Pictures in order, cast to the model's float input batch by batch."""

    def __init__(self, images: Image, labels: NDArray[np.int64], classes: int, batch_size: int = 250) -> None:
        """Keep uint8 `[N, S, S, 3]` pictures and int64 `[N]` labels."""
        super().__init__()
        self._images, self._labels = images, labels
        self._classes, self._batch = classes, batch_size

    def __len__(self) -> int:
        """Return the number of batches, the last one perhaps smaller."""
        return math.ceil(len(self._labels) / self._batch)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return batch `index`: float32 `[B, S, S, 3]` in 0..255 and one-hot float32 `[B, classes]`."""
        chosen = slice(index * self._batch, (index + 1) * self._batch)
        one_hot = np.eye(self._classes, dtype=np.float32)[self._labels[chosen]]
        return self._images[chosen].astype(np.float32), one_hot


class EveryEpoch(keras.callbacks.Callback):
    """After each epoch: check the loss, then write history, curves and, last, the checkpoint that makes it done."""

    def __init__(self, folder: Path, history: History) -> None:
        """Keep where to write, and the rows of the epochs already done (extended in place)."""
        super().__init__()
        self._folder, self._history = folder, history
        self._start_s = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the epoch's clock."""
        self._start_s = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the epoch's results.

        Raises:
            TrainingError: a loss is not finite; the last good checkpoint stays.
        """
        figures = {name: float(value) for name, value in (logs or {}).items()}
        # The last step can spoil the weights behind a finite training loss.
        for name in ("loss", "val_loss"):
            if not math.isfinite(figures[name]):
                raise TrainingError(
                    f"{name} became {figures[name]} in epoch {epoch + 1}; the checkpoint before it, if any, is kept: "
                    "lower the learning rate or raise warmup_fraction, in a new run"
                )
        figures["learning_rate"] = float(np.asarray(self.model.optimizer.learning_rate))
        figures["time_s"] = round(time.perf_counter() - self._start_s, 2)
        self._history.append({"epoch": epoch + 1, **figures})
        write_history(self._folder / "history.csv", self._history)
        write_curves(self._folder / "curves.png", self._history)
        save_checkpoint(self._folder / CHECKPOINT_FILE, self.model, Checkpoint(self._history))


class Progress(keras.callbacks.Callback):
    """A bar with ETA over all steps of the run, and a plain line after each epoch."""

    def __init__(self, epochs: int, done: int) -> None:
        """Keep the number of epochs in all and of those already done."""
        super().__init__()
        self._epochs, self._done = epochs, done
        self._bar: Any = None

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Open the bar where the run stands."""
        steps = self.params["steps"]
        self._bar = tqdm(
            total=steps * self._epochs, initial=steps * self._done, unit="step", disable=None, desc="train"
        )

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Count a step."""
        self._bar.update()
        if logs:
            self._bar.set_postfix(loss=f"{logs['loss']:.3f}", accuracy=f"{logs['accuracy']:.3f}", refresh=False)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Say the epoch's figures in a line of their own."""
        figures = " ".join(f"{name} {value:.4f}" for name, value in (logs or {}).items())
        # Standard output may carry JSON.
        tqdm.write(f"epoch {epoch + 1}/{self._epochs} {figures}", file=sys.stderr)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Close the bar."""
        self._bar.close()


def write_history(path: Path, history: History) -> None:
    """Write one row an epoch as CSV."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def evaluate(model: Any, images: Image, labels: NDArray[np.int64], size: int) -> float:
    """Return a model's top-1 accuracy (0..1) on pictures of any size, uint8 `[N, H, W, 3]`."""
    classes = model.output.shape[-1]
    logits = model.predict(EvalBatches(resize_all(images, size), labels, classes), verbose=0)
    return float((logits.argmax(axis=-1) == labels).mean())
