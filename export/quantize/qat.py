"""Quantization-aware training: the fake-quantized network learns the float network's predictions.

Training starts from the calibrated network and keeps the averaged weights with the best validation. Epoch 0, the
calibrated network itself, is among the candidates, so that training never makes the validated result worse.
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

# Memory of a training step, and its ratio to the memory of all layers' outputs.
STEP_BYTES = 8 << 30
STEP_COPIES = 2


@dataclass(frozen=True, kw_only=True)
class QatConfig:
    """Recipe of quantization-aware training.

    Attributes:
        epochs: passes over the training split; 0 is calibration alone (PTQ).
        learning_rate: Adam's initial rate; a cosine takes it to 0.
        clip_norm: gradients are scaled down to this global norm.
        ema_momentum: momentum per step of the moving average of the weights, which is validated and kept; 0 keeps
            the weights of the last step.
    """

    epochs: int = 1
    learning_rate: float = 2e-5
    clip_norm: float = 1.0
    ema_momentum: float = 0.99

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a value is out of range.
        """
        rates = (self.learning_rate, self.clip_norm)
        if self.epochs < 0 or not all(0.0 < rate < math.inf for rate in rates) or not 0 <= self.ema_momentum < 1:
            raise ConfigError(
                f"received {self}; expected 0 epochs or more, a positive learning rate, a positive clip norm and "
                "an EMA momentum of 0 or more, below 1"
            )


def fitting_batch_size(model: Any, wanted: int) -> int:
    """Return the number of images per training step that fits into `STEP_BYTES`, at most `wanted`."""
    return batch_within((layer.output for layer in model.layers), STEP_BYTES // STEP_COPIES, wanted)


class LazyBatches:
    """Batches of the training split's images, shuffled and augmented as in training."""

    def __init__(self, train: Split, config: FocalNetConfig, recipe: TrainConfig) -> None:
        """Take the split; its images are resized for the recipe's crops."""
        images = resize_all(train.images, image_spec(config, recipe))
        batches = TrainBatches(train.labels, config.classes, recipe, images=images)
        self._batches = Ahead(batches) if train.streamed else batches
        self._augment = Augment(recipe, config.input_size)

    def __len__(self) -> int:
        """Return the batches per epoch."""
        return len(self._batches)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """Return batch `index` of this epoch, float32 `[B, S, S, 3]` in 0..255; each call draws new augmentations."""
        inputs, targets = self._batches[index]
        images, _ = self._augment(inputs["raw"], targets)
        return np.asarray(images)

    def on_epoch_end(self) -> None:
        """Draw the order of the next epoch."""
        self._batches.on_epoch_end()


@dataclass(frozen=True, kw_only=True)
class Validated:
    """Difference between a fake-quantized network and its float original on validation images.

    Attributes:
        divergence_nats: mean Kullback-Leibler divergence of the fake-quantized network's probabilities from the
            original's.
        agreement: share of images with the same prediction, 0..1.
    """

    divergence_nats: float
    agreement: float


@dataclass(frozen=True, kw_only=True)
class QatEpoch:
    """One epoch of fine-tuning; epoch 0 is the calibrated network before it.

    Attributes:
        epoch: its number.
        loss: mean over its batches, in nats; `None` for epoch 0.
        val: validation of the averaged weights.
    """

    epoch: int
    loss: float | None
    val: Validated


class Validator:
    """Comparison of a fake-quantized network with its float original on validation images."""

    def __init__(self, teacher: Any, images: Image) -> None:
        """Take the float network and images, uint8 `[N, S, S, 3]` of its input size."""
        self._images = images
        self._target = logits(teacher, images)

    def __call__(self, student: Any) -> Validated:
        """Compare a fake-quantized network, after setting its kernels' ranges."""
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

    The loss is the Kullback-Leibler divergence of the student's probabilities from the teacher's; labels are not used.

    Args:
        student: the fake-quantized network; it ends with the weights of the epoch that `best_epoch` returns.
        teacher: the float network.
        batches: augmented training images.
        validate: compares the student with the teacher.
        config: the recipe.

    Returns:
        All epochs; epoch 0 is the calibrated network.

    Raises:
        TrainingError: the loss is not finite.
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
                    "lower --qat-learning-rate, or use --qat-epochs 0"
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
    """Return the epoch with the lowest validated divergence, the earliest if several are equal."""
    return min(epochs, key=lambda each: each.val.divergence_nats)


def _line(val: Validated) -> str:
    return f"val_divergence {val.divergence_nats:.5f} val_agreement {val.agreement:.4f}"


def _train_epoch(step: Any, batches: LazyBatches, bar: Any) -> float:
    """Train on all batches, and return the mean loss."""
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
    averages.apply(student.trainable_variables)  # creates the averages

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
    """Return a network's logits, float32 `[N, K]`, of images, uint8 `[N, S, S, 3]` of its input size."""
    size = eval_batch_size(images.shape[1])
    starts = range(0, len(images), size)
    return np.concatenate([model.predict_on_batch(images[i : i + size].astype(np.float32)) for i in starts])
