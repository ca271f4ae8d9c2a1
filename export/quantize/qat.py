"""Quantization-aware training: the fake-quantized network learns to say what the float one says.

It starts from calibrated ranges, with the float network as its teacher, and ends with the averaged weights that
validated best; the calibrated network itself is among the candidates, so that training never makes it worse.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray
from tqdm import tqdm

from export.quantize.fake_quant import settle_weights
from runtime.core.errors import ConfigError, TrainingError
from runtime.evaluation.metrics import agreement, divergence_nats
from runtime.images.preprocess import Image
from train.data.batches import TrainBatches, batch_within, eval_batch_size
from train.data.dataset import Split, resize_all
from train.data.prefetch import Ahead
from train.loop.augment import Augment
from train.model.config import FocalNetConfig
from train.model.recipe import TrainConfig, image_spec

# What a training step may keep of its batch, and how much that is beside the outputs of the network's layers.
STEP_BYTES = 8 << 30
STEP_COPIES = 2


@dataclass(frozen=True, kw_only=True)
class QatConfig:
    """How the fake-quantized network is fine-tuned.

    Attributes:
        epochs: passes over the training split; 0 leaves the calibrated network as it is (PTQ).
        learning_rate: Adam's rate at the start; a cosine takes it to 0.
        clip_norm: gradients are scaled down to this global norm.
        ema_momentum: what is validated and kept is a moving average of the weights, of this momentum per step; 0
            takes the weights of the last step.
    """

    epochs: int = 1
    learning_rate: float = 2e-5
    clip_norm: float = 1.0
    ema_momentum: float = 0.99

    def __post_init__(self) -> None:
        """Reject a recipe that cannot run.

        Raises:
            ConfigError: naming what it received and expects.
        """
        rates = (self.learning_rate, self.clip_norm)
        if self.epochs < 0 or not all(0.0 < rate < math.inf for rate in rates) or not 0 <= self.ema_momentum < 1:
            raise ConfigError(
                f"received {self}; expected 0 epochs or more, a positive learning rate, a positive clip norm and "
                "an EMA momentum of 0 or more, below 1"
            )


def fitting_batch_size(model: Any, wanted: int) -> int:
    """Return how many images a training step takes within `STEP_BYTES`, at most those that are wanted."""
    return batch_within((layer.output for layer in model.layers), STEP_BYTES // STEP_COPIES, wanted)


class LazyBatches:
    """The training split's images in batches, shuffled and augmented as in training."""

    def __init__(self, train: Split, config: FocalNetConfig, recipe: TrainConfig) -> None:
        """Keep the split, resized as the recipe's crops need it."""
        images = resize_all(train.images, image_spec(config, recipe))
        batches = TrainBatches(train.labels, config.classes, recipe, images=images)
        self._batches = Ahead(batches) if train.streamed else batches
        self._augment = Augment(recipe, config.input_size)

    def __len__(self) -> int:
        """Return the batches per epoch."""
        return len(self._batches)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """Return batch `index` of this epoch, float32 `[B, S, S, 3]` in 0..255; each call augments anew."""
        inputs, targets = self._batches[index]
        images, _ = self._augment(inputs["raw"], targets)
        return np.asarray(images)

    def on_epoch_end(self) -> None:
        """Go on to the next epoch's order."""
        self._batches.on_epoch_end()


@dataclass(frozen=True, kw_only=True)
class Validated:
    """How near a fake-quantized network is to its float original, on validation images.

    Attributes:
        divergence_nats: mean Kullback-Leibler divergence from the original's classes to its own.
        agreement: share of images with the same prediction, 0..1.
    """

    divergence_nats: float
    agreement: float


@dataclass(frozen=True, kw_only=True)
class QatEpoch:
    """One epoch of fine-tuning; epoch 0 is the calibrated network before it.

    Attributes:
        epoch: its number.
        loss: mean over its batches, in nats; none of epoch 0.
        val: of the averaged weights after it.
    """

    epoch: int
    loss: float | None
    val: Validated


class Validator:
    """Compares a fake-quantized network with its float original on validation images."""

    def __init__(self, teacher: Any, images: Image) -> None:
        """Let the float network classify the images, uint8 `[N, S, S, 3]` of its input size."""
        self._images = images
        self._target = logits(teacher, images)

    def __call__(self, student: Any) -> Validated:
        """Compare a fake-quantized network, its kernels' ranges those of its present kernels."""
        settle_weights(student)
        found = logits(student, self._images)
        return Validated(
            divergence_nats=float(divergence_nats(self._target, found).mean()),
            agreement=agreement(found.argmax(axis=-1), self._target.argmax(axis=-1)),
        )


def finetune(
    student: Any, teacher: Any, batches: LazyBatches, validate: Callable[[Any], Validated], config: QatConfig
) -> list[QatEpoch]:
    """Fine-tune a fake-quantized network on the logits of its float original.

    The loss is the Kullback-Leibler divergence from the teacher's classes to the student's: what is
    learned is to agree, and the labels are not needed.

    Args:
        student: the fake-quantized network, left with the weights of the epoch that `best_epoch` returns.
        teacher: the float network.
        batches: augmented training images.
        validate: compares the student with the teacher.
        config: the recipe.

    Returns:
        All epochs, the calibrated network first, as epoch 0.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    weights = student.trainable_variables
    steps = config.epochs * len(batches)
    schedule = tf_keras.optimizers.schedules.CosineDecay(config.learning_rate, max(1, steps))
    optimizer = tf_keras.optimizers.Adam(schedule, global_clipnorm=config.clip_norm)
    averages = tf.train.ExponentialMovingAverage(config.ema_momentum)
    step = _training_step(student, teacher, optimizer, averages)
    epochs = [QatEpoch(epoch=0, loss=None, val=validate(student))]
    best = _values(weights)
    with tqdm(total=steps, desc="QAT", unit="step", disable=None) as bar:
        for epoch in range(1, config.epochs + 1):
            loss = _train_epoch(step, batches, bar)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss of quantization-aware training became {loss} in epoch {epoch}; "
                    "lower its learning rate, or take --qat-epochs 0"
                )
            trained = _values(weights)
            _assign(weights, [averages.average(weight) for weight in weights])
            epochs.append(QatEpoch(epoch=epoch, loss=loss, val=validate(student)))
            if best_epoch(epochs).epoch == epoch:
                best = _values(weights)
            _assign(weights, trained)
            tqdm.write(f"QAT epoch {epoch}/{config.epochs} loss {loss:.5f} {_line(epochs[-1].val)}", file=sys.stderr)
    _assign(weights, best)
    settle_weights(student)
    return epochs


def best_epoch(epochs: Sequence[QatEpoch]) -> QatEpoch:
    """Return the epoch of the least validated divergence, the earliest of equals."""
    return min(epochs, key=lambda each: each.val.divergence_nats)


def _line(val: Validated) -> str:
    return f"val_divergence {val.divergence_nats:.5f} val_agreement {val.agreement:.4f}"


def _train_epoch(step: Any, batches: LazyBatches, bar: Any) -> float:
    """Train on every batch, and return the mean loss."""
    total = 0.0
    for index in range(len(batches)):
        loss = float(step(tf.constant(batches[index])))
        total += loss
        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        bar.update()
    batches.on_epoch_end()
    return total / len(batches)


def _values(variables: Sequence[Any]) -> list[NDArray[np.float32]]:
    return [variable.numpy() for variable in variables]


def _assign(variables: Sequence[Any], values: Sequence[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _training_step(student: Any, teacher: Any, optimizer: Any, averages: Any) -> Any:
    divergence = tf_keras.losses.KLDivergence()
    averages.apply(student.trainable_variables)  # makes them, from the weights as they are

    @tf.function(autograph=False)
    def step(images: Any) -> Any:
        target = tf.nn.softmax(teacher(images, training=False))
        with tf.GradientTape() as tape:
            loss = divergence(target, tf.nn.softmax(student(images, training=True)))
        gradients = tape.gradient(loss, student.trainable_variables)
        optimizer.apply_gradients(zip(gradients, student.trainable_variables, strict=True))
        averages.apply(student.trainable_variables)
        return loss

    return step


def logits(model: Any, images: Image) -> NDArray[np.float32]:
    """Return a network's logits, float32 `[N, K]`, for uint8 `[N, S, S, 3]` images of its input size."""
    size = eval_batch_size(images.shape[1])
    starts = range(0, len(images), size)
    return np.concatenate([model.predict_on_batch(images[i : i + size].astype(np.float32)) for i in starts])
