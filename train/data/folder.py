"""A folder of the user's own images, one sub-folder for each class.

Either `DATA_DIR/class/image.jpg`, divided 70/15/15 here, or `DATA_DIR/train/class/image.jpg` with `val`
and `test` beside `train`; where one of those is absent, 15% of the training images take its place.

Images that fit are read into memory; those of a larger folder stay on disk and are read as needed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.core.errors import ConfigError, DataError
from runtime.core.machine import read_memory, usable_cores
from runtime.images.decode import decode, read_content
from runtime.images.input_spec import InputSpec, Interpolation
from runtime.images.preprocess import Image, resize_square
from runtime.video.opencv_log import silence_opencv
from train.data.dataset import SPLITS, Dataset, Split, stratified_split
from train.data.imagenet import readable_labels
from train.data.lazy_images import LazyImages, Unreadable
from train.data.packed_paths import FileNames, FileNamesBuilder

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
HELD_OUT_FRACTION = 0.15
# Training holds them more than once: as they were read, resized, and on the device, which may be this machine too.
RESIDENT_SHARE = 0.25
ASSUMED_MEMORY_BYTES = 8 * 1024**3  # if the system does not report it


@dataclass(frozen=True, eq=False)
class _Found:
    """The image files of a folder, in the order train, val, test and then by path; none is read.

    Args:
        names: N paths below the folder.
        labels: int64 `[N]`.
        split_of: uint8 `[N]`, each an index into `SPLITS`.
    """

    names: FileNames
    labels: NDArray[np.int64]
    split_of: NDArray[np.uint8]


def load_folder(
    data_dir: Path | None,
    image_size: int,
    seed: int,
    interpolation: Interpolation = "area",
    stream: bool | None = None,
) -> Dataset:
    """Load a folder of images, or list it and leave them on disk.

    In memory, unreadable images are skipped, and so are files equal to an earlier one, in the order train, val, test
    and then by path: no image is in two splits. On disk, files are not compared, and an unreadable image is replaced;
    see `LazyImages`.

    Args:
        data_dir: the folder; `None` takes the environment variable DATA_DIR.
        image_size: the side of the images, in pixels.
        seed: draws the splits that the folder does not give, each class in the same proportions.
        interpolation: how an image's whole centred square is resized to that side.
        stream: whether the images stay on disk; `None` leaves them there if they would take more than a quarter of
            the machine's memory.

    Returns:
        The dataset, with the classes in the order of their folders' names; an id is the path below `data_dir`. A
        folder called by ImageNet's number for its class gives the class' readable name.

    Raises:
        ConfigError: no folder was given.
        DataError: there is no such folder, it has fewer than two classes, a class has no readable
            training image or too few to divide, a class of `val` or `test` is not in `train`, or two folders
            are of one class.
    """
    silence_opencv()  # a damaged file has its own reason
    given = data_dir or os.environ.get("DATA_DIR")
    if not given:
        raise ConfigError("the folder dataset needs a folder; set DATA_DIR to one with a sub-folder a class")
    root = Path(given)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give one with a sub-folder of images for each class")
    folders = _split_folders(root)
    class_names = _class_names(root, folders)
    labels = readable_labels(class_names)
    found = _walk(root, folders, class_names)
    streamed, residence = choose_residence(len(found.names), image_size, stream)
    skipped: list[str] = []
    stored = InputSpec(image_size, interpolation=interpolation)
    if streamed:
        _check_classes(found, class_names, skipped)
        splits = _on_disk(root, found, _divide(found, folders, class_names, seed), stored)
    else:
        images, kept, skipped = _read(root, found.names, stored)
        found = _Found(found.names.part(kept), found.labels[kept], found.split_of[kept])
        _check_classes(found, class_names, skipped)
        splits = _in_memory(images, found, _divide(found, folders, class_names, seed), image_size)
    return Dataset(
        name=root.resolve().name or "folder",
        labels=labels,
        **splits,
        skipped=(*_other_folders(root, folders), *skipped),
        residence=residence,
    )


def choose_residence(images: int, image_size: int, stream: bool | None) -> tuple[bool, str]:
    """Choose whether images stay on disk.

    Args:
        images: how many there are.
        image_size: their side, in pixels.
        stream: the requested choice; `None` decides by their size.

    Returns:
        Whether they do, and a line that says so and why.
    """
    needed = images * image_size**2 * 3
    memory = read_memory()
    total = memory.total_bytes if memory else ASSUMED_MEMORY_BYTES
    large = needed > RESIDENT_SHARE * total
    streamed = large if stream is None else stream
    where = "stay on disk, read as they are needed" if streamed else "are read into memory"
    size = f"{images:,} images of {image_size} px, {needed / 1e9:.3g} GB"
    share = f"{'more' if large else 'no more'} than {RESIDENT_SHARE:.0%} of the machine's {total / 1e9:.3g} GB"
    return streamed, f"{size}, {where}: {share}{'' if stream is None else ', but requested'}"


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds, without hidden files, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted((each for each in entries if not each.name.startswith(".")), key=lambda each: each.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be listed ({error.strerror or error}); make it readable") from error


def _sub_folders(folder: Path) -> list[str]:
    return [each.name for each in _visible(folder) if each.is_dir()]


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split that is given; a folder without splits is all `train`."""
    train = root / "train"
    # A class may be called "train", but then it holds images and no folders.
    if not (train.is_dir() and _sub_folders(train)):
        return {"train": root}
    return {split: root / split for split in SPLITS if (root / split).is_dir()}


def _other_folders(root: Path, folders: dict[str, Path]) -> list[str]:
    if root in folders.values():
        return []
    return [f"{name}: neither train, val nor test" for name in _sub_folders(root) if name not in SPLITS]


def _class_names(root: Path, folders: dict[str, Path]) -> tuple[str, ...]:
    names = {split: _sub_folders(folder) for split, folder in folders.items()}
    if len(names["train"]) < 2:
        raise DataError(
            f"{folders['train']} has {len(names['train'])} class folder(s); "
            "expected at least 2, each with the images of one class"
        )
    for split in names:
        strange = sorted(set(names[split]) - set(names["train"]))
        if strange:
            raise DataError(
                f"{root}: {split} has the class(es) {', '.join(strange)}, which train has not; "
                f"add them to train or remove them from {split}"
            )
    return tuple(names["train"])


def _walk(root: Path, folders: dict[str, Path], class_names: Sequence[str]) -> _Found:
    """List the image files, folder by folder; their names alone are kept."""
    names, counts, labels, splits = FileNamesBuilder(), [], [], []
    label_of = {name: label for label, name in enumerate(class_names)}
    with tqdm(desc="listing images", unit="image", unit_scale=True, disable=None, leave=False) as bar:
        for split, folder in folders.items():
            for class_name in _sub_folders(folder):
                class_folder = folder / class_name
                files = [each.name for each in _visible(class_folder) if _is_image(each)]
                names.add(class_folder.relative_to(root).as_posix(), files)
                counts.append(len(files))
                labels.append(label_of[class_name])
                splits.append(SPLITS.index(split))
                bar.update(len(files))
    return _Found(
        names.build(),
        np.repeat(np.array(labels, dtype=np.int64), counts),
        np.repeat(np.array(splits, dtype=np.uint8), counts),
    )


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and not entry.is_dir()


def _read(root: Path, names: FileNames, spec: InputSpec) -> tuple[list[Image], NDArray[np.int64], list[str]]:
    """Read the images; return them, which of the files they are, and the skipped ones as "path: reason"."""
    images: list[Image] = []
    kept: list[int] = []
    skipped: list[str] = []
    first_with: dict[str, str] = {}
    for row, name in enumerate(tqdm(names, desc="reading images", unit="image", disable=None)):
        try:
            content = read_content(root / name)
            digest = hashlib.sha256(content).hexdigest()
            if digest in first_with:
                raise DataError(f"same image as {first_with[digest]}")
            image = resize_square(decode(content), spec)
        except DataError as error:
            skipped.append(f"{name}: {error}")
            continue
        first_with[digest] = name
        images.append(image)
        kept.append(row)
    return images, np.array(kept, dtype=np.int64), skipped


def _check_classes(found: _Found, class_names: Sequence[str], skipped: Sequence[str]) -> None:
    present = np.unique(found.labels[found.split_of == SPLITS.index("train")])
    empty = [name for label, name in enumerate(class_names) if label not in present]
    if empty:
        raise DataError(
            f"no readable training image for class {', '.join(empty)} ({len(skipped)} skipped"
            f"{': ' + skipped[0] if skipped else ''}); add {', '.join(SUFFIXES)} files or remove the folder"
        )


def _divide(
    found: _Found, folders: dict[str, Path], class_names: Sequence[str], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each split, drawing the splits without a folder from `train`."""
    parts = {split: np.flatnonzero(found.split_of == number) for number, split in enumerate(SPLITS)}
    absent = [split for split in SPLITS if split not in folders]
    whole = parts["train"]
    drawn = stratified_split(found.labels[whole], [HELD_OUT_FRACTION] * len(absent), seed, class_names)
    for split, indices in zip(["train", *absent], drawn, strict=True):
        parts[split] = whole[indices]
    return parts


def _in_memory(
    images: Sequence[Image], found: _Found, parts: dict[str, NDArray[np.int64]], image_size: int
) -> dict[str, Split]:
    splits = {}
    for split, rows in parts.items():
        resized = np.empty((len(rows), image_size, image_size, 3), dtype=np.uint8)
        for place, row in enumerate(rows):
            resized[place] = images[row]
        splits[split] = Split(resized, found.labels[rows], tuple(found.names.part(rows)))
    return splits


def _on_disk(root: Path, found: _Found, parts: dict[str, NDArray[np.int64]], stored: InputSpec) -> dict[str, Split]:
    pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")
    unreadable = Unreadable(len(found.names))
    splits = {}
    for split, rows in parts.items():
        names, labels = found.names.part(rows), found.labels[rows]
        images = LazyImages(root, names, labels, (stored,), pool, unreadable)
        splits[split] = Split(images, labels, names)
    return splits
