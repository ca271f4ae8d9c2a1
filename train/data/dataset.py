"""A dataset: three disjoint splits of uint8 images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from runtime.core.errors import DataError
from runtime.evaluation.sampling import class_balanced_indices
from runtime.evaluation.split_file import LabelledImages
from runtime.images.input_spec import InputSpec
from runtime.images.preprocess import Image, resize_square
from train.data.folders.class_folders import SPLITS
from train.data.folders.file_counts import FileCounts
from train.data.folders.split_record import SplitRecord
from train.data.lazy_images import LazyImages

# Of a split on disk, what goes into memory or into a file at once: 1 GB at 256 px.
STREAMED_SAMPLE = 5_000

Images = NDArray[np.uint8] | LazyImages


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels.

    Args:
        images: uint8 `[N, S, S, 3]` RGB, values 0..255: whole centred squares, whatever of them a network is to see; in
            memory, or on disk and decoded as they are indexed.
        labels: int64 `[N]`, each an index into the dataset's class names.
        ids: N names, unique within the dataset, that stay the same from run to run.
    """

    images: Images
    labels: NDArray[np.int64]
    ids: Sequence[str]

    @property
    def streamed(self) -> bool:
        """Whether the images stay on disk."""
        return isinstance(self.images, LazyImages)

    def part(self, rows: NDArray[np.int64]) -> Split:
        """Return some of the images, by their numbers `[M]`; those on disk stay there."""
        images = self.images.part(rows) if isinstance(self.images, LazyImages) else self.images[rows]
        return Split(images, self.labels[rows], tuple(self.ids[row] for row in rows))


@dataclass(frozen=True, eq=False)
class Sample:
    """Images of a split that are in memory, with `images`, `labels` and `ids` as a `Split` has them."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset and its three splits.

    Args:
        name: what reports call it.
        labels: the class names; the index is the label.
        train: what the network learns from.
        val: what settings are chosen on.
        test: what the final figure is measured on, and nothing else.
        skipped: the images left out, each as "path: reason".
        notes: lines on what else is to be known about the images.
        listed: the account of the files, as if all images on disk were readable; `None` if there are no files.
        record: returns the record of the splits; `None` if the same call always gives the same splits.
        residence: a line on whether the images are in memory or on disk, and why; empty if there is no
            choice.
    """

    name: str
    labels: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    skipped: tuple[str, ...] = ()
    residence: str = ""
    notes: tuple[str, ...] = ()
    listed: FileCounts | None = None
    record: Callable[[], SplitRecord] | None = None

    def split(self, name: str) -> Split:
        """Return the split called "train", "val" or "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    @property
    def unreadable(self) -> list[str]:
        """The images on disk that could not be read so far: a few as "path: reason", and their number."""
        return self.train.images.unreadable.lines() if isinstance(self.train.images, LazyImages) else []

    @property
    def files(self) -> FileCounts | None:
        """The account of the files so far: images on disk that could not be read are not used."""
        if self.listed is None or not isinstance(self.train.images, LazyImages):
            return self.listed
        count = len(self.train.images.unreadable)
        return replace(self.listed, used=self.listed.used - count, unreadable=self.listed.unreadable + count)


def check_dataset(dataset: Dataset) -> None:
    """Check that a dataset is consistent.

    Raises:
        DataError: a split is empty or its arrays do not fit together, a label is out of range, an id
            comes twice, or an id is in two splits.
    """
    split_of: dict[str, str] = {}
    for name in SPLITS:
        split = dataset.split(name)
        _check_split(f"the {name} split of {dataset.name}", split, len(dataset.labels))
        if split.streamed:  # a path is there once, and a million of them would take a gigabyte here
            continue
        for image in split.ids:
            if image in split_of:
                raise DataError(
                    f"{dataset.name}: image {image} is in {split_of[image]} and again in {name}; "
                    "each image may be in the dataset once"
                )
            split_of[image] = name


def _check_split(title: str, split: Split, classes: int) -> None:
    if len(split.ids) == 0:
        raise DataError(f"{title} is empty; give more images")
    if split.images.dtype != np.uint8 or split.images.ndim != 4 or split.images.shape[3] != 3:
        raise DataError(
            f"{title} has images of dtype {split.images.dtype} and shape {split.images.shape}; "
            "expected uint8 [N, S, S, 3]"
        )
    if split.labels.dtype != np.int64 or split.labels.ndim != 1:
        raise DataError(
            f"{title} has labels of dtype {split.labels.dtype} and shape {split.labels.shape}; expected int64 [N]"
        )
    if not len(split.images) == len(split.labels) == len(split.ids):
        raise DataError(
            f"{title} has {len(split.images)} images, {len(split.labels)} labels and {len(split.ids)} ids; "
            "expected as many of each"
        )
    if split.labels.min() < 0 or split.labels.max() >= classes:
        raise DataError(f"{title} has labels {split.labels.min()}..{split.labels.max()}; expected 0..{classes - 1}")


def stratified_split(
    labels: NDArray[np.int64],
    held_out: Sequence[float],
    seed: int,
    class_names: Sequence[str],
    left_out: Callable[[int], str] = lambda label: "",
) -> list[NDArray[np.int64]]:
    """Divide images at random, each class in the same proportions.

    A class is shuffled by its own generator, so that another class coming or going does not move its
    images.

    Args:
        labels: int64 `[N]`.
        held_out: the fraction of each class for each part after the first; the first has the rest.
        seed: the same seed gives the same parts.
        class_names: the names of the labels, for the error.
        left_out: returns a text on the files of a class that are not among the images, for the error.

    Returns:
        `len(held_out) + 1` ascending index arrays, disjoint, together `0..N-1`; every class that comes
        in `labels` is in every part.

    Raises:
        DataError: a class has too few images to be in every part.
    """
    parts: list[list[NDArray[np.int64]]] = [[] for _ in range(len(held_out) + 1)]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < len(parts):
            raise DataError(
                f"class {class_names[label]} has {len(members)} different image(s); expected at least "
                f"{len(parts)}, one for each split{left_out(int(label))}; add images or remove the class"
            )
        order = np.random.default_rng([seed, int(label)]).permutation(members)
        counts = [max(1, round(fraction * len(members))) for fraction in held_out]
        bounds = np.cumsum([len(members) - sum(counts), *counts])[:-1]
        for part, piece in zip(parts, np.split(order, bounds), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)).astype(np.int64) for part in parts]


def draw(split: Split, count: int, seed: int) -> Sample:
    """Draw a class-balanced sample of a split into memory, without images on disk that cannot be read.

    Args:
        split: to draw from.
        count: how many; all, if there are no more.
        seed: the same seed draws the same images.

    Returns:
        The sample, in the order of the split.

    Raises:
        DataError: too many images on disk cannot be read.
    """
    chosen = class_balanced_indices(split.labels, count, seed)
    if isinstance(split.images, LazyImages):
        images, readable = split.images.load(chosen)
        chosen = chosen[readable]
    else:
        images = split.images[chosen]
    return Sample(images, split.labels[chosen], tuple(split.ids[row] for row in chosen))


def resident(split: Split) -> Sample:
    """Return what of a split can be in memory at once: all that is, or a class-balanced sample of one on disk.

    Raises:
        DataError: too many images on disk cannot be read.
    """
    if isinstance(split.images, LazyImages):
        return draw(split, STREAMED_SAMPLE, seed=0)
    return Sample(split.images, split.labels, tuple(split.ids))


def labelled(dataset: Dataset, name: str) -> LabelledImages:
    """Return a split as a split file has it; a class-balanced sample of one that stays on disk."""
    split = resident(dataset.split(name))
    return LabelledImages(split.images, split.labels, split.ids, dataset.labels, dataset.name, name)


@overload
def resize_all(images: LazyImages, spec: InputSpec) -> LazyImages: ...
@overload
def resize_all(images: Sequence[Image] | NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]: ...
def resize_all(images: Sequence[Image] | Images, spec: InputSpec) -> Images:
    """Make images `[H, W, 3]` one uint8 `[N, size, size, 3]`, as `resize_square` does each.

    Images on disk stay there, and are resized as they are read.
    """
    if isinstance(images, LazyImages):
        return images.resized(spec)
    resized = np.empty((len(images), spec.size, spec.size, 3), dtype=np.uint8)
    for index, image in enumerate(images):
        resized[index] = resize_square(image, spec)
    return resized
