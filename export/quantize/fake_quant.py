"""The fake-quantized network: a scheme and a calibration, applied by tensorflow-model-optimization."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantizers,
)
from tensorflow_model_optimization.quantization import keras as quantization
from tensorflow_model_optimization.quantization.keras import QuantizeConfig, QuantizeRegistry, QuantizeScheme

from calibration.observers import Range
from export.quantize.float_layers import FloatConv2D, Int8InputConv2D, fused_relu, place, source_of
from export.quantize.layer_norm import ChannelNorm, lower_layer_norms
from export.quantize.rounding import round_bias
from export.quantize.schemes import Scheme, match_rules
from runtime.core.errors import ArtifactError
from runtime.engines.tflite_graph import QUANTIZED_PREFIX
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet
from train.model.weights import Tensors, assign_weights, model_weights


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
        if isinstance(layer, tf_keras.layers.DepthwiseConv2D):
            return [(layer.depthwise_kernel, DepthwiseKernelQuantizer())]
        return [(layer.kernel, default_8bit_quantizers.Default8BitConvWeightsQuantizer())]

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """Put the fake-quantized kernel in the layer's place for it."""
        if not self.weights:
            return
        if isinstance(layer, tf_keras.layers.DepthwiseConv2D):
            layer.depthwise_kernel = quantize_weights[0]
        else:
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


class DepthwiseKernelQuantizer(default_8bit_quantizers.Default8BitConvWeightsQuantizer):
    """Quantizes a depthwise kernel `[k, k, C, 1]`: symmetric, one scale per channel, which is not its last axis."""

    def build(self, tensor_shape: Any, name: str, layer: Any) -> Any:
        """Make the ranges of C channels."""
        return super().build(tensor_shape[:3], name, layer)

    def __call__(self, inputs: Any, training: bool, weights: Any, **kwargs: Any) -> Any:
        """Return the kernel, rounded to what int8 has."""
        # [k, k, C, 1] -> [1, k, k, C], as TFLite has it, and back
        channels_last = tf.reshape(inputs, (1, *inputs.shape[:3]))
        return tf.reshape(super().__call__(channels_last, training, weights, **kwargs), inputs.shape)


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
    classes = (Int8Config, ChannelNorm, DepthwiseKernelQuantizer, Int8InputConv2D, FloatConv2D)
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


def build_fake_quant(model: Any, config: FocalNetConfig, ranges: Mapping[str, Range], scheme: Scheme) -> Any:
    """Fake-quantize a float network, its weights copied.

    Args:
        model: a `tf_keras` model of `build_float`.
        config: its configuration.
        ranges: calibrated `(min, max)` of every layer's output and of the steps inside layers.
        scheme: what is int8.

    Returns:
        A trainable `tf_keras` model; the layers that rules match carry `QUANTIZED_PREFIX` before their names.

    Raises:
        ArtifactError: the calibration lacks a range that the scheme needs.
        ConfigError: a rule matches no layer, or a layer to leave in float is no int8 product.
    """
    matched = match_rules(scheme.rules, [layer.name for layer in model.layers])
    placed = place(model, matched, scheme.float_layers)
    dynamic = not scheme.calibrated
    ends = dict.fromkeys(matched, (0.0, 1.0)) if dynamic else quantized_ranges(matched, config, ranges)

    def copied(layer: Any) -> Any:
        settings = layer.get_config()
        if layer.name in placed.inputs:
            return Int8InputConv2D(ends[placed.inputs[layer.name]], **settings)
        if layer.name in placed.between:
            return FloatConv2D.from_config(settings)
        if scheme.integer_only and isinstance(layer, ChannelNorm):
            settings["ranges"] = step_ranges(layer.name, ranges)
        return type(layer).from_config(settings)

    def annotate(layer: Any) -> Any:
        rule = matched.get(layer.name)
        if rule is None:
            return layer
        # What is left in float is annotated too, with nothing quantized: under its prefix it is found all the same.
        int8 = layer.name in placed.outputs
        output = int8 and not dynamic and fused_relu(model.get_layer(layer.name), placed.outputs) is None
        return quantization.quantize_annotate_layer(layer, Int8Config(int8 and rule.weights, *ends[layer.name], output))

    with quantization_scope():
        # Of a copy, as annotating takes the layers themselves, and the float model is to stay whole.
        copy = tf_keras.models.clone_model(model, clone_function=copied)
        copy.set_weights(model.get_weights())
        annotated = tf_keras.models.clone_model(copy, clone_function=annotate)
        quantized = quantization.quantize_apply(annotated, AnnotatedOnly(), QUANTIZED_PREFIX)
    settle_weights(quantized)
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
        raise _without_range(missing)
    return {name: _with_width(known[name]) for name in quantized}


def step_ranges(name: str, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Return the ranges of the steps inside a layer, `low < high`, by the step's own name.

    Raises:
        ArtifactError: the calibration has none, as those before there were any.
    """
    steps = {
        key.removeprefix(f"{name}."): _with_width(ends) for key, ends in ranges.items() if key.startswith(f"{name}.")
    }
    if not steps:
        raise _without_range([f"{name}'s steps"])
    return steps


def _without_range(names: Sequence[str]) -> ArtifactError:
    return ArtifactError(
        f"the calibration has no range for {', '.join(names[:6])}; run `python -m calibration` on this run"
    )


def _with_width(ends: Range) -> Range:
    """Return a range as it is or, of an output that was always 0, one whose scale is not 0."""
    return ends if ends != (0.0, 0.0) else (0.0, 1.0)


def settle_weights(model: Any) -> None:
    """Set the range of every int8 kernel from its present values, and round biases to what int32 holds.

    tfmot sets ranges in training mode only; without it kernels would be quantized over +-6. It leaves biases as they
    are, while converters store `bias / (input's scale * kernel's scale)` as an integer.
    """
    model(tf.zeros((1, *model.input_shape[1:])), training=True)
    for wrapper in model.layers:
        config = getattr(wrapper, "quantize_config", None)
        if config is None or not config.weights or not wrapper.layer.use_bias:
            continue
        source = _input_range(wrapper)
        if source is not None:
            (kernel,) = (variable for variable in wrapper.variables if variable.name.endswith("kernel:0"))
            wrapper.layer.bias.assign(round_bias(wrapper.layer.bias, source, kernel))


def _input_range(wrapper: Any) -> Range | None:
    """Return the range that a product's int8 input has; none if it reads float."""
    if isinstance(wrapper.layer, Int8InputConv2D):
        return wrapper.layer.input_range
    source = getattr(source_of(wrapper), "quantize_config", None)
    return (source.low, source.high) if source is not None and source.output else None


def fake_quant_weights(model: Any) -> Tensors:
    """Return the weights of a fake-quantized network under the names of the float one."""
    weights = {}
    for name, variable in model_weights(model).items():
        layer, kind = name.removeprefix(QUANTIZED_PREFIX).rsplit("/", 1)
        if kind in ("kernel", "bias", "gamma", "beta"):
            weights[f"{layer}/{kind}"] = variable.numpy()
    return weights


def _pixel_range(config: FocalNetConfig) -> Range:
    """Return the exact range of a normalised image: for mean 0 and std 1, 0..1 with scale 1/255."""
    lows = [-m / s for m, s in zip(config.mean, config.std, strict=True)]
    highs = [(1.0 - m) / s for m, s in zip(config.mean, config.std, strict=True)]
    return min(*lows, 0.0), max(*highs, 0.0)
