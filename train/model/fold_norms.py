"""The network as it is deployed: what linear layers can do for the norms beside them, they do.

Exact in inference. With s = gamma / sqrt(variance + epsilon) and t = beta - mean * s, a BatchNorm is x * s + t
per channel (Jacob et al., 2018, section 3.2), and nothing is left of it. A LayerNorm's own scale and offset are
such an s and t; its statistics stay. After a convolution, s scales the output channels; before a 1x1 convolution,
its input channels. Average pooling, between the last norm and the head, commutes with both. A layer scale is such an
s too, of what a branch's last layer gives: a convolution, or a LayerNorm, which keeps its scale and offset for it, as
the residual stream that it is added to has many readers. So is the mean over gated levels, before their projection.
The mean and deviation of images go into patches of pixels likewise; not into a convolution that pads with zeros.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np
from numpy.typing import NDArray

from train.model.config import FocalNetConfig

Array = NDArray[np.float32]
Weights = dict[str, Array]


def folded(config: FocalNetConfig) -> FocalNetConfig:
    """Return the network that `fold_weights` gives the weights of."""
    deployed = dataclasses.replace(config, folded=True)
    if config.stem == "patch":
        return dataclasses.replace(deployed, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return deployed


def unfolded(config: FocalNetConfig) -> FocalNetConfig:
    """Return the trainable form of a network, whose `folded` form is the one given if that is folded."""
    return dataclasses.replace(config, folded=False)


def fold_weights(weights: Weights, config: FocalNetConfig) -> Weights:
    """Fold the norms of a trained network into the linear layers beside them.

    Args:
        weights: its tensors, by `layer/variable`.
        config: the network.

    Returns:
        The tensors of the `folded` network; those given, for one that is folded already.
    """
    if config.folded:
        return weights
    result = dict(weights)
    for norm in sorted({name.rsplit("/", 1)[0] for name in weights if name.endswith("/gamma")}):
        batch = f"{norm}/moving_variance" in weights
        before = re.fullmatch(r"(.*embed)\.norm(\d*)", norm)
        if norm.endswith("_post") or (before and not batch):  # a part of the stream, which more than one layer reads
            continue
        scale, shift = _scale_and_shift(weights, norm, config)
        if before:
            layer = f"{before[1]}.conv{before[2]}" if before[2] else f"{before[1]}.proj"
            _follow(result, layer, scale, shift)
        for layer in [] if before else _readers(norm, weights):
            _precede(result, layer, scale, shift)
        result = _without(result, norm)
    for name in [name for name in weights if re.fullmatch(r".+\.layer_scale[12]/kernel", name)]:
        result = _fold_layer_scale(result, name.removesuffix("/kernel"))
    for kernel, terms in averaged_terms(config).items():
        result[kernel] = result[kernel] / np.float32(terms)
    if config.stem == "patch":
        mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
        _precede(result, "embed.proj", 1.0 / std, -mean / std)
    return result


def averaged_terms(config: FocalNetConfig) -> dict[str, int]:
    """Return how many gated levels are averaged before each modulator's projection, by its kernel's name, if any."""
    if not config.normalise_modulator:
        return {}
    return {
        f"stage{stage}.block{block}.modulator/kernel": levels + 1
        for stage, levels in enumerate(config.focal_levels)
        for block in range(config.depths[stage])
    }


def _without(weights: Weights, layer: str) -> Weights:
    return {name: value for name, value in weights.items() if name.rsplit("/", 1)[0] != layer}


def _fold_layer_scale(weights: Weights, layer: str) -> Weights:
    """Fold a layer scale, kernel `[1, 1, C, 1]`, into the layer that its branch ends with."""
    block, branch = layer[: layer.rindex(".")], layer[-1]
    scale, result = weights[f"{layer}/kernel"].reshape(-1), _without(weights, layer)
    norm, linear = f"{block}.norm{branch}_post", f"{block}.{'proj' if branch == '1' else 'contract'}"
    if f"{norm}/gamma" in result:
        result |= {name: result[name] * scale for name in (f"{norm}/gamma", f"{norm}/beta")}
    else:
        _follow(result, linear, scale, np.zeros_like(scale))
    return result


def _scale_and_shift(weights: Weights, norm: str, config: FocalNetConfig) -> tuple[Array, Array]:
    gamma, beta = weights[f"{norm}/gamma"], weights[f"{norm}/beta"]
    if f"{norm}/moving_variance" not in weights:
        return gamma, beta
    outside = norm == "head.norm" or "embed.norm" in norm
    epsilon = config.embed_norm_epsilon if outside else config.block_norm_epsilon
    scale = gamma / np.sqrt(weights[f"{norm}/moving_variance"] + epsilon)
    return scale, beta - weights[f"{norm}/moving_mean"] * scale


def _follow(weights: Weights, layer: str, scale: Array, shift: Array) -> None:
    """Scale and shift what a layer gives, `[out]` each: its kernel is `[k, k, in, out]`."""
    weights[f"{layer}/kernel"] = weights[f"{layer}/kernel"] * scale
    weights[f"{layer}/bias"] = weights[f"{layer}/bias"] * scale + shift


def _precede(weights: Weights, layer: str, scale: Array, shift: Array) -> None:
    """Scale and shift what a layer that pads nothing reads, `[in]` each."""
    kernel = weights[f"{layer}/kernel"]
    weights[f"{layer}/bias"] = weights[f"{layer}/bias"] + shift @ kernel.sum(axis=(0, 1))
    weights[f"{layer}/kernel"] = kernel * scale[:, None]


def _readers(norm: str, weights: Weights) -> list[str]:
    """Name the linear layers that read a norm's output."""
    if norm == "head.norm":
        return ["logits"]
    block, _, name = norm.rpartition(".")
    if name in ("norm2", "norm_proj"):
        return [f"{block}.{'expand' if name == 'norm2' else 'proj'}"]
    layers = (name.rsplit("/", 1)[0] for name in weights if name.endswith("/kernel"))
    return [layer for layer in layers if re.fullmatch(rf"{re.escape(block)}\.(query|context|gate\d+)", layer)]
