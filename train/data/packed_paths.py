"""File names in less than half of the memory that strings take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from runtime.core.text import file_id


@dataclass(frozen=True, eq=False)
class FileNames(Sequence[str]):
    """Paths below a folder, with forward slashes, each made a string when indexed.

    Args:
        folders: the folders that the files are in, below the common one.
        folder_of: int32 `[N]`, each an index into `folders`.
        content: the names, one after the other, as the file system has them.
        starts: int64 `[N]`, where in `content` each begins.
        lengths: uint16 `[N]`, their bytes.
    """

    folders: tuple[str, ...]
    folder_of: NDArray[np.int32]
    content: bytes
    starts: NDArray[np.int64]
    lengths: NDArray[np.uint16]

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> FileNames: ...
    def __getitem__(self, index: int | slice) -> str | FileNames:
        """Return a file's path, or the names of a slice of the files."""
        if isinstance(index, slice):
            return self.part(np.arange(*index.indices(len(self))))
        start = int(self.starts[index])
        name = os.fsdecode(self.content[start : start + int(self.lengths[index])])
        return f"{self.folders[self.folder_of[index]]}/{name}"

    def part(self, rows: NDArray[np.int64]) -> FileNames:
        """Return the names of some of the files, `[M]` of them in this order; they share their content with these."""
        return FileNames(self.folders, self.folder_of[rows], self.content, self.starts[rows], self.lengths[rows])

    @property
    def size_bytes(self) -> int:
        """Memory that the names take, in bytes; parts have their content in common."""
        arrays = (self.folder_of, self.starts, self.lengths)
        return len(self.content) + sum(each.nbytes for each in arrays) + sum(len(each) for each in self.folders)


@dataclass(frozen=True, eq=False)
class FileIds(Sequence[str]):
    """The identifiers of files, each made when indexed: their paths as `file_id` writes them, in UTF-8 and printable.

    Args:
        names: N paths.
    """

    names: FileNames

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> FileIds: ...
    def __getitem__(self, index: int | slice) -> str | FileIds:
        """Return a file's identifier, or those of a slice of the files."""
        return FileIds(self.names[index]) if isinstance(index, slice) else file_id(self.names[index])


class FileNamesBuilder:
    """Collects names folder by folder, so that at most one folder's are strings at a time."""

    def __init__(self) -> None:
        """Start empty."""
        self._folders: list[str] = []
        self._counts: list[int] = []
        self._content = bytearray()
        self._lengths: list[NDArray[np.uint16]] = []

    def add(self, folder: str, names: Sequence[str]) -> None:
        """Add the files of a folder."""
        encoded = [os.fsencode(name) for name in names]
        self._folders.append(folder)
        self._counts.append(len(encoded))
        self._content += b"".join(encoded)
        self._lengths.append(np.array([len(name) for name in encoded], dtype=np.uint16))

    def build(self) -> FileNames:
        """Return all names, in the order of addition."""
        lengths = np.concatenate([np.empty(0, np.uint16), *self._lengths])
        ends = np.cumsum(lengths, dtype=np.int64)
        folder_of = np.repeat(np.arange(len(self._folders), dtype=np.int32), self._counts)
        return FileNames(tuple(self._folders), folder_of, bytes(self._content), ends - lengths, lengths)
