"""The record of a run's splits: which file is in which, so that later loads of the same folder divide it the same way.

A file is known by its content; where contents were not read, by its path and size. `split.npz` holds it.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.core.errors import ArtifactError, DataError
from runtime.core.files import replacing
from runtime.images.listing import first_few
from train.data.folders.class_folders import SPLITS
from train.data.packed_paths import FileNames

LEFT_OUT = 255  # a copy, or unreadable
SHA256_BYTES = 32
TRAIN = SPLITS.index("train")

Codes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class SplitRecord:
    """Files and their splits.

    Attributes:
        paths: N paths below the dataset's folder, as the file system has them, joined by NUL.
        codes: uint8 `[N]`, each an index into `SPLITS`, or `LEFT_OUT`.
        sizes: int64 `[N]`, bytes of each file; -1 if unknown.
        digests: uint8 `[N, 32]`, SHA-256 of each file; zeros if it was not read.
    """

    paths: bytes
    codes: Codes
    sizes: NDArray[np.int64]
    digests: NDArray[np.uint8]

    @cached_property
    def names(self) -> list[bytes]:
        """The paths, one by one."""
        return self.paths.split(b"\0") if len(self.codes) else []

    @cached_property
    def code_of_content(self) -> dict[bytes, int]:
        """The split of each content that is in one."""
        rows = np.flatnonzero((self.codes != LEFT_OUT) & self.digests.any(axis=1))
        return {self.digests[row].tobytes(): int(self.codes[row]) for row in rows}

    def rows_of(self, names: Iterable[bytes]) -> NDArray[np.int64]:
        """Return the row of each path, int64 `[M]`; -1 of an unknown one."""
        row_of = {name: row for row, name in enumerate(self.names)}
        return np.array([row_of.get(name, -1) for name in names], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Files:
    """The image files of a folder, as they are now.

    Attributes:
        names: N paths.
        split_of: uint8 `[N]`, by their folders.
        kept: bool `[N]`, readable and no copy of another.
        sizes: int64 `[N]`, in bytes.
        digests: uint8 `[N, 32]`, SHA-256; zeros if a file was not read.
    """

    names: FileNames
    split_of: Codes
    kept: NDArray[np.bool_]
    sizes: NDArray[np.int64]
    digests: NDArray[np.uint8]

    def encoded(self) -> list[bytes]:
        """Return the paths as the file system has them."""
        return [os.fsencode(name) for name in self.names]


@dataclass(frozen=True, eq=False)
class Followed:
    """Files that were divided as a record says.

    Attributes:
        codes: uint8 `[N]`, each an index into `SPLITS`, or `LEFT_OUT`.
        notes: lines on what has changed.
    """

    codes: Codes
    notes: tuple[str, ...]


def follow(record: SplitRecord, files: Files, given: Mapping[str, str], *, grow: bool, root: Path) -> Followed:
    """Divide files as a record says.

    Args:
        record: of the run.
        files: the files as they are now.
        given: the splits that have a folder.
        grow: new files go to `train`; otherwise they are left out.
        root: folder of the files, for errors.

    Raises:
        DataError: no file is known, files have moved from a split to another, or a split with a folder has new files.
    """
    if not len(record.codes):
        raise DataError("the run's record of its splits has no file; name another --run")
    rows = record.rows_of(files.encoded())
    codes = _known(record, files, rows)
    codes[~files.kept] = LEFT_OUT
    if not ((codes >= 0) & (codes != LEFT_OUT)).any():
        raise DataError(f"none of the images of the run is in {root}; give its images, or name another --run")
    _check_moves(files, codes, given)
    new = np.flatnonzero(codes < 0)
    if grow:
        _check_new(files, new)
    codes[new] = TRAIN if grow else LEFT_OUT
    consequence = "they go to train" if grow else "they are left out"
    return Followed(codes.astype(np.uint8), tuple(_notes(record, files, rows, new, consequence)))


def _known(record: SplitRecord, files: Files, rows: NDArray[np.int64]) -> NDArray[np.int16]:
    """Return the split of each file, -1 of new and changed ones."""
    read = files.digests.any(axis=1)
    same = (rows >= 0) & (record.sizes[rows] == files.sizes)
    # Of a file that was read then and now, the content decides.
    same &= ~read | (~record.digests[rows].any(axis=1) & (record.codes[rows] != LEFT_OUT))
    codes = np.where(same, record.codes[rows].astype(np.int16), np.int16(-1))
    for row in np.flatnonzero(read):
        codes[row] = record.code_of_content.get(files.digests[row].tobytes(), codes[row])
    return codes


def _check_moves(files: Files, codes: NDArray[np.int16], given: Mapping[str, str]) -> None:
    with_folder = np.isin(codes, [SPLITS.index(split) for split in given])
    expected = np.where(with_folder, codes, TRAIN)
    moved = np.flatnonzero((codes >= 0) & (codes != LEFT_OUT) & (expected != files.split_of))
    if len(moved):
        names = [f"{files.names[row]} was in {SPLITS[codes[row]]}" for row in moved.tolist()]
        raise DataError(
            f"{len(moved)} image(s) changed their split since the run began ({first_few(names)}); put them back, or "
            "name another --run"
        )


def _check_new(files: Files, new: NDArray[np.int64]) -> None:
    held_out = [files.names[row] for row in new if files.split_of[row] != TRAIN]
    if held_out:
        raise DataError(
            f"{len(held_out)} image(s) of val or test are new or changed since the run began ({first_few(held_out)}); "
            "only train may grow: take them out, or name another --run"
        )


def _notes(
    record: SplitRecord, files: Files, rows: NDArray[np.int64], new: NDArray[np.int64], consequence: str
) -> Iterable[str]:
    changed = [files.names[row] for row in new if rows[row] >= 0]
    added = [files.names[row] for row in new if rows[row] < 0]
    present = {digest.tobytes() for digest in files.digests[files.digests.any(axis=1)]}
    absent = np.ones(len(record.codes), dtype=np.bool_)
    absent[rows[rows >= 0]] = False
    removed = [
        os.fsdecode(record.names[row])
        for row in np.flatnonzero(absent & (record.codes != LEFT_OUT))
        if record.digests[row].tobytes() not in present
    ]
    for names, what in ((added, "new since the run began"), (changed, "changed since the run began")):
        if names:
            yield f"{len(names)} image(s) are {what} ({first_few(names)}): {consequence}"
    if removed:
        yield f"{len(removed)} image(s) of the run are missing ({first_few(removed)})"


def make_record(files: Files, codes: Codes, earlier: SplitRecord | None) -> SplitRecord:
    """Return the record of divided files; what an earlier one knows of missing files is kept."""
    encoded = files.encoded()
    if earlier is None:
        return SplitRecord(b"\0".join(encoded), codes, files.sizes, files.digests)
    rows = earlier.rows_of(encoded)
    codes, sizes, digests = codes.copy(), files.sizes.copy(), files.digests.copy()
    unread = (rows >= 0) & (codes == LEFT_OUT) & ~digests.any(axis=1)
    for ours, theirs in ((codes, earlier.codes), (sizes, earlier.sizes), (digests, earlier.digests)):
        ours[unread] = theirs[rows[unread]]
    gone = np.ones(len(earlier.codes), dtype=np.bool_)
    gone[rows[rows >= 0]] = False
    return SplitRecord(
        b"\0".join([*encoded, *(earlier.names[row] for row in np.flatnonzero(gone))]),
        np.concatenate([codes, earlier.codes[gone]]),
        np.concatenate([sizes, earlier.sizes[gone]]),
        np.concatenate([digests, earlier.digests[gone]]),
    )


def digest(content: bytes) -> NDArray[np.uint8]:
    """Return the SHA-256 of a file's content, uint8 `[32]`."""
    return np.frombuffer(hashlib.sha256(content).digest(), np.uint8)


def write_record(path: Path, record: SplitRecord) -> None:
    """Write a record; an existing one is replaced.

    Raises:
        FocalEdgeError: the file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            paths=np.frombuffer(record.paths, np.uint8),
            codes=record.codes,
            sizes=record.sizes,
            digests=record.digests,
        )


def read_record(path: Path) -> SplitRecord:
    """Read a record.

    Raises:
        ArtifactError: the file is missing, damaged, or no record.
    """
    remedy = "name another --run"
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("paths", "codes", "sizes", "digests")}
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ArtifactError(f"{path} is not a readable record of a run's splits ({error}); {remedy}") from error
    codes, sizes, digests = arrays["codes"], arrays["sizes"], arrays["digests"]
    record = SplitRecord(arrays["paths"].tobytes(), codes, sizes, digests)
    fits = codes.shape == sizes.shape == digests.shape[:1] and digests.shape[1:] == (SHA256_BYTES,)
    types = (codes.dtype, sizes.dtype, digests.dtype) == (np.uint8, np.int64, np.uint8)
    if not (fits and types and len(record.names) == len(codes)) or (codes[codes != LEFT_OUT] >= len(SPLITS)).any():
        raise ArtifactError(f"{path} is not a record of a run's splits: its arrays do not fit together; {remedy}")
    return record
