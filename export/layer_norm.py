"""LayerNorm in the few operations that a delegate runs where they stand."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras


class ChannelNorm(tf_keras.layers.LayerNormalization):
    """LayerNorm over the last axis, `(x - E[x]) / sqrt(Var[x] + epsilon)`, then scale and offset if it has them.

    Keras' own computes it by a fused BatchNorm, for which converters transpose the tensor, take sums along its
    slowest axis, and transpose it back.
    """

    def call(self, inputs: Any) -> Any:
        """Normalise each token of `inputs`, float32 `[..., C]`."""
        centred = inputs - tf.reduce_mean(inputs, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        x = centred * tf.math.rsqrt(variance + self.epsilon)
        if self.scale:
            x = x * self.gamma
        return x + self.beta if self.center else x


def lower_layer_norms(model: Any) -> Any:
    """Return a copy of a `tf_keras` functional model whose LayerNorms are `ChannelNorm`s, its weights copied."""

    def lower(layer: Any) -> Any:
        kind = type(layer)
        return (ChannelNorm if kind is tf_keras.layers.LayerNormalization else kind).from_config(layer.get_config())

    copy = tf_keras.models.clone_model(model, clone_function=lower)
    copy.set_weights(model.get_weights())
    return copy
