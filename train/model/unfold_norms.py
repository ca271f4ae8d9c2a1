"""Unfold norms: turn the weights of a deployed network into those of its trainable form, of the same function.

A folded scale and offset cannot be recovered, and need not be. A LayerNorm kept its statistics and gets scale 1 and
offset 0. A BatchNorm gets the mean m and variance v of its inputs on training images, gamma = sqrt(v + epsilon) and
beta = m: with moving statistics it is the identity, and nearly so with a batch's. A layer scale gets 1. The mean over
gated levels and the mean and deviation of images are divided out again.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.core.errors import ArtifactError
from runtime.images.preprocess import Image
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet
from train.model.fold_norms import Weights, averaged_terms, folded
from train.model.weights import assign_weights, model_weights, weight_arrays

BATCH = 32
# "kernel" is a layer scale's: no other layer with a kernel is folded.
NEUTRAL = {"gamma": 1.0, "beta": 0.0, "moving_mean": 0.0, "moving_variance": 1.0, "kernel": 1.0}
Moments = tuple[NDArray[np.float64], NDArray[np.float64]]


def unfold_weights(weights: Weights, config: FocalNetConfig, images: Image) -> Weights:
    """Make a trainable network's weights from those of its `folded` form.

    Args:
        weights: tensors of `folded(config)`, by `layer/variable`.
        config: the trainable network.
        images: training images for BatchNorm's statistics, uint8 `[N, S, S, 3]` at the input size.

    Returns:
        Tensors of `config`, by `layer/variable`.

    Raises:
        ArtifactError: the tensors are not those of `folded(config)`, or activations overflow on the images.
    """
    result = _unfold_constants(weights, config)
    network = build_focalnet(config, keras)
    variables = model_weights(network)
    for name, variable in variables.items():
        if name not in weights:
            result[name] = np.full(variable.shape, NEUTRAL[name.rsplit("/", 1)[1]], np.float32)
    assign_weights(variables, result, "the unfolded network")
    norms = [layer for layer in network.layers if f"{layer.name}/moving_mean" in result.keys() - weights.keys()]
    for norm in norms:
        norm.gamma.assign(np.full(norm.gamma.shape, np.sqrt(1.0 + norm.epsilon)))  # the identity
    for norm, (mean, variance) in zip(norms, _moments(network, norms, images), strict=True):
        if not np.all(variance < np.finfo(np.float32).max):  # also refuses NaN
            raise ArtifactError(f"the network's values overflow at {norm.name}; use weights with finite activations")
        norm.gamma.assign(np.sqrt(variance + norm.epsilon))
        norm.beta.assign(mean)
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(variance)
    return weight_arrays(network)


def _unfold_constants(weights: Weights, config: FocalNetConfig) -> Weights:
    result, deployed = dict(weights), folded(config)
    if (deployed.mean, deployed.std) != (config.mean, config.std):
        mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
        kernel = weights["embed.proj/kernel"]
        result["embed.proj/bias"] = weights["embed.proj/bias"] + mean @ kernel.sum(axis=(0, 1))
        result["embed.proj/kernel"] = kernel * std[:, None]
    for name, terms in averaged_terms(config).items():
        result[name] = weights[name] * np.float32(terms)
    return result


def _moments(network: Any, layers: list[Any], images: Image) -> list[Moments]:
    """Return mean and variance of layers' inputs over all images and positions, `[C]` each."""
    if not layers:
        return []
    inputs = keras.Model(network.input, [layer.input for layer in layers])
    counts = np.zeros(len(layers))
    sums = [np.zeros((2, layer.input.shape[-1])) for layer in layers]
    starts = range(0, len(images), BATCH)
    for start in tqdm(starts, desc="statistics of BatchNorms", unit="batch", disable=None):
        batch = images[start : start + BATCH].astype(np.float32)
        for index, values in enumerate(inputs(batch, training=False)):
            flat = np.asarray(values, np.float64).reshape(-1, values.shape[-1])
            counts[index] += len(flat)
            sums[index] += flat.sum(axis=0), np.square(flat).sum(axis=0)
    means = [total[0] / count for total, count in zip(sums, counts, strict=True)]
    squares = [total[1] / count for total, count in zip(sums, counts, strict=True)]
    return [(mean, np.maximum(square - mean**2, 0.0)) for mean, square in zip(means, squares, strict=True)]
