"""Sensitivity ranking: the SQNR of each product alone in int8, and its effect on the network's predictions.

An int8 activation belongs to the product that reads it, a fused ReLU to the product it is fused into.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import tf_keras
from numpy.typing import NDArray
from tqdm import tqdm

from export.quantize.qat import logits
from export.sensitivity.switchable import SwitchableNetwork
from runtime.evaluation.metrics import Classes, RelativeAccuracy, accuracy_of, divergence_nats
from runtime.images.preprocess import Image

# The inputs of all products are in memory at once.
SQNR_BATCH_SIZE = 50


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Effect of quantization on the predictions for the same images.

    Attributes:
        accuracy: top-1, and its drop.
        divergence_nats: mean Kullback-Leibler divergence of the float network's class probabilities from the quantized
            one's. Products are ranked by it: it changes where top-1 does not yet.
    """

    accuracy: RelativeAccuracy
    divergence_nats: float


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """One product, alone in int8.

    Attributes:
        layer: its name.
        sqnr_db: of its output, given the float network's input; `None` if the output or its error is 0 throughout.
        effect: on the network's predictions.
    """

    layer: str
    sqnr_db: float | None
    effect: Effect


class SimulatedEvaluator:
    """Compares a switchable network's predictions with those of its float self.

    Attributes:
        predicted: int64 `[N]`, the float network's predictions.
    """

    def __init__(self, network: SwitchableNetwork, images: Image, labels: Classes) -> None:
        """Classify labelled images, uint8 `[N, S, S, 3]`, with the float network."""
        self._network, self._images, self._labels = network, images, labels
        network.switch([])
        self._target = logits(network.model, images)
        self.predicted: Classes = self._target.argmax(axis=-1)

    def __call__(self, int8: Collection[str]) -> Effect:
        """Return the effect of making these products int8."""
        self._network.switch(int8)
        found = logits(self._network.model, self._images)
        return Effect(
            accuracy=accuracy_of(found.argmax(axis=-1), self._labels, self.predicted),
            divergence_nats=float(divergence_nats(self._target, found).mean()),
        )


def output_sqnr_db(network: SwitchableNetwork, images: Image) -> dict[str, float | None]:
    """Measure the SQNR of every product's output, 10 log10(sum y^2 / sum (y - y_int8)^2).

    Both outputs have the float network's input, and include a fused ReLU.

    Args:
        network: left in float.
        images: uint8 `[N, S, S, 3]`.

    Returns:
        Decibels by product; `None` if the output or its error is 0 throughout.
    """
    network.switch([])
    layers = {name: network.model.get_layer(name) for name in network.products}
    inputs = tf_keras.Model(network.model.input, {name: layer.input for name, layer in layers.items()})
    energies = {name: np.zeros(2) for name in layers}
    starts = range(0, len(images), SQNR_BATCH_SIZE)
    for start in tqdm(starts, desc="SQNR", unit="batch", disable=None):
        batch = inputs.predict_on_batch(images[start : start + SQNR_BATCH_SIZE].astype(np.float32))
        for name, layer in layers.items():
            energies[name] += _energies(layer, batch[name])
    return {name: _decibels(*energy) for name, energy in energies.items()}


def _energies(layer: Any, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the sum of squares of a product's float output, and of its int8 error."""
    exact = layer.exact(x).numpy().astype(np.float64)
    return np.array([np.square(exact).sum(), np.square(exact - layer.quantized(x).numpy()).sum()])


def _decibels(signal: float, noise: float) -> float | None:
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def rank_products(network: SwitchableNetwork, images: Image, evaluate: SimulatedEvaluator) -> list[Sensitivity]:
    """Quantize every product alone.

    Args:
        network: the network.
        images: uint8 `[N, S, S, 3]`, for the SQNR.
        evaluate: of that network.

    Returns:
        All products, sorted by descending divergence.
    """
    sqnr_db = output_sqnr_db(network, images)
    bar = tqdm(network.products, desc="alone in int8", unit="product", disable=None)
    found = [Sensitivity(layer=name, sqnr_db=sqnr_db[name], effect=evaluate([name])) for name in bar]
    return sorted(found, key=lambda each: each.effect.divergence_nats, reverse=True)
