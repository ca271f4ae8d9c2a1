"""Quantization-aware training: the fake-quantized network learns to say what the float one says."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.errors import ConfigError, TrainingError
from runtime.preprocess import Image
from train.augment import Augment
from train.batches import TrainBatches
from train.config import FocalNetConfig, TrainConfig, picture_size
from train.splits import Split, resize_all

EVAL_BATCH_SIZE = 250


@dataclass(frozen=True, kw_only=True)
class QatConfig:
    """How the fake-quantized network is fine-tuned.

    Attributes:
        epochs: passes over the training split; 0 leaves the calibrated network as it is (PTQ).
        learning_rate: Adam's rate at the start; a cosine takes it to 0.
        clip_norm: gradients are scaled down to this global norm.
    """

    epochs: int = 1
    learning_rate: float = 2e-5
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        """Reject a recipe that cannot run.

        Raises:
            ConfigError: naming what it received and expects.
        """
        rates = (self.learning_rate, self.clip_norm)
        if self.epochs < 0 or not all(0.0 < rate < math.inf for rate in rates):
            raise ConfigError(
                f"received {self}; expected 0 epochs or more, a positive learning rate and a positive clip norm"
            )


class PictureBatches:
    """The training split's pictures in batches, shuffled and augmented as in training."""

    def __init__(self, train: Split, config: FocalNetConfig, recipe: TrainConfig) -> None:
        """Keep the split, resized as the recipe's crops need it."""
        self._pictures = resize_all(train.images, picture_size(config, recipe))
        self._batches = TrainBatches(train.labels, config.classes, recipe)
        self._augment = Augment(recipe, config.input_size)

    def __len__(self) -> int:
        """Return the batches per epoch."""
        return len(self._batches)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """Return batch `index` of this epoch, float32 `[B, S, S, 3]` in 0..255; each call augments anew."""
        inputs, targets = self._batches[index]
        images, _ = self._augment(self._pictures[inputs["pictures"]], targets)
        return np.asarray(images)

    def on_epoch_end(self) -> None:
        """Go on to the next epoch's order."""
        self._batches.on_epoch_end()


def finetune(student: Any, teacher: Any, batches: PictureBatches, config: QatConfig) -> list[float]:
    """Fine-tune a fake-quantized network on the logits of its float original.

    The loss is the Kullback-Leibler divergence from the teacher's classes to the student's: what is
    learned is to agree, and the labels are not needed.

    Args:
        student: the fake-quantized network, changed in place.
        teacher: the float network.
        batches: augmented training pictures.
        config: the recipe.

    Returns:
        The mean loss of each epoch.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    steps = config.epochs * len(batches)
    schedule = tf_keras.optimizers.schedules.CosineDecay(config.learning_rate, max(1, steps))
    optimizer = tf_keras.optimizers.Adam(schedule, global_clipnorm=config.clip_norm)
    step = _training_step(student, teacher, optimizer)
    losses = []
    with tqdm(total=steps, desc="QAT", unit="step", disable=None) as bar:
        for epoch in range(config.epochs):
            total = 0.0
            for index in range(len(batches)):
                loss = float(step(tf.constant(batches[index])))
                total += loss
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                bar.update()
            batches.on_epoch_end()
            losses.append(total / len(batches))
            if not math.isfinite(total):
                raise TrainingError(
                    f"the loss of quantization-aware training became {total} in epoch {epoch + 1}; "
                    "lower its learning rate, or take --qat-epochs 0"
                )
            tqdm.write(f"QAT epoch {epoch + 1}/{config.epochs} loss {losses[-1]:.5f}", file=sys.stderr)
    return losses


def _training_step(student: Any, teacher: Any, optimizer: Any) -> Any:
    divergence = tf_keras.losses.KLDivergence()

    @tf.function(autograph=False)
    def step(images: Any) -> Any:
        target = tf.nn.softmax(teacher(images, training=False))
        with tf.GradientTape() as tape:
            loss = divergence(target, tf.nn.softmax(student(images, training=True)))
        gradients = tape.gradient(loss, student.trainable_variables)
        optimizer.apply_gradients(zip(gradients, student.trainable_variables, strict=True))
        return loss

    return step


def predictions(model: Any, images: Image) -> Any:
    """Return a network's classes, int64 `[N]`, for uint8 `[N, S, S, 3]` pictures of its input size."""
    starts = range(0, len(images), EVAL_BATCH_SIZE)
    logits = [model.predict_on_batch(images[i : i + EVAL_BATCH_SIZE].astype(np.float32)) for i in starts]
    return np.concatenate(logits).argmax(axis=-1)
