"""Near copies across splits: images that were re-encoded, resized or changed by a little, found by a perceptual hash.

A network that was trained on the one knows the other, so that the accuracy measured on it is too high.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.core.cli import BAR_DELAY_S
from runtime.images.input_spec import InputSpec
from runtime.images.listing import SHOWN, first_few
from runtime.images.preprocess import Image
from train.data.dataset import Dataset, resize_all
from train.data.folders.class_folders import SPLITS

# Bits of 64 in which the hashes of near copies may differ. Of one more piece than that, at least one is equal.
RADIUS = 4
PIECES = RADIUS + 1
PIECE_BITS = 13
# Hashes tell flat images apart badly; pixels do. The mean difference over an image, in steps of 255.
MAX_DIFFERENCE = 6.0
# The side in pixels of thumbnails, which rule most pairs out. Their mean difference is no larger than the images', but
# for rounding.
THUMBNAIL_PX = 8
ROUNDING = 1.0
# Pairs of images that are compared in all; there are more only where very many images look alike.
MAX_PAIRS = 10_000_000
CHUNK = 100_000

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Described:
    """The images of a split: pixels, uint8 `[N, S, S, 3]`, perceptual hashes `[N]`, and thumbnails `[N, 8, 8, 3]`."""

    images: Image
    hashes: Hashes
    thumbnails: Image


def near_copies(dataset: Dataset) -> list[str]:
    """Return a line a pair of splits that have near copies in common: their number, and examples.

    Images on disk are not compared.
    """
    if dataset.train.streamed:
        return []
    described = {name: _describe(dataset.split(name).images[:], name) for name in SPLITS}
    lines = []
    for earlier, later in (("train", "val"), ("train", "test"), ("val", "test")):
        pairs, whole = _nearest(described[earlier], described[later])
        first, second = dataset.split(earlier).ids, dataset.split(later).ids
        examples = [f"{second[mine]} of {first[theirs]}" for theirs, mine in pairs[: SHOWN + 1]]
        if pairs:
            lines.append(
                f"warning: {len(pairs)} of {len(second)} {later} images are near copies of {earlier} images "
                f"({first_few(examples)}); accuracy on {later} may be too high"
            )
        if not whole:
            lines.append(f"near copies of {earlier} images in {later} were searched in part: too many look alike")
    return lines


def _describe(images: Image, name: str) -> _Described:
    # Imported here: it takes half a second.
    import imagehash
    from PIL import Image as Pillow

    bar = tqdm(images, desc=f"comparing {name}", unit="image", disable=None, leave=False, delay=BAR_DELAY_S)
    bits = np.array([imagehash.phash(Pillow.fromarray(image)).hash.reshape(-1) for image in bar], dtype=np.bool_)
    spec = InputSpec(THUMBNAIL_PX)
    return _Described(images, np.packbits(bits, axis=1).view(np.uint64)[:, 0], resize_all(images, spec))


def _nearest(ours: _Described, theirs: _Described) -> tuple[list[tuple[int, int]], bool]:
    """Find near copies.

    Returns:
        For each of `theirs` that has near copies in `ours`, the pair with one of them, `(ours, theirs)`; and whether
        all pairs were compared.
    """
    found: dict[int, int] = {}
    candidates, whole = _candidates(ours.hashes, theirs.hashes)
    for first, second in candidates:
        near = _differing_bits(ours.hashes[first] ^ theirs.hashes[second]) <= RADIUS
        first, second = first[near], second[near]
        alike = _differences(ours.thumbnails[first], theirs.thumbnails[second]) <= MAX_DIFFERENCE + ROUNDING
        for one, other in zip(first[alike].tolist(), second[alike].tolist(), strict=True):
            if other not in found and _differences(ours.images[one], theirs.images[other]) <= MAX_DIFFERENCE:
                found[other] = one
    return [(one, other) for other, one in sorted(found.items())], whole


def _candidates(ours: Hashes, theirs: Hashes) -> tuple[Iterator[tuple[Rows, Rows]], bool]:
    """Find pairs of hashes that have a piece in common.

    Returns:
        Chunks of rows in `ours` and `theirs`, int64 `[P]` each; and whether these are all pairs.
    """
    pieces = [_equal_pieces(ours, theirs, piece * PIECE_BITS) for piece in range(PIECES)]
    limit = max(1, MAX_PAIRS // (PIECES * len(theirs)))
    whole = sum(int(counts.sum()) for _, _, counts in pieces) <= MAX_PAIRS
    if not whole:
        pieces = [(order, starts, np.minimum(counts, limit)) for order, starts, counts in pieces]
    return (pair for each in pieces for pair in _pairs(*each)), whole


def _equal_pieces(ours: Hashes, theirs: Hashes, shift: int) -> tuple[Rows, Rows, Rows]:
    """Return an order of `ours`, and where in it those begin that have the piece of each of `theirs`, and how many."""
    our_keys, their_keys = (
        (hashes >> np.uint64(shift)) & np.uint64((1 << PIECE_BITS) - 1) for hashes in (ours, theirs)
    )
    order = np.argsort(our_keys, kind="stable")
    starts, stops = (np.searchsorted(our_keys[order], their_keys, side) for side in ("left", "right"))
    return order, starts, stops - starts


def _pairs(order: Rows, starts: Rows, counts: Rows) -> Iterator[tuple[Rows, Rows]]:
    chunk_of = np.cumsum(counts) // CHUNK
    for chunk in np.unique(chunk_of):
        rows = np.flatnonzero(chunk_of == chunk)
        before = np.repeat(np.cumsum(counts[rows]) - counts[rows], counts[rows])
        within = np.arange(counts[rows].sum()) - before
        yield order[np.repeat(starts[rows], counts[rows]) + within], np.repeat(rows, counts[rows])


def _differing_bits(values: Hashes) -> NDArray[np.int64]:
    """Return the number of bits set in each value."""
    return np.unpackbits(values.view(np.uint8).reshape(len(values), 8), axis=1).sum(axis=1, dtype=np.int64)


def _differences(ours: Image, theirs: Image) -> NDArray[np.float64]:
    """Return the mean difference of images `[..., S, S, 3]`, 0..255."""
    return np.abs(ours.astype(np.int16) - theirs).mean(axis=(-3, -2, -1))
