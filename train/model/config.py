"""The configuration of a Focal Modulation Network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from runtime.core.errors import ConfigError
from runtime.images.input_spec import InputSpec, Interpolation

Initializer = Literal["glorot", "paper"]
Stem = Literal["patch", "conv", "overlap"]
Norm = Literal["layer", "batch"]
Activation = Literal["gelu", "relu"]


def require(holds: bool, received: str, expected: str) -> None:
    """Raise a `ConfigError` with both texts unless a condition holds."""
    if not holds:
        raise ConfigError(f"received {received}; expected {expected}")


@dataclass(frozen=True, kw_only=True)
class FocalNetConfig:
    """A Focal Modulation Network (Yang et al., 2022, arXiv 2203.11926, section 3).

    Stage `i` works on `input_size / (patch_size * 2**i)` tokens a side with `dims[i]` channels.
    Focal level `l` (from 0) of stage `i` has a depthwise kernel of
    `focal_windows[i] + focal_factor * l` pixels.

    Attributes:
        input_size: side of the square input, in pixels.
        classes: number of classes.
        patch_size: stride of the first embedding, in pixels; the side of its patches too, if `stem` is "patch".
        stem: "patch", one convolution over disjoint patches (the paper's small models, the tutorial); "overlap", a 7x7
            convolution of stride 4, and 3x3 ones of stride 2 between stages (the paper's large models, there conv
            embed); or "conv", 3x3 convolutions, of which the last log2(patch_size) halve the grid and double the
            channels (Xiao et al., 2021, "Early convolutions help transformers see better").
        dims: channels of each stage.
        depths: blocks of each stage.
        focal_levels: focal levels L of each stage, the global one not counted.
        focal_windows: kernel side of the first focal level of each stage, odd.
        focal_factor: growth of the kernel from one level to the next, even.
        mlp_ratio: hidden channels of the MLP, as a multiple of the stage's.
        norm: "layer", LayerNorm everywhere (the paper, the tutorial); or "batch", BatchNorm everywhere but before
            the modulation.
        folded: the deployed network, its norms folded into adjacent linear layers (`train/model/fold_norms.py`).
        activation: "gelu" (the paper, the tutorial) or "relu", of the focal levels and the MLPs.
        norm_before_modulation: norm before the modulation (the paper); without it, the
            modulation sees the bare residual stream (the Keras tutorial).
        norm_after_downsampling: norm after every patch embedding (the paper); without it, after
            the first alone (the Keras tutorial).
        post_norm: norm the outputs of modulation and MLP, not their inputs (the paper's large models).
        norm_in_modulation: LayerNorm before a modulation's output projection too (the paper's huge models).
        normalise_modulator: take the mean of the gated levels, not their sum.
        layer_scale: initial scale of each channel of both branches of a block (Touvron et al., 2021, "Going deeper with
            image transformers"); 0 for none.
        embed_norm_epsilon: epsilon of the norms after the patch embeddings and before the head.
        block_norm_epsilon: epsilon of the norms inside the blocks.
        initializer: "glorot", Keras' default with the three projections of the modulation
            initialised as the one matrix they are in the tutorial; or "paper", truncated normal
            0.02 for linear layers and uniform +-1/sqrt(fan in) for convolutions.
        drop_rate: dropout after the embedding, the modulation and the MLP, 0 to 1.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
        mean: per-channel RGB mean of pixels in 0..1, subtracted inside the graph.
        std: per-channel RGB standard deviation, divided by inside the graph.
        crop_fraction: side of the centred square that the network sees, as a share of an image's short side, above
            0, at most 1 (published ImageNet figures: 0.875). Training crops at random from the whole square.
        interpolation: how images are resized: "area", by averages over areas; or "bicubic" or "bilinear",
            antialiased, as Pillow and torchvision do it. Both as `runtime.images.input_spec.InputSpec` says.
    """

    input_size: int
    classes: int
    patch_size: int = 4
    stem: Stem = "patch"
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    focal_levels: tuple[int, ...]
    focal_windows: tuple[int, ...]
    focal_factor: int = 2
    mlp_ratio: float = 4.0
    norm: Norm = "layer"
    folded: bool = False
    activation: Activation = "gelu"
    norm_before_modulation: bool = True
    norm_after_downsampling: bool = True
    post_norm: bool = False
    norm_in_modulation: bool = False
    normalise_modulator: bool = False
    layer_scale: float = 0.0
    embed_norm_epsilon: float = 1e-5
    block_norm_epsilon: float = 1e-5
    initializer: Initializer = "paper"
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    crop_fraction: float = 1.0
    interpolation: Interpolation = "area"

    def __post_init__(self) -> None:
        """Reject networks that cannot be built.

        Raises:
            ConfigError: naming the field, what it received and what it expects.
        """
        stages = len(self.dims)
        require(stages >= 1, "dims=()", "one entry per stage, at least one")
        for name in ("depths", "focal_levels", "focal_windows"):
            values = getattr(self, name)
            require(len(values) == stages, f"{name}={values}", f"{stages} entries, one per stage of dims")
        for name in ("dims", "depths", "focal_levels"):
            values = getattr(self, name)
            require(all(v >= 1 for v in values), f"{name}={values}", "entries of 1 or more")
        require(
            all(w >= 1 and w % 2 == 1 for w in self.focal_windows),
            f"focal_windows={self.focal_windows}",
            "odd window sizes, so that a window has a centre",
        )
        require(
            self.focal_factor >= 0 and self.focal_factor % 2 == 0,
            f"focal_factor={self.focal_factor}",
            "an even number, 0 or more, so that every kernel stays odd",
        )
        require(self.classes >= 2, f"classes={self.classes}", "2 or more")
        total_stride = self.patch_size * 2 ** (stages - 1)
        require(
            self.patch_size >= 1 and self.input_size >= 1 and self.input_size % total_stride == 0,
            f"input_size={self.input_size} with patch_size={self.patch_size} and {stages} stages",
            f"an input size divisible by {total_stride}",
        )
        require(
            0 < self.mlp_ratio < math.inf and all(int(d * self.mlp_ratio) >= 1 for d in self.dims),
            f"mlp_ratio={self.mlp_ratio}",
            "a positive ratio that leaves every stage a hidden channel",
        )
        for name in ("drop_rate", "drop_path_rate"):
            require(0.0 <= getattr(self, name) < 1.0, f"{name}={getattr(self, name)}", "0 <= rate < 1")
        for name in ("embed_norm_epsilon", "block_norm_epsilon"):
            require(0 < getattr(self, name) < math.inf, f"{name}={getattr(self, name)}", "a positive epsilon")
        for name, choices in (
            ("initializer", get_args(Initializer)),
            ("stem", get_args(Stem)),
            ("norm", get_args(Norm)),
            ("activation", get_args(Activation)),
        ):
            value = getattr(self, name)
            require(value in choices, f"{name}={value!r}", " or ".join(choices))
        if self.stem == "conv":
            require(
                self.patch_size & (self.patch_size - 1) == 0 and self.dims[0] % self.patch_size == 0,
                f"stem='conv' with patch_size={self.patch_size} and dims={self.dims}",
                "a patch size that is a power of 2 and divides the first stage's channels",
            )
        require(
            self.stem != "overlap" or self.patch_size == 4,
            f"stem='overlap' with patch_size={self.patch_size}",
            "a patch size of 4, the stride of its 7x7 convolution",
        )
        require(
            not self.post_norm or (self.norm == "layer" and self.norm_before_modulation),
            f"post_norm with norm={self.norm!r} and norm_before_modulation={self.norm_before_modulation}",
            "LayerNorms, one for each branch of a block",
        )
        require(0 <= self.layer_scale < math.inf, f"layer_scale={self.layer_scale}", "0 or more")
        for name in ("mean", "std"):
            values = getattr(self, name)
            require(len(values) == 3, f"{name}={values}", "3 values, for R, G and B")
        require(all(math.isfinite(m) for m in self.mean), f"mean={self.mean}", "finite means")
        require(all(0 < s < math.inf for s in self.std), f"std={self.std}", "positive standard deviations")
        _ = self.input_spec  # checks crop_fraction and interpolation

    @property
    def input_spec(self) -> InputSpec:
        """Preprocessing of images in validation, calibration and use."""
        return InputSpec(self.input_size, self.crop_fraction, self.interpolation)

    @property
    def overlay_stage(self) -> int:
        """Index of the middle stage, whose last block the overlays show (as the tutorial does)."""
        return (len(self.dims) - 1) // 2

    @property
    def overlay_layer(self) -> str:
        """Name of the block that the overlays show."""
        return f"stage{self.overlay_stage}.block{self.depths[self.overlay_stage] - 1}"

    @property
    def overlay_stride_px(self) -> int:
        """Input pixels per side of one token of the overlay layer."""
        return int(self.patch_size * 2**self.overlay_stage)

    def kernel_size(self, stage: int, level: int) -> int:
        """Side of the depthwise kernel of a focal level, in tokens."""
        return self.focal_windows[stage] + self.focal_factor * level

    def drop_path(self, stage: int, block: int) -> float:
        """Stochastic-depth rate of a block: linear from 0 at the first to `drop_path_rate` at the last."""
        last = sum(self.depths) - 1
        return self.drop_path_rate * (sum(self.depths[:stage]) + block) / last if last else 0.0
