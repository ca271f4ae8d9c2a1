"""Quantization schemes as data: the layers that are int8, the operators that may stay float, and why.

The rules of a scheme name the int8 layers. tensorflow-model-optimization gets them as one `QuantizeConfig` per layer.
`float_ops` lists what may be float in the converted artifact: the audit refuses any other float operator.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from runtime.core.errors import ArtifactError, ConfigError
from runtime.core.files import read_json, write_json
from runtime.core.schema import parse

SCHEME_FILE = "scheme.json"
MADE_BY = "python -m export"
# Layer name of the operators outside the network: the artifact's input and outputs. Manifests and ONNX nodes carry it.
INTERFACE = "face"
PRODUCT_OPS = frozenset({"CONV_2D"})
LAYER_NORM_OPS = frozenset({"MEAN", "SUB", "SQUARE", "SQUARED_DIFFERENCE", "ADD", "RSQRT", "MUL"})
# Operators of a float product: itself, what keeps it float (`export.quantize.float_layers.FloatConv2D`), and the
# flattening of the head's output, whose tensor has the name of the head's layer.
FLOAT_PRODUCT_OPS = frozenset({"CONV_2D", "ABS", "RESHAPE"})
# If one of these layers of a block is float, so is the block's product of query and modulator.
BESIDE_MODULATE = ("query", "modulator", "proj")

# Elsewhere mean and std are folded into the first product. With zero padding they cannot be: see
# `train.model.fold_norms`.
IMAGE_IS_INT8 = (
    "the uint8 image itself: scale 1/255 loses nothing; with a padding stem, images normalised by mean and std, whose "
    "three channels share one scale"
)


@dataclass(frozen=True)
class Rule:
    """Layers that are int8: those whose whole name matches.

    The output of a matching layer is int8, per tensor, over its calibrated range. A convolution whose ReLU matches a
    rule too has the range of the ReLU, as the two run as one operator.

    Attributes:
        pattern: regular expression over layer names.
        weights: the kernel is int8, symmetric, one scale per output channel.
        why: the reason, for readers of the scheme.
    """

    pattern: str
    weights: bool
    why: str


@dataclass(frozen=True)
class FloatOps:
    """Operators that may be float in the layers whose whole name matches.

    Attributes:
        pattern: regular expression over layer names; `INTERFACE` stands for operators outside the network.
        ops: TFLite's names of the operators.
        why: the reason, for readers of the scheme.
    """

    pattern: str
    ops: frozenset[str]
    why: str


@dataclass(frozen=True)
class Scheme:
    """What an int8 artifact computes in int8, and what it may compute in float.

    Attributes:
        name: its name in commands and messages.
        why: the hardware or use it is for.
        rules: what is int8.
        float_ops: what may be float. One that matches no operator is no error, as networks have GELU or ReLU.
        calibrated: outputs are int8 over calibrated ranges. False: each product quantizes its input at run time, over
            the range of that input.
        integer_only: the tensors inside layers and the artifact's outputs are int8 too.
        float_layers: layers with int8 kernels that stay float in spite of their rule.
    """

    name: str
    why: str
    rules: tuple[Rule, ...]
    float_ops: tuple[FloatOps, ...]
    calibrated: bool = True
    integer_only: bool = False
    float_layers: tuple[str, ...] = ()

    def leaving_float(self, layers: Iterable[str]) -> Scheme:
        """Return this scheme with exactly these layers in float.

        Raises:
            ConfigError: this scheme allows no float layers.
        """
        layers = tuple(dict.fromkeys(layers))
        if layers and self.integer_only:
            raise ConfigError(
                f"received {', '.join(layers)} to leave in float; expected none with scheme {self.name!r}"
            )
        return replace(self, float_layers=layers)

    def allows_float(self, op: str, layer: str) -> bool:
        """Return whether a layer may compute an operator in float."""
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
            INTERFACE,
            frozenset({"CAST", "MUL", "ADD", "SQUARE", "SUM", "SQRT"}),
            "the uint8 input, the concatenation of the gates, the modulator's norm over its channels",
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
    integer_only=True,
)

DYNAMIC = Scheme(
    name="dynamic",
    why="where there is no data to calibrate by: int8 weights, activations quantized at run time",
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
        FloatOps(INTERFACE, frozenset({"CAST", "SQUARE", "SUM", "SQRT"}), "the uint8 input, the modulator's norm"),
        FloatOps(r"logits", frozenset({"RESHAPE"}), "from an image of one pixel to a vector"),
    ),
    calibrated=False,
)
SCHEMES: Mapping[str, Scheme] = MappingProxyType({scheme.name: scheme for scheme in (SELECTIVE, INTEGER_ONLY, DYNAMIC)})


def find_scheme(name: str) -> Scheme:
    """Return the scheme with a name.

    Raises:
        ConfigError: no scheme has this name; the message lists the names.
    """
    if name not in SCHEMES:
        raise ConfigError(f"received scheme {name!r}; expected one of {', '.join(SCHEMES)}")
    return SCHEMES[name]


def match_rules(rules: Iterable[Rule], layers: Iterable[str]) -> dict[str, Rule]:
    """Find the rule of each layer.

    Args:
        rules: the rules of a scheme.
        layers: the names of a network's layers.

    Returns:
        The first matching rule by layer, without the layers that stay float.

    Raises:
        ConfigError: a rule matches no layer, so a layer was renamed and the rule was not.
    """
    names = list(layers)
    matched: dict[str, Rule] = {}
    for rule in rules:
        hits = [name for name in names if re.fullmatch(rule.pattern, name)]
        if not hits:
            raise ConfigError(
                f"the rule {rule.pattern!r} ({rule.why}) matches no layer; "
                f"expected each rule to match one of {', '.join(names[:6])}, ...: fix or drop the rule"
            )
        for name in hits:
            matched.setdefault(name, rule)
    return matched


@dataclass(frozen=True)
class _SchemeFile:
    """The content of scheme.json."""

    scheme: str
    float_layers: tuple[str, ...]


def write_scheme(folder: Path, scheme: Scheme) -> None:
    """Write the scheme of a folder's int8 artifact as scheme.json."""
    write_json(folder / SCHEME_FILE, {"scheme": scheme.name, "float_layers": list(scheme.float_layers)})


def read_scheme(folder: Path) -> Scheme:
    """Read scheme.json of a run or bundle.

    Returns:
        The scheme of its int8 artifact; `SELECTIVE` if there is no scheme.json.

    Raises:
        ArtifactError: the file is damaged or names an unknown scheme.
    """
    path = folder / SCHEME_FILE
    if not path.exists():
        return SELECTIVE
    content = read_json(path, MADE_BY)
    try:
        found = parse(_SchemeFile, content)
        return find_scheme(found.scheme).leaving_float(found.float_layers)
    except (ArtifactError, ConfigError) as error:
        raise ArtifactError(f"{path}: {error}; rebuild it with `{MADE_BY}`") from None
