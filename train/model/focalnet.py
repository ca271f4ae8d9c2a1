"""Focal Modulation Networks (Yang et al., 2022) as one functional Keras builder.

Sources: the paper, arXiv 2203.11926, section 3; the authors' code; the Keras tutorial "Focal
Modulation: A replacement for Self-Attention". Deviations that do not change the function:

- the projection `q, z0, g = Linear(x)` is one layer each for q, z0 and every gate: a split cuts a delegate's
  partition in two, and each gate gets its own quantization scale;
- linear layers, the head included, are 1x1 convolutions on the `[B, H, W, C]` grid: no reshapes,
  and converters give them per-channel int8 weights;
- grouped convolutions are `DepthwiseConv2D`: the same kernels, many times faster;
- the head gives logits, not probabilities.

All layers are stock ones of both Keras 3 and `tf_keras`, so weights move between the two by name.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from train.model.config import FocalNetConfig

Tensor = Any
Model = Any


def build_focalnet(config: FocalNetConfig, keras: ModuleType, depthwise: Any = None) -> Model:
    """Build a FocalNet classifier.

    Args:
        config: the network.
        keras: the `keras` (3) or `tf_keras` module to build it with.
        depthwise: class of the depthwise convolutions; `None` takes the stock one.

    Returns:
        A functional model from `image`, float32 `[B, S, S, 3]` RGB in 0..255, to logits,
        float32 `[B, classes]`.
    """
    layers = keras.layers
    size = config.input_size
    image = keras.Input((size, size, 3), name="image")  # [B, S, S, 3]
    x = layers.Rescaling(
        scale=[1.0 / (255.0 * s) for s in config.std],
        offset=[-m / s for m, s in zip(config.mean, config.std, strict=True)],
        name="normalise",
    )(image)
    if config.stem == "conv":
        x = _conv_stem(x, config, keras)  # [B, S/p, S/p, C]
    else:
        x = _embed(x, "embed", config.patch_size, config.dims[0], True, config, keras)  # [B, S/p, S/p, C]
    x = _dropout(x, "embed.drop", config.drop_rate, keras)
    for stage, depth in enumerate(config.depths):
        if stage:
            x = _tap(x, f"stage{stage}.embed.input", keras)
            x = _embed(x, f"stage{stage}.embed", 2, config.dims[stage], config.norm_after_downsampling, config, keras)
        for block in range(depth):
            x = _block(x, stage, block, config, keras, depthwise)
    x = _norm(x, "head.norm", config.embed_norm_epsilon, config, keras)
    x = layers.GlobalAveragePooling2D(keepdims=True, name="head.pool")(x)  # [B, 1, 1, C]
    x = _linear(x, "logits", config.classes, config, keras)
    return keras.Model(image, layers.Flatten(name="head.flatten")(x), name="focalnet")


def overlay_tensors(model: Model, config: FocalNetConfig, prefix: str = "") -> tuple[list[Tensor], Tensor]:
    """Return the tensors that overlays show.

    Args:
        model: a model of `build_focalnet`, or its fake-quantized copy.
        config: the network.
        prefix: of the layers' names in a fake-quantized copy.

    Returns:
        The L+1 gates of the overlay layer, each `[B, h, w, 1]`, the global one last; and its
        modulator, `[B, h, w, C]`.
    """
    name, levels = prefix + config.overlay_layer, config.focal_levels[config.overlay_stage]
    gates = [model.get_layer(f"{name}.gate{level}").output for level in range(levels + 1)]
    return gates, model.get_layer(f"{name}.modulator").output


def with_overlay(model: Model, config: FocalNetConfig, keras: ModuleType) -> Model:
    """Add the outputs that overlays show to a FocalNet; layers and weights are shared.

    Args:
        model: a model of `build_focalnet`.
        config: the network.
        keras: the Keras module that built it.

    Returns:
        A functional model from `image` to a dict of `logits` `[B, classes]`, `gates`
        `[B, h, w, L+1]` (signed; the last is the global gate) and `modulator` `[B, h, w, C]`.
    """
    gates, modulator = overlay_tensors(model, config)
    outputs = {
        "logits": model.output,
        "gates": keras.layers.Concatenate(name="gates")(gates),
        "modulator": modulator,
    }
    return keras.Model(model.input, outputs, name="focalnet_with_overlay")


def _conv_stem(x: Tensor, config: FocalNetConfig, keras: ModuleType) -> Tensor:
    """Embed by overlapping 3x3 convolutions, the first at full size: `[B, S, S, 3]` to `[B, S/p, S/p, dims[0]]`."""
    halvings = config.patch_size.bit_length() - 1
    for i in range(halvings + 1):
        x = keras.layers.Conv2D(
            config.dims[0] >> (halvings - i),
            3,
            strides=2 if i else 1,
            padding="same",
            kernel_initializer=_conv_init(config, 9 * x.shape[-1], keras),
            name=f"embed.conv{i}",
        )(x)
        x = _norm(x, f"embed.norm{i}", config.embed_norm_epsilon, config, keras, of_stream=True)
        if i < halvings:  # the last one begins the residual stream, which has no ReLU
            x = keras.layers.Activation(config.activation, name=f"embed.act{i}")(x)
    return x


def _embed(
    x: Tensor, name: str, stride: int, dim: int, norm: bool, config: FocalNetConfig, keras: ModuleType
) -> Tensor:
    """Embed patches, overlapping or not: `[B, H, W, C]` to `[B, H/stride, W/stride, dim]`."""
    kernel = 2 * stride - 1 if config.stem == "overlap" else stride
    if kernel > stride:
        # PyTorch's padding of 2 for 7x7 and 1 for 3x3, without the last rows, which no step reads.
        before, after = (2, 1) if stride == 4 else (1, 0)
        x = keras.layers.ZeroPadding2D(((before, after), (before, after)), name=f"{name}.pad")(x)
    fan_in = kernel * kernel * x.shape[-1]
    x = keras.layers.Conv2D(
        dim, kernel, strides=stride, kernel_initializer=_conv_init(config, fan_in, keras), name=f"{name}.proj"
    )(x)
    if not norm:
        return x
    return _norm(x, f"{name}.norm", config.embed_norm_epsilon, config, keras, of_stream=True)


def _block(x: Tensor, stage: int, block: int, config: FocalNetConfig, keras: ModuleType, depthwise: Any) -> Tensor:
    """Apply one FocalNet block: x + modulation(norm(x)), then x + MLP(norm(x))."""
    layers, name = keras.layers, f"stage{stage}.block{block}"
    drop_path = config.drop_path(stage, block)

    shortcut = x  # [B, H, W, C]
    if config.norm_before_modulation and not config.post_norm:
        # Always per token: q * h(g * z) multiplies three projections, so with BatchNorm an image twice as strong as
        # the training batches would grow eightfold in every block.
        x = _layer_norm(x, f"{name}.norm1", config.block_norm_epsilon, not config.folded, keras)
    else:
        x = _tap(x, f"{name}.norm1", keras)
    x = _focal_modulation(x, stage, name, config, keras, depthwise)
    x = _end_branch(x, name, 1, config, keras)
    x = _drop_path(x, f"{name}.drop_path1", drop_path, keras)
    x = layers.Add(name=f"{name}.add1")([shortcut, x])

    shortcut = x
    if config.post_norm or (config.norm == "batch" and config.folded):
        x = _tap(x, f"{name}.norm2", keras)
    else:
        x = _norm(x, f"{name}.norm2", config.block_norm_epsilon, config, keras)
    x = _linear(x, f"{name}.expand", int(config.dims[stage] * config.mlp_ratio), config, keras)
    x = layers.Activation(config.activation, name=f"{name}.mlp_act")(x)  # [B, H, W, mlp_ratio * C]
    x = _linear(x, f"{name}.contract", config.dims[stage], config, keras)
    x = _dropout(x, f"{name}.drop2", config.drop_rate, keras)
    x = _end_branch(x, name, 2, config, keras)
    x = _drop_path(x, f"{name}.drop_path2", drop_path, keras)
    return layers.Add(name=f"{name}.add2")([shortcut, x])


def _end_branch(x: Tensor, name: str, branch: int, config: FocalNetConfig, keras: ModuleType) -> Tensor:
    """Norm and scale a branch's output `[B, H, W, C]`, as the large models do before the sum."""
    if config.post_norm:
        x = _layer_norm(x, f"{name}.norm{branch}_post", config.block_norm_epsilon, True, keras)
    if not config.layer_scale or config.folded:
        return x
    scale = keras.initializers.Constant(config.layer_scale)
    # The stock layer that multiplies each channel by its own weight.
    return keras.layers.DepthwiseConv2D(
        1, use_bias=False, depthwise_initializer=scale, name=f"{name}.layer_scale{branch}"
    )(x)


def _focal_modulation(
    x: Tensor, stage: int, name: str, config: FocalNetConfig, keras: ModuleType, depthwise: Any
) -> Tensor:
    """Apply focal modulation, y = proj(q(x) * h(sum_l g_l(x) * z_l)): paper, equations 4 to 8."""
    layers = keras.layers
    dim, levels = config.dims[stage], config.focal_levels[stage]
    joint = 2 * dim + levels + 1  # width of the paper's one projection

    query = _linear(x, f"{name}.query", dim, config, keras, joint)  # q [B, H, W, C]
    context = _linear(x, f"{name}.context", dim, config, keras, joint)  # z_0 [B, H, W, C]
    gates = [
        _linear(x, f"{name}.gate{level}", 1, config, keras, joint)  # g_l [B, H, W, 1], signed
        for level in range(levels + 1)
    ]

    gated = []
    for level in range(levels):
        # z_l = act(DWConv_k(z_{l-1})), k = window + factor * level
        kernel = config.kernel_size(stage, level)
        context = (depthwise or layers.DepthwiseConv2D)(
            kernel,
            padding="same",
            use_bias=False,
            # oneDNN's float32 gradient takes a third of its bfloat16 one's time for kernels wider than 3.
            dtype="float32" if kernel > 3 and depthwise is None else None,
            depthwise_initializer=_conv_init(config, kernel * kernel, keras),
            name=f"{name}.focal{level}",
        )(context)
        context = layers.Activation(config.activation, name=f"{name}.focal{level}_act")(context)
        gated.append(layers.Multiply(name=f"{name}.gated{level}")([context, gates[level]]))

    # z_{L+1} = act(AvgPool(z_L)) [B, 1, 1, C], where act changes nothing for ReLU
    context = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}.global_pool")(context)
    if config.activation != "relu":
        context = layers.Activation(config.activation, name=f"{name}.global_act")(context)
    gated.append(layers.Multiply(name=f"{name}.gated{levels}")([context, gates[levels]]))

    aggregate = gated[0]  # sum_l g_l * z_l [B, H, W, C], in sums of two, each with its own range
    for level in range(1, levels + 1):
        place = "" if level == levels else f"{level}"
        aggregate = layers.Add(name=f"{name}.aggregate{place}")([aggregate, gated[level]])
    if config.normalise_modulator and not config.folded:
        aggregate = layers.Rescaling(1.0 / (levels + 1), name=f"{name}.mean")(aggregate)
    modulator = _linear(aggregate, f"{name}.modulator", dim, config, keras)  # m = h(...) [B, H, W, C]
    if config.norm_in_modulation:
        x = layers.Multiply(name=f"{name}.modulated")([query, modulator])
        x = _layer_norm(x, f"{name}.norm_proj", config.block_norm_epsilon, not config.folded, keras)
    else:
        x = layers.Multiply(name=f"{name}.modulate")([query, modulator])
    x = _linear(x, f"{name}.proj", dim, config, keras)  # y [B, H, W, C]
    return _dropout(x, f"{name}.drop1", config.drop_rate, keras)


def _linear(
    x: Tensor, name: str, dim: int, config: FocalNetConfig, keras: ModuleType, joint: int | None = None
) -> Tensor:
    """Apply a linear layer to every token; `joint` is the width it is initialised for."""
    if config.initializer == "paper":
        init = keras.initializers.TruncatedNormal(stddev=0.02)
    else:
        limit = (6.0 / (x.shape[-1] + (joint or dim))) ** 0.5  # Glorot uniform
        init = keras.initializers.RandomUniform(-limit, limit)
    return keras.layers.Conv2D(dim, 1, kernel_initializer=init, name=name)(x)


def _conv_init(config: FocalNetConfig, fan_in: int, keras: ModuleType) -> Any:
    if config.initializer == "glorot":
        # On a depthwise kernel Glorot's fans are those of the tutorial's grouped convolution, swapped.
        return keras.initializers.GlorotUniform()
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


def _norm(
    x: Tensor, name: str, epsilon: float, config: FocalNetConfig, keras: ModuleType, of_stream: bool = False
) -> Tensor:
    """Apply the configured norm; with `of_stream` its output is the residual stream."""
    if config.norm == "layer":
        return _layer_norm(x, name, epsilon, of_stream or not config.folded, keras)
    if config.folded:
        return x
    # Keras' default 0.99 is too slow for runs of a few thousand steps.
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=epsilon, name=name)(x)


def _layer_norm(x: Tensor, name: str, epsilon: float, affine: bool, keras: ModuleType) -> Tensor:
    return keras.layers.LayerNormalization(epsilon=epsilon, center=affine, scale=affine, name=name)(x)


def _tap(x: Tensor, name: str, keras: ModuleType) -> Tensor:
    """Name a branch's input, so that it can be quantized while the stream stays float."""
    return keras.layers.Activation("linear", name=name)(x)


def _dropout(x: Tensor, name: str, rate: float, keras: ModuleType) -> Tensor:
    return keras.layers.Dropout(rate, name=name)(x) if rate else x


def _drop_path(x: Tensor, name: str, rate: float, keras: ModuleType) -> Tensor:
    """Drop residual branches per image (stochastic depth; Huang et al., 2016)."""
    return keras.layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=name)(x) if rate else x
