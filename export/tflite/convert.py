"""Convert a network to a TFLite artifact."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import tensorflow as tf

from export.quantize.interface import FloatMaps, ModelInterface
from export.quantize.network import QuantizedNetwork
from export.tflite.passes import (
    Pass,
    compute_gelu_in_float,
    name_by_signature,
    read_pixels_as_int8,
    return_int8,
    run_passes,
    store_kernels_as_int8,
)
from train.model.config import FocalNetConfig

PASSES: tuple[Pass, ...] = (name_by_signature, read_pixels_as_int8, compute_gelu_in_float)
INTEGER_ONLY_PASSES: tuple[Pass, ...] = (name_by_signature, read_pixels_as_int8, return_int8)


def convert_float(model: Any, config: FocalNetConfig) -> bytes:
    """Convert a float network of `build_float` to a TFLite artifact.

    Returns:
        The flatbuffer: input `image` uint8 `[1, S, S, 3]`; outputs `logits`, `gates`, `modulator`, float32.
    """
    return convert(ModelInterface(model, config, FloatMaps()), PASSES, quantize=False)


def convert_int8(network: QuantizedNetwork) -> bytes:
    """Convert a network to an int8 TFLite artifact.

    Returns:
        The flatbuffer, with the interface of `convert_float`; the outputs are int8 if the scheme is integer-only.

    Raises:
        ArtifactError: the calibration lacks a range that the scheme needs.
    """
    scheme = network.scheme
    passes = INTEGER_ONLY_PASSES if scheme.integer_only else PASSES
    if not scheme.calibrated:
        passes = (*passes, partial(store_kernels_as_int8, layers=network.int8_kernels))
    return convert(network.interface, passes, quantize=scheme.calibrated)


def convert(interface: ModelInterface, passes: Sequence[Pass], *, quantize: bool) -> bytes:
    """Convert a model and run graph passes over the result.

    Args:
        interface: the model.
        passes: the graph passes, in order.
        quantize: make int8 what is fake-quantized.
    """
    converter = tf.lite.TFLiteConverter.from_concrete_functions([interface.concrete_function()], interface)
    if quantize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return run_passes(converter.convert(), passes)
