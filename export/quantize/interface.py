"""The interface of an artifact: uint8 image in, logits and overlay maps out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
import tf_keras

from calibration.inner_tensors import MODULATOR_NORM
from calibration.observers import Range
from export.quantize.fake_quant import inner_ranges
from export.quantize.rounding import fake_quantize
from train.model.config import FocalNetConfig
from train.model.focalnet import overlay_tensors


class ModelInterface(tf.Module):
    """A network from a uint8 image to logits and the overlay's maps."""

    def __init__(self, model: Any, config: FocalNetConfig, maps: Maps, prefix: str = "") -> None:
        """Wrap a network.

        Args:
            model: a `tf_keras` network of `build_float`, or its fake-quantized copy.
            config: its configuration.
            maps: computes the overlay's maps.
            prefix: prefix of the layers' names in a fake-quantized copy.
        """
        super().__init__()
        gates, modulator = overlay_tensors(model, config, prefix)
        drawn = {"logits": model.output, "gates": gates, "modulator": modulator}
        # Keras would number the name, and the artifact's bytes would change from call to call.
        views = tf_keras.Model(model.input, drawn, name="focalnet_with_overlay")

        def classify(image: Any) -> dict[str, Any]:
            outputs = views(tf.cast(image, tf.float32), training=False)
            return {
                "logits": outputs["logits"],  # [1, K]
                "gates": maps.gates(outputs["gates"]),  # [1, h, w, L+1]
                # The strength of the modulation per position: [1, h, w, C] -> [1, h, w]
                "modulator": maps.norm(outputs["modulator"]),
            }

        # Only the weights: given the network, the converter would save each layer, which takes three times as long.
        self._weights = views.variables
        self.classify = tf.function(classify, autograph=False)
        side = config.input_size
        self.image = tf.TensorSpec((1, side, side, 3), tf.uint8, name="image")

    def concrete_function(self) -> Any:
        """Return the function to convert, with static batch and sizes, as delegates need."""
        return self.classify.get_concrete_function(self.image)


class Maps(Protocol):
    """Computation of the overlay's maps."""

    def gates(self, maps: list[Any]) -> Any:
        """Concatenate L+1 maps `[1, h, w, 1]` as channels, `[1, h, w, L+1]`."""

    def norm(self, modulator: Any) -> Any:
        """Return the L2 norm of `[1, h, w, C]` over its channels, `[1, h, w]`."""


class FloatMaps:
    """The overlay's maps in float."""

    def gates(self, maps: list[Any]) -> Any:
        """Concatenate maps `[1, h, w, 1]` as channels, by a sum instead of a concatenation operator.

        The converter makes a concatenation of int8 maps int8, with the range of the first map, to which it clips the
        others.
        """
        return sum(_as_channels(maps))

    def norm(self, modulator: Any) -> Any:
        """Return the L2 norm of `[1, h, w, C]` over its channels."""
        return tf.sqrt(tf.reduce_sum(tf.square(modulator), axis=-1))


class IntegerMaps:
    """The overlay's maps in integers."""

    def __init__(self, config: FocalNetConfig, ranges: Mapping[str, Range]) -> None:
        """Take the calibrated ranges of layers and inner tensors."""
        name, levels = config.overlay_layer, config.focal_levels[config.overlay_stage]
        ends = [ranges[f"{name}.gate{level}"] for level in range(levels + 1)]
        self._gates = min(low for low, _ in ends), max(high for _, high in ends)
        self._ranges = inner_ranges(MODULATOR_NORM, ranges)

    def gates(self, maps: list[Any]) -> Any:
        """Concatenate maps `[1, h, w, 1]` as channels, over one range that holds all of theirs."""
        total, *others = (fake_quantize(channel, self._gates) for channel in _as_channels(maps))
        for other in others:
            total = fake_quantize(total + other, self._gates)
        return total

    def norm(self, modulator: Any) -> Any:
        """Return the L2 norm of `[1, h, w, C]` over its channels as `s / sqrt(s)`: TFLite has no int8 square root."""
        square = fake_quantize(modulator * modulator, self._ranges["square"])
        total = fake_quantize(tf.reduce_sum(square, axis=-1), self._ranges["sum"])
        return fake_quantize(total * fake_quantize(tf.math.rsqrt(total), self._ranges["rsqrt"]), self._ranges["norm"])


def _as_channels(maps: list[Any]) -> Iterator[Any]:
    """Yield maps `[1, h, w, 1]` as `[1, h, w, N]`, map i in channel i and 0 in the others."""
    for values, place in zip(maps, np.eye(len(maps), dtype=np.float32), strict=True):
        yield place * values
