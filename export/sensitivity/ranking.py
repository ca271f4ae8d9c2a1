"""How sensitive a network is to int8, product by product: each alone quantized, all others float.

What is measured is how far its own output moves (SQNR), and what that does to the network's effect. An activation that
is int8 counts with the product that reads it, the ReLU that is fused into a product with that.
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

# Of every product the input is held at once.
SQNR_BATCH_SIZE = 50


@dataclass(frozen=True, kw_only=True)
class Effect:
    """How a partly quantized network's effect differ from the float one's, on the same images.

    Attributes:
        accuracy: its top-1, and what it lost.
        divergence_nats: mean Kullback-Leibler divergence from the float network's classes to its own. It moves where
            top-1 does not yet, which is why products are ranked by it.
    """

    accuracy: RelativeAccuracy
    divergence_nats: float


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """One product, alone in int8.

    Attributes:
        layer: its name.
        sqnr_db: of its output, its input coming from the float network; `None` where that output, or what is lost of
            it, is 0 throughout.
        effect: what that does to the network's.
    """

    layer: str
    sqnr_db: float | None
    effect: Effect


class EffectMeter:
    """Compares a switched network's effect with those that it gives in float.

    Attributes:
        predicted: int64 `[N]`, the float network's predictions.
    """

    def __init__(self, network: SwitchableNetwork, images: Image, labels: Classes) -> None:
        """Keep labelled images, uint8 `[N, S, S, 3]`, and what the float network says to them."""
        self._network, self._images, self._labels = network, images, labels
        network.switch([])
        self._target = logits(network.model, images)
        self.predicted: Classes = self._target.argmax(axis=-1)

    def __call__(self, int8: Collection[str]) -> Effect:
        """EffectMeter the network with these products in int8."""
        self._network.switch(int8)
        found = logits(self._network.model, self._images)
        return Effect(
            accuracy=accuracy_of(found.argmax(axis=-1), self._labels, self.predicted),
            divergence_nats=float(divergence_nats(self._target, found).mean()),
        )


def output_sqnr_db(network: SwitchableNetwork, images: Image) -> dict[str, float | None]:
    """Measure the SQNR of every product's output, 10 log10(sum y^2 / sum (y - y_int8)^2).

    Both outputs are of what the float network gives the product. They include the ReLU that is fused into it.

    Args:
        network: the network; it is left in float.
        images: uint8 `[N, S, S, 3]`.

    Returns:
        Decibels by product; `None` where the output, or what is lost of it, is 0 throughout.
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
    """Return the sum of squares of a product's exact output, and of what int8 changes in it."""
    exact = layer.exact(x).numpy().astype(np.float64)
    return np.array([np.square(exact).sum(), np.square(exact - layer.quantized(x).numpy()).sum()])


def _decibels(signal: float, noise: float) -> float | None:
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def rank_products(network: SwitchableNetwork, images: Image, judge: EffectMeter) -> list[Sensitivity]:
    """Quantize every product alone.

    Args:
        network: the network.
        images: uint8 `[N, S, S, 3]`, for the SQNR.
        judge: of that network.

    Returns:
        Every product, the one that changes the effect most first.
    """
    sqnr_db = output_sqnr_db(network, images)
    bar = tqdm(network.products, desc="alone in int8", unit="product", disable=None)
    found = [Sensitivity(layer=name, sqnr_db=sqnr_db[name], effect=judge([name])) for name in bar]
    return sorted(found, key=lambda each: each.effect.divergence_nats, reverse=True)
