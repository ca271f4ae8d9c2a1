"""Which part of an image a network sees, and how that becomes its input: a description alone, without NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from runtime.core.errors import ConfigError

Interpolation = Literal["area", "bicubic"]
INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)


@dataclass(frozen=True)
class InputSpec:
    """How an image of any size becomes a square input.

    Attributes:
        size: side of the input, in pixels.
        crop_fraction: side of the centred square that is seen, as a share of the image's short side, above 0, at
            most 1.
        interpolation: "area": that square is cut out and resized, averaging over areas where it shrinks, bilinear
            where it grows. "bicubic": the whole image is resized first, its short side to
            `floor(size / crop_fraction)`, antialiased, and its centre is cut out; to the pixel as torchvision's
            `Resize` and `CenterCrop` place them, and as Pillow resizes: published ImageNet figures were measured so.
    """

    size: int
    crop_fraction: float = 1.0
    interpolation: Interpolation = "area"

    def __post_init__(self) -> None:
        """Reject what describes no input.

        Raises:
            ConfigError: naming the field, what it received and what it expects.
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
        """The short side that "bicubic" resizes the whole image to, in pixels."""
        return math.floor(self.size / self.crop_fraction)

    @property
    def seen_fraction(self) -> float:
        """The share of an image's short side that is seen; `crop_fraction`, but for a whole number of pixels."""
        return self.size / self.resized_short_side if self.interpolation == "bicubic" else self.crop_fraction
