"""A folder of the user's own pictures, one sub-folder for each class.

Either `DATA_DIR/class/picture.jpg`, divided 70/15/15 here, or `DATA_DIR/train/class/picture.jpg` with `val`
and `test` beside `train`; where one of those is absent, 15% of the training pictures take its place.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from runtime.errors import ConfigError, DataError
from runtime.input_spec import InputSpec, Interpolation
from runtime.preprocess import Image, read_picture, resize_square
from train.imagenet import readable_labels
from train.splits import SPLITS, Dataset, Split, stratified_split

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
HELD_OUT_FRACTION = 0.15
JPEG_START, JPEG_END, JPEG_SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"


@dataclass(frozen=True)
class _Entry:
    """A picture file that is not yet read."""

    id: str  # the path below the data folder, with forward slashes
    path: Path
    split: str
    class_name: str


@dataclass(frozen=True, eq=False)
class _Picture:
    id: str
    split: str
    label: int
    image: Image


def load_folder(data_dir: Path | None, image_size: int, seed: int, interpolation: Interpolation = "area") -> Dataset:
    """Load a folder of pictures.

    A picture that cannot be read is skipped, and so is one whose file is the same, byte for byte, as an
    earlier one's, in the order train, val, test and then by path: no picture is in two splits.

    Args:
        data_dir: the folder; `None` takes the environment variable DATA_DIR.
        image_size: the side of the pictures, in pixels.
        seed: draws the splits that the folder does not give, each class in the same proportions.
        interpolation: how a picture's whole centred square is resized to that side.

    Returns:
        The data set, with the classes in the order of their folders' names; an id is the path below `data_dir`. A
        folder called by ImageNet's number for its class gives the class' readable name.

    Raises:
        ConfigError: no folder was given.
        DataError: there is no such folder, it has fewer than two classes, a class has no readable
            training picture or too few to divide, a class of `val` or `test` is not in `train`, or two folders
            are of one class.
    """
    given = data_dir or os.environ.get("DATA_DIR")
    if not given:
        raise ConfigError("the folder data set needs a folder; set DATA_DIR to one with a sub-folder a class")
    root = Path(given)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give one with a sub-folder of pictures for each class")
    folders = _split_folders(root)
    class_names = _class_names(root, folders)
    entries = [entry for split, folder in folders.items() for entry in _list_entries(root, split, folder)]
    pictures, skipped = _read(entries, class_names, InputSpec(image_size, interpolation=interpolation))
    _check_classes(pictures, class_names, skipped)
    parts = _divide(pictures, folders, class_names, seed)
    return Dataset(
        name=root.resolve().name or "folder",
        labels=readable_labels(class_names),
        train=_as_split(parts["train"], image_size),
        val=_as_split(parts["val"], image_size),
        test=_as_split(parts["test"], image_size),
        skipped=(*_other_folders(root, folders), *skipped),
    )


def _visible(folder: Path) -> list[Path]:
    """Return what a folder holds, without hidden files, by name: the order of the file system is no order."""
    try:
        return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda p: p.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be listed ({error.strerror or error}); make it readable") from error


def _sub_folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split that is given; a folder without splits is all `train`."""
    train = root / "train"
    # A class may be called "train", but then it holds pictures and no folders.
    if not (train.is_dir() and _sub_folders(train)):
        return {"train": root}
    return {split: root / split for split in SPLITS if (root / split).is_dir()}


def _other_folders(root: Path, folders: dict[str, Path]) -> list[str]:
    if root in folders.values():
        return []
    return [f"{path.name}: neither train, val nor test" for path in _sub_folders(root) if path.name not in SPLITS]


def _class_names(root: Path, folders: dict[str, Path]) -> tuple[str, ...]:
    names = {split: [path.name for path in _sub_folders(folder)] for split, folder in folders.items()}
    if len(names["train"]) < 2:
        raise DataError(
            f"{folders['train']} has {len(names['train'])} class folder(s); "
            "expected at least 2, each with the pictures of one class"
        )
    for split in names:
        strange = sorted(set(names[split]) - set(names["train"]))
        if strange:
            raise DataError(
                f"{root}: {split} has the class(es) {', '.join(strange)}, which train has not; "
                f"add them to train or remove them from {split}"
            )
    return tuple(names["train"])


def _list_entries(root: Path, split: str, folder: Path) -> list[_Entry]:
    return [
        _Entry(path.relative_to(root).as_posix(), path, split, class_folder.name)
        for class_folder in _sub_folders(folder)
        for path in _visible(class_folder)
        if path.suffix.lower() in SUFFIXES and not path.is_dir()
    ]


def _read(entries: Sequence[_Entry], class_names: Sequence[str], spec: InputSpec) -> tuple[list[_Picture], list[str]]:
    """Read the pictures, and list the skipped ones as "path: reason"."""
    pictures: list[_Picture] = []
    skipped: list[str] = []
    first_with: dict[str, str] = {}
    for entry in tqdm(entries, desc="reading pictures", unit="picture", disable=None):
        try:
            content = _read_bytes(entry)
            digest = hashlib.sha256(content).hexdigest()
            if digest in first_with:
                raise DataError(f"same picture as {first_with[digest]}")
            image = resize_square(_decode(entry, content), spec)
        except DataError as error:
            skipped.append(f"{entry.id}: {error}")
            continue
        first_with[digest] = entry.id
        pictures.append(_Picture(entry.id, entry.split, class_names.index(entry.class_name), image))
    return pictures, skipped


def _read_bytes(entry: _Entry) -> bytes:
    if not entry.path.is_file():
        raise DataError("no such file, or not a plain one")
    try:
        return entry.path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})") from error


def _decode(entry: _Entry, content: bytes) -> Image:
    # The decoder fills the missing part of a JPEG with grey and calls that a success.
    if content.startswith(JPEG_START) and _is_cut_short(content):
        raise DataError("cut short")
    try:
        return read_picture(str(entry.path))
    except (DataError, cv2.error) as error:
        raise DataError("cannot be decoded as a picture") from error


def _is_cut_short(jpeg: bytes) -> bool:
    """Say whether no end marker follows the picture's own data; that of an embedded thumbnail is not its."""
    position = len(JPEG_START)
    while position + 4 <= len(jpeg) and jpeg[position] == 0xFF:
        if jpeg[position : position + 2] == JPEG_SCAN:
            return JPEG_END not in jpeg[position:]
        if jpeg[position + 1] == 0xFF:  # a fill byte
            position += 1
            continue
        # A segment before the scan is a marker and its length, which counts itself but not the marker.
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    return False  # no scan at all, which the decoder notices


def _check_classes(pictures: Sequence[_Picture], class_names: Sequence[str], skipped: Sequence[str]) -> None:
    present = {picture.label for picture in pictures if picture.split == "train"}
    empty = [name for label, name in enumerate(class_names) if label not in present]
    if empty:
        raise DataError(
            f"no readable training picture for class {', '.join(empty)} ({len(skipped)} skipped"
            f"{': ' + skipped[0] if skipped else ''}); add {', '.join(SUFFIXES)} files or remove the folder"
        )


def _divide(
    pictures: Sequence[_Picture], folders: dict[str, Path], class_names: Sequence[str], seed: int
) -> dict[str, list[_Picture]]:
    """Return the pictures of each split, drawing the splits without a folder from `train`."""
    parts = {split: [picture for picture in pictures if picture.split == split] for split in SPLITS}
    absent = [split for split in SPLITS if split not in folders]
    whole = parts["train"]
    labels = np.array([picture.label for picture in whole], dtype=np.int64)
    drawn = stratified_split(labels, [HELD_OUT_FRACTION] * len(absent), seed, class_names)
    for split, indices in zip(["train", *absent], drawn, strict=True):
        parts[split] = [whole[index] for index in indices]
    return parts


def _as_split(pictures: Sequence[_Picture], image_size: int) -> Split:
    images = np.empty((len(pictures), image_size, image_size, 3), dtype=np.uint8)
    for index, picture in enumerate(pictures):
        images[index] = picture.image
    labels = np.array([picture.label for picture in pictures], dtype=np.int64)
    return Split(images, labels, tuple(picture.id for picture in pictures))
