"""TFLite artifacts: a network and the contract's interface around it, converted as its scheme says."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from export.quantize.interface import FloatMaps, ModelInterface
from export.quantize.network import QuantizedNetwork
from export.tflite.passes import finish, quantize_weights
from train.model.config import FocalNetConfig


def convert_float(model: Any, config: FocalNetConfig) -> bytes:
    """Convert a float network, of `build_float`, to a TFLite artifact.

    Returns:
        The flatbuffer: input `image` uint8 `[1, S, S, 3]`; outputs `logits`, `gates`, `modulator`, float32.
    """
    return finish(_converter(ModelInterface(model, config, FloatMaps())).convert())


def convert_int8(network: QuantizedNetwork) -> bytes:
    """Convert a network to an int8 TFLite artifact.

    Returns:
        The flatbuffer, as of `convert_float`, but int8 where the scheme says so; where it says all, the outputs too.

    Raises:
        ArtifactError: the calibration lacks a range that the scheme needs.
    """
    converter = _converter(network.interface)
    if not network.scheme.calibrated:
        return quantize_weights(finish(converter.convert()), network.int8_kernels)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return finish(converter.convert(), network.scheme.integer_only)


def _converter(interface: ModelInterface) -> Any:
    return tf.lite.TFLiteConverter.from_concrete_functions([interface.concrete_function()], interface)
