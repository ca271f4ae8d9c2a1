"""The network against a NumPy oracle of the paper's equations; every preset against its published size."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from tests.support.tiny_run import draw_weights
from tests.support.without_values import without_values
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet, with_overlay
from train.model.fold_norms import folded
from train.model.presets import IMAGENET_MEAN, IMAGENET_STD, PRESETS
from train.model.weights import load_weights, model_weights, weight_arrays, write_tensors

Array = NDArray[np.float64]
Weights = dict[str, Array]

# Published sizes, in millions (paper, table 1; the tutorial's summary) or, for our own, an upper bound.
MILLIONS = {
    "seed-cifar10": 39.0,
    "focalnet_tiny_srf": 28.4,
    "focalnet_tiny_lrf": 28.6,
    "focalnet_small_srf": 49.9,
    "focalnet_small_lrf": 50.3,
    "focalnet_base_srf": 88.1,
    "focalnet_base_lrf": 88.7,
    "focalnet_tiny_iso": 5.9,
    "focalnet_small_iso": 22.4,
    "focalnet_base_iso": 87.2,
}
AT_MOST = {"edge-pico": 400_000, "edge-nano": 1_500_000, "edge-small": 6_000_000}


def network(tokens: int, levels: tuple[int, ...], windows: tuple[int, ...], **changes: Any) -> FocalNetConfig:
    """A small network with `tokens` x `tokens` tokens in its first stage."""
    stages = len(levels)
    fields: dict[str, Any] = {
        "input_size": 2 * tokens,
        "patch_size": 2,
        "classes": 3,
        "dims": tuple(6 * 2**stage for stage in range(stages)),
        "depths": (2, 1)[:stages],
        "focal_levels": levels,
        "focal_windows": windows,
    }
    return FocalNetConfig(**(fields | changes))


NETWORKS = {
    "1 level, 3x3": network(3, (1,), (3,), norm_before_modulation=False),
    "2 levels, 5x5, window 5": network(5, (2,), (5,), drop_rate=0.1),
    "3 levels, 7x7, factor 4": network(7, (3,), (1,), focal_factor=4, mlp_ratio=1.5, block_norm_epsilon=1e-2),
    "4 levels, 6x6, then 1 at 3x3": network(6, (4, 1), (3, 7), mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "2 levels, 6x6, then 3x3 without a norm": network(6, (2, 2), (3, 3), norm_after_downsampling=False),
    "factor 0, 10x10, then 5x5": network(
        10, (2, 3), (3, 5), focal_factor=0, embed_norm_epsilon=1e-1, norm_before_modulation=False
    ),
    "conv stem of one halving, 6x6, ReLU": network(6, (2, 1), (3, 3), stem="conv", activation="relu"),
    "conv stem of two halvings, BatchNorm": network(
        3, (2,), (3,), stem="conv", norm="batch", patch_size=4, input_size=12, dims=(8,)
    ),
    "BatchNorm, 4x4, then 2x2": network(4, (2, 2), (3, 3), norm="batch", block_norm_epsilon=1e-1),
    "BatchNorms folded, 4x4, then 2x2": network(4, (2, 2), (3, 3), stem="conv", norm="batch", folded=True),
    "LayerNorms folded, 4x4, then 2x2": network(4, (2, 2), (3, 3), folded=True, block_norm_epsilon=1e-1),
    "layer scale, mean of levels, 4x4": network(4, (3,), (3,), layer_scale=0.1, normalise_modulator=True),
    "overlapping patches, 8x8, then 4x4": network(
        8, (2, 1), (3, 3), stem="overlap", patch_size=4, input_size=32, mean=IMAGENET_MEAN, std=IMAGENET_STD
    ),
    "norms after the branches, 4x4": network(4, (2,), (5,), post_norm=True, block_norm_epsilon=1e-1),
    "all of the large networks', 8x8, then 4x4": network(
        8,
        (3, 4),
        (5, 3),
        stem="overlap",
        patch_size=4,
        input_size=32,
        post_norm=True,
        norm_in_modulation=True,
        normalise_modulator=True,
        layer_scale=0.1,
    ),
}


# --- the oracle: NumPy, from the paper's equations -------------------------------------------------


def gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def activate(x: Array, config: FocalNetConfig) -> Array:
    return {"gelu": gelu, "relu": lambda values: np.maximum(values, 0)}[config.activation](x)


def linear(x: Array, weights: Weights, name: str) -> Array:
    kernel = weights[f"{name}/kernel"]
    return x @ kernel.reshape(kernel.shape[-2:]) + weights[f"{name}/bias"]


def layer_norm(x: Array, weights: Weights, name: str, epsilon: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    # A folded one has neither scale nor offset.
    return centred / np.sqrt(variance + epsilon) * weights.get(f"{name}/gamma", 1.0) + weights.get(f"{name}/beta", 0.0)


def normalise(x: Array, weights: Weights, name: str, epsilon: float, config: FocalNetConfig) -> Array:
    if config.norm == "layer":
        return layer_norm(x, weights, name, epsilon)
    if config.folded:
        return x
    mean, variance = weights[f"{name}/moving_mean"], weights[f"{name}/moving_variance"]
    return (x - mean) / np.sqrt(variance + epsilon) * weights[f"{name}/gamma"] + weights[f"{name}/beta"]


def depthwise(x: Array, kernel: Array) -> Array:
    """Each channel with its own k x k kernel, zeros around the image."""
    side, (_, height, width, _) = kernel.shape[0], x.shape
    reach = side // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    taps = [
        padded[:, row : row + height, column : column + width] * kernel[row, column, :, 0]
        for row in range(side)
        for column in range(side)
    ]
    return np.sum(taps, axis=0)


def modulate(x: Array, weights: Weights, block: str, config: FocalNetConfig, stage: int) -> dict[str, Array]:
    """y = proj(q * h(sum_l g_l * z_l)), the gates and the modulator h(...)."""
    levels = config.focal_levels[stage]
    q = linear(x, weights, f"{block}.query")
    z = linear(x, weights, f"{block}.context")
    g = np.concatenate([linear(x, weights, f"{block}.gate{level}") for level in range(levels + 1)], axis=-1)
    total = np.zeros_like(q)
    for level in range(levels):
        kernel = weights[f"{block}.focal{level}/kernel"]
        assert kernel.shape[0] == config.focal_windows[stage] + config.focal_factor * level
        z = activate(depthwise(z, kernel), config)
        total += g[..., level : level + 1] * z
    total += g[..., levels:] * activate(z.mean(axis=(1, 2), keepdims=True), config)
    if config.normalise_modulator and not config.folded:
        total /= levels + 1
    modulator = linear(total, weights, f"{block}.modulator")
    modulated = q * modulator
    if config.norm_in_modulation:
        modulated = layer_norm(modulated, weights, f"{block}.norm_proj", config.block_norm_epsilon)
    return {"y": linear(modulated, weights, f"{block}.proj"), "gates": g, "modulator": modulator}


def end_branch(y: Array, weights: Weights, block: str, branch: int, config: FocalNetConfig) -> Array:
    if config.post_norm:
        y = layer_norm(y, weights, f"{block}.norm{branch}_post", config.block_norm_epsilon)
    if config.layer_scale and not config.folded:
        y = y * weights[f"{block}.layer_scale{branch}/kernel"].reshape(-1)
    return y


def overlapping(x: Array, weights: Weights, name: str, stride: int) -> Array:
    """7x7 patches 4 apart, the first from 2 above and left of the image; or 3x3 ones 2 apart, from 1."""
    kernel, before = weights[f"{name}.proj/kernel"], {4: 2, 2: 1}[stride]
    padded = np.pad(x, ((0, 0), (before, 9), (before, 9), (0, 0)))
    side, (height, width) = kernel.shape[0], (x.shape[1] // stride, x.shape[2] // stride)
    tokens = [
        np.einsum("bhwc,hwco->bo", padded[:, stride * i :, stride * j :][:, :side, :side], kernel)
        for i in range(height)
        for j in range(width)
    ]
    return np.stack(tokens, axis=1).reshape(len(x), height, width, -1) + weights[f"{name}.proj/bias"]


def embed(x: Array, weights: Weights, name: str, patch: int, config: FocalNetConfig) -> Array:
    if config.stem == "overlap":
        return overlapping(x, weights, name, patch)
    kernel = weights[f"{name}.proj/kernel"]
    batch, height, width, channels = x.shape
    patches = x.reshape(batch, height // patch, patch, width // patch, patch, channels).swapaxes(2, 3)
    flat = patches.reshape(batch, height // patch, width // patch, -1)
    return flat @ kernel.reshape(-1, kernel.shape[-1]) + weights[f"{name}.proj/bias"]


def conv_stem(x: Array, weights: Weights, config: FocalNetConfig) -> Array:
    """3x3 convolutions, the first of stride 1; where a stride of 2 leaves a row over, it is padded below and right."""
    halvings = int(math.log2(config.patch_size))
    for index in range(halvings + 1):
        kernel, stride = weights[f"embed.conv{index}/kernel"], 2 if index else 1
        before = 2 - stride
        padded = np.pad(x, ((0, 0), (before, 1), (before, 1), (0, 0)))
        height, width = x.shape[1] // stride, x.shape[2] // stride
        x = weights[f"embed.conv{index}/bias"] + sum(
            padded[:, row : row + height * stride : stride, column : column + width * stride : stride]
            @ kernel[row, column]
            for row in range(3)
            for column in range(3)
        )
        x = normalise(x, weights, f"embed.norm{index}", config.embed_norm_epsilon, config)
        x = activate(x, config) if index < halvings else x
    return x


def oracle(images: Array, weights: Weights, config: FocalNetConfig) -> dict[str, Array]:
    """Return logits, gates and modulator, as `with_overlay` does."""
    x = (images / 255.0 - np.array(config.mean)) / np.array(config.std)
    shown: dict[str, Array] = {}
    for stage, depth in enumerate(config.depths):
        name, patch = ("embed", config.patch_size) if stage == 0 else (f"stage{stage}.embed", 2)
        if stage == 0 and config.stem == "conv":
            x = conv_stem(x, weights, config)
        else:
            x = embed(x, weights, name, patch, config)
            if stage == 0 or config.norm_after_downsampling:
                x = normalise(x, weights, f"{name}.norm", config.embed_norm_epsilon, config)
        for index in range(depth):
            block = f"stage{stage}.block{index}"
            seen = x
            if config.norm_before_modulation and not config.post_norm:
                seen = layer_norm(x, weights, f"{block}.norm1", config.block_norm_epsilon)
            modulated = modulate(seen, weights, block, config, stage)
            if block == config.overlay_layer:
                shown = modulated
            x = x + end_branch(modulated["y"], weights, block, 1, config)
            hidden = x
            if not config.post_norm:
                hidden = normalise(x, weights, f"{block}.norm2", config.block_norm_epsilon, config)
            hidden = activate(linear(hidden, weights, f"{block}.expand"), config)
            x = x + end_branch(linear(hidden, weights, f"{block}.contract"), weights, block, 2, config)
    pooled = normalise(x, weights, "head.norm", config.embed_norm_epsilon, config).mean(axis=(1, 2))
    return {"logits": linear(pooled, weights, "logits"), "gates": shown["gates"], "modulator": shown["modulator"]}


# ---------------------------------------------------------------------------------------------------


def with_drawn_weights(config: FocalNetConfig, seed: int = 0) -> tuple[Any, Weights]:
    """Build a network with random weights, biases and norms too; return it with the weights in NumPy."""
    model = build_focalnet(config, keras)
    variables = model_weights(model)
    drawn = draw_weights({name: tuple(v.shape) for name, v in variables.items()}, seed)
    for name, variable in variables.items():
        variable.assign(drawn[name])
    return model, {name: value.astype(np.float64) for name, value in drawn.items()}


def inputs(config: FocalNetConfig, count: int = 3) -> Array:
    shape = (count, config.input_size, config.input_size, 3)
    return np.random.default_rng(7).integers(0, 256, shape).astype(np.float64)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds_with_its_stated_number_of_parameters(name: str) -> None:
    preset = PRESETS[name]
    with without_values():
        model = build_focalnet(folded(preset.model), keras)
        trained = build_focalnet(preset.model, keras) if name in MILLIONS else None
    parameters = sum(math.prod(v.shape) for v in model.weights)
    assert parameters == preset.parameters == paper_parameters(folded(preset.model))
    assert model.output_shape == (None, preset.model.classes)
    if trained is not None:
        assert round(preset.parameters / 1e6, 1) == MILLIONS[name]
        assert round(sum(math.prod(v.shape) for v in trained.trainable_weights) / 1e6, 1) == MILLIONS[name]
    elif name in AT_MOST:
        assert preset.parameters <= AT_MOST[name]
    else:
        assert name.startswith(("focalnet_large", "focalnet_xlarge", "focalnet_huge"))


def paper_parameters(config: FocalNetConfig) -> int:
    """Count from the paper's equations, one joint projection a block."""
    assert config.folded
    per_norm = 2 if config.norm == "layer" else 0  # the stream's own; the scale and offset of the others are folded
    total, previous = 0, 3 * config.patch_size**2
    if config.stem == "conv":
        widths = [3] + [config.dims[0] // 2**i for i in range(int(math.log2(config.patch_size)), 0, -1)]
        total = sum((9 * before + 1 + per_norm) * after for before, after in itertools.pairwise(widths))
        previous = 9 * widths[-1]
    if config.stem == "overlap":
        previous = 3 * 7**2
    # Two norms of a block that the stream is added to, and none of those that a layer follows.
    post_norms = 4 if config.post_norm else 0
    for stage, (dim, depth, levels) in enumerate(zip(config.dims, config.depths, config.focal_levels, strict=True)):
        hidden = int(config.mlp_ratio * dim)
        projections = (dim + 1) * (2 * dim + levels + 1) + 2 * (dim + 1) * dim
        kernels = sum(dim * (config.focal_windows[stage] + config.focal_factor * level) ** 2 for level in range(levels))
        mlp = (dim + 1) * hidden + (hidden + 1) * dim
        embed_norm = per_norm * dim if stage == 0 or config.norm_after_downsampling else 0
        total += (previous + 1) * dim + embed_norm + depth * (projections + kernels + mlp + post_norms * dim)
        previous = dim * (9 if config.stem == "overlap" else 4)
    return total + (config.dims[-1] + 1) * config.classes


@pytest.mark.parametrize("name", NETWORKS)
def test_modulation_follows_the_paper_s_equations(name: str) -> None:
    config = NETWORKS[name]
    model, weights = with_drawn_weights(config)
    blocks = [(f"stage{s}.block{b}", s) for s, depth in enumerate(config.depths) for b in range(depth)]
    # A block's input and output, as the network itself computed them.
    ends = {
        f"{block} {end}": model.get_layer(f"{block}.{end}").output for block, _ in blocks for end in ("norm1", "proj")
    }
    values = keras.Model(model.input, ends)(inputs(config), training=False)
    for block, stage in blocks:
        seen = np.asarray(values[f"{block} norm1"], dtype=np.float64)
        expected = modulate(seen, weights, block, config, stage)["y"]
        assert expected.std() > 0.05
        np.testing.assert_allclose(values[f"{block} proj"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_whole_network_agrees_with_the_oracle(name: str) -> None:
    config = NETWORKS[name]
    model, weights = with_drawn_weights(config, seed=1)
    images = inputs(config)
    expected = oracle(images, weights, config)
    outputs = with_overlay(model, config, keras)(images, training=False)
    assert set(outputs) == set(expected)
    for output, value in expected.items():
        assert value.std() > 0.05
        assert np.asarray(outputs[output]).shape == value.shape
        np.testing.assert_allclose(outputs[output], value, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model(images, training=False), expected["logits"], rtol=1e-4, atol=1e-4)


def test_gates_are_linear_and_signed() -> None:
    config = NETWORKS["3 levels, 7x7, factor 4"]
    model, _ = with_drawn_weights(config)
    gates = np.asarray(with_overlay(model, config, keras)(inputs(config), training=False)["gates"])
    assert gates.min() < 0 < gates.max()


@pytest.mark.parametrize("levels", [(2,), (2, 3), (1, 2, 1)])
def test_overlay_outputs_have_the_names_and_shapes_of_the_middle_stage(levels: tuple[int, ...]) -> None:
    stages = len(levels)
    config = network(8, levels, (3,) * stages, depths=(1, 2, 1)[:stages])
    model = with_overlay(build_focalnet(config, keras), config, keras)
    middle = (stages - 1) // 2
    side = 8 // 2**middle
    assert {name: tuple(output.shape) for name, output in model.output.items()} == {
        "logits": (None, 3),
        "gates": (None, side, side, levels[middle] + 1),
        "modulator": (None, side, side, config.dims[middle]),
    }


def test_overlay_shares_the_weights_of_its_network() -> None:
    config = NETWORKS["1 level, 3x3"]
    model = build_focalnet(config, keras)
    overlay = with_overlay(model, config, keras)
    model_weights(model)["logits/bias"].assign([1.0, 2.0, 30.0])
    assert np.asarray(overlay(inputs(config), training=False)["logits"]).argmax(axis=-1).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "name", ["seed-cifar10", "edge-nano", "edge-pico", "focalnet_tiny_lrf", "focalnet_base_iso", "focalnet_huge_fl4"]
)
def test_every_variable_has_a_gradient(name: str) -> None:
    model_config = PRESETS[name].model
    stages = len(model_config.dims)
    patch_size = 4 if model_config.stem == "overlap" else 2
    config = dataclasses.replace(
        model_config,
        input_size=patch_size * 2**stages,
        patch_size=patch_size,
        layer_scale=min(model_config.layer_scale * 1000, 0.1),
        dims=tuple(4 * 2**stage for stage in range(stages)),
        depths=tuple(min(depth, 2) for depth in model_config.depths),
        classes=3,
    )
    keras.utils.set_random_seed(0)
    model = build_focalnet(config, keras)
    with tf.GradientTape() as tape:
        logits = model(inputs(config, count=8), training=True)
        losses = keras.losses.sparse_categorical_crossentropy(np.arange(8) % 3, logits, from_logits=True)
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    assert len(gradients) == len([name for name in model_weights(model) if "/moving_" not in name])
    assert all(gradient is not None and np.isfinite(gradient).all() for gradient in gradients)
    idle = [v.path for v, g in zip(model.trainable_variables, gradients, strict=True) if not np.any(g)]
    assert idle == []


@pytest.mark.parametrize(
    "name",
    [
        "2 levels, 5x5, window 5",
        "4 levels, 6x6, then 1 at 3x3",
        "conv stem of one halving, 6x6, ReLU",
        "BatchNorm, 4x4, then 2x2",
        "all of the large networks', 8x8, then 4x4",
    ],
)
def test_both_keras_give_the_same_outputs_from_the_same_weights(name: str, tmp_path: Path) -> None:
    config = NETWORKS[name]
    model, _ = with_drawn_weights(config)
    write_tensors(tmp_path / "weights.safetensors", weight_arrays(model))
    legacy = build_focalnet(config, tf_keras)
    load_weights(legacy, tmp_path / "weights.safetensors")
    assert [layer.name for layer in legacy.layers] == [layer.name for layer in model.layers]
    images = inputs(config).astype(np.float32)
    ours = with_overlay(model, config, keras)(images, training=False)
    theirs = with_overlay(legacy, config, tf_keras)(images, training=False)
    for output in ("logits", "gates", "modulator"):
        np.testing.assert_allclose(ours[output], theirs[output], rtol=1e-5, atol=1e-5)


def test_dropout_follows_embedding_modulation_and_mlp() -> None:
    config = network(4, (1, 1), (3, 3), depths=(2, 1), drop_rate=0.3, drop_path_rate=0.2)
    layers = {layer.name: layer for layer in build_focalnet(config, keras).layers}
    blocks = ["stage0.block0", "stage0.block1", "stage1.block0"]
    rates = {name: layer.rate for name, layer in layers.items() if isinstance(layer, keras.layers.Dropout)}
    # The first block's stochastic depth is 0, and has no layer; a later embedding has no dropout.
    assert rates == pytest.approx(
        {"embed.drop": 0.3}
        | {f"{block}.drop{i}": 0.3 for block in blocks for i in (1, 2)}
        | {f"{block}.drop_path{i}": rate for block, rate in zip(blocks[1:], (0.1, 0.2), strict=True) for i in (1, 2)}
    )
    assert all(layers[name].noise_shape == (None, 1, 1, 1) for name in rates if "drop_path" in name)
    sources = {name: layers[name].input for name in rates}
    assert sources["embed.drop"] is layers["embed.norm"].output
    for block in blocks:
        assert sources[f"{block}.drop1"] is layers[f"{block}.proj"].output
        assert sources[f"{block}.drop2"] is layers[f"{block}.contract"].output
    for block in blocks[1:]:
        assert sources[f"{block}.drop_path1"] is layers[f"{block}.drop1"].output
        assert sources[f"{block}.drop_path2"] is layers[f"{block}.drop2"].output


def test_without_drop_rates_there_is_no_dropout() -> None:
    layers = build_focalnet(network(4, (1,), (3,)), keras).layers
    assert [layer.name for layer in layers if isinstance(layer, keras.layers.Dropout)] == []


def test_stochastic_depth_drops_a_whole_branch_of_an_image() -> None:
    config = network(4, (1,), (3,), depths=(2,), drop_path_rate=0.5)
    layer = build_focalnet(config, keras).get_layer("stage0.block1.drop_path1")
    kept = np.asarray(layer(np.ones((64, 4, 4, 6), dtype=np.float32), training=True))
    assert np.isin(kept, (0.0, 2.0)).all()
    assert (kept == kept[:, :1, :1, :1]).all()
    assert 16 < (kept[:, 0, 0, 0] == 0).sum() < 48


@pytest.mark.parametrize(("initializer", "focal_limit"), [("paper", 1 / 3), ("glorot", (6 / (9 * 16 + 9)) ** 0.5)])
def test_initial_weights_are_those_of_the_initializer(initializer: Any, focal_limit: float) -> None:
    config = network(4, (2,), (3,), dims=(16,), depths=(1,), initializer=initializer)
    keras.utils.set_random_seed(0)
    weights = {name: np.asarray(v) for name, v in model_weights(build_focalnet(config, keras)).items()}
    for name, value in weights.items():
        if name.endswith(("/bias", "/beta")):
            assert not value.any()
        elif name.endswith("/gamma"):
            assert (value == 1).all()
    if initializer == "paper":
        assert weights["stage0.block0.query/kernel"].std() == pytest.approx(0.02, rel=0.2)
        assert np.abs(weights["embed.proj/kernel"]).max() == pytest.approx((2 * 2 * 3) ** -0.5, rel=0.05)
    else:
        # One matrix of 16 inputs and 2 * 16 + 3 outputs, in the tutorial.
        joint = np.concatenate([weights[f"stage0.block0.{part}/kernel"] for part in ("query", "context")])
        assert np.abs(joint).max() == pytest.approx((6 / (16 + 35)) ** 0.5, rel=0.05)
        assert np.abs(weights["stage0.block0.proj/kernel"]).max() == pytest.approx((6 / 32) ** 0.5, rel=0.05)
    focal = weights["stage0.block0.focal0/kernel"]
    assert np.abs(focal).max() == pytest.approx(focal_limit, rel=0.05)
