"""Products of a scheme that stay in float, and how the tensors around them are quantized."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tf_keras

from calibration.observers import Range
from export.quantize.rounding import fake_quantize
from export.quantize.schemes import Rule
from runtime.core.errors import ConfigError

NAMED_IN_ERRORS = 6


@dataclass(frozen=True)
class Placement:
    """The places where a network with float products is quantized.

    Attributes:
        outputs: rules of the layers whose outputs are int8, by layer.
        inputs: products that quantize their own input, each with the layer it reads. That layer has a float reader
            too, which needs the output unrounded.
        between: float products between two int8 ReLUs; see `FloatConv2D`.
    """

    outputs: dict[str, Rule]
    inputs: dict[str, str]
    between: tuple[str, ...]


def int8_products(matched: Mapping[str, Rule]) -> tuple[str, ...]:
    """Return the layers whose rules make their kernels int8."""
    return tuple(name for name, rule in matched.items() if rule.weights)


def check_float_layers(float_layers: Iterable[str], matched: Mapping[str, Rule]) -> None:
    """Check the names of layers to leave in float.

    Args:
        float_layers: the names.
        matched: the scheme's rules by layer, from `match_rules`.

    Raises:
        ConfigError: a name is not an int8 product of the scheme, or no product would be int8.
    """
    products = int8_products(matched)
    chosen = set(float_layers)
    if unknown := sorted(chosen - set(products)):
        raise ConfigError(
            f"received {', '.join(unknown[:NAMED_IN_ERRORS])} to leave in float; expected int8 products of this "
            f"network, such as {', '.join(products[:NAMED_IN_ERRORS])}"
        )
    if products and chosen == set(products):
        raise ConfigError(
            f"received all {len(products)} int8 products to leave in float; expected to keep at least one of them: "
            "the network without int8 products is the bundle's float.tflite"
        )


def place(model: Any, matched: Mapping[str, Rule], float_layers: Collection[str]) -> Placement:
    """Decide where to quantize a network with some products in float.

    A float product has float input and output. So its output is not quantized, and neither is an activation that it
    reads: int8 products that read the same activation quantize it themselves, as one operator of the artifact. The
    output of an int8 product, or of the ReLU fused into it, stays int8 for all its readers.

    Args:
        model: the float `tf_keras` network.
        matched: the scheme's rules by layer, from `match_rules`.
        float_layers: the products to leave in float.

    Raises:
        ConfigError: a name is not an int8 product of the scheme, or no product would be int8.
    """
    check_float_layers(float_layers, matched)
    products = frozenset(int8_products(matched))
    outputs = {name: rule for name, rule in matched.items() if name not in float_layers}
    given = {fused_relu(model.get_layer(name), outputs) or name for name in int8_products(outputs)}
    inputs: dict[str, str] = {}
    for source in dict.fromkeys(source_of(model.get_layer(name)).name for name in float_layers):
        readers = [each.name for each in readers_of(model.get_layer(source))]
        if source not in outputs or source in given or not products.issuperset(readers):
            continue
        del outputs[source]
        inputs |= {reader: source for reader in readers if reader not in float_layers}
    between = tuple(name for name in float_layers if _is_between(model.get_layer(name), outputs))
    return Placement(outputs, inputs, between)


def _is_between(layer: Any, outputs: Container[str]) -> bool:
    source = source_of(layer)
    return source.name in outputs and _is_relu(source) and fused_relu(layer, outputs) is not None


def _is_relu(layer: Any) -> bool:
    return bool(layer.get_config().get("activation") == "relu")


def source_of(layer: Any) -> Any:
    """Return the layer that a layer with one input reads, padding skipped.

    Zero padding does not change the quantization of a tensor, as 0 is a value of every range.
    """
    source = layer.inbound_nodes[0].inbound_layers
    return source_of(source) if _is_padding(source) else source


def readers_of(layer: Any) -> list[Any]:
    """Return the layers that read a layer's output, padding skipped."""
    readers = [node.outbound_layer for node in layer.outbound_nodes]
    return [each for reader in readers for each in (readers_of(reader) if _is_padding(reader) else [reader])]


def _is_padding(layer: Any) -> bool:
    return isinstance(layer, tf_keras.layers.ZeroPadding2D)


def fused_relu(layer: Any, quantized: Container[str]) -> str | None:
    """Return the name of the int8 ReLU that is a product's only reader; converters fuse the two. Else `None`."""
    readers = readers_of(layer)
    fused = (
        len(readers) == 1
        and readers[0].name in quantized
        and _is_relu(readers[0])
        and isinstance(layer, (tf_keras.layers.Conv2D, tf_keras.layers.DepthwiseConv2D))
    )
    return readers[0].name if fused else None


class Int8InputConv2D(tf_keras.layers.Conv2D):
    """A convolution that quantizes its own input, to 256 values over a range."""

    def __init__(self, input_range: Range, **options: Any) -> None:
        """Take the input's range and the options of a `Conv2D`."""
        super().__init__(**options)
        low, high = input_range
        self.input_range: Range = low, high

    def call(self, inputs: Any) -> Any:
        """Convolve float32 `[B, H, W, C]`."""
        return super().call(fake_quantize(inputs, self.input_range))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return super().get_config() | {"input_range": self.input_range}


class FloatConv2D(tf_keras.layers.Conv2D):
    """A float convolution between two int8 tensors, the first of which is the output of a ReLU.

    The converter would make such a convolution int8. An absolute value before it prevents that, and does not change
    the input, which is not negative. A second ReLU would not do, as the converter removes it.
    """

    def call(self, inputs: Any) -> Any:
        """Convolve float32 `[B, H, W, C]`, 0 or more."""
        return super().call(tf.abs(inputs))
