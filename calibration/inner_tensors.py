"""Tensors inside layers and behind the network, which have ranges of their own where every tensor is an integer."""

from __future__ import annotations

from typing import Any

from train.model.config import FocalNetConfig
from train.model.focalnet import overlay_tensors

MODULATOR_NORM = "overlay.modulator"


def inner_tensors(model: Any, config: FocalNetConfig) -> dict[str, Any]:
    """Return all of a network's steps as tensors of its graph.

    Args:
        model: a Keras 3 model of `build_focalnet`.
        config: its configuration.

    Returns:
        Tensors by `layer.step`.
    """
    import keras

    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.LayerNormalization)]
    steps = {layer.name: norm_tensors(layer) for layer in norms}
    steps[MODULATOR_NORM] = modulator_tensors(overlay_tensors(model, config)[1])
    return {f"{name}.{step}": tensor for name, tensors in steps.items() for step, tensor in tensors.items()}


def norm_tensors(layer: Any) -> dict[str, Any]:
    """Return what a LayerNorm computes on its way to `(x - E[x]) / sqrt(Var[x] + epsilon) * gamma + beta`, by name."""
    from keras import ops

    mean = ops.mean(layer.input, axis=-1, keepdims=True)  # [B, H, W, 1]
    centred = layer.input - mean  # [B, H, W, C]
    square = ops.square(centred)
    variance = ops.mean(square, axis=-1, keepdims=True)  # [B, H, W, 1]
    rsqrt = ops.rsqrt(variance + layer.epsilon)
    steps = {"mean": mean, "centred": centred, "square": square, "variance": variance, "rsqrt": rsqrt}
    normalised = centred * rsqrt
    if layer.scale:
        steps["normalised"] = normalised
    if layer.center:
        steps["scaled"] = normalised * layer.gamma if layer.scale else normalised
    return steps


def modulator_tensors(modulator: Any) -> dict[str, Any]:
    """Return what is computed of a modulator `[B, h, w, C]` on the way to its L2 norm over channels, by name."""
    from keras import ops

    square = ops.square(modulator)
    total = ops.sum(square, axis=-1)  # [B, h, w]
    return {"square": square, "sum": total, "rsqrt": ops.rsqrt(total), "norm": ops.sqrt(total)}
