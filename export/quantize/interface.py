"""The contract's face around a network: what an artifact takes in and gives out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
import tf_keras

from calibration.inner_tensors import MODULATOR_NORM
from calibration.observers import Range
from export.quantize.fake_quant import step_ranges
from export.quantize.rounding import fake_quantize
from train.model.config import FocalNetConfig
from train.model.focalnet import overlay_tensors


class ModelInterface(tf.Module):
    """What an artifact shows to the world: a camera's uint8 in, logits and the overlay's maps out."""

    def __init__(self, model: Any, config: FocalNetConfig, maps: Maps, prefix: str = "") -> None:
        """Wrap a network.

        Args:
            model: a `tf_keras` network of `build_float`, or its fake-quantized copy.
            config: its configuration.
            maps: how the overlay's maps are computed.
            prefix: what precedes the layers' names in a fake-quantized copy.
        """
        super().__init__()
        gates, modulator = overlay_tensors(model, config, prefix)
        drawn = {"logits": model.output, "gates": gates, "modulator": modulator}
        # By a name of its own, as Keras would number it and the artifact's bytes change from call to call.
        views = tf_keras.Model(model.input, drawn, name="focalnet_with_overlay")

        def classify(image: Any) -> dict[str, Any]:
            outputs = views(tf.cast(image, tf.float32), training=False)
            return {
                "logits": outputs["logits"],  # [1, K]
                "gates": maps.gates(outputs["gates"]),  # [1, h, w, L+1]
                # The strength of the modulation at each place: [1, h, w, C] -> [1, h, w]
                "modulator": maps.norm(outputs["modulator"]),
            }

        # The weights alone: the converter would save a network in here layer by layer, which takes it thrice as long.
        self._weights = views.variables
        self.classify = tf.function(classify, autograph=False)
        side = config.input_size
        self.image = tf.TensorSpec((1, side, side, 3), tf.uint8, name="image")

    def concrete_function(self) -> Any:
        """Return the function to convert, its batch and sizes static, as delegates need."""
        return self.classify.get_concrete_function(self.image)


class Maps(Protocol):
    """How the overlay's maps are computed."""

    def gates(self, maps: list[Any]) -> Any:
        """Join L+1 maps `[1, h, w, 1]` as channels, `[1, h, w, L+1]`."""

    def norm(self, modulator: Any) -> Any:
        """Return the L2 norm of `[1, h, w, C]` over its channels, `[1, h, w]`."""


class FloatMaps:
    """The overlay's maps in float; see `Maps`."""

    def gates(self, maps: list[Any]) -> Any:
        """Join maps `[1, h, w, 1]` as channels, without a concatenation.

        Of int8 maps the converter makes an int8 concatenation, which needs one range for all: it takes that
        of the first map and clips the others to it.
        """
        places = np.eye(len(maps), dtype=np.float32)
        return sum(place * values for values, place in zip(maps, places, strict=True))

    def norm(self, modulator: Any) -> Any:
        """Return the L2 norm of `[1, h, w, C]` over its channels."""
        return tf.sqrt(tf.reduce_sum(tf.square(modulator), axis=-1))


class IntegerMaps:
    """The overlay's maps in integers; see `Maps`."""

    def __init__(self, config: FocalNetConfig, ranges: Mapping[str, Range]) -> None:
        """Take the calibrated ranges of layers and steps."""
        name, levels = config.overlay_layer, config.focal_levels[config.overlay_stage]
        ends = [ranges[f"{name}.gate{level}"] for level in range(levels + 1)]
        self._gates = min(low for low, _ in ends), max(high for _, high in ends)
        self._steps = step_ranges(MODULATOR_NORM, ranges)

    def gates(self, maps: list[Any]) -> Any:
        """Join maps `[1, h, w, 1]` as channels, all of them over the widest of their ranges."""
        places = np.eye(len(maps), dtype=np.float32)
        joint, *others = (
            fake_quantize(place * values, self._gates) for values, place in zip(maps, places, strict=True)
        )
        for other in others:
            joint = fake_quantize(joint + other, self._gates)
        return joint

    def norm(self, modulator: Any) -> Any:
        """Return the L2 norm of `[1, h, w, C]` over its channels, `s / sqrt(s)`, as there is no int8 square root."""
        square = fake_quantize(modulator * modulator, self._steps["square"])
        total = fake_quantize(tf.reduce_sum(square, axis=-1), self._steps["sum"])
        return fake_quantize(total * fake_quantize(tf.math.rsqrt(total), self._steps["rsqrt"]), self._steps["norm"])
