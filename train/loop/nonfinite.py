"""Stop a run at the first non-finite step, and name the layer where it began."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from runtime.core.errors import TrainingError
from train.data.batches import EvalBatches, TrainBatches
from train.loop.training_model import TrainingModel

Tensor = Any
SEED_NAME = "seed_generator_state"


def nonfinite_output(network: Any, images: Tensor, training: bool) -> str | None:
    """Name the first layer of a functional network whose output is not finite.

    Args:
        network: a model of `build_focalnet`.
        images: float32 `[B, S, S, 3]`.
        training: whether dropout is on, and BatchNorm takes the batch's own statistics.

    Returns:
        Its name, that of the input layer if the images are not finite; `None` if every output is finite.
    """
    layers = network.layers  # in topological order
    outputs = keras.Model(network.input, [layer.output for layer in layers])(images, training=training)
    return next((layer.name for layer, output in zip(layers, outputs, strict=True) if not _finite(output)), None)


def nonfinite_in_training(model: TrainingModel, inputs: dict[str, NDArray[Any]]) -> str | None:
    """Name the first layer whose output was not finite in the last training step.

    Args:
        model: the training model, with the weights before the step.
        inputs: inputs of the step.

    Returns:
        "augment" if the augmented images or targets were not finite, else a layer of the network; `None` if every
        output was finite.
    """
    _rewind(model, inputs)
    images, targets = model.augmented(inputs)
    if not (_finite(images) and _finite(targets)):
        return str(model.augment.name)
    return nonfinite_output(model.network, images, training=True)


def nonfinite_gradient(network: Any, finite: Iterable[bool]) -> str | None:
    """Name the layer nearest to the loss with a non-finite gradient; such gradients spread towards the input.

    Args:
        network: a model of `build_focalnet`.
        finite: whether the gradient of each of its trainable variables is.

    Returns:
        Its name; `None` if every gradient is finite.
    """
    nonfinite = {id(v) for v, good in zip(network.trainable_variables, finite, strict=True) if not good}
    layers = (each for each in reversed(network.layers) if any(id(v) in nonfinite for v in each.trainable_variables))
    return next((layer.name for layer in layers), None)


class StopIfNonfinite(keras.callbacks.Callback):
    """Stop the run at the first step with a non-finite loss or gradient, and name the layer where it began."""

    def __init__(self, train: TrainBatches, val: EvalBatches) -> None:
        """Keep the batches that the run is fed."""
        super().__init__()
        self._train, self._val = train, val
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Check a training step.

        Raises:
            TrainingError: the loss or a gradient is not finite.
        """
        # The mean since the epoch's start stays non-finite from the first non-finite loss on.
        loss, on_jax = float((logs or {})["loss"]), keras.backend.backend() == "jax"
        if math.isfinite(loss):
            if not on_jax:  # where reading variables at each step is slow
                self._check_gradients(f"step {batch + 1}")
            return
        if on_jax:
            self.model.jax_state_sync()
        layer = nonfinite_in_training(self.model, self._train[batch][0])
        raise self._error(f"step {batch + 1}", f"loss {loss}", layer)

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Check the gradients of an epoch's steps; the optimizer stops counting at the first refused one.

        Raises:
            TrainingError: a gradient was not finite.
        """
        steps = int(self.model.optimizer.iterations) - self._epoch * len(self._train)
        self._check_gradients(f"step {steps + 1}")

    def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Check a validation step, while the validated weights are in the network.

        Raises:
            TrainingError: the loss is not finite.
        """
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            images = self._val[batch][0]["images"]
            layer = nonfinite_output(self.model.network, ops.cast(images, "float32"), training=False)
            raise self._error(f"validation step {batch + 1}", f"val_loss {loss}", layer)

    def _check_gradients(self, step: str) -> None:
        if not np.asarray(self.model.optimizer.finite).all():
            raise self._error(step, "a non-finite gradient", None)

    def _error(self, step: str, received: str, layer: str | None) -> TrainingError:
        if layer:
            origin = f"the output of layer {layer}"
        elif layer := nonfinite_gradient(self.model.network, np.asarray(self.model.optimizer.finite)):
            origin = f"the gradient of layer {layer}"
        else:
            origin = "the loss of finite logits"
        kept = f"the checkpoint of epoch {self._epoch} is kept" if self._epoch else "there is no checkpoint yet"
        return TrainingError(
            f"epoch {self._epoch + 1}, {step}: received {received}, which began in {origin}; expected finite values "
            f"({kept}): lower learning_rate or raise warmup_fraction, in a new run"
        )


def _rewind(model: TrainingModel, inputs: dict[str, NDArray[Any]]) -> None:
    """Set the seeds of dropout and augmentation back by one step; every step draws equally often."""
    seeds = [v for v in model.variables if v.name == SEED_NAME]
    after = [np.array(v) for v in seeds]
    images, _ = model.augmented(inputs)
    model.network(images, training=True)
    for seed, state in zip(seeds, after, strict=True):
        seed.assign(state - (np.array(seed) - state))


def _finite(values: Tensor) -> bool:
    return bool(ops.all(ops.isfinite(values)))
