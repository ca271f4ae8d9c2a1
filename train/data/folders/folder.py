"""A folder of the user's own images, one sub-folder for each class.

Either `DATA_DIR/class/image.jpg`, divided 70/15/15 here, or `DATA_DIR/train/class/image.jpg` with `val`
and `test` beside `train`; where one of those is absent, 15% of the training images take its place. A run that was
trained on a folder keeps its splits (`train.data.folders.split_record`).

Images that fit are read into memory; those of a larger folder stay on disk and are read as needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from runtime.core.errors import ConfigError, DataError
from runtime.core.machine import read_memory, usable_cores
from runtime.core.text import name_text, printable
from runtime.images.decode import decode, read_content
from runtime.images.formats import SUFFIXES
from runtime.images.input_spec import InputSpec, Interpolation
from runtime.images.listing import SHOWN, first_few
from runtime.images.preprocess import Image, resize_square
from runtime.video.opencv_log import silence_opencv
from train.data.dataset import Dataset, Split, stratified_split
from train.data.folders.class_folders import SPLITS, ClassFolders, find_class_folders
from train.data.folders.file_counts import FileCounts
from train.data.folders.split_record import (
    LEFT_OUT,
    SHA256_BYTES,
    Codes,
    Files,
    SplitRecord,
    digest,
    follow,
    make_record,
)
from train.data.imagenet import readable_labels
from train.data.lazy_images import LazyImages, Unreadable, file_sizes
from train.data.packed_paths import FileIds

HELD_OUT_FRACTION = 0.15
# Training holds them more than once: as they were read, resized, and on the device, which may be this machine too.
RESIDENT_SHARE = 0.25
NOTHING_LEFT_OUT = "(0 skipped)"
ASSUMED_MEMORY_BYTES = 8 * 1024**3  # if the system does not report it


@dataclass(eq=False)
class _Read:
    """What reading the image files gave.

    Args:
        files: which of them are kept, with sizes and digests.
        images: the kept ones, by row; empty if they stay on disk.
        reasons: why others are not, by row.
        copy_of: of copies, the row of the one that is kept.
    """

    files: Files
    images: dict[int, Image] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    copy_of: dict[int, int] = field(default_factory=dict)


def load_folder(
    data_dir: Path | None,
    image_size: int,
    seed: int,
    interpolation: Interpolation = "area",
    stream: bool | None = None,
    *,
    record: SplitRecord | None = None,
    grow: bool = True,
    allow_conflicts: bool = False,
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
        record: splits of an earlier load, which are kept.
        grow: images that are not in `record` go to `train`; otherwise they are left out.
        allow_conflicts: keep the first label of an image that is in two classes.

    Returns:
        The dataset, with the classes in the order of their folders' names; an id is the path below `data_dir`, as
        `file_id` writes it. A folder called by ImageNet's number for its class gives the class' readable name.

    Raises:
        ConfigError: no folder was given.
        DataError: there is no such folder, its layout is not as described above, it has fewer than two classes, a class
            has no readable training image or too few to divide, a split has none, an image is in two classes, two
            folders are of one class, or the folder contradicts `record`.
    """
    silence_opencv()  # a damaged file has its own reason
    given = data_dir or os.environ.get("DATA_DIR")
    if not given:
        raise ConfigError("the folder dataset needs a folder; set DATA_DIR to one with a sub-folder a class")
    root = Path(given)
    if not os.path.isdir(root):  # noqa: PTH112 (a path may be longer than `Path.is_dir` takes)
        raise DataError(f"{root} is not a folder; give one with a sub-folder of images for each class")
    found = find_class_folders(root)
    labels = readable_labels(found.class_names)
    streamed, residence = choose_residence(len(found.names), image_size, stream)
    stored = InputSpec(image_size, interpolation=interpolation)
    read = _listed(root, found, sizes=record is not None) if streamed else _read(root, found, stored)
    conflicts = tuple(_conflicts(found, read, allow_conflicts))
    _check_classes(found, read)
    codes, changes = _divide(root, found, read, seed, record, grow)
    _check_splits(found, read, codes)
    splits = _on_disk(root, found, codes, stored) if streamed else _in_memory(found, read, codes, image_size)

    def new_record() -> SplitRecord:
        sized = not streamed or record is not None
        files = read.files if sized else _listed(root, found, sizes=True).files
        return make_record(files, codes, record)

    return Dataset(
        name=printable(name_text(root.resolve().name)) or "folder",
        labels=labels,
        **splits,
        skipped=tuple(f"{found.names[row]}: {reason}" for row, reason in read.reasons.items()),
        residence=residence,
        notes=(*found.notes, *_missing_classes(found, codes), *conflicts, *changes),
        listed=_account(found, read, codes),
        record=new_record,
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


def _listed(root: Path, found: ClassFolders, sizes: bool) -> _Read:
    """Keep every image file unread, with its size if that is needed."""
    count = len(found.names)
    return _Read(
        Files(
            found.names,
            found.split_of,
            np.ones(count, dtype=np.bool_),
            file_sizes(root, found.names) if sizes else np.full(count, -1, dtype=np.int64),
            np.broadcast_to(np.uint8(0), (count, SHA256_BYTES)),
        )
    )


def _read(root: Path, found: ClassFolders, spec: InputSpec) -> _Read:
    """Read the images, and compare them by their content."""
    count = len(found.names)
    kept, sizes = np.zeros(count, dtype=np.bool_), np.full(count, -1, dtype=np.int64)
    digests = np.zeros((count, SHA256_BYTES), dtype=np.uint8)
    result = _Read(Files(found.names, found.split_of, kept, sizes, digests))
    first_with: dict[bytes, int] = {}
    for row, name in enumerate(tqdm(found.names, desc="reading images", unit="image", disable=None)):
        try:
            content = read_content(root / name)
            sizes[row] = len(content)
            hashed = digest(content)
            first = first_with.get(hashed.tobytes())
            if first is None:
                result.images[row] = resize_square(decode(content), spec)
        except DataError as error:
            result.reasons[row] = str(error)
            continue
        digests[row] = hashed
        if first is None:
            first_with[hashed.tobytes()] = row
            kept[row] = True
        else:
            result.copy_of[row] = first
            result.reasons[row] = f"same image as {found.names[first]}"
    return result


def _conflicts(found: ClassFolders, read: _Read, allowed: bool) -> Iterator[str]:
    """Yield a line on images that are in two classes.

    Raises:
        DataError: there are some, and they are not allowed.
    """
    pairs = [
        f"{found.names[first]} and {found.names[row]}"
        for row, first in read.copy_of.items()
        if found.labels[row] != found.labels[first]
    ]
    if pairs and not allowed:
        raise DataError(
            f"{len(pairs)} image(s) are in two classes ({first_few(pairs)}); remove one of each pair, or give "
            "--allow-conflicts to keep the first"
        )
    if pairs:
        yield f"{len(pairs)} image(s) are in two classes, and keep the first ({first_few(pairs)})"


def _check_classes(found: ClassFolders, read: _Read) -> None:
    train = found.split_of == SPLITS.index("train")
    present = np.unique(found.labels[train & read.files.kept])
    empty = [label for label in range(len(found.class_names)) if label not in present]
    if empty:
        reasons = [f"{found.class_names[label]} {_left_out(found, read, label)}" for label in empty[:SHOWN]]
        raise DataError(
            f"no readable training image for class {'; for class '.join(reasons)}"
            f"{f'; nor for {len(empty) - SHOWN} other classes' if len(empty) > SHOWN else ''}; "
            f"add {', '.join(SUFFIXES)} files or remove the folder"
        )


def _left_out(found: ClassFolders, read: _Read, label: int) -> str:
    """Return how many images of a class are not used and why, and what else its folder has: the first of each."""
    lines = [f"{found.names[row]}: {reason}" for row, reason in read.reasons.items() if found.labels[row] == label]
    others = found.left_by_class.get(found.class_names[label], ())
    if not lines and not others:
        return NOTHING_LEFT_OUT
    skipped = f"{len(lines)} skipped{': ' if lines else ''}{first_few(lines)}"
    return f"({skipped}{'; no image files: ' if others else ''}{', '.join(others)})"


def _divide(
    root: Path, found: ClassFolders, read: _Read, seed: int, record: SplitRecord | None, grow: bool
) -> tuple[Codes, tuple[str, ...]]:
    """Return the split of each file, `LEFT_OUT` of those not used, and lines on what has changed since `record`."""
    if record is not None:
        followed = follow(record, read.files, found.given, grow=grow, root=root)
        return followed.codes, followed.notes
    codes = np.where(read.files.kept, found.split_of, np.uint8(LEFT_OUT))
    absent = [split for split in SPLITS if split not in found.given]
    whole = np.flatnonzero(codes == SPLITS.index("train"))
    drawn = stratified_split(
        found.labels[whole],
        [HELD_OUT_FRACTION] * len(absent),
        seed,
        found.class_names,
        lambda label: f" {reasons}" if (reasons := _left_out(found, read, label)) != NOTHING_LEFT_OUT else "",
    )
    for split, indices in zip(absent, drawn[1:], strict=True):
        codes[whole[indices]] = SPLITS.index(split)
    return codes, ()


def _check_splits(found: ClassFolders, read: _Read, codes: Codes) -> None:
    for number, split in enumerate(SPLITS):
        if (codes == number).any():
            continue
        rows: list[int] = np.flatnonzero(found.split_of == number).tolist() if split in found.given else []
        lines = [f"{found.names[row]}: {read.reasons[row]}" for row in rows if row in read.reasons]
        copies = sum(row in read.copy_of for row in rows)
        raise DataError(
            f"the {split} split is empty: {len(rows)} image files, {copies} of them copies of other images, "
            f"{len(lines) - copies} unreadable{f' ({first_few(lines)})' if lines else ''}; give it images of its own"
        )


def _missing_classes(found: ClassFolders, codes: Codes) -> Iterator[str]:
    for number, split in enumerate(SPLITS):
        present = np.unique(found.labels[codes == number])
        missing = [name for label, name in enumerate(found.class_names) if label not in present]
        if missing:
            yield f"{split} has no image of {len(missing)} class(es) ({first_few(missing)})"


def _account(found: ClassFolders, read: _Read, codes: Codes) -> FileCounts:
    return FileCounts(
        seen=found.seen,
        used=int((codes != LEFT_OUT).sum()),
        copies=len(read.copy_of),
        unreadable=len(read.reasons) - len(read.copy_of),
        left_out=int(((codes == LEFT_OUT) & read.files.kept).sum()),
        outside_classes=found.outside,
        hidden=found.hidden,
        unknown_format=found.unknown,
        not_plain=found.special,
    )


def _in_memory(found: ClassFolders, read: _Read, codes: Codes, image_size: int) -> dict[str, Split]:
    splits = {}
    for number, split in enumerate(SPLITS):
        rows = np.flatnonzero(codes == number)
        resized = np.empty((len(rows), image_size, image_size, 3), dtype=np.uint8)
        for place, row in enumerate(rows.tolist()):
            resized[place] = read.images[row]
        splits[split] = Split(resized, found.labels[rows], tuple(FileIds(found.names.part(rows))))
    return splits


def _on_disk(root: Path, found: ClassFolders, codes: Codes, stored: InputSpec) -> dict[str, Split]:
    pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")
    unreadable = Unreadable(len(found.names))
    splits = {}
    for number, split in enumerate(SPLITS):
        rows = np.flatnonzero(codes == number)
        names, labels = found.names.part(rows), found.labels[rows]
        images = LazyImages(root, names, labels, (stored,), pool, unreadable)
        splits[split] = Split(images, labels, FileIds(names))
    return splits
