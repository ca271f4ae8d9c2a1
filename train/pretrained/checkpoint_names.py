"""Tensor names of published FocalNet checkpoints, and the variables that their tensors become.

There are three namings: the original code's (`classification/focalnet.py`), transformers'
(`FocalNetForImageClassification`) and timm's (`timm/models/focalnet.py`). In all of them query, context and gates are
one projection, linear layers are `[out, in]` or `[out, in, 1, 1]`, and convolutions `[out, in, k, k]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.model.config import FocalNetConfig

Shape = tuple[int, ...]
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Naming:
    """Layer names of a family of checkpoints.

    Attributes:
        name: of the family.
        stem: the first embedding.
        embed: the embedding before stage `{stage}`, from 1; `{before}` is the previous stage.
        proj: the convolution within an embedding.
        block: block `{block}` of stage `{stage}`.
        parts: layers of a block, by their names here; `{level}` is a focal level.
        norm: the norm before the head.
        head: the classifier.
        ignored: tensors outside the classifier, which need not be used.
    """

    name: str
    stem: str
    embed: str
    proj: str
    block: str
    parts: Mapping[str, str]
    norm: str
    head: str
    ignored: tuple[str, ...] = ()


_AUTHORS_PARTS = {
    "joint": "modulation.f",
    "focal": "modulation.focal_layers.{level}.0",
    "modulator": "modulation.h",
    "norm_proj": "modulation.ln",
    "proj": "modulation.proj",
    "expand": "mlp.fc1",
    "contract": "mlp.fc2",
    "norm1": "norm1",
    "norm2": "norm2",
    "norm1_post": "norm1",
    "norm2_post": "norm2",
    "layer_scale1": "gamma_1",
    "layer_scale2": "gamma_2",
}
NAMINGS = (
    Naming(
        name="original",
        stem="patch_embed",
        embed="layers.{before}.downsample",
        proj="proj",
        block="layers.{stage}.blocks.{block}",
        parts=_AUTHORS_PARTS,
        norm="norm",
        head="head",
    ),
    Naming(
        name="transformers",
        stem="focalnet.embeddings",
        embed="focalnet.encoder.stages.{before}.downsample",
        proj="projection",
        block="focalnet.encoder.stages.{stage}.layers.{block}",
        parts=_AUTHORS_PARTS
        | {
            "joint": "modulation.projection_in",
            "modulator": "modulation.projection_context",
            "norm_proj": "modulation.layernorm",
            "proj": "modulation.projection_out",
        },
        norm="focalnet.layernorm",
        head="classifier",
        ignored=("focalnet.embeddings.mask_token",),
    ),
    Naming(
        name="timm",
        stem="stem",
        embed="layers.{stage}.downsample",
        proj="proj",
        block="layers.{stage}.blocks.{block}",
        parts=_AUTHORS_PARTS
        | {
            "norm_proj": "modulation.norm",
            "norm1_post": "norm1_post",
            "norm2_post": "norm2_post",
            "layer_scale1": "ls1.gamma",
            "layer_scale2": "ls2.gamma",
        },
        norm="norm",
        head="head.fc",
    ),
)


@dataclass(frozen=True)
class CheckpointTensor:
    """A tensor of a checkpoint.

    Attributes:
        shape: its shape; `[out, in]` of a linear layer.
        variables: number of its rows for each variable that it becomes, in their order.
    """

    shape: Shape
    variables: Mapping[str, int]


def checkpoint_tensors(config: FocalNetConfig, naming: Naming) -> dict[str, CheckpointTensor]:
    """List the tensors of a network's checkpoint. Together they become all its variables.

    Args:
        config: the trainable network (not `folded`), of stem "patch" or "overlap" and with LayerNorms.
        naming: the checkpoint's.

    Returns:
        The tensors by name.
    """
    found: dict[str, CheckpointTensor] = {}
    for layer, shape, targets in _layers(config, naming):
        # The tensor of a layer scale has the layer's name, without ".weight".
        plain = len(shape) == 1 and next(iter(targets)).rpartition(".")[2].startswith("layer_scale")
        norm = len(shape) == 1 and not plain
        kernel, bias = ("gamma", "beta") if norm else ("kernel", "bias")
        found[layer if plain else f"{layer}.weight"] = CheckpointTensor(
            shape, {f"{n}/{kernel}": r for n, r in targets.items()}
        )
        if not plain and ".focal_layers." not in layer:
            found[f"{layer}.bias"] = CheckpointTensor(shape[:1], {f"{n}/{bias}": r for n, r in targets.items()})
    return found


def _layers(config: FocalNetConfig, naming: Naming) -> Iterator[tuple[str, Shape, dict[str, int]]]:
    """Yield each layer's name in a checkpoint, its weight's shape, and its rows by the layer that they become."""
    inputs = 3
    for stage, dim in enumerate(config.dims):
        name, stride = ("embed", config.patch_size) if stage == 0 else (f"stage{stage}.embed", 2)
        theirs = naming.embed.format(stage=stage, before=stage - 1) if stage else naming.stem
        side = 2 * stride - 1 if config.stem == "overlap" else stride
        # In transformers the first embedding is a submodule of the stem.
        proj = "patch_embeddings.projection" if stage == 0 and naming.proj == "projection" else naming.proj
        yield f"{theirs}.{proj}", (dim, inputs, side, side), {f"{name}.proj": dim}
        if stage == 0 or config.norm_after_downsampling:
            yield f"{theirs}.norm", (dim,), {f"{name}.norm": dim}
        for block in range(config.depths[stage]):
            yield from _block_layers(config, naming, stage, block)
        inputs = dim
    yield naming.norm, (inputs,), {"head.norm": inputs}
    yield naming.head, (config.classes, inputs), {"logits": config.classes}


def _block_layers(
    config: FocalNetConfig, naming: Naming, stage: int, block: int
) -> Iterator[tuple[str, Shape, dict[str, int]]]:
    dim, levels = config.dims[stage], config.focal_levels[stage]
    hidden, name = int(config.mlp_ratio * dim), f"stage{stage}.block{block}"
    theirs = naming.block.format(stage=stage, block=block)
    # f: q, z_0 and the gates g_0..g_L, in this order
    joint = {f"{name}.query": dim, f"{name}.context": dim} | {f"{name}.gate{each}": 1 for each in range(levels + 1)}
    yield f"{theirs}.{naming.parts['joint']}", (2 * dim + levels + 1, dim), joint
    for level in range(levels):
        side = config.kernel_size(stage, level)
        focal = naming.parts["focal"].format(level=level)
        yield f"{theirs}.{focal}", (dim, 1, side, side), {f"{name}.focal{level}": dim}
    linear = {"modulator": (dim, dim), "proj": (dim, dim), "expand": (hidden, dim), "contract": (dim, hidden)}
    post = "_post" if config.post_norm else ""
    vectors = [f"norm1{post}", f"norm2{post}"]
    vectors += ["norm_proj"] if config.norm_in_modulation else []
    vectors += ["layer_scale1", "layer_scale2"] if config.layer_scale else []
    for part, shape in (linear | dict.fromkeys(vectors, (dim,))).items():
        yield f"{theirs}.{naming.parts[part]}", shape, {f"{name}.{part}": shape[0]}


def to_variables(tensor: Array, published: CheckpointTensor) -> dict[str, Array]:
    """Split a tensor into variables, in Keras' layout.

    Args:
        tensor: the values.
        published: its shape and variables.

    Returns:
        Kernels `[k, k, in, out]`, of depthwise convolutions `[k, k, C, 1]`; vectors as they are.
    """
    variables: dict[str, Array] = {}
    start = 0
    for name, rows in published.variables.items():
        variables[name] = _in_layout(tensor.reshape(published.shape)[start : start + rows], name)
        start += rows
    return variables


def _in_layout(values: Array, name: str) -> Array:
    if ".layer_scale" in name:
        return values.reshape(1, 1, -1, 1)
    if values.ndim == 2:
        return values.T[np.newaxis, np.newaxis]
    if values.ndim == 4:
        return values.transpose((2, 3, 0, 1) if ".focal" in name else (2, 3, 1, 0))
    return values
