"""Images on disk, decoded when they are indexed: a split's `images` if they do not fit into memory.

Threads decode each batch, as OpenCV releases the interpreter's lock; memory holds one batch.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.core.cli import BAR_DELAY_S
from runtime.core.errors import DataError
from runtime.core.text import printable
from runtime.images.decode import decode, read_content
from runtime.images.input_spec import InputSpec
from runtime.images.preprocess import Image, resize_square
from train.data.packed_paths import FileNames

ALLOWED_SHARE = 0.01
ALLOWED_AT_LEAST = 10  # the share of a small dataset is below one image
SHOWN = 5
# Images per task; smaller tasks cost more to schedule than they save.
CHUNK = 8


class Unreadable:
    """The unreadable images of a dataset; a run continues with a few of them."""

    def __init__(self, images: int) -> None:
        """Allow a hundredth of the dataset's images, at least ten, to be unreadable."""
        self._images = images
        self._allowed = max(ALLOWED_AT_LEAST, int(ALLOWED_SHARE * images))
        self._reasons: dict[str, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of unreadable images so far."""
        return len(self._reasons)

    def add(self, name: str, reason: str) -> None:
        """Record an image; the first ones are printed to stderr at once.

        Raises:
            DataError: there are too many.
        """
        with self._lock:
            if name in self._reasons:
                return
            self._reasons[name] = reason
            count = len(self._reasons)
        if count > self._allowed:
            raise DataError(
                f"{count} of {self._images} images cannot be read, the last one {name} ({reason}); expected at most "
                f"{self._allowed}: check that the disk is mounted, and fix or remove the files"
            )
        if count <= SHOWN:
            # stdout may carry JSON.
            tqdm.write(printable(f"{name}: {reason}; another image of its class stands in"), file=sys.stderr)

    def lines(self) -> list[str]:
        """Return the first few as "path: reason", and their total number; nothing if all are readable."""
        if not self._reasons:
            return []
        first = [f"{name}: {reason}" for name, reason in list(self._reasons.items())[:SHOWN]]
        return [*first, f"{len(self)} unreadable in all; others of their classes stood in for them"]


@dataclass(frozen=True, eq=False)
class LazyImages:
    """Images on disk, indexed like a uint8 `[N, S, S, 3]` RGB array, 0..255.

    An unreadable image is recorded and replaced by the next one of its class, always the same.

    Args:
        root: the folder of the dataset.
        names: N paths below it.
        labels: int64 `[N]`.
        specs: the resizes of each image, in order.
        pool: the threads that decode.
        unreadable: the unreadable images so far.
    """

    root: Path
    names: FileNames
    labels: NDArray[np.int64]
    specs: tuple[InputSpec, ...]
    pool: ThreadPoolExecutor
    unreadable: Unreadable

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the whole."""
        return len(self), self.specs[-1].size, self.specs[-1].size, 3

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """The type of a value."""
        return np.dtype(np.uint8)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    def __getitem__(self, index: Any) -> Image:
        """Decode images.

        Args:
            index: a number, a slice or an array of numbers.

        Returns:
            uint8 `[S, S, 3]` of a number, `[n, S, S, 3]` of the others.

        Raises:
            DataError: a class has no readable image, or too many cannot be read.
            IndexError: a number is out of range.
        """
        if isinstance(index, slice):
            return self._read(np.arange(*index.indices(len(self))))
        rows = np.asarray(index)
        if not np.issubdtype(rows.dtype, np.integer) or rows.ndim > 1:
            raise IndexError(f"received an index of dtype {rows.dtype} and {rows.ndim} dimensions; expected integers")
        if rows.size and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"received indices {rows.min()}..{rows.max()}; there are {len(self)} images")
        rows = rows % len(self)
        return self._read(rows) if rows.ndim else self._image(int(rows))

    def __iter__(self) -> Iterator[Image]:
        """Decode every image in turn, `[S, S, 3]` each."""
        return (self._image(row) for row in range(len(self)))

    def load(self, rows: NDArray[np.int64]) -> tuple[Image, NDArray[np.bool_]]:
        """Read images without replacing unreadable ones.

        Args:
            rows: their numbers, `[M]`.

        Returns:
            The readable ones, uint8 `[n, S, S, 3]`, and a mask of them, bool `[M]`.

        Raises:
            DataError: too many cannot be read.
        """
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        readable = np.ones(len(rows), np.bool_)

        def fill(place: int) -> None:
            image = self._decoded(int(rows[place]))
            if image is None:
                readable[place] = False
            else:
                images[place] = image

        tasks = self.pool.map(fill, range(len(rows)))
        list(tqdm(tasks, total=len(rows), desc="reading images", unit="image", disable=None, leave=False))
        return (images if readable.all() else images[readable]), readable

    def resized(self, spec: InputSpec) -> LazyImages:
        """Return these images, resized further by `spec`."""
        same = spec.size == self.specs[-1].size and spec.crop_fraction == 1.0
        return self if same else replace(self, specs=(*self.specs, spec))

    def part(self, rows: NDArray[np.int64]) -> LazyImages:
        """Return some of these images, by their numbers `[M]`."""
        return replace(self, names=self.names.part(rows), labels=self.labels[rows])

    def file_sizes(self) -> NDArray[np.int64]:
        """Return the bytes of every file, int64 `[N]`; -1 of one that is not there."""
        return file_sizes(self.root, self.names)

    def _read(self, rows: NDArray[np.int64]) -> Image:
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)

        def fill(start: int) -> None:
            for place in range(start, min(start + CHUNK, len(rows))):
                images[place] = self._image(int(rows[place]))

        # Reading the values raises what a thread raised.
        list(self.pool.map(fill, range(0, len(rows), CHUNK)))
        return images

    def _image(self, row: int) -> Image:
        """Decode an image, or the next one of its class that can be."""
        image = self._decoded(row)
        if image is not None:
            return image
        same = np.flatnonzero(self.labels == self.labels[row])
        for other in np.roll(same, -np.searchsorted(same, row) - 1)[:-1]:
            image = self._decoded(int(other))
            if image is not None:
                return image
        raise DataError(
            f"none of the {len(same)} images of the class of {self.names[row]} can be read; fix or remove the files"
        )

    def _decoded(self, row: int) -> Image | None:
        try:
            image = decode(read_content(self.root / self.names[row]))
        except DataError as error:
            self.unreadable.add(self.names[row], str(error))
            return None
        for spec in self.specs:
            image = resize_square(image, spec)
        return image


def file_sizes(root: Path, names: FileNames) -> NDArray[np.int64]:
    """Return the bytes of files, by their N paths below a folder: int64 `[N]`; -1 of one that is not there."""
    bar = tqdm(names, desc="file sizes", unit="file", disable=None, leave=False, delay=BAR_DELAY_S)
    return np.fromiter((_size(root / name) for name in bar), np.int64, len(names))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
