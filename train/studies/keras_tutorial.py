"""The Keras tutorial "Focal Modulation: A replacement for Self-Attention", as a baseline for training speed.

The model computes the function of `build_focalnet` with the tutorial's settings in another way: one joint projection
and a split, grouped convolutions behind explicit padding (which Keras on TensorFlow gives to XLA, as TensorFlow has no
CPU kernel for their gradients), tokens in a row between blocks, and a `tf.data` pipeline that augments each image.
Layers have the names of `build_focalnet`; the projection is "joint".
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from runtime.core.errors import ConfigError
from train.data.dataset import Split
from train.model.config import FocalNetConfig
from train.model.presets import PRESETS
from train.model.recipe import TrainConfig

Tensor = Any
SHUFFLE_BUFFER = 2048
# Fields without a choice in the tutorial.
FIXED = (
    "stem", "norm", "activation", "norm_before_modulation", "norm_after_downsampling", "post_norm",
    "norm_in_modulation", "normalise_modulator", "layer_scale", "mean", "std",
)  # fmt: skip


def build_tutorial(config: FocalNetConfig) -> Any:
    """Build the tutorial's classifier.

    Args:
        config: a network of the seed preset's structure, of any size.

    Returns:
        A functional model from float32 `[B, S, S, 3]` RGB in 0..1 to probabilities `[B, classes]`, the softmax
        of its layer "logits".

    Raises:
        ConfigError: the structure differs from the tutorial's.
    """
    for name in FIXED:
        received, expected = getattr(config, name), getattr(PRESETS["seed-cifar10"].model, name)
        if received != expected:
            raise ConfigError(f"received {name}={received!r}; the tutorial has {expected!r}: take preset seed-cifar10")
    image = keras.Input((config.input_size, config.input_size, 3), name="image")  # [B, S, S, 3]
    x = _patch_embed(image, "embed", config.patch_size, config.dims[0])  # [B, T, C]
    x = layers.LayerNormalization(epsilon=config.embed_norm_epsilon, name="embed.norm")(x)
    x = layers.Dropout(config.drop_rate)(x)
    side = config.input_size // config.patch_size
    for stage, depth in enumerate(config.depths):
        if stage:
            x = _grid(x, side)
            x = _patch_embed(x, f"stage{stage}.embed", 2, config.dims[stage])
            side //= 2
        for block in range(depth):
            x = _block(x, side, stage, block, config)
    x = layers.LayerNormalization(epsilon=config.embed_norm_epsilon, name="head.norm")(x)
    x = layers.GlobalAveragePooling1D()(x)  # [B, C]
    x = layers.Dense(config.classes, name="logits")(layers.Flatten()(x))
    return keras.Model(image, layers.Softmax()(x), name="tutorial")


def tutorial_batches(split: Split, size: int, recipe: TrainConfig) -> Any:
    """Build the tutorial's input pipeline: scale, resize, crop and mirror in worker threads, then shuffle and batch.

    Args:
        split: the images.
        size: side of the network's input, in pixels.
        recipe: batch size, resize margin and seed.

    Returns:
        An endless `tf.data.Dataset` of float32 images `[B, S, S, 3]` in 0..1 and int64 labels `[B]`.

    Raises:
        ConfigError: Keras does not run on TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ConfigError(
            f"received Keras backend {keras.backend.backend()!r}; the tutorial's pipeline is TensorFlow's: "
            "set KERAS_BACKEND=tensorflow"
        )
    import tensorflow as tf

    resized = size + recipe.resize_margin
    augmentation = [
        layers.Rescaling(1 / 255.0),
        layers.Resizing(resized, resized),
        layers.RandomCrop(size, size, seed=recipe.seed),
        layers.RandomFlip("horizontal", seed=recipe.seed),
    ]

    def augment(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        for layer in augmentation:
            image = layer(image, training=True)
        return image, label

    images = tf.data.Dataset.from_tensor_slices((split.images, split.labels)).repeat()
    augmented = images.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    return augmented.shuffle(SHUFFLE_BUFFER).batch(recipe.batch_size).prefetch(tf.data.AUTOTUNE)


def _patch_embed(x: Tensor, name: str, patch: int, dim: int) -> Tensor:
    """Embed patches and flatten the grid: `[B, H, W, C]` to `[B, H/patch * W/patch, dim]`."""
    x = layers.Conv2D(dim, patch, strides=patch, name=f"{name}.proj")(x)
    return _row(x)


def _row(x: Tensor) -> Tensor:
    _, height, width, channels = x.shape
    return layers.Reshape((height * width, channels))(x)


def _grid(x: Tensor, side: int) -> Tensor:
    return layers.Reshape((side, side, x.shape[-1]))(x)


def _block(x: Tensor, side: int, stage: int, block: int, config: FocalNetConfig) -> Tensor:
    """Apply one block to tokens `[B, T, C]`: x + modulation(x), then x + MLP(norm(x))."""
    name, dim = f"stage{stage}.block{block}", config.dims[stage]
    drop_path = layers.Dropout(config.drop_path(stage, block), noise_shape=(None, 1, 1))
    x = x + drop_path(_row(_focal_modulation(_grid(x, side), stage, name, config)))
    hidden = layers.LayerNormalization(epsilon=config.block_norm_epsilon, name=f"{name}.norm2")(x)
    hidden = layers.Dense(int(dim * config.mlp_ratio), activation="gelu", name=f"{name}.expand")(hidden)
    hidden = layers.Dense(dim, name=f"{name}.contract")(hidden)
    return x + drop_path(layers.Dropout(config.drop_rate)(hidden))


def _focal_modulation(x: Tensor, stage: int, name: str, config: FocalNetConfig) -> Tensor:
    """Apply focal modulation to `[B, H, W, C]`, with one projection, split into query, context and gates."""
    dim, levels = config.dims[stage], config.focal_levels[stage]
    joint = layers.Dense(2 * dim + levels + 1, name=f"{name}.joint")(x)
    query, context, gates = ops.split(joint, [dim, 2 * dim], axis=-1)
    aggregate = None
    for level in range(levels):
        kernel = config.kernel_size(stage, level)
        context = layers.ZeroPadding2D(kernel // 2)(context)
        context = layers.Conv2D(
            dim, kernel, groups=dim, activation="gelu", use_bias=False, name=f"{name}.focal{level}"
        )(context)
        gated = context * gates[..., level : level + 1]
        aggregate = gated if aggregate is None else aggregate + gated
    context = ops.gelu(layers.GlobalAveragePooling2D(keepdims=True)(context), approximate=False)
    aggregate = aggregate + context * gates[..., levels:]
    modulator = layers.Conv2D(dim, 1, name=f"{name}.modulator")(aggregate)
    x = layers.Dense(dim, name=f"{name}.proj")(query * modulator)
    return layers.Dropout(config.drop_rate)(x)
