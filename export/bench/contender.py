"""What a benchmark compares: ways to run one float network."""

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
    """A float network, and the images by which its activations' ranges are measured.

    Attributes:
        model: a `tf_keras` network of `build_focalnet`, from float32 `[B, S, S, 3]` in 0..255 to logits `[B, K]`.
        representative: uint8 `[N, S, S, 3]`, of the training split, one or more.
    """

    model: Any
    representative: NDArray[np.uint8]

    def __post_init__(self) -> None:
        """Refuse images that do not fit.

        Raises:
            ConfigError: there is none, as some tools would calibrate on nothing; or they are of another size or dtype.
        """
        images, expected = self.representative, tuple(self.model.input_shape[1:])
        if images.dtype != np.uint8 or images.shape[1:] != expected or len(images) == 0:
            raise ConfigError(
                f"received representative images of dtype {images.dtype} and shape {list(images.shape)}; "
                f"expected uint8 [N, {', '.join(map(str, expected))}], N at least 1"
            )

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """The shape of one image as a batch, `(1, S, S, 3)`."""
        _, height, width, channels = self.model.input_shape
        return (1, height, width, channels)

    def float_batches(self) -> list[NDArray[np.float32]]:
        """Return the representative images as the network takes them, float32 `[1, S, S, 3]` in 0..255 each.

        A list, as several tools go over the images more than once, and a generator is empty the second time.
        """
        return [image[np.newaxis].astype(np.float32) for image in self.representative]


class Classifier(Protocol):
    """An opened model."""

    def run(self, image: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Classify one image, all conversions of its values included.

        Args:
            image: uint8 `[1, S, S, 3]` RGB.

        Returns:
            The logits, `[K]`.
        """


@dataclass(frozen=True)
class Contender:
    """One way to run the network.

    Attributes:
        name: what tables call it.
        what: a sentence on how it was made.
        files: what a device would have to hold.
        open: opens it for so many CPU threads.
    """

    name: str
    what: str
    files: tuple[Path, ...]
    open: Callable[[int], Classifier]

    @property
    def size_bytes(self) -> int:
        """The size of its files."""
        return sum(path.stat().st_size for path in self.files)


@dataclass(frozen=True)
class NotMeasured:
    """A peer without figures, and why: its packages are missing or, if it `failed`, they cannot do this network."""

    name: str
    reason: str
    failed: bool
