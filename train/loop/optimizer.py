"""A run stops at the first step that is not finite, and keeps the weights that the step met."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from runtime.core.errors import TrainingError
from train.data.batches import EvalBatches, TrainBatches
from train.loop.nonfinite import spoilt_gradient, spoilt_in_training, spoilt_output

Tensor = Any


class GuardedAdamW(keras.optimizers.AdamW):
    """AdamW that refuses gradients which are not finite, and every step after them.

    A refused step changes no weight, moment or average, and is not counted.

    Attributes:
        finite: bool `[variables]`, whether the gradient of each trainable variable was finite in the refused step;
            all true if there is none.
    """

    def build(self, variables: list[Any]) -> None:
        """Make the moments of `variables`, and `finite`."""
        if self.built:
            return
        super().build(variables)
        self.finite = self.add_variable((len(variables),), initializer="ones", dtype="bool", name="finite")

    def apply(self, grads: Sequence[Tensor], trainable_variables: Sequence[Any] | None = None) -> None:
        """Take a step, unless it is refused."""
        step = super().apply
        if keras.backend.backend() == "jax":  # comes by way of stateless_apply
            step(grads, trainable_variables)
            return
        if not self.built:
            self.build(list(trainable_variables or ()))
        finite = _finite(grads, self.finite)
        self.finite.assign(finite)
        ops.cond(ops.all(finite), lambda: step(grads, trainable_variables), lambda: None)

    def stateless_apply(
        self, optimizer_variables: list[Tensor], grads: list[Tensor], trainable_variables: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return weights and optimizer variables as they are after a step, unless it is refused."""
        step = super().stateless_apply
        place = next(index for index, variable in enumerate(self.variables) if variable is self.finite)
        finite = _finite(grads, optimizer_variables[place])
        weights, state = step(optimizer_variables, grads, trainable_variables)
        # Chosen value by value: at a branch, a GPU would stop to ask its host.
        accepted = ops.all(finite)
        weights = [ops.where(accepted, new, old) for new, old in zip(weights, trainable_variables, strict=True)]
        state = [ops.where(accepted, new, old) for new, old in zip(state, optimizer_variables, strict=True)]
        return weights, [*state[:place], finite, *state[place + 1 :]]


class StopIfNotFinite(keras.callbacks.Callback):
    """Stop the run at the first step whose loss or gradient is not finite, and say in which layer that began."""

    def __init__(self, train: TrainBatches, val: EvalBatches) -> None:
        """Keep what the run is fed."""
        super().__init__()
        self._train, self._val = train, val
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Check a training step.

        Raises:
            TrainingError: its loss or gradient is not finite.
        """
        # The mean since the epoch's start, so not finite from the first step on whose loss is not.
        loss, on_jax = float((logs or {})["loss"]), keras.backend.backend() == "jax"
        if math.isfinite(loss):
            if not on_jax:  # where a look at each step's variables is slow
                self._check_gradients(f"step {batch + 1}")
            return
        if on_jax:
            self.model.jax_state_sync()
        layer = spoilt_in_training(self.model, self._train[batch][0])
        raise self._error(f"step {batch + 1}", f"loss {loss}", layer)

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Check the gradients of an epoch's steps: the optimizer remembers and counts up to the first refused one.

        Raises:
            TrainingError: one was not finite.
        """
        steps = int(self.model.optimizer.iterations) - self._epoch * len(self._train)
        self._check_gradients(f"step {steps + 1}")

    def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Check a step of the validation, while the validated weights are in the network.

        Raises:
            TrainingError: its loss is not finite.
        """
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            images = self._val[batch][0]["images"]
            layer = spoilt_output(self.model.network, ops.cast(images, "float32"), training=False)
            raise self._error(f"validation step {batch + 1}", f"val_loss {loss}", layer)

    def _check_gradients(self, step: str) -> None:
        if not np.asarray(self.model.optimizer.finite).all():
            raise self._error(step, "a gradient that is not finite", None)

    def _error(self, step: str, received: str, layer: str | None) -> TrainingError:
        if layer:
            origin = f"the output of layer {layer}"
        elif layer := spoilt_gradient(self.model.network, np.asarray(self.model.optimizer.finite)):
            origin = f"the gradient of layer {layer}"
        else:
            origin = "the loss of finite logits"
        kept = f"the checkpoint of epoch {self._epoch} is kept" if self._epoch else "there is no checkpoint yet"
        return TrainingError(
            f"epoch {self._epoch + 1}, {step}: received {received}, which began in {origin}; expected finite values "
            f"({kept}): lower learning_rate or raise warmup_fraction, in a new run"
        )


def _finite(grads: Sequence[Tensor], before: Tensor) -> Tensor:
    """Return which gradients are finite, or what `before` says if a step was refused before."""
    # By their squares, times the number of gradients: clipping by the global norm makes NaN of finite gradients
    # whose sum of squares overflows.
    squares = ops.stack([ops.sum(ops.square(gradient)) for gradient in grads])
    return ops.where(ops.all(before), ops.isfinite(squares * len(grads)), before)
