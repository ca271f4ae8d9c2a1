"""Which layers are int8, which stay float, and why: the schemes, as data.

A scheme is a list of rules over layer names. It is given to tensorflow-model-optimization as one
`QuantizeConfig` a layer; what no rule names stays float.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from runtime.errors import ConfigError


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


# CPUs with the XNNPACK delegate: int8 where the multiply-adds are, float where int8 costs partitions.
SELECTIVE: tuple[Rule, ...] = (
    Rule(r"normalise", False, "the uint8 picture itself: scale 1/255 loses nothing"),
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
    Rule(r".+\.modulate", False, "input of the output projection"),
    Rule(r".+\.norm2", False, "input of the MLP"),
    Rule(r"(.+\.mlp_act|embed\.act\d+)", False, "input of the MLP's second product, or of the stem's next"),
    Rule(r"head\.pool", False, "input of the head"),
)


def match_rules(rules: Iterable[Rule], layers: Iterable[str]) -> dict[str, Rule]:
    """Find the rule of every layer that has one.

    Args:
        rules: a scheme.
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
