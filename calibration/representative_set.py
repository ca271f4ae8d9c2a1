"""Representative set: the training images that activation ranges are measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.core.errors import ConfigError
from train.data.dataset import Split, draw


@dataclass(frozen=True, eq=False)
class RepresentativeSet:
    """Class-balanced images of the training split.

    Attributes:
        images: uint8 `[N, H, W, 3]` RGB.
        ids: their names in the dataset.
        sha256: hash over ids and pixels, 64 hexadecimal digits.
    """

    images: NDArray[np.uint8]
    ids: tuple[str, ...]
    sha256: str


def draw_representative_set(train: Split, images: int, seed: int) -> RepresentativeSet:
    """Draw the same number of images from every class, give or take one.

    Args:
        train: the training split; the test split would make its own figures look better.
        images: number of images, 1 to the size of the split.
        seed: the same seed draws the same images.

    Returns:
        The images, in the order of the split; fewer if some on disk cannot be read.

    Raises:
        ConfigError: `images` is out of range.
    """
    if not 1 <= images <= len(train.labels):
        raise ConfigError(
            f"received {images} calibration images; expected 1 to {len(train.labels)}, the size of the training split"
        )
    sample = draw(train, images, seed)
    return RepresentativeSet(sample.images, sample.ids, hash_of(sample.ids, sample.images))


def named_representative_set(train: Split, ids: Sequence[str]) -> RepresentativeSet | None:
    """Return the images of these names in the training split, in the order of the names; `None` if one is missing."""
    indices = indices_of(train, ids)
    if len(indices) < len(ids):
        return None
    images = train.images[np.array([indices[name] for name in ids])]
    return RepresentativeSet(images, tuple(ids), hash_of(ids, images))


def indices_of(train: Split, ids: Sequence[str]) -> dict[str, int]:
    """Return the indices in the training split of the named images, by name, without those that are missing."""
    named = set(ids)
    return {name: index for index, name in enumerate(train.ids) if name in named}


def hash_of(ids: Sequence[str], images: NDArray[np.uint8]) -> str:
    """Return the SHA-256 over names and pixels, as 64 hexadecimal digits."""
    digest = hashlib.sha256("\n".join(ids).encode())
    digest.update(np.ascontiguousarray(images).tobytes())
    return digest.hexdigest()
