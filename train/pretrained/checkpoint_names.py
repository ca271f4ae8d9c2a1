"""Published FocalNet checkpoints: what their tensors are called, and the variables here that they become.

There are three spellings: that of the authors' code (`classification/focalnet.py`), that of transformers
(`FocalNetForImageClassification`), and timm's (`timm/models/focalnet.py`). In all of them query, context and gates are
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
class Spelling:
    """What a family of checkpoints calls its layers.

    Attributes:
        name: what messages call it.
        stem: the first embedding.
        embed: the embedding before stage `{stage}`, from 1; `{before}` is the stage before it.
        proj: within an embedding, its convolution.
        block: block `{block}` of stage `{stage}`.
        parts: layers of a block that are called otherwise here; `{level}` is a focal level.
        norm: the norm before the head.
        head: the classifier.
        ignored: tensors that are no part of the classifier, and may be left.
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
SPELLINGS = (
    Spelling(
        name="the authors'",
        stem="patch_embed",
        embed="layers.{before}.downsample",
        proj="proj",
        block="layers.{stage}.blocks.{block}",
        parts=_AUTHORS_PARTS,
        norm="norm",
        head="head",
    ),
    Spelling(
        name="transformers'",
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
    Spelling(
        name="timm's",
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
class Published:
    """A tensor of a checkpoint.

    Attributes:
        shape: its shape, a linear layer's as `[out, in]`.
        variables: the variables that it becomes, each with how many of its rows, in their order.
    """

    shape: Shape
    variables: Mapping[str, int]


def published_tensors(config: FocalNetConfig, spelling: Spelling) -> dict[str, Published]:
    """List the tensors that a checkpoint of a network has.

    Args:
        config: the network, as it is trained (not `folded`), of stem "patch" or "overlap" and with LayerNorms.
        spelling: whose checkpoint.

    Returns:
        The tensors by name, of which all variables of the network are made.
    """
    found: dict[str, Published] = {}
    for layer, shape, targets in _layers(config, spelling):
        # A layer scale is a tensor without a part to its name.
        plain = len(shape) == 1 and next(iter(targets)).rpartition(".")[2].startswith("layer_scale")
        norm = len(shape) == 1 and not plain
        kernel, bias = ("gamma", "beta") if norm else ("kernel", "bias")
        found[layer if plain else f"{layer}.weight"] = Published(
            shape, {f"{n}/{kernel}": r for n, r in targets.items()}
        )
        if not plain and ".focal_layers." not in layer:
            found[f"{layer}.bias"] = Published(shape[:1], {f"{n}/{bias}": r for n, r in targets.items()})
    return found


def _layers(config: FocalNetConfig, spelling: Spelling) -> Iterator[tuple[str, Shape, dict[str, int]]]:
    """Yield each layer's name in a checkpoint, its weight's shape, and the layers it becomes with their rows."""
    inputs = 3
    for stage, dim in enumerate(config.dims):
        name, stride = ("embed", config.patch_size) if stage == 0 else (f"stage{stage}.embed", 2)
        theirs = spelling.embed.format(stage=stage, before=stage - 1) if stage else spelling.stem
        side = 2 * stride - 1 if config.stem == "overlap" else stride
        # The first embedding of transformers is a module of its own within the stem.
        proj = "patch_embeddings.projection" if stage == 0 and spelling.proj == "projection" else spelling.proj
        yield f"{theirs}.{proj}", (dim, inputs, side, side), {f"{name}.proj": dim}
        if stage == 0 or config.norm_after_downsampling:
            yield f"{theirs}.norm", (dim,), {f"{name}.norm": dim}
        for block in range(config.depths[stage]):
            yield from _block_layers(config, spelling, stage, block)
        inputs = dim
    yield spelling.norm, (inputs,), {"head.norm": inputs}
    yield spelling.head, (config.classes, inputs), {"logits": config.classes}


def _block_layers(
    config: FocalNetConfig, spelling: Spelling, stage: int, block: int
) -> Iterator[tuple[str, Shape, dict[str, int]]]:
    dim, levels = config.dims[stage], config.focal_levels[stage]
    hidden, name = int(config.mlp_ratio * dim), f"stage{stage}.block{block}"
    theirs = spelling.block.format(stage=stage, block=block)
    # f: q, z_0 and the gates g_0..g_L, in this order
    joint = {f"{name}.query": dim, f"{name}.context": dim} | {f"{name}.gate{each}": 1 for each in range(levels + 1)}
    yield f"{theirs}.{spelling.parts['joint']}", (2 * dim + levels + 1, dim), joint
    for level in range(levels):
        side = config.kernel_size(stage, level)
        focal = spelling.parts["focal"].format(level=level)
        yield f"{theirs}.{focal}", (dim, 1, side, side), {f"{name}.focal{level}": dim}
    linear = {"modulator": (dim, dim), "proj": (dim, dim), "expand": (hidden, dim), "contract": (dim, hidden)}
    post = "_post" if config.post_norm else ""
    vectors = [f"norm1{post}", f"norm2{post}"]
    vectors += ["norm_proj"] if config.norm_in_modulation else []
    vectors += ["layer_scale1", "layer_scale2"] if config.layer_scale else []
    for part, shape in (linear | dict.fromkeys(vectors, (dim,))).items():
        yield f"{theirs}.{spelling.parts[part]}", shape, {f"{name}.{part}": shape[0]}


def as_variables(tensor: Array, published: Published) -> dict[str, Array]:
    """Cut a tensor into the variables that it becomes, in their layout.

    Args:
        tensor: of the shape that is published.
        published: what it is.

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
