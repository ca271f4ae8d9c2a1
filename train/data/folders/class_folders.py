"""The class folders of a tree of images: which files belong to which class and split, and what else is there.

Either `ROOT/class/…/image.jpg`, or `ROOT/train/class/…/image.jpg` with `val` and `test` beside `train`. All files below
a class folder belong to the class.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.core.errors import DataError
from runtime.images.listing import SHOWN, Folder, first_few, is_hidden, visible_folders, walk
from train.data.packed_paths import FileNames, FileNamesBuilder

SPLITS = ("train", "val", "test")
# In any case.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF_NAME = {name: split for split, names in SPLIT_NAMES.items() for name in names}


@dataclass(frozen=True, eq=False)
class ClassFolders:
    """The files of a tree; no image is read.

    Attributes:
        class_names: names of the class folders, sorted.
        given: the splits that have a folder, with its name; "" for a tree without split folders, which is all `train`.
        names: N paths of image files below the root, in the order train, val, test and then by path.
        labels: int64 `[N]`.
        split_of: uint8 `[N]`, each an index into `SPLITS`.
        seen: number of all files.
        hidden: number of hidden and system files.
        unknown: number of files of no known format.
        special: number of entries that are no plain files.
        outside: number of image files that are in no class folder.
        left_by_class: of each class, the first files that are no image files, each as "path: reason".
        notes: lines on what is not used.
    """

    class_names: tuple[str, ...]
    given: Mapping[str, str]
    names: FileNames
    labels: NDArray[np.int64]
    split_of: NDArray[np.uint8]
    seen: int
    hidden: int
    unknown: int
    special: int
    outside: int
    left_by_class: Mapping[str, Sequence[str]]
    notes: tuple[str, ...]


def find_class_folders(root: Path) -> ClassFolders:
    """List a tree of images.

    Raises:
        DataError: there are fewer than two classes, names of classes or splits are alike, a class of `val` or `test` is
            not in `train`, or a folder cannot be listed.
    """
    given = _split_folders(root)
    class_names = _class_names(root, given)
    found = _Found(given, class_names)
    with tqdm(desc="listing images", unit="image", unit_scale=True, disable=None, leave=False) as bar:
        for folder in walk(root):
            if folder.error:
                raise DataError(f"{root / folder.path} cannot be listed ({folder.error}); make it readable")
            found.add(folder)
            bar.update(len(folder.images))
    return found.result()


def _split_folders(root: Path) -> dict[str, str]:
    names = visible_folders(root)
    by_split: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name in names:
        if split := SPLIT_OF_NAME.get(name.lower()):
            by_split[split].append(name)
    # A class may be called "train", but then it holds images and no folders.
    if not any(visible_folders(root / name) for name in by_split["train"]):
        held_out = [*by_split["val"], *by_split["test"]]
        if held_out and len(held_out) == len(names) and any(visible_folders(root / name) for name in held_out):
            raise DataError(f"{root} has {' and '.join(held_out)} but no train; add train/, with a sub-folder a class")
        return {"train": ""}
    for split, found in by_split.items():
        if len(found) > 1:
            raise DataError(
                f"{root} has {' and '.join(map(repr, found))}, which all name the {split} split; "
                "join them or rename all but one"
            )
    return {split: found[0] for split, found in by_split.items() if found}


def _class_names(root: Path, given: Mapping[str, str]) -> tuple[str, ...]:
    names = {split: visible_folders(root / folder) for split, folder in given.items()}
    _check_alike(root, sorted({name for each in names.values() for name in each}))
    if len(names["train"]) < 2:
        raise DataError(
            f"{root / given['train']} has {len(names['train'])} class folder(s); expected at least 2, each with the "
            f"images of one class{_hint(root / given['train'])}"
        )
    for split in names:
        strange = sorted(set(names[split]) - set(names["train"]))
        if strange:
            raise DataError(
                f"{root}: {split} has the class(es) {', '.join(strange)}, which train has not; "
                f"add them to train or remove them from {split}"
            )
    return tuple(names["train"])


def _check_alike(root: Path, names: Sequence[str]) -> None:
    """Refuse names that look the same: they differ in case or in how accents are written (Unicode normalisation)."""
    first_of: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        first = first_of.setdefault(key, name)
        if first != name:
            raise DataError(
                f"{root}: the class folders {first!a} and {name!a} differ only in case or Unicode normalisation; "
                "join them or rename one"
            )


def _hint(folder: Path) -> str:
    """Return where the class folders seem to be, if the folder holds nothing but a folder that holds them."""
    inner, passed = folder, {os.path.realpath(folder)}
    while len(names := visible_folders(inner)) == 1 and os.path.realpath(inner / names[0]) not in passed:
        inner = inner / names[0]
        passed.add(os.path.realpath(inner))
    return f"; give {inner}, which has {first_few(names)}" if inner != folder and len(names) > 1 else ""


class _Found:
    """Sorts the folders of a walk into classes and splits."""

    def __init__(self, given: Mapping[str, str], class_names: tuple[str, ...]) -> None:
        self._given, self._class_names = given, class_names
        self._split_of_folder = {folder: split for split, folder in given.items()}
        self._label_of = {name: label for label, name in enumerate(class_names)}
        self._names = FileNamesBuilder()
        self._groups: list[tuple[int, int, int]] = []  # label, split and number of files
        self._counts = dict.fromkeys(("seen", "hidden", "unknown", "special", "outside"), 0)
        self._left: dict[str, list[str]] = defaultdict(list)
        self._outside: dict[str, tuple[int, list[str]]] = {}
        self._inner: dict[str, dict[str, str]] = defaultdict(dict)

    def add(self, folder: Folder) -> None:
        """Count a folder's files, and keep the names of its images if it belongs to a class."""
        split, class_name = self._place(folder.path)
        for kind in ("hidden", "unknown", "special"):
            self._counts[kind] += len(getattr(folder, kind))
        self._counts["seen"] += folder.seen
        if class_name is None:
            self._pass_over(folder)
            for name in folder.special:  # a class folder that is a link to one of another name
                self._leave(self._place(folder.under(name))[1], folder, [name], "a link to a folder already listed")
            return
        self._check_inner(class_name, folder.path)
        self._leave(class_name, folder, folder.unknown, "of no known format")
        self._leave(class_name, folder, folder.special, "not a plain file")
        if folder.images:
            self._names.add(folder.path, folder.images)
            self._groups.append((self._label_of[class_name], SPLITS.index(split), len(folder.images)))

    def result(self) -> ClassFolders:
        """Return what was found, in the order of the splits."""
        groups = np.array(self._groups, dtype=np.int64).reshape(-1, 3)
        labels, splits = (np.repeat(groups[:, column], groups[:, 2]) for column in (0, 1))
        order = np.argsort(splits, kind="stable")
        return ClassFolders(
            self._class_names,
            self._given,
            self._names.build().part(order),
            labels[order],
            splits[order].astype(np.uint8),
            **self._counts,
            left_by_class=self._left,
            notes=tuple(self._notes()),
        )

    def _place(self, path: str) -> tuple[str, str | None]:
        """Return split and class of a path; no class for what is in none."""
        parts = path.split("/") if path else []
        if self._given["train"]:
            split = self._split_of_folder.get(parts[0], "") if parts else ""
            parts = parts[1:] if split else []
        else:
            split = "train"
        return split, parts[0] if parts and parts[0] in self._label_of else None

    def _pass_over(self, folder: Folder) -> None:
        """Count the images of a folder that belongs to no class."""
        self._counts["outside"] += len(folder.images)
        top = folder.path.split("/")[0]
        if not is_hidden(top):
            count, first = self._outside.get(top, (0, []))
            names = folder.images[: SHOWN - len(first)]
            self._outside[top] = count + len(folder.images), [*first, *map(folder.under, names)]

    def _leave(self, class_name: str | None, folder: Folder, names: Sequence[str], reason: str) -> None:
        if class_name is not None:
            left = self._left[class_name]
            left += [f"{folder.under(name)}: {reason}" for name in names[: SHOWN - len(left)]]

    def _check_inner(self, class_name: str, path: str) -> None:
        """Refuse splits within a class: their images would be divided again."""
        parts = path.split("/")[2 if self._given["train"] else 1 :]
        if parts and (split := SPLIT_OF_NAME.get(parts[0].lower())):
            splits = self._inner[class_name]
            splits[split] = parts[0]
            if "train" in splits and len(splits) > 1:
                raise DataError(
                    f"the class folder {class_name} holds the splits {' and '.join(splits.values())}; expected "
                    f"{splits['train']}/{class_name}/, a class folder in each split"
                )

    def _notes(self) -> Iterator[str]:
        for top, (count, first) in self._outside.items():
            if self._given["train"] and top and top not in self._split_of_folder:
                yield f"{top}: neither train, val nor test{f', {count} image(s) not used' if count else ''}"
            elif count:
                yield f"{count} image(s) in no class folder, not used ({', '.join(first)}{', ...' * (count > SHOWN)})"
