"""Contenders: the ways to run one float network that a benchmark compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.core.errors import ConfigError

OURS_PREFIX = "FocalEdge"
OURS = f"{OURS_PREFIX} int8"
LOWER_BOUND = "int8 products alone"


@dataclass(frozen=True, eq=False)
class FloatNetwork:
    """A float network, and the images to calibrate it on.

    Attributes:
        model: a `tf_keras` network of `build_focalnet`, from float32 `[B, S, S, 3]` in 0..255 to logits `[B, K]`.
        representative: uint8 `[N, S, S, 3]`, of the training split, N at least 1.
    """

    model: Any
    representative: NDArray[np.uint8]

    def __post_init__(self) -> None:
        """Check the images.

        Raises:
            ConfigError: they have another size or dtype, or are missing (some tools would calibrate on nothing).
        """
        images, expected = self.representative, tuple(self.model.input_shape[1:])
        if images.dtype != np.uint8 or images.shape[1:] != expected or len(images) == 0:
            raise ConfigError(
                f"received representative images of dtype {images.dtype} and shape {list(images.shape)}; "
                f"expected uint8 [N, {', '.join(map(str, expected))}], N at least 1"
            )

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of a batch of one image, `(1, S, S, 3)`."""
        _, height, width, channels = self.model.input_shape
        return (1, height, width, channels)

    def float_batches(self) -> list[NDArray[np.float32]]:
        """Return the representative images as network inputs, float32 `[1, S, S, 3]` in 0..255 each.

        A list: several tools iterate more than once, and a generator is empty the second time.
        """
        return [image[np.newaxis].astype(np.float32) for image in self.representative]


class Classifier(Protocol):
    """An opened model."""

    def run(self, image: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Classify one image, conversions of its values included.

        Args:
            image: uint8 `[1, S, S, 3]` RGB.

        Returns:
            The logits, `[K]`.
        """


@dataclass(frozen=True)
class Contender:
    """One way to run the network.

    Attributes:
        name: in tables.
        what: how it was made, one sentence.
        files: those a device needs.
        open: opens it for a number of CPU threads.
    """

    name: str
    what: str
    files: tuple[Path, ...]
    open: Callable[[int], Classifier]

    @property
    def size_bytes(self) -> int:
        """Total size of its files."""
        return sum(path.stat().st_size for path in self.files)


@dataclass(frozen=True)
class NotMeasured:
    """A peer without figures; `failed` is false if its packages are missing, true if its tools failed."""

    name: str
    reason: str
    failed: bool
