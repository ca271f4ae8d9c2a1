"""LayerNorm in a few operators that delegates run without transposes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras

from calibration.observers import Range
from export.quantize.rounding import fake_quantize


class ChannelNorm(tf_keras.layers.LayerNormalization):
    """LayerNorm over the last axis, `(x - E[x]) / sqrt(Var[x] + epsilon)`, with optional scale and offset.

    Keras' LayerNorm is a fused BatchNorm, for which converters add two transposes and sums along the slowest axis.
    """

    def __init__(self, ranges: Mapping[str, Range] | None = None, **config: Any) -> None:
        """Take LayerNormalization's arguments, and ranges if the inner tensors are int8.

        Args:
            ranges: `(low, high)` by the tensor's name in `calibration.inner_tensors.norm_tensors`; none: float.
            config: arguments of Keras' LayerNormalization.
        """
        super().__init__(**config)
        self._ranges = dict(ranges or {})

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Normalise each token of `inputs`, float32 `[..., C]`."""
        mean = self._rounded("mean", tf.reduce_mean(inputs, axis=-1, keepdims=True))
        centred = self._rounded("centred", inputs - mean)
        square = self._rounded("square", centred * centred if self._ranges else tf.square(centred))
        variance = self._rounded("variance", tf.reduce_mean(square, axis=-1, keepdims=True))
        if not self._ranges:
            variance = variance + self.epsilon
        elif training:
            # Int8 may round a variance to 0. Its rsqrt is clipped to the range, but the gradient would not be finite.
            variance = tf.maximum(variance, self.epsilon)
        rsqrt = self._rounded("rsqrt", tf.math.rsqrt(variance))
        x = centred * rsqrt
        if self.scale:
            x = self._rounded("normalised", x) * self.gamma
        return self._rounded("scaled", x) + self.beta if self.center else x

    def _rounded(self, name: str, values: Any) -> Any:
        return fake_quantize(values, self._ranges[name]) if self._ranges else values

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return super().get_config() | {"ranges": self._ranges}


def lower_layer_norms(model: Any) -> Any:
    """Return a copy of a `tf_keras` functional model whose LayerNorms are `ChannelNorm`s, its weights copied."""

    def lower(layer: Any) -> Any:
        kind = type(layer)
        return (ChannelNorm if kind is tf_keras.layers.LayerNormalization else kind).from_config(layer.get_config())

    copy = tf_keras.models.clone_model(model, clone_function=lower)
    copy.set_weights(model.get_weights())
    return copy
