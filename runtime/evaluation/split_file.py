"""Split files: labelled images of a dataset's split as one uncompressed `.npz` of the arrays in `ARRAYS`.

No array is pickled, so that a file from elsewhere runs no code.
"""

from __future__ import annotations

import sys
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.core.errors import ConfigError, DataError
from runtime.core.files import replacing
from runtime.core.text import check_labels, printable

ARRAYS = ("images", "labels", "ids", "class_names", "dataset", "split")


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images with labels, ids and class names; checked on construction.

    Args:
        images: uint8 `[N, H, W, 3]` RGB, values 0..255, N at least 1.
        labels: int64 `[N]`, values 0..K-1.
        ids: N unique names.
        class_names: K names, at least 2, as `check_labels` accepts them; the index is the label.
        dataset: the dataset's name.
        split: the split's name, such as "test".

    Raises:
        DataError: the arrays have other dtypes or shapes, or do not fit together, or a label is out of range.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: tuple[str, ...]
    class_names: tuple[str, ...]
    dataset: str
    split: str

    def __post_init__(self) -> None:
        """Check the fields; see the class."""
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.size == 0:
            raise DataError(
                f"received images of dtype {images.dtype} and shape {images.shape}; "
                "expected non-empty uint8 [N, H, W, 3]"
            )
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            raise DataError(
                f"received labels of dtype {labels.dtype} and shape {labels.shape}; expected int64 [{len(images)}]"
            )
        if len(self.ids) != len(images) or len(set(self.ids)) != len(self.ids):
            raise DataError(
                f"received {len(self.ids)} ids, {len(set(self.ids))} different; expected {len(images)} different ids"
            )
        try:
            check_labels(self.class_names)
        except ConfigError as error:
            raise DataError(str(error)) from None
        if len(self.class_names) < 2:
            raise DataError(f"received {len(self.class_names)} class name; expected at least 2")
        if labels.min() < 0 or labels.max() >= len(self.class_names):
            raise DataError(
                f"received labels {labels.min()}..{labels.max()}; "
                f"expected 0..{len(self.class_names) - 1} for {len(self.class_names)} class names"
            )


def check_class_names(found: Sequence[str], expected: Sequence[str], remedy: str) -> None:
    """Check that images have a network's classes, in the same order.

    Args:
        found: class names of the images.
        expected: class names of the network.
        remedy: what to do if they differ, for the error.

    Raises:
        DataError: the names or their order differ.
    """
    if len(found) != len(expected):
        raise DataError(f"the data has {len(found)} classes and the bundle {len(expected)}; {remedy}")
    for index, (name, label) in enumerate(zip(found, expected, strict=True)):
        if name != label:
            raise DataError(f"class {index} is {name!r} in the data and {label!r} in the bundle; {remedy}")


def write_split(path: Path, images: LabelledImages) -> None:
    """Write a split file; an existing file is replaced.

    Raises:
        FocalEdgeError: the file cannot be written.
    """
    # Through an open file: NumPy would add .npz to another suffix.
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            images=images.images,
            labels=images.labels,
            ids=np.array(images.ids, dtype=np.str_),
            class_names=np.array(images.class_names, dtype=np.str_),
            dataset=np.array(images.dataset, dtype=np.str_),
            split=np.array(images.split, dtype=np.str_),
        )


def read_split(path: Path) -> LabelledImages:
    """Read a split file and check it.

    Raises:
        DataError: the file is missing, truncated or not a split file, or its arrays do not fit together.
    """
    remedy = "rebuild it with `python -m train.data`"
    try:
        # zipfile checks each member's CRC, so that a damaged image does not pass.
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in ARRAYS if name not in archive]
            if missing:
                raise DataError(f"{path} has no array {', '.join(missing)}; {remedy}")
            arrays = {name: archive[name] for name in ARRAYS}
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; {remedy}") from error
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not a readable split file ({error}); {remedy}") from error
    foreign = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if foreign:
        raise DataError(f"{path}: {', '.join(foreign)} is not an array; {remedy}")
    for name, ndim in (("ids", 1), ("class_names", 1), ("dataset", 0), ("split", 0)):
        if arrays[name].dtype.kind != "U" or arrays[name].ndim != ndim:
            raise DataError(
                f"{path}: {name} has dtype {arrays[name].dtype} and shape {arrays[name].shape}; "
                f"expected unicode with {ndim} dimension(s); {remedy}"
            )
        # NumPy makes strings of any code, and Python ends in a SystemError where such a string is used.
        codes = np.ascontiguousarray(arrays[name]).astype(arrays[name].dtype.newbyteorder("=")).reshape(-1)
        if codes.dtype.itemsize and codes.view(np.uint32).max(initial=0) > sys.maxunicode:
            raise DataError(f"{path}: {name} is not Unicode text; {remedy}")
    try:
        return LabelledImages(
            images=arrays["images"],
            labels=arrays["labels"],
            # Older files have names of files as they are.
            ids=tuple(map(printable, arrays["ids"].tolist())),
            class_names=tuple(arrays["class_names"].tolist()),
            dataset=printable(str(arrays["dataset"])),
            split=printable(str(arrays["split"])),
        )
    except DataError as error:
        raise DataError(f"{path}: {error}; {remedy}") from error
