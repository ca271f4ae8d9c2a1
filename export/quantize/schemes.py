"""Which layers are int8, which operators stay float, and why: the schemes, as data.

The rules of a scheme say what is int8. They are given to tensorflow-model-optimization as one
`QuantizeConfig` a layer. Its `float_ops` say what may be float in the artifact that comes of it: the
audit refuses an artifact with any other float operator.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from runtime.core.errors import ConfigError

Activations = Literal["named", "all", "dynamic"]
# What the audit calls the layer of operators that are of none: an artifact's own, around its network.
FACE = "face"
PRODUCT_OPS = frozenset({"CONV_2D"})
LAYER_NORM_OPS = frozenset({"MEAN", "SUB", "SQUARE", "SQUARED_DIFFERENCE", "ADD", "RSQRT", "MUL"})
# What a product that is left in float may compute: itself; what keeps it so
# (`export.quantize.float_layers.FloatConv2D`); and the flattening of the head's output, as the artifact's output is
# called what the head's layer is.
FLOAT_PRODUCT_OPS = frozenset({"CONV_2D", "ABS", "RESHAPE"})
# A block's layers beside its product of query and modulator: where one of them is in float, so is that product.
BESIDE_MODULATE = ("query", "modulator", "proj")

# Elsewhere mean and std are folded into the first product. Before zeros they cannot be: see `train.model.fold_norms`.
IMAGE_IS_INT8 = (
    "the uint8 image itself: scale 1/255 loses nothing; of a stem that pads, images normalised by mean and std, "
    "whose three channels share one scale"
)


@dataclass(frozen=True)
class Rule:
    """What is int8 about the layers whose whole name matches.

    Attributes:
        pattern: regular expression over layer names.
        weights: the kernel is int8, symmetric, one scale per output channel.
        why: the reason, for whoever reads or changes the scheme.

    The output of every named layer is int8, per tensor, over its calibrated range; that of a convolution
    whose ReLU is named too is the ReLU's, as the two run as one.
    """

    pattern: str
    weights: bool
    why: str


@dataclass(frozen=True)
class FloatOps:
    """Which operators may be float in the layers whose whole name matches.

    Attributes:
        pattern: regular expression over layer names; `FACE` stands for the operators of no layer.
        ops: TFLite's names of the operators.
        why: the reason, for whoever reads or changes the scheme.
    """

    pattern: str
    ops: frozenset[str]
    why: str


@dataclass(frozen=True)
class Scheme:
    """What an int8 artifact computes in int8, and what it may compute in float.

    Attributes:
        name: what messages call it.
        why: what it is for.
        rules: what is int8.
        float_ops: what may be float. One that no operator matches is sound, as networks differ: GELU or ReLU.
        activations: how outputs of layers are int8. "named": those of layers with a rule, over calibrated ranges;
            "all": those, the steps inside layers and the artifact's outputs; "dynamic": none is, and each product
            quantizes what it reads over the range that it finds.
        float_layers: names of layers with int8 kernels that stay in float in spite of their rule.
    """

    name: str
    why: str
    rules: tuple[Rule, ...]
    float_ops: tuple[FloatOps, ...]
    activations: Activations = "named"
    float_layers: tuple[str, ...] = ()

    def leaving_float(self, layers: Iterable[str]) -> Scheme:
        """Return this scheme with these layers in float, and with them alone.

        Raises:
            ConfigError: nothing of this scheme may be float.
        """
        layers = tuple(dict.fromkeys(layers))
        if layers and self.activations == "all":
            raise ConfigError(
                f"received {', '.join(layers)} to leave in float; expected none with scheme {self.name!r}"
            )
        return replace(self, float_layers=layers)

    def allows_float(self, op: str, layer: str) -> bool:
        """Tell whether a layer may compute an operator in float."""
        if op in FLOAT_PRODUCT_OPS and layer in self.float_layers:
            return True
        if op == "PAD" and f"{layer.removesuffix('pad')}proj" in self.float_layers:
            return True
        block = layer.removesuffix(".modulate")
        if op == "MUL" and block != layer and any(f"{block}.{each}" in self.float_layers for each in BESIDE_MODULATE):
            return True
        return any(op in allowed.ops and re.fullmatch(allowed.pattern, layer) for allowed in self.float_ops)


SELECTIVE = Scheme(
    name="selective",
    why="CPUs with the XNNPACK delegate: int8 where the multiply-adds are, float where int8 costs partitions",
    rules=(
        Rule(r"normalise", False, IMAGE_IS_INT8),
        Rule(r"(.+\.)?embed\.(proj|conv\d+)", True, "embeddings are matrix products"),
        Rule(
            r".+\.(query|context|gate\d+|modulator|proj|expand|contract)",
            True,
            "1x1 convolutions: nearly all of the work",
        ),
        Rule(r"logits", True, "the head is a matrix product"),
        Rule(
            r"stage\d+\.(block\d+\.norm1|embed\.input)",
            False,
            "input of query, context and gates, or of a patch embedding; the residual stream before it stays float",
        ),
        Rule(r".+\.aggregate", False, "input of the modulator's projection h"),
        Rule(r".+\.(modulate|norm_proj)", False, "input of the output projection"),
        Rule(r".+\.norm2", False, "input of the MLP"),
        Rule(r"(.+\.mlp_act|embed\.act\d+)", False, "input of the MLP's second product, or of the stem's next"),
        Rule(r"head\.pool", False, "input of the head"),
    ),
    float_ops=(
        FloatOps(r".*", frozenset({"QUANTIZE", "DEQUANTIZE"}), "the bridges between int8 and float"),
        FloatOps(r"normalise", frozenset({"MUL", "ADD"}), "pixels to the network's range, before their quantization"),
        FloatOps(
            r".+\.norm(\d*|\d_post|_proj)",
            LAYER_NORM_OPS,
            "LayerNorm: XNNPACK takes neither int8 RSQRT nor int8 SQUARED_DIFFERENCE",
        ),
        FloatOps(
            r".+\.focal\d+", frozenset({"DEPTHWISE_CONV_2D"}), "few multiply-adds; int8 gained nothing when measured"
        ),
        FloatOps(
            r".+\.(focal\d+_act|global_act|mlp_act)|embed\.act\d+",
            frozenset({"GELU", "RELU"}),
            "activations: XNNPACK takes no int8 GELU, and a ReLU between float operators is float as they are",
        ),
        FloatOps(r".+\.(global_pool|pool)", frozenset({"MEAN"}), "global pooling, of the float context or stream"),
        FloatOps(r".+\.gated\d+", frozenset({"MUL"}), "the gating sum, of float levels"),
        FloatOps(r".+\.aggregate\d*", frozenset({"ADD"}), "the gating sum, of float levels"),
        FloatOps(r".+\.modulated", frozenset({"MUL"}), "the modulation, where a LayerNorm follows it"),
        FloatOps(r".+\.add[12]", frozenset({"ADD"}), "the residual stream"),
        FloatOps(
            FACE,
            frozenset({"CAST", "MUL", "ADD", "SQUARE", "SUM", "SQRT"}),
            "the uint8 image taken in, the gates put side by side, the modulator's norm over its channels",
        ),
    ),
)

INTEGER_ONLY = Scheme(
    name="integer-only",
    why="NPUs and microcontrollers, which have no float: every tensor is an integer, from the uint8 image on",
    rules=(
        Rule(r"normalise", False, IMAGE_IS_INT8),
        Rule(
            r"logits|(.+\.)?embed\.(proj|conv\d+)|.+\.(query|context|gate\d+|modulator|proj|expand|contract)",
            True,
            "matrix products",
        ),
        Rule(r".+\.focal\d+", True, "depthwise convolutions; one scale per channel, as channels differ much"),
        Rule(
            r"(.+\.)?(embed\.norm\d*|norm\d(_post)?|norm_proj|embed\.input)|head\.norm",
            False,
            "LayerNorms, and taps of the stream",
        ),
        Rule(r".+\.((focal\d+|global|mlp)_act|act\d+)", False, "activations: a ReLU is part of its product"),
        Rule(r".+\.(global_)?pool", False, "global pooling"),
        Rule(r".+\.(gated\d+|aggregate\d*|modulated?)", False, "the gating sum and the modulation"),
        Rule(r".+\.add[12]", False, "the residual stream"),
    ),
    float_ops=(),
    activations="all",
)

DYNAMIC = Scheme(
    name="dynamic",
    why="where there is no data to calibrate by: int8 weights, activations quantized as they come",
    rules=(
        Rule(r"logits|(.+\.)?embed\.(proj|conv\d+)", True, "matrix products"),
        Rule(
            r".+\.(query|context|modulator|proj|expand|contract)",
            True,
            "1x1 convolutions; not the gates', for which quantizing what they read would cost more than they do",
        ),
    ),
    float_ops=(
        FloatOps(
            r".*",
            frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "MEAN", "MUL", "ADD", "GELU", "RELU"}),
            "products read and give float, whatever their weights are; and so does all between them",
        ),
        FloatOps(r".+\.norm(\d*|\d_post|_proj)", LAYER_NORM_OPS, "LayerNorm"),
        FloatOps(r"(.+\.)?embed\.pad", frozenset({"PAD"}), "what overlapping patches read beyond the edge"),
        FloatOps(FACE, frozenset({"CAST", "SQUARE", "SUM", "SQRT"}), "the uint8 image taken in, the modulator's norm"),
        FloatOps(r"logits", frozenset({"RESHAPE"}), "from an image of one pixel to a vector"),
    ),
    activations="dynamic",
)
SCHEMES: Mapping[str, Scheme] = MappingProxyType({scheme.name: scheme for scheme in (SELECTIVE, INTEGER_ONLY, DYNAMIC)})


def find_scheme(name: str) -> Scheme:
    """Return the scheme of a name.

    Raises:
        ConfigError: there is none; the message lists those there are.
    """
    if name not in SCHEMES:
        raise ConfigError(f"received scheme {name!r}; expected one of {', '.join(SCHEMES)}")
    return SCHEMES[name]


def match_rules(rules: Iterable[Rule], layers: Iterable[str]) -> dict[str, Rule]:
    """Find the rule of every layer that has one.

    Args:
        rules: those of a scheme.
        layers: the names of a network's layers.

    Returns:
        The first matching rule by layer; layers that stay float are left out.

    Raises:
        ConfigError: a rule matches no layer, which means that a name has changed under it.
    """
    rules, names = list(rules), list(layers)
    matched: dict[str, Rule] = {}
    for rule in rules:
        hits = [name for name in names if re.fullmatch(rule.pattern, name)]
        if not hits:
            raise ConfigError(
                f"the rule {rule.pattern!r} ({rule.why}) matches no layer; "
                f"expected each rule to match one of {', '.join(names[:6])}, ...: mend or drop the rule"
            )
        for name in hits:
            matched.setdefault(name, rule)
    return matched
