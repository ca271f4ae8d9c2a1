"""Tensors inside LayerNorms and of the overlay, which need ranges where every tensor is an integer."""

from __future__ import annotations

from typing import Any

from train.model.config import FocalNetConfig
from train.model.focalnet import overlay_tensors

MODULATOR_NORM = "overlay.modulator"


def inner_tensors(model: Any, config: FocalNetConfig) -> dict[str, Any]:
    """Return the inner tensors of a network.

    Args:
        model: a Keras 3 model of `build_focalnet`.
        config: its configuration.

    Returns:
        Symbolic tensors by `layer.tensor`, e.g. `embed.norm.variance`.
    """
    import keras

    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.LayerNormalization)]
    groups = {layer.name: norm_tensors(layer) for layer in norms}
    groups[MODULATOR_NORM] = modulator_tensors(overlay_tensors(model, config)[1])
    return {f"{layer}.{name}": tensor for layer, tensors in groups.items() for name, tensor in tensors.items()}


def norm_tensors(layer: Any) -> dict[str, Any]:
    """Return the intermediate results of a LayerNorm, `(x - E[x]) / sqrt(Var[x] + epsilon) * gamma + beta`, by name."""
    from keras import ops

    mean = ops.mean(layer.input, axis=-1, keepdims=True)  # [B, H, W, 1]
    centred = layer.input - mean  # [B, H, W, C]
    square = ops.square(centred)
    variance = ops.mean(square, axis=-1, keepdims=True)  # [B, H, W, 1]
    rsqrt = ops.rsqrt(variance + layer.epsilon)
    tensors = {"mean": mean, "centred": centred, "square": square, "variance": variance, "rsqrt": rsqrt}
    normalised = centred * rsqrt
    if layer.scale:
        tensors["normalised"] = normalised
    if layer.center:
        tensors["scaled"] = normalised * layer.gamma if layer.scale else normalised
    return tensors


def modulator_tensors(modulator: Any) -> dict[str, Any]:
    """Return the intermediate results of the L2 norm over channels of a modulator `[B, h, w, C]`, by name."""
    from keras import ops

    square = ops.square(modulator)
    total = ops.sum(square, axis=-1)  # [B, h, w]
    return {"square": square, "sum": total, "rsqrt": ops.rsqrt(total), "norm": ops.sqrt(total)}
