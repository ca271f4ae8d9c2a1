"""TFLite artifacts: a network and the contract's face around it, converted as its scheme says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras

from calibration.observers import Range
from export.face import Face, FloatMaps, IntegerMaps
from export.fake_quant import PREFIX, build_fake_quant
from export.flatbuffer import finish, quantize_weights
from export.float_layers import check_float_layers
from export.schemes import Scheme, match_rules
from train.config import FocalNetConfig
from train.focalnet import overlay_tensors


def convert_float(model: Any, config: FocalNetConfig) -> bytes:
    """Convert a float network, of `build_float`, to a TFLite artifact.

    Returns:
        The flatbuffer: input `image` uint8 `[1, S, S, 3]`; outputs `logits`, `gates`, `modulator`, float32.
    """
    return finish(_converter(Face(_views(model, config, ""), config.input_size, FloatMaps())).convert())


def convert_int8(model: Any, config: FocalNetConfig, ranges: Mapping[str, Range], scheme: Scheme) -> bytes:
    """Quantize a float network and convert it to a TFLite artifact.

    Args:
        model: a network of `build_float`.
        config: its configuration.
        ranges: calibrated `(min, max)` of layers and of the steps inside them; none where activations are dynamic.
        scheme: what is int8.

    Returns:
        The flatbuffer, as of `convert_float`, but int8 where the scheme says so; where it says all, the outputs too.

    Raises:
        ArtifactError: the calibration lacks a range that the scheme needs.
    """
    if scheme.activations == "dynamic":
        matched = match_rules(scheme.rules, [layer.name for layer in model.layers])
        check_float_layers(scheme.float_layers, matched)
        return quantize_weights(convert_float(model, config), matched.keys() - set(scheme.float_layers))
    quantized = build_fake_quant(model, config, ranges, scheme)
    every_tensor = scheme.activations == "all"
    maps = IntegerMaps(config, ranges) if every_tensor else FloatMaps()
    converter = _converter(Face(_views(quantized, config, PREFIX), config.input_size, maps))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return finish(converter.convert(), every_tensor)


def _converter(face: Face) -> Any:
    return tf.lite.TFLiteConverter.from_concrete_functions([face.concrete_function()], face)


def _views(model: Any, config: FocalNetConfig, prefix: str) -> Any:
    gates, modulator = overlay_tensors(model, config, prefix)
    outputs = {"logits": model.output, "gates": gates, "modulator": modulator}
    # By a name of its own, as Keras would number it and the artifact's bytes change from call to call.
    return tf_keras.Model(model.input, outputs, name="focalnet_with_overlay")
