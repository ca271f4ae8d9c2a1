"""A float network, and what a scheme and a calibration make of it, whichever format it is then converted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from calibration.observers import Range
from export.quantize.fake_quant import build_fake_quant
from export.quantize.float_layers import check_float_layers, int8_products
from export.quantize.interface import Face, FloatMaps, IntegerMaps
from export.quantize.schemes import Scheme, match_rules
from runtime.engines.tflite_graph import QUANTIZED_PREFIX
from train.model.config import FocalNetConfig


@dataclass(frozen=True, eq=False)
class QuantizedNetwork:
    """A network that is to be int8.

    Attributes:
        model: a float network of `build_float`.
        config: its configuration.
        ranges: calibrated `(min, max)` of layers and of the steps inside them; none where activations are dynamic.
        scheme: what is int8.
    """

    model: Any
    config: FocalNetConfig
    ranges: Mapping[str, Range]
    scheme: Scheme

    @cached_property
    def face(self) -> Face:
        """What to convert: the fake-quantized network or, where activations are dynamic, the float one.

        Raises:
            ArtifactError: the calibration lacks a range that the scheme needs.
        """
        if self.scheme.activations == "dynamic":
            return Face(self.model, self.config, FloatMaps())
        maps = IntegerMaps(self.config, self.ranges) if self.scheme.activations == "all" else FloatMaps()
        quantized = build_fake_quant(self.model, self.config, self.ranges, self.scheme)
        return Face(quantized, self.config, maps, QUANTIZED_PREFIX)

    @property
    def stored(self) -> set[str]:
        """The layers whose kernels are stored as int8.

        Raises:
            ConfigError: a layer to leave in float is no int8 product.
        """
        matched = match_rules(self.scheme.rules, [layer.name for layer in self.model.layers])
        check_float_layers(self.scheme.float_layers, matched)
        return set(int8_products(matched)) - set(self.scheme.float_layers)
