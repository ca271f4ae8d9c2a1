"""Switchable network: each product is int8 or float by a variable, without rebuilding the graph."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tf_keras

from calibration.observers import Range
from export.quantize.fake_quant import quantized_ranges
from export.quantize.float_layers import fused_relu, int8_products, source_of
from export.quantize.rounding import fake_quantize, round_bias
from export.quantize.schemes import Rule, match_rules
from runtime.core.errors import ConfigError
from train.model.config import FocalNetConfig


class SwitchableProduct(tf_keras.layers.Layer):
    """A convolution in float or, if `int8` is set, with quantized input, kernel and output.

    A fused ReLU is part of the int8 product: the output's range starts at 0.
    """

    def __init__(self, product: Any, source: Range, target: Range, rectified: bool) -> None:
        """Take a `Conv2D`, the ranges of its input and output, and whether a ReLU is fused into it."""
        super().__init__(name=product.name)
        self.product = product
        self._source, self._target, self._rectified = source, target, rectified
        self.int8 = tf.Variable(False, trainable=False)

    def build(self, input_shape: Any) -> None:
        """Create kernel and bias."""
        self.product.build(input_shape)
        super().build(input_shape)

    def call(self, x: Any) -> Any:
        """Convolve float32 `[B, H, W, C]`."""
        return tf.cond(self.int8, lambda: self.quantized(x), lambda: self.product(x))

    def exact(self, x: Any) -> Any:
        """Convolve in float, and apply a fused ReLU."""
        y = self.product(x)
        return tf.nn.relu(y) if self._rectified else y

    def quantized(self, x: Any) -> Any:
        """Convolve with simulated int8."""
        product = self.product
        reach = tf.maximum(tf.reduce_max(tf.abs(product.kernel), axis=(0, 1, 2)), 1e-12)  # [out]
        kernel = tf.quantization.fake_quant_with_min_max_vars_per_channel(
            product.kernel, -reach, reach, narrow_range=True
        )
        y = product.convolution_op(fake_quantize(x, self._source), kernel)
        y = tf.nn.bias_add(y, round_bias(product.bias, self._source, product.kernel))
        return fake_quantize(y, self._target)


@dataclass(frozen=True, eq=False)
class SwitchableNetwork:
    """A network whose products are int8 or float, each independently.

    Attributes:
        model: `tf_keras`, with the input of `build_focalnet`, to logits.
        products: names, in network order.
    """

    model: Any
    products: tuple[str, ...]

    def switch(self, int8: Collection[str]) -> None:
        """Make these products int8 and all others float.

        Raises:
            ConfigError: a product is unknown.
        """
        if unknown := sorted(set(int8) - set(self.products)):
            raise ConfigError(f"received products {unknown}; expected some of {', '.join(self.products[:6])}, ...")
        for name in self.products:
            self.model.get_layer(name).int8.assign(name in int8)


def build_switchable(
    model: Any, config: FocalNetConfig, ranges: Mapping[str, Range], rules: Iterable[Rule]
) -> SwitchableNetwork:
    """Make every product of a scheme switchable; all are float at first.

    With all products int8 it computes the same as `build_fake_quant`'s network.

    Args:
        model: a `tf_keras` model of `build_float`; it is copied.
        config: its configuration.
        ranges: calibrated `(min, max)` of layer outputs.
        rules: of the scheme.

    Raises:
        ArtifactError: the calibration lacks a range that the scheme needs.
        ConfigError: an int8 product of the scheme reads a float tensor.
    """
    matched = match_rules(rules, [layer.name for layer in model.layers])
    ends = quantized_ranges(matched, config, ranges)
    int8 = frozenset(int8_products(matched))
    products = tuple(layer.name for layer in model.layers if layer.name in int8)

    def copy_layer(layer: Any) -> Any:
        copy = type(layer).from_config(layer.get_config())
        if layer.name not in products:
            return copy
        source = source_of(layer).name
        if source not in ends:
            raise ConfigError(
                f"{layer.name} reads {source}, which has no rule; expected one, as an int8 product reads int8"
            )
        relu = fused_relu(layer, matched)
        return SwitchableProduct(copy, ends[source], ends[relu or layer.name], relu is not None)

    clone = tf_keras.models.clone_model(model, clone_function=copy_layer)
    for layer in model.layers:
        copy = clone.get_layer(layer.name)
        (copy.product if layer.name in products else copy).set_weights(layer.get_weights())
    return SwitchableNetwork(clone, products)
