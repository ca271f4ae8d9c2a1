"""Fold norms, layer scales and the images' normalisation into adjacent linear layers.

Exact in inference. With s = gamma / sqrt(variance + epsilon) and t = beta - mean * s, a BatchNorm is x * s + t per
channel (Jacob et al., 2018, arXiv 1712.05877, section 3.2) and disappears. A LayerNorm keeps its statistics; its scale
and offset are such an s and t. After a convolution, s scales output channels; before a 1x1 convolution, input channels.
Average pooling between the last norm and the head commutes with both. A layer scale goes into the last layer of its
branch: a convolution, or a LayerNorm, which keeps scale and offset because the residual stream has many readers. The
mean over gated levels goes into their projection, and the mean and deviation of images into patches of pixels, but not
into a convolution that pads with zeros.
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
    """Return the deployed form of a network, whose weights `fold_weights` makes."""
    deployed = dataclasses.replace(config, folded=True)
    if config.stem == "patch":
        return dataclasses.replace(deployed, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return deployed


def unfolded(config: FocalNetConfig) -> FocalNetConfig:
    """Return the trainable form of a network, whose `folded` form is the one given if that is folded."""
    return dataclasses.replace(config, folded=False)


def fold_weights(weights: Weights, config: FocalNetConfig) -> Weights:
    """Fold the norms of a trained network into adjacent linear layers.

    Args:
        weights: its tensors, by `layer/variable`.
        config: the network.

    Returns:
        The tensors of the `folded` network; the same ones if it is folded already.
    """
    if config.folded:
        return weights
    result = dict(weights)
    for norm in sorted({name.rsplit("/", 1)[0] for name in weights if name.endswith("/gamma")}):
        batch = f"{norm}/moving_variance" in weights
        before = re.fullmatch(r"(.*embed)\.norm(\d*)", norm)
        if norm.endswith("_post") or (before and not batch):  # in the residual stream, which several layers read
            continue
        scale, shift = _scale_and_shift(weights, norm, config)
        if before:
            layer = f"{before[1]}.conv{before[2]}" if before[2] else f"{before[1]}.proj"
            _scale_outputs(result, layer, scale, shift)
        for layer in [] if before else _readers(norm, weights):
            _scale_inputs(result, layer, scale, shift)
        result = _without(result, norm)
    for name in [name for name in weights if re.fullmatch(r".+\.layer_scale[12]/kernel", name)]:
        result = _fold_layer_scale(result, name.removesuffix("/kernel"))
    for kernel, terms in averaged_terms(config).items():
        result[kernel] = result[kernel] / np.float32(terms)
    if config.stem == "patch":
        mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
        _scale_inputs(result, "embed.proj", 1.0 / std, -mean / std)
    return result


def averaged_terms(config: FocalNetConfig) -> dict[str, int]:
    """Return the number of averaged gated levels by the kernel of each modulator, where they are averaged."""
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
    """Fold a layer scale, kernel `[1, 1, C, 1]`, into the last layer of its branch."""
    block, branch = layer[: layer.rindex(".")], layer[-1]
    scale, result = weights[f"{layer}/kernel"].reshape(-1), _without(weights, layer)
    norm, linear = f"{block}.norm{branch}_post", f"{block}.{'proj' if branch == '1' else 'contract'}"
    if f"{norm}/gamma" in result:
        result |= {name: result[name] * scale for name in (f"{norm}/gamma", f"{norm}/beta")}
    else:
        _scale_outputs(result, linear, scale, np.zeros_like(scale))
    return result


def _scale_and_shift(weights: Weights, norm: str, config: FocalNetConfig) -> tuple[Array, Array]:
    gamma, beta = weights[f"{norm}/gamma"], weights[f"{norm}/beta"]
    if f"{norm}/moving_variance" not in weights:
        return gamma, beta
    outside = norm == "head.norm" or "embed.norm" in norm
    epsilon = config.embed_norm_epsilon if outside else config.block_norm_epsilon
    scale = gamma / np.sqrt(weights[f"{norm}/moving_variance"] + epsilon)
    return scale, beta - weights[f"{norm}/moving_mean"] * scale


def _scale_outputs(weights: Weights, layer: str, scale: Array, shift: Array) -> None:
    """Scale and shift a layer's outputs, by `[out]` each; its kernel is `[k, k, in, out]`."""
    weights[f"{layer}/kernel"] = weights[f"{layer}/kernel"] * scale
    weights[f"{layer}/bias"] = weights[f"{layer}/bias"] * scale + shift


def _scale_inputs(weights: Weights, layer: str, scale: Array, shift: Array) -> None:
    """Scale and shift the inputs of a layer without padding, by `[in]` each."""
    kernel = weights[f"{layer}/kernel"]
    weights[f"{layer}/bias"] = weights[f"{layer}/bias"] + shift @ kernel.sum(axis=(0, 1))
    weights[f"{layer}/kernel"] = kernel * scale[:, None]


def _readers(norm: str, weights: Weights) -> list[str]:
    """Return the names of the linear layers that read a norm's output."""
    if norm == "head.norm":
        return ["logits"]
    block, _, name = norm.rpartition(".")
    if name in ("norm2", "norm_proj"):
        return [f"{block}.{'expand' if name == 'norm2' else 'proj'}"]
    layers = (name.rsplit("/", 1)[0] for name in weights if name.endswith("/kernel"))
    return [layer for layer in layers if re.fullmatch(rf"{re.escape(block)}\.(query|context|gate\d+)", layer)]
