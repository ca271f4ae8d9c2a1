"""Products of a scheme that stay in float: what is quantized around them, and what no longer is."""

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
    """Where a network with some products in float is quantized.

    Attributes:
        outputs: the rules of the layers whose outputs are int8, by layer.
        inputs: products that quantize their input themselves, each with the layer that it reads: another reader of
            that layer is in float, and takes its output unrounded.
        between: products in float between two ReLUs whose outputs are int8: see `FloatConv2D`.
    """

    outputs: dict[str, Rule]
    inputs: dict[str, str]
    between: tuple[str, ...]


def int8_products(matched: Mapping[str, Rule]) -> tuple[str, ...]:
    """Return the layers with int8 kernels among those that rules were matched to."""
    return tuple(name for name, rule in matched.items() if rule.weights)


def check_float_layers(float_layers: Iterable[str], matched: Mapping[str, Rule]) -> None:
    """Hold the names of layers to leave in float to a network.

    Args:
        float_layers: the names.
        matched: the scheme's rules by layer, as `match_rules` gives them.

    Raises:
        ConfigError: a name is no int8 product of the scheme, or no product would be int8.
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
            "a network without is the bundle's float.tflite"
        )


def place(model: Any, matched: Mapping[str, Rule], float_layers: Collection[str]) -> Placement:
    """Decide where to quantize a network of which some products stay in float.

    A product in float reads, computes and gives float. So its own output is not quantized, and neither is an
    activation that it reads: the int8 products that read the same one quantize it for themselves, which makes one
    quantization of the artifact. What an int8 product gives, a ReLU fused into it included, stays int8 for all readers.

    Args:
        model: the float `tf_keras` network.
        matched: the scheme's rules by layer, as `match_rules` gives them.
        float_layers: the products to leave in float.

    Returns:
        Where it is quantized.

    Raises:
        ConfigError: a name is no int8 product of the scheme, or no product would be int8.
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
    return Placement(
        outputs, inputs, tuple(name for name in float_layers if _is_between(model.get_layer(name), outputs))
    )


def _is_between(layer: Any, outputs: Container[str]) -> bool:
    source = source_of(layer)
    return source.name in outputs and _is_relu(source) and fused_relu(layer, outputs) is not None


def _is_relu(layer: Any) -> bool:
    return bool(layer.get_config().get("activation") == "relu")


def source_of(layer: Any) -> Any:
    """Return the layer whose values a layer with one input reads, past a padding between the two.

    Zeros around a tensor change nothing of its quantization, as every range has 0 in it and on its grid.
    """
    source = layer.inbound_nodes[0].inbound_layers
    return source_of(source) if _is_padding(source) else source


def readers_of(layer: Any) -> list[Any]:
    """Return the layers that read a layer's values, past a padding between."""
    readers = [node.outbound_layer for node in layer.outbound_nodes]
    return [each for reader in readers for each in (readers_of(reader) if _is_padding(reader) else [reader])]


def _is_padding(layer: Any) -> bool:
    return isinstance(layer, tf_keras.layers.ZeroPadding2D)


def fused_relu(layer: Any, quantized: Container[str]) -> str | None:
    """Name the ReLU that a product's only reader is, if it is int8 too: converters fuse the two into one product."""
    readers = readers_of(layer)
    fused = (
        len(readers) == 1
        and readers[0].name in quantized
        and _is_relu(readers[0])
        and isinstance(layer, (tf_keras.layers.Conv2D, tf_keras.layers.DepthwiseConv2D))
    )
    return readers[0].name if fused else None


class Int8InputConv2D(tf_keras.layers.Conv2D):
    """A convolution that quantizes its input itself, to 256 values over a range."""

    def __init__(self, input_range: Range, **options: Any) -> None:
        """Take the range, and the options of a `Conv2D`."""
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
    """A convolution that stays float between two int8 tensors, the first of which a ReLU gave.

    The converter would make it int8 of its own accord. So the absolute value comes between, which changes nothing of
    what is not negative; the converter folds what changes nothing whatever it reads, such as a second ReLU.
    """

    def call(self, inputs: Any) -> Any:
        """Convolve float32 `[B, H, W, C]`, not negative."""
        return super().call(tf.abs(inputs))
