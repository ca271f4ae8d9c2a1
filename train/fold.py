"""BatchNorms folded into the convolutions beside them: exact in inference, and a deployed network has none.

With s = gamma / sqrt(variance + epsilon) and t = beta - mean * s, a norm is x * s + t per channel (Jacob et
al., 2018, section 3.2). After a convolution, s scales its output channels; before a 1x1 convolution, its
input channels. Average pooling, between the last norm and the head, commutes with both.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from train.config import FocalNetConfig

Weights = dict[str, NDArray[np.float32]]


def folded(config: FocalNetConfig) -> FocalNetConfig:
    """Return the network that `fold_norms` gives the weights of."""
    return dataclasses.replace(config, norm="folded") if config.norm == "batch" else config


def fold_norms(weights: Weights, config: FocalNetConfig) -> Weights:
    """Fold the BatchNorms of a trained network.

    Args:
        weights: its tensors, by `layer/variable`.
        config: the network.

    Returns:
        The tensors of the `folded` network: those given, for a network with LayerNorms.
    """
    if config.norm != "batch":
        return weights
    norms = [name.removesuffix("/moving_variance") for name in weights if name.endswith("/moving_variance")]
    result = {name: value for name, value in weights.items() if name.rsplit("/", 1)[0] not in norms}
    for norm in norms:
        embeds = norm.startswith("embed.") or ".embed." in norm
        epsilon = config.embed_norm_epsilon if embeds or norm == "head.norm" else config.block_norm_epsilon
        scale = weights[f"{norm}/gamma"] / np.sqrt(weights[f"{norm}/moving_variance"] + epsilon)
        shift = weights[f"{norm}/beta"] - weights[f"{norm}/moving_mean"] * scale
        layer = _beside(norm)
        kernel, bias = weights[f"{layer}/kernel"], weights[f"{layer}/bias"]
        if embeds:  # conv, then norm: kernel [k, k, in, out]
            result[f"{layer}/kernel"], result[f"{layer}/bias"] = kernel * scale, bias * scale + shift
        else:  # norm, then 1x1 conv: kernel [1, 1, in, out]
            result[f"{layer}/bias"] = bias + shift @ kernel[0, 0]
            result[f"{layer}/kernel"] = kernel * scale[:, None]
    return result


def _beside(norm: str) -> str:
    """Name the convolution that a norm is folded into."""
    if norm == "head.norm":
        return "logits"
    owner, _, name = norm.rpartition(".")
    if owner.endswith("embed"):
        return f"{owner}.proj" if name == "norm" else f"{owner}.{name.replace('norm', 'conv')}"
    return f"{owner}.expand"
