"""The input specification: the part of an image that a network sees, and how it is resized. Needs no NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from runtime.core.errors import ConfigError

Interpolation = Literal["area", "bicubic", "bilinear"]
INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)


@dataclass(frozen=True)
class InputSpec:
    """How an image of any size becomes a square input of the network.

    Attributes:
        size: side of the input in pixels, 1 or more.
        crop_fraction: side of the centred square that the network sees, as a share of the image's short side, above 0,
            at most 1.
        interpolation: "area" crops that square and resizes it: by area averaging if it shrinks, bilinearly if it
            grows. "bicubic" and "bilinear" first resize the whole image, antialiased, its short side to
            `floor(size / crop_fraction)`, and then crops its centre. The pixels are those of torchvision's `Resize` and
            `CenterCrop` with Pillow, as in published ImageNet figures.
    """

    size: int
    crop_fraction: float = 1.0
    interpolation: Interpolation = "area"

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ConfigError: a field is out of range.
        """
        for holds, received, expected in (
            (self.size >= 1, f"input size {self.size}", "1 pixel or more"),
            (0 < self.crop_fraction <= 1, f"crop_fraction={self.crop_fraction}", "a share above 0, at most 1"),
            (
                self.interpolation in INTERPOLATIONS,
                f"interpolation={self.interpolation!r}",
                " or ".join(INTERPOLATIONS),
            ),
        ):
            if not holds:
                raise ConfigError(f"received {received}; expected {expected}")

    @property
    def resized_short_side(self) -> int:
        """The short side of the resized image under "bicubic" and "bilinear", in pixels."""
        return math.floor(self.size / self.crop_fraction)

    @property
    def seen_fraction(self) -> float:
        """The share of an image's short side that the network sees: `crop_fraction`, rounded to whole pixels."""
        return self.size / self.resized_short_side if self.interpolation != "area" else self.crop_fraction
