"""A float network with the scheme and calibration that make it int8, independent of the artifact's format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from calibration.observers import Range
from export.quantize.fake_quant import build_fake_quant
from export.quantize.float_layers import check_float_layers, int8_products
from export.quantize.interface import FloatMaps, IntegerMaps, ModelInterface
from export.quantize.schemes import Scheme, match_rules
from runtime.engines.tflite_graph import QUANTIZED_PREFIX
from train.model.config import FocalNetConfig


@dataclass(frozen=True, eq=False)
class QuantizedNetwork:
    """A network to convert to int8.

    Attributes:
        model: a float network of `build_float`.
        config: its configuration.
        ranges: calibrated `(min, max)` of layers and of the tensors inside them; empty if the scheme needs none.
        scheme: what is int8.
    """

    model: Any
    config: FocalNetConfig
    ranges: Mapping[str, Range]
    scheme: Scheme

    @property
    def layers(self) -> list[str]:
        """The names of the network's layers, in order."""
        return [layer.name for layer in self.model.layers]

    @cached_property
    def fake_quant(self) -> Any:
        """The fake-quantized `tf_keras` network.

        Raises:
            ArtifactError: the calibration lacks a range that the scheme needs.
        """
        return build_fake_quant(self.model, self.config, self.ranges, self.scheme)

    @cached_property
    def interface(self) -> ModelInterface:
        """The model to convert: fake-quantized, or float if the scheme is not calibrated.

        Raises:
            ArtifactError: the calibration lacks a range that the scheme needs.
        """
        if not self.scheme.calibrated:
            return ModelInterface(self.model, self.config, FloatMaps())
        maps = IntegerMaps(self.config, self.ranges) if self.scheme.integer_only else FloatMaps()
        return ModelInterface(self.fake_quant, self.config, maps, QUANTIZED_PREFIX)

    @property
    def int8_kernels(self) -> set[str]:
        """The layers whose kernels are stored as int8.

        Raises:
            ConfigError: a layer to leave in float is not an int8 product.
        """
        matched = match_rules(self.scheme.rules, self.layers)
        check_float_layers(self.scheme.float_layers, matched)
        return set(int8_products(matched)) - set(self.scheme.float_layers)
