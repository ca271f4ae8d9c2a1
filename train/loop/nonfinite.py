"""Where in a network values stop being finite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from train.loop.training_model import Trainee

Tensor = Any
SEED_NAME = "seed_generator_state"


def spoilt_output(network: Any, images: Tensor, training: bool) -> str | None:
    """Name the first layer of a functional network whose output is not finite.

    Args:
        network: a model of `build_focalnet`.
        images: float32 `[B, S, S, 3]`.
        training: whether dropout is on, and BatchNorm takes the batch's own statistics.

    Returns:
        Its name, which is the input layer's if the images are not finite; `None` if every output is finite.
    """
    layers = network.layers  # in topological order
    outputs = keras.Model(network.input, [layer.output for layer in layers])(images, training=training)
    spoilt = (layer.name for layer, output in zip(layers, outputs, strict=True) if not _finite(output))
    return next(spoilt, None)


def spoilt_in_training(trainee: Trainee, inputs: dict[str, NDArray[Any]]) -> str | None:
    """Name the first layer whose output was not finite in the training step that was taken last.

    Args:
        trainee: with the weights that the step met.
        inputs: what the step was fed.

    Returns:
        "augment" if the network was fed what is not finite, else a layer of the network; `None` if all was finite.
    """
    _rewind(trainee, inputs)
    images, targets = trainee.augmented(inputs)
    if not (_finite(images) and _finite(targets)):
        return str(trainee.augment.name)
    return spoilt_output(trainee.network, images, training=True)


def spoilt_gradient(network: Any, finite: Iterable[bool]) -> str | None:
    """Name the layer nearest to the loss whose gradient is not finite: what is not finite spreads towards the input.

    Args:
        network: a model of `build_focalnet`.
        finite: whether the gradient of each of its trainable variables is.

    Returns:
        Its name; `None` if every gradient is finite.
    """
    spoilt = {id(v) for v, good in zip(network.trainable_variables, finite, strict=True) if not good}
    layers = (each for each in reversed(network.layers) if any(id(v) in spoilt for v in each.trainable_variables))
    return next((layer.name for layer in layers), None)


def _rewind(trainee: Trainee, inputs: dict[str, NDArray[Any]]) -> None:
    """Put the seeds of dropout and augmentation back by one step: every step draws equally often."""
    seeds = [v for v in trainee.variables if v.name == SEED_NAME]
    after = [np.array(v) for v in seeds]
    images, _ = trainee.augmented(inputs)
    trainee.network(images, training=True)
    for seed, state in zip(seeds, after, strict=True):
        seed.assign(state - (np.array(seed) - state))


def _finite(values: Tensor) -> bool:
    return bool(ops.all(ops.isfinite(values)))
