"""Fake-quantize a network with tensorflow-model-optimization, by a scheme and a calibration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import default_8bit_quantizers
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


@dataclass(frozen=True, eq=False)
class Int8Config(QuantizeConfig):
    """Quantization of one layer, for tfmot.

    Attributes:
        weights: the kernel is int8, per output channel.
        low: lower end of the output's range.
        high: upper end of the output's range.
        output: the output is int8.
    """

    weights: bool
    low: float
    high: float
    output: bool = True

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """Return the kernel and its quantizer: symmetric, one scale per output channel."""
        if not self.weights:
            return []
        if isinstance(layer, tf_keras.layers.DepthwiseConv2D):
            return [(layer.depthwise_kernel, DepthwiseKernelQuantizer())]
        return [(layer.kernel, default_8bit_quantizers.Default8BitConvWeightsQuantizer())]

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """Set the layer's kernel to the fake-quantized one."""
        if not self.weights:
            return
        if isinstance(layer, tf_keras.layers.DepthwiseConv2D):
            layer.depthwise_kernel = quantize_weights[0]
        else:
            layer.kernel = quantize_weights[0]

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """Return nothing: in this network activations are layers."""
        return []

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        """Do nothing: layers have no activations inside."""
        return  # AutoGraph removes the docstring, and warns of a function without a body.

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """Return the quantizer of the output: 256 values over the calibrated range.

        The range is fixed. A moving average needs about 1,000 steps, and then follows every outlier that the observer
        had clipped.
        """
        if not self.output:
            return []
        return [quantization.quantizers.FixedQuantizer(8, self.low, self.high, narrow_range=False)]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return asdict(self)


class DepthwiseKernelQuantizer(default_8bit_quantizers.Default8BitConvWeightsQuantizer):
    """Quantizer of a depthwise kernel `[k, k, C, 1]`: symmetric, one scale per channel, which is not the last axis."""

    def build(self, tensor_shape: Any, name: str, layer: Any) -> Any:
        """Create the ranges of C channels."""
        return super().build(tensor_shape[:3], name, layer)

    def __call__(self, inputs: Any, training: bool, weights: Any, **kwargs: Any) -> Any:
        """Return the kernel rounded to int8."""
        # [k, k, C, 1] -> [1, k, k, C], TFLite's layout, and back
        channels_last = tf.reshape(inputs, (1, *inputs.shape[:3]))
        return tf.reshape(super().__call__(channels_last, training, weights, **kwargs), inputs.shape)


class _AnnotatedOnly(QuantizeScheme, QuantizeRegistry):
    """A tfmot scheme that quantizes annotated layers only.

    tfmot's default scheme also quantizes the input and the residual additions before annotated layers.
    """

    def get_layout_transformer(self) -> Any:
        return _NoTransform()

    def get_quantize_registry(self) -> Any:
        return self

    def supports(self, layer: Any) -> bool:
        return False

    def get_quantize_config(self, layer: Any) -> Any:
        return None


class _NoTransform:
    def apply(self, model: Any, layer_quantize_map: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return model, layer_quantize_map


def quantization_scope() -> Any:
    """Return the scope in which tfmot can clone models with our layers and quantizers."""
    classes = (Int8Config, ChannelNorm, DepthwiseKernelQuantizer, Int8InputConv2D, FloatConv2D)
    return quantization.quantize_scope({each.__name__: each for each in classes})


def build_stock(config: FocalNetConfig, weights: Tensors, source: str) -> Any:
    """Build the float network in `tf_keras` from Keras' own layers, with weights.

    Args:
        config: the network.
        weights: arrays by `layer/variable`.
        source: the file of the weights, for errors.

    Returns:
        A `tf_keras` functional model.
    """
    model = build_focalnet(config, tf_keras)
    assign_weights(model_weights(model), weights, source)
    return model


def build_float(config: FocalNetConfig, weights: Tensors, source: str) -> Any:
    """Build the network of `build_stock` with its LayerNorms replaced for conversion."""
    return lower_layer_norms(build_stock(config, weights, source))


def build_fake_quant(model: Any, config: FocalNetConfig, ranges: Mapping[str, Range], scheme: Scheme) -> Any:
    """Return a fake-quantized copy of a float network.

    Args:
        model: a `tf_keras` model of `build_float`.
        config: its configuration.
        ranges: calibrated `(min, max)` of the layers' outputs and of the tensors inside layers.
        scheme: what is int8.

    Returns:
        A trainable `tf_keras` model; `QUANTIZED_PREFIX` precedes the names of the layers that rules match.

    Raises:
        ArtifactError: the calibration lacks a range that the scheme needs.
        ConfigError: a rule matches no layer, or a layer to leave in float is not an int8 product.
    """
    matched = match_rules(scheme.rules, [layer.name for layer in model.layers])
    placed = place(model, matched, scheme.float_layers)
    output_ranges = (
        quantized_ranges(matched, config, ranges) if scheme.calibrated else dict.fromkeys(matched, (0.0, 1.0))
    )

    def copied(layer: Any) -> Any:
        settings = layer.get_config()
        if layer.name in placed.inputs:
            return Int8InputConv2D(output_ranges[placed.inputs[layer.name]], **settings)
        if layer.name in placed.between:
            return FloatConv2D.from_config(settings)
        if scheme.integer_only and isinstance(layer, ChannelNorm):
            settings["ranges"] = inner_ranges(layer.name, ranges)
        return type(layer).from_config(settings)

    def annotate(layer: Any) -> Any:
        rule = matched.get(layer.name)
        if rule is None:
            return layer
        # Layers left in float are annotated too, with nothing quantized, so that their names have the prefix.
        int8 = layer.name in placed.outputs
        output = int8 and scheme.calibrated and fused_relu(model.get_layer(layer.name), placed.outputs) is None
        settings = Int8Config(int8 and rule.weights, *output_ranges[layer.name], output)
        return quantization.quantize_annotate_layer(layer, settings)

    with quantization_scope():
        # Annotating takes over the layers, so it works on a copy.
        copy = tf_keras.models.clone_model(model, clone_function=copied)
        copy.set_weights(model.get_weights())
        annotated = tf_keras.models.clone_model(copy, clone_function=annotate)
        quantized = quantization.quantize_apply(annotated, _AnnotatedOnly(), QUANTIZED_PREFIX)
    settle_weights(quantized)
    return quantized


def quantized_ranges(quantized: Iterable[str], config: FocalNetConfig, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Return the ranges of int8 outputs.

    Args:
        quantized: names of the layers whose outputs are int8.
        config: the network.
        ranges: calibrated `(min, max)` of the layers' outputs.

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


def inner_ranges(name: str, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Return the ranges of the tensors inside a layer, `low < high`, by their names in the layer.

    Raises:
        ArtifactError: the calibration has none; older calibrations lack them.
    """
    prefix = f"{name}."
    found = {key.removeprefix(prefix): _with_width(ends) for key, ends in ranges.items() if key.startswith(prefix)}
    if not found:
        raise _without_range([f"the tensors inside {name}"])
    return found


def _without_range(names: Sequence[str]) -> ArtifactError:
    return ArtifactError(
        f"the calibration has no range for {', '.join(names[:6])}; run `python -m calibration` on this run"
    )


def _with_width(ends: Range) -> Range:
    """Replace the range of an output that was always 0, whose scale would be 0."""
    return ends if ends != (0.0, 0.0) else (0.0, 1.0)


def settle_weights(model: Any) -> None:
    """Set the range of each int8 kernel from its values, and round biases to int32.

    tfmot sets kernel ranges in training mode only; before that they are -6..6. It does not round biases, but
    converters store `bias / (input's scale * kernel's scale)` as an integer.
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
    """Return the range of a product's int8 input; `None` for a float input."""
    if isinstance(wrapper.layer, Int8InputConv2D):
        return wrapper.layer.input_range
    source = getattr(source_of(wrapper), "quantize_config", None)
    return (source.low, source.high) if source is not None and source.output else None


def fake_quant_weights(model: Any) -> Tensors:
    """Return the weights of a fake-quantized network by their names in the float one."""
    weights = {}
    for name, variable in model_weights(model).items():
        layer, kind = name.removeprefix(QUANTIZED_PREFIX).rsplit("/", 1)
        if kind in ("kernel", "bias", "gamma", "beta"):
            weights[f"{layer}/{kind}"] = variable.numpy()
    return weights


def _pixel_range(config: FocalNetConfig) -> Range:
    """Return the exact range of a normalised image; with mean 0 and std 1 it is 0..1, with scale 1/255."""
    lows = [-m / s for m, s in zip(config.mean, config.std, strict=True)]
    highs = [(1.0 - m) / s for m, s in zip(config.mean, config.std, strict=True)]
    return min(*lows, 0.0), max(*highs, 0.0)
