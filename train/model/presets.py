"""Named networks with their training recipes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from runtime.core.errors import ConfigError
from train.model.config import FocalNetConfig
from train.model.recipe import TrainConfig

DEFAULT_PRESET = "edge-nano"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preset:
    """A network with its recipe and its number of deployed parameters, which a test checks."""

    model: FocalNetConfig
    parameters: int
    train: TrainConfig = field(default_factory=TrainConfig)


_SEED = FocalNetConfig(
    input_size=48,
    classes=10,
    dims=(256, 512, 1024),
    depths=(2, 3, 2),
    focal_levels=(2, 2, 2),
    focal_windows=(3, 3, 3),
    norm_before_modulation=False,
    norm_after_downsampling=False,
    embed_norm_epsilon=1e-7,
    initializer="glorot",
    drop_rate=0.1,
    drop_path_rate=0.1,
)
_SEED_RECIPE = TrainConfig(
    epochs=25,
    batch_size=1024,
    learning_rate=1e-4,
    weight_decay=1e-4,
    decay_kernels_only=False,
    clip_norm=0.0,
    label_smoothing=0.0,
)
_EDGE_RECIPE = TrainConfig(epochs=24, batch_size=128, learning_rate=2e-3, weight_decay=0.05, resize_margin=0, pad=4)
_EDGE_NANO = FocalNetConfig(
    input_size=32,
    classes=10,
    patch_size=4,
    stem="conv",
    dims=(128, 192),
    depths=(4, 2),
    focal_levels=(2, 2),
    focal_windows=(3, 3),
    mlp_ratio=2.0,
    norm="batch",
    activation="relu",
    block_norm_epsilon=1e-3,
    initializer="glorot",
)
_FOCALNET_TINY = FocalNetConfig(
    input_size=224,
    classes=1000,
    dims=(96, 192, 384, 768),
    depths=(2, 2, 6, 2),
    focal_levels=(2, 2, 2, 2),
    focal_windows=(3, 3, 3, 3),
    drop_path_rate=0.2,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    crop_fraction=0.875,
    interpolation="bicubic",
)
_FOCALNET_SMALL = replace(_FOCALNET_TINY, depths=(2, 2, 18, 2), drop_path_rate=0.3)
_FOCALNET_BASE = replace(_FOCALNET_SMALL, dims=(128, 256, 512, 1024), drop_path_rate=0.5)
_FOCALNET_ISO = replace(_FOCALNET_TINY, patch_size=16, dims=(192,), depths=(12,), focal_levels=(3,), focal_windows=(3,))
_LONG_RANGE = (3, 3, 3, 3)
# The large networks, of 21,842 classes, after the authors' configuration files, except that large_fl4's sets
# normalise_modulator, which no code for its checkpoint does.
_FOCALNET_LARGE = replace(
    _FOCALNET_SMALL,
    input_size=384,
    classes=21_842,
    stem="overlap",
    dims=(192, 384, 768, 1536),
    focal_levels=(3, 3, 3, 3),
    focal_windows=(5, 5, 5, 5),
    post_norm=True,
    layer_scale=1e-4,
    drop_path_rate=0.5,
)
_FOUR_LEVELS: dict[str, Any] = {"focal_levels": (4, 4, 4, 4), "focal_windows": (3, 3, 3, 3)}
_FOCALNET_XLARGE = replace(_FOCALNET_LARGE, dims=(256, 512, 1024, 2048))
_FOCALNET_HUGE = replace(
    _FOCALNET_LARGE,
    input_size=224,
    dims=(352, 704, 1408, 2816),
    focal_windows=(3, 3, 3, 3),
    norm_in_modulation=True,
)

# Training crops from the image whose centre crop of 0.875 is evaluated.
_224_RECIPE = TrainConfig(resize_margin=256 - 224)
_384_RECIPE = TrainConfig(resize_margin=438 - 384)

PRESETS: dict[str, Preset] = {
    "seed-cifar10": Preset(_SEED, 39_010_591, _SEED_RECIPE),
    "edge-pico": Preset(replace(_EDGE_NANO, dims=(64, 96), depths=(3, 2)), 311_897, _EDGE_RECIPE),
    "edge-nano": Preset(_EDGE_NANO, 1_347_228, _EDGE_RECIPE),
    "edge-small": Preset(replace(_EDGE_NANO, dims=(192, 384), depths=(6, 2)), 4_721_410, _EDGE_RECIPE),
    "focalnet_tiny_srf": Preset(_FOCALNET_TINY, 28_407_916, _224_RECIPE),
    "focalnet_tiny_lrf": Preset(replace(_FOCALNET_TINY, focal_levels=_LONG_RANGE), 28_628_728, _224_RECIPE),
    "focalnet_small_srf": Preset(_FOCALNET_SMALL, 49_853_584, _224_RECIPE),
    "focalnet_small_lrf": Preset(replace(_FOCALNET_SMALL, focal_levels=_LONG_RANGE), 50_304_808, _224_RECIPE),
    "focalnet_base_srf": Preset(_FOCALNET_BASE, 88_097_968, _224_RECIPE),
    "focalnet_base_lrf": Preset(replace(_FOCALNET_BASE, focal_levels=_LONG_RANGE), 88_699_592, _224_RECIPE),
    "focalnet_tiny_iso": Preset(_FOCALNET_ISO, 5_870_680, _224_RECIPE),
    "focalnet_small_iso": Preset(replace(_FOCALNET_ISO, dims=(384,)), 22_357_144, _224_RECIPE),
    "focalnet_base_iso": Preset(
        replace(_FOCALNET_ISO, dims=(768,), post_norm=True, layer_scale=1e-4), 87_217_432, _224_RECIPE
    ),
    "focalnet_large_fl3": Preset(_FOCALNET_LARGE, 239_095_730, _384_RECIPE),
    "focalnet_large_fl4": Preset(replace(_FOCALNET_LARGE, **_FOUR_LEVELS), 239_276_234, _384_RECIPE),
    "focalnet_xlarge_fl3": Preset(_FOCALNET_XLARGE, 408_735_154, _384_RECIPE),
    "focalnet_xlarge_fl4": Preset(replace(_FOCALNET_XLARGE, **_FOUR_LEVELS), 408_975_818, _384_RECIPE),
    "focalnet_huge_fl3": Preset(_FOCALNET_HUGE, 745_138_354, _224_RECIPE),
    "focalnet_huge_fl4": Preset(replace(_FOCALNET_HUGE, **_FOUR_LEVELS), 747_851_594, _224_RECIPE),
}


def find_preset(name: str) -> Preset:
    """Return a preset by its name.

    Raises:
        ConfigError: the name is unknown; the message lists the known ones.
    """
    if name not in PRESETS:
        raise ConfigError(f"received preset {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
