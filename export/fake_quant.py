"""The fake-quantized network: a scheme and a calibration, applied by tensorflow-model-optimization."""

from __future__ import annotations

import os

# tensorflow-model-optimization works on Keras 2 alone, and this must be said before TensorFlow's import.
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantizers,
)
from tensorflow_model_optimization.quantization import keras as quantization
from tensorflow_model_optimization.quantization.keras import QuantizeConfig, QuantizeRegistry, QuantizeScheme

from calibration.observers import Range
from export.float_layers import FloatConv2D, Int8InputConv2D, copy_for, fused_relu, place
from export.layer_norm import ChannelNorm, lower_layer_norms
from export.schemes import Rule, match_rules
from runtime.errors import ArtifactError
from train.config import FocalNetConfig
from train.focalnet import build_focalnet
from train.weights import Tensors, assign_weights, model_weights

PREFIX = "quant_"


class Int8Config(QuantizeConfig):
    """What tfmot does to one layer: int8 output, and int8 per-channel kernel if asked for.

    Example:
        quantize_annotate_layer(layer, Int8Config(weights=True, low=-3.0, high=2.5))
    """

    def __init__(self, weights: bool, low: float, high: float, output: bool = True) -> None:
        """Keep whether the kernel is int8, the range of the output, and whether the output is int8 here."""
        self.weights, self.low, self.high, self.output = weights, low, high, output

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """Return the kernel with its quantizer: symmetric, one scale per output channel (last axis)."""
        if not self.weights:
            return []
        return [(layer.kernel, default_8bit_quantizers.Default8BitConvWeightsQuantizer())]

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """Put the fake-quantized kernel in the layer's place for it."""
        if self.weights:
            layer.kernel = quantize_weights[0]

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """Return nothing: activations are layers of their own in this network."""
        return []

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        """Do nothing: there is no activation inside a layer."""
        return  # AutoGraph, which takes the docstring away, warns of a function without a body.

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """Return the quantizer of the layer's output: 256 values over the calibrated range.

        A moving average would forget that range only after about a thousand steps, and then follow
        every outlier that the observer had clipped.
        """
        if not self.output:
            return []
        return [quantization.quantizers.FixedQuantizer(8, self.low, self.high, narrow_range=False)]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"weights": self.weights, "low": self.low, "high": self.high, "output": self.output}


class AnnotatedOnly(QuantizeScheme, QuantizeRegistry):
    """A tfmot scheme that quantizes what is annotated and nothing beside it.

    The default one would also quantize the input and the residual additions before annotated layers.
    """

    def get_layout_transformer(self) -> Any:
        """Return the transformer of layer patterns: none applies here."""
        return _NoTransform()

    def get_quantize_registry(self) -> Any:
        """Return the registry of layers with a default configuration: there are none."""
        return self

    def supports(self, layer: Any) -> bool:
        """Return that no layer is quantized unasked."""
        return False

    def get_quantize_config(self, layer: Any) -> Any:
        """Return no configuration; tfmot asks only for layers that are supported."""
        return None


class _NoTransform:
    def apply(self, model: Any, layer_quantize_map: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return model, layer_quantize_map


def quantization_scope() -> Any:
    """Return the scope in which tfmot can clone models that hold this module's classes."""
    classes = (Int8Config, ChannelNorm, Int8InputConv2D, FloatConv2D)
    return quantization.quantize_scope({each.__name__: each for each in classes})


def build_stock(config: FocalNetConfig, weights: Tensors, source: str) -> Any:
    """Build the float network in `tf_keras` and fill it, all of its layers Keras' own.

    Args:
        config: the network.
        weights: arrays by `layer/variable`.
        source: where they come from, for the error.

    Returns:
        A `tf_keras` functional model.
    """
    model = build_focalnet(config, tf_keras)
    assign_weights(model_weights(model), weights, source)
    return model


def build_float(config: FocalNetConfig, weights: Tensors, source: str) -> Any:
    """Build the float network of `build_stock`, its layers replaced by those that convert best."""
    return lower_layer_norms(build_stock(config, weights, source))


def build_fake_quant(
    model: Any,
    config: FocalNetConfig,
    ranges: dict[str, Range],
    rules: Iterable[Rule],
    float_layers: Collection[str] = (),
) -> Any:
    """Fake-quantize a float network, its weights copied.

    Args:
        model: a `tf_keras` model of `build_focalnet`.
        config: its configuration.
        ranges: calibrated `(min, max)` of every layer's output.
        rules: those of a scheme.
        float_layers: products that stay in float in spite of their rule, see `export.float_layers.place`.

    Returns:
        A trainable `tf_keras` model; the layers that rules match carry `PREFIX` before their names.

    Raises:
        ArtifactError: the calibration lacks a range that the scheme needs.
        ConfigError: a rule matches no layer, or a layer to leave in float is no int8 product.
    """
    matched = match_rules(rules, [layer.name for layer in model.layers])
    placed = place(model, matched, float_layers)
    ends = quantized_ranges(matched, config, ranges)

    def annotate(layer: Any) -> Any:
        rule = matched.get(layer.name)
        if rule is None:
            return layer
        # What is left in float is annotated too, with nothing quantized: under its prefix it is found all the same.
        int8 = layer.name in placed.outputs
        output = int8 and fused_relu(model.get_layer(layer.name), placed.outputs) is None
        return quantization.quantize_annotate_layer(layer, Int8Config(int8 and rule.weights, *ends[layer.name], output))

    with quantization_scope():
        # Of a copy, as annotating takes the layers themselves, and the float model is to stay whole.
        copy = copy_for(model, placed, ends)
        annotated = tf_keras.models.clone_model(copy, clone_function=annotate)
        quantized = quantization.quantize_apply(annotated, AnnotatedOnly(), PREFIX)
    update_weight_ranges(quantized)
    return quantized


def quantized_ranges(quantized: Iterable[str], config: FocalNetConfig, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Return the ranges that int8 outputs are quantized over.

    Args:
        quantized: names of the layers whose outputs are int8.
        config: the network.
        ranges: calibrated `(min, max)` of layers' outputs.

    Returns:
        `(low, high)` by layer, `low < high`.

    Raises:
        ArtifactError: the calibration lacks a range.
    """
    known = {**ranges, "normalise": _pixel_range(config)}
    missing = sorted(name for name in quantized if name not in known)
    if missing:
        raise ArtifactError(
            f"the calibration has no range for {', '.join(missing[:6])}; run `python -m calibration` on this run"
        )
    # Of an output that was always 0, the scale needs some width all the same.
    return {name: (known[name][0], known[name][1] if known[name] != (0.0, 0.0) else 1.0) for name in quantized}


def update_weight_ranges(model: Any) -> None:
    """Set the range of every int8 kernel from its present values.

    tfmot does this in training mode only; without it kernels would be quantized over +-6.
    """
    model(tf.zeros((1, *model.input_shape[1:])), training=True)


def fake_quant_weights(model: Any) -> Tensors:
    """Return the weights of a fake-quantized network under the names of the float one."""
    weights = {}
    for name, variable in model_weights(model).items():
        layer, kind = name.removeprefix(PREFIX).rsplit("/", 1)
        if kind in ("kernel", "bias", "gamma", "beta"):
            weights[f"{layer}/{kind}"] = variable.numpy()
    return weights


def _pixel_range(config: FocalNetConfig) -> Range:
    """Return the exact range of a normalised picture: for mean 0 and std 1, 0..1 with scale 1/255."""
    lows = [-m / s for m, s in zip(config.mean, config.std, strict=True)]
    highs = [(1.0 - m) / s for m, s in zip(config.mean, config.std, strict=True)]
    return min(*lows, 0.0), max(*highs, 0.0)
