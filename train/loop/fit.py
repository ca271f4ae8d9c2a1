"""One training run: compile, fit, checkpoint, resume."""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.core.errors import FocalEdgeError, TrainingError
from runtime.core.files import replacing, sha256_of
from runtime.evaluation.sampling import class_balanced_indices
from runtime.images.input_spec import InputSpec
from train.data.batches import EvalBatches, TrainBatches, eval_batch_size, steps_per_epoch
from train.data.dataset import Dataset, Images, resize_all
from train.data.lazy_images import LazyImages
from train.data.prefetch import Ahead, own_errors
from train.distributed.placement import (
    ALONE,
    Placement,
    check_agreement,
    device_name,
    digest_of,
    digest_of_tensors,
    on_one_device,
)
from train.distributed.shards import share
from train.loop.checkpoint import Checkpoint, History, load_checkpoint, save_checkpoint
from train.loop.monitor import PanelMonitor, write_curves
from train.loop.nonfinite import StopIfNonfinite
from train.loop.optimizer import LayerwiseAdamW
from train.loop.training_model import TrainingModel
from train.model.focalnet import build_focalnet
from train.model.layer_groups import rate_scale
from train.model.recipe import TrainConfig, image_spec
from train.model.weights import Tensors, assign_weights, model_weights
from train.run import CHECKPOINT_FILE, Run

PANEL_ROWS = 4
CURVES_EVERY_S = 10


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


def compile_model(model: TrainingModel, recipe: TrainConfig, total_steps: int) -> None:
    """Give a training model its optimizer and metric.

    Args:
        model: the network with its data.
        recipe: the training recipe.
        total_steps: optimizer steps of the whole run.
    """
    optimizer = LayerwiseAdamW(
        learning_rate_schedule(recipe, total_steps),
        weight_decay=recipe.weight_decay,
        global_clipnorm=recipe.clip_norm or None,
        use_ema=recipe.ema_momentum > 0,
        ema_momentum=recipe.ema_momentum,
        rate_scale=lambda path: rate_scale(path, model.config, recipe.layer_decay),
        name="adam_w",  # else Keras numbers it, and the keys of checkpoints
    )
    if recipe.decay_kernels_only:
        scales = [v for layer in model.network.layers if ".layer_scale" in layer.name for v in layer.weights]
        optimizer.exclude_from_weight_decay(var_list=scales, var_names=["bias", "gamma", "beta"])
    # XLA is faster on a GPU, and with JAX; with TensorFlow on a CPU it is three times slower.
    slower_by_xla = keras.backend.backend() == "tensorflow" and device_name() == "cpu"
    model.compile(
        optimizer=optimizer,
        weighted_metrics=["accuracy"],
        jit_compile=False if slower_by_xla else "auto",
    )


def fit(
    run: Run,
    dataset: Dataset,
    folder: Path,
    resume: bool,
    placement: Placement = ALONE,
    start: Tensors | None = None,
    save: Callable[[Path, Any, Checkpoint], None] = save_checkpoint,
) -> tuple[Any, History]:
    """Train a run's network, from its start or from its last whole epoch.

    Args:
        run: what to train and how.
        dataset: its images.
        folder: where checkpoint, history and images go.
        resume: go on from the folder's checkpoint, if there is one.
        placement: the place of this process in the run.
        start: weights to start from, by `layer/variable`; a missing head is initialised at random. Ignored if the
            run is resumed.
        save: writes the checkpoint after each epoch.

    Returns:
        The trained network, with its averaged weights if the recipe averages them, and its history, one row an epoch.

    Raises:
        TrainingError: a loss or gradient is not finite, or a file cannot be written; the last checkpoint stays.
        ArtifactError: the checkpoint is damaged or of another network, or the weights to start from are.
    """
    recipe, saved = run.recipe, folder / CHECKPOINT_FILE
    resume = resume and saved.exists()
    parts = {
        "recipe": lambda: repr(run),
        "images": lambda: digest_of(dataset),
        "checkpoint": lambda: sha256_of(saved) if resume else "",
        "the weights to start from": lambda: digest_of_tensors(start or {}),
    }
    check_agreement(parts, placement)
    keras.utils.set_random_seed(recipe.seed)
    model = TrainingModel(run.model, recipe, dataset.train, placement)
    compile_model(model, recipe, steps_per_epoch(len(dataset.train.labels), recipe) * recipe.epochs)
    checkpoint = Checkpoint([])
    if resume:
        checkpoint = load_checkpoint(saved, model)
    elif start:
        _start_from(model.network, start)
    history = checkpoint.history
    if checkpoint.epochs_done < recipe.epochs:
        _fit_epochs(model, run, dataset, folder, history, placement, save)
    # Keras' fit ends with this; a checkpoint, after its last epoch too, has the weights before it.
    model.optimizer.finalize_variable_values(model.trainable_variables)
    network = on_one_device(model.network, lambda: build_focalnet(run.model, keras), placement)
    return _in_float32(network, run), history


def _start_from(network: Any, start: Tensors) -> None:
    weights = model_weights(network)
    taken = {name: v for name, v in weights.items() if name in start or not name.startswith("logits/")}
    assign_weights(taken, start, "what the run starts from")


def _in_float32(network: Any, run: Run) -> Any:
    """Return a network that computes as an export of its weights does, whatever it was trained in."""
    if run.recipe.precision == "float32":
        return network
    copy = build_focalnet(run.model, keras)
    copy.set_weights(network.get_weights())
    return copy


def _fit_epochs(
    model: TrainingModel,
    run: Run,
    dataset: Dataset,
    folder: Path,
    history: History,
    placement: Placement,
    save: Callable[[Path, Any, Checkpoint], None],
) -> None:
    recipe, done = run.recipe, len(history)
    val_images = resize_all(dataset.val.images, run.model.input_spec)
    streamed = resize_all(dataset.train.images, image_spec(run.model, recipe)) if dataset.train.streamed else None
    train = TrainBatches(dataset.train.labels, run.model.classes, recipe, done, streamed)
    val = EvalBatches(val_images, dataset.val.labels, run.model.classes)
    fed = [share(each, placement) for each in (train, val)]
    if dataset.train.streamed:
        fed = [Ahead(each) for each in fed]
    progress = Progress(recipe.epochs, done)
    callbacks: list[Any] = [progress, StopIfNonfinite(train, val)]
    if recipe.monitor_every:  # before the swap: it draws the weights that are validated
        chosen = class_balanced_indices(dataset.val.labels, PANEL_ROWS, seed=None)
        samples, truths = val_images[chosen], dataset.val.labels[chosen]
        # Every process draws: XLA may compile a network that lies on all devices by the help of all of them.
        panels = folder / "monitor" if placement.writes else None
        callbacks.append(PanelMonitor(panels, run.model, samples, run.labels, recipe.monitor_every, truths))
    if recipe.ema_momentum:
        callbacks.append(keras.callbacks.SwapEMAWeights())  # validates the averaged weights
    callbacks.append(EveryEpoch(folder if placement.writes else None, history, save=save))
    try:
        with own_errors(*fed):
            model.fit(
                fed[0],
                validation_data=fed[1],
                initial_epoch=done,
                epochs=recipe.epochs,
                shuffle=False,  # TrainBatches shuffles, by seed and epoch
                verbose=0,
                callbacks=callbacks,
            )
    except TrainingError:
        raise
    except FocalEdgeError as error:  # a file that could not be written, or too many that could not be read
        raise TrainingError(f"{error}; {len(history)} epochs are kept, go on from there by --resume") from error
    finally:
        progress.close()


class EveryEpoch(keras.callbacks.Callback):
    """After each epoch, write history, curves and, last, the checkpoint that makes it done."""

    def __init__(
        self,
        folder: Path | None,
        history: History,
        *,
        curves_every_s: float = CURVES_EVERY_S,
        draw: Callable[[Path, History], None] = write_curves,
        save: Callable[[Path, Any, Checkpoint], None] = save_checkpoint,
    ) -> None:
        """Keep the folder, if any, and the history, which is extended in place after each write."""
        super().__init__()
        self._folder, self._history = folder, history
        self._curves_every_s, self._draw_curves, self._save = curves_every_s, draw, save
        self._start_s = 0.0
        self._drawn_s = -math.inf

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the epoch's clock."""
        self._start_s = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the epoch's results.

        Raises:
            FocalEdgeError: a file cannot be written.
        """
        figures = {name: float(value) for name, value in (logs or {}).items()}
        figures["learning_rate"] = float(np.asarray(self.model.optimizer.learning_rate))
        figures["time_s"] = round(time.perf_counter() - self._start_s, 2)
        history = [*self._history, {"epoch": epoch + 1, **figures}]
        if self._folder is not None:
            write_history(self._folder / "history.csv", history)
            self._draw(history)
            self._save(self._folder / CHECKPOINT_FILE, self.model, Checkpoint(history))
        self._history.append(history[-1])

    def _draw(self, history: History) -> None:
        """Draw the curves, at most every few seconds: drawing can take longer than an epoch."""
        assert self._folder is not None
        if time.perf_counter() - self._drawn_s >= self._curves_every_s or len(history) == self.params["epochs"]:
            self._draw_curves(self._folder / "curves.png", history)
            self._drawn_s = time.perf_counter()


class Progress(keras.callbacks.Callback):
    """A bar with ETA over all steps of the run, and a plain line after each epoch."""

    def __init__(self, epochs: int, done: int) -> None:
        """Keep the number of epochs in all and of those already done."""
        super().__init__()
        self._epochs, self._done = epochs, done
        self._bar: Any = None

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Open the bar at the steps already done."""
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
        """Print the epoch's figures in one line."""
        figures = " ".join(f"{name} {value:.4f}" for name, value in (logs or {}).items())
        # stdout may carry JSON.
        tqdm.write(f"epoch {epoch + 1}/{self._epochs} {figures}", file=sys.stderr)

    def close(self) -> None:
        """Close the bar, if it was opened."""
        if self._bar is not None:
            self._bar.close()


def write_history(path: Path, history: History) -> None:
    """Write one row an epoch as CSV."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def predict(model: Any, images: Images, spec: InputSpec) -> NDArray[np.int64]:
    """Return the classes, int64 `[N]`, that a model gives to images of any size, uint8 `[N, H, W, 3]`."""
    if not isinstance(images, LazyImages):
        # As bytes: a float copy of a whole split may not fit into memory.
        logits = model.predict(resize_all(images, spec), batch_size=eval_batch_size(spec.size), verbose=0)
        return np.asarray(logits.argmax(axis=-1), dtype=np.int64)
    batches = Ahead(EvalBatches(images.resized(spec), np.zeros(len(images), np.int64), classes=1))
    bar = tqdm(range(len(batches)), desc="predict", unit="batch", disable=None, leave=False)
    return np.concatenate([model.predict_on_batch(batches[i][0]["images"]).argmax(axis=-1) for i in bar])
