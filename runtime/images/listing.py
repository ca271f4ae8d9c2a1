"""Listing of image files: the one walk through folders. No file is opened; a name and its kind are all that is read."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.core.errors import DataError
from runtime.images.formats import SUFFIXES

# Of operating systems, network drives and archives, in lower case; all names with a leading dot count as well.
SYSTEM_NAMES = frozenset(
    {
        "__macosx", "@eadir", "#recycle", "#snapshot", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
        "lost+found", "$recycle.bin", "system volume information",
    }
)  # fmt: skip
SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What a folder holds itself, by kind; its sub-folders are listed apart. Names are sorted.

    Attributes:
        path: below the folder that was listed, with forward slashes; "" for that folder itself.
        images: files with the ending of an image format, broken links with such an ending included.
        hidden: hidden and system entries; in a hidden folder, every file.
        unknown: files with another ending.
        special: FIFOs, sockets, devices, and links to folders that were listed already or hold this one.
        error: why the folder could not be listed; empty if it was.
    """

    path: str
    images: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    special: tuple[str, ...] = ()
    error: str = ""

    @property
    def seen(self) -> int:
        """The number of files of all kinds."""
        return len(self.images) + len(self.hidden) + len(self.unknown) + len(self.special)

    def under(self, name: str) -> str:
        """Return the path of one of its entries below the folder that was listed."""
        return f"{self.path}/{name}" if self.path else name


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a folder or a pattern.

    Attributes:
        images: sorted paths to read.
        hidden: number of hidden and system files.
        unknown: files with the ending of no known format, below the folder.
        special: entries that are no plain files, below the folder.
        errors: folders that could not be listed, each as "path: reason".
    """

    images: tuple[Path, ...]
    hidden: int = 0
    unknown: tuple[str, ...] = ()
    special: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    def passed_over(self) -> str:
        """Return what is not read, by kind, with the first names; "" if everything is."""
        parts = [f"{self.hidden} hidden or system file(s)"] if self.hidden else []
        for names, kind in ((self.unknown, "of no known format"), (self.special, "not plain file(s)")):
            if names:
                parts.append(f"{len(names)} {kind} ({first_few(names)})")
        if self.errors:
            parts.append(f"{len(self.errors)} folder(s) that cannot be listed ({first_few(self.errors)})")
        return ", ".join(parts)


def first_few(names: tuple[str, ...] | list[str]) -> str:
    """Join the first three names, and say that there are more."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def is_hidden(name: str) -> bool:
    """Return whether a file or folder name is hidden or of a system, not of the user."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def is_image_name(name: str) -> bool:
    """Return whether a file name has the ending of an image format, in any case."""
    return name.lower().endswith(SUFFIXES)


def visible_folders(folder: Path) -> list[str]:
    """Return the names of the folders that a folder holds, sorted, without hidden and system ones.

    Raises:
        DataError: it cannot be listed.
    """
    entries, error = _entries(folder)
    if error:
        raise DataError(f"{folder} cannot be listed ({error}); make it readable")
    return [each.name for each in entries if not is_hidden(each.name) and _kind(each) == "folder"]


def walk(root: Path, depth: int | None = None) -> Iterator[Folder]:
    """List a folder and all below it.

    Links to files and folders are followed. A folder that several links lead to is listed once, and no link leads to
    a folder that holds `root`.

    Args:
        root: the folder.
        depth: how many levels of sub-folders are listed; all, if `None`.

    Yields:
        Each folder before its sub-folders, these sorted by name.
    """
    real = Path(os.path.realpath(root))
    listed = {str(real), *map(str, real.parents)}
    # The path below the root, whether it is hidden, and its level.
    waiting = [("", False, 0)]
    while waiting:
        path, hidden, level = waiting.pop()
        files: dict[str, list[str]] = {kind: [] for kind in ("images", "hidden", "unknown", "special")}
        below = []
        entries, error = _entries(root / path)
        for entry in entries:
            within = hidden or is_hidden(entry.name)
            kind = _kind(entry)
            if kind == "folder" and not (within and entry.is_symlink()) and _is_new(entry, listed):
                below.append((f"{path}/{entry.name}" if path else entry.name, within, level + 1))
            else:
                files["hidden" if within else "special" if kind == "folder" else kind].append(entry.name)
        yield Folder(
            path=path,
            images=tuple(files["images"]),
            hidden=tuple(files["hidden"]),
            unknown=tuple(files["unknown"]),
            special=tuple(files["special"]),
            error="" if hidden else error,
        )
        if depth is None or level < depth:
            waiting.extend(reversed(below))


def images_of(spec: str) -> Listing | None:
    """List the image files of a folder and all below it, or those that a pattern names.

    Args:
        spec: a folder; or a path with `*`, `?`, `[...]`, and `**` for any folders, whose wildcards find no hidden or
            system entries. Where it names no file with the ending of an image, all plain files that it names.

    Returns:
        The listing; `None` of any other path, and of a pattern that names nothing.

    Raises:
        DataError: `**` is a part of a name.
    """
    if os.path.isdir(spec):  # noqa: PTH112 (a path may be longer than `Path.is_dir` takes)
        return _listing(Path(spec), list(walk(Path(spec))))
    parts = Path(spec).parts
    first = next((place for place, part in enumerate(parts) if re.search(r"[*?\[]", part)), None)
    if first is None or os.path.exists(spec):  # noqa: PTH110
        return None
    wild = parts[first:]
    if any("**" in part and part != "**" for part in wild):
        raise DataError(f"received the pattern {spec!r}; expected `**` as a whole part, such as 'shots/**/*.png'")
    root = Path(*parts[:first])
    depth = None if "**" in wild else len(wild) - 1
    listing = _listing(root, [_matching(folder, wild) for folder in walk(root, depth)])
    if not listing.images:  # named by the user: reading them says what they are
        listing = replace(listing, images=tuple(sorted(root / name for name in listing.unknown)), unknown=())
    return listing if listing.images or listing.special else None


def _matching(folder: Folder, wild: Sequence[str]) -> Folder:
    """Return what of a folder a pattern names; nothing hidden."""

    def chosen(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if _matches(folder.under(name).split("/"), wild))

    images, unknown, special = map(chosen, (folder.images, folder.unknown, folder.special))
    return Folder(path=folder.path, images=images, unknown=unknown, special=special)


def _matches(parts: Sequence[str], wild: Sequence[str]) -> bool:
    """Return whether the parts of a path match those of a pattern."""
    if not wild or not parts:
        return not wild and not parts
    if wild[0] == "**":
        return len(wild) == 1 or any(_matches(parts[skipped:], wild[1:]) for skipped in range(len(parts)))
    return fnmatch.fnmatchcase(parts[0], wild[0]) and _matches(parts[1:], wild[1:])


def _listing(root: Path, folders: list[Folder]) -> Listing:
    def paths(kind: str) -> tuple[str, ...]:
        return tuple(folder.under(name) for folder in folders for name in getattr(folder, kind))

    return Listing(
        images=tuple(sorted(root / path for path in paths("images"))),
        hidden=len(paths("hidden")),
        unknown=paths("unknown"),
        special=paths("special"),
        errors=tuple(f"{root / folder.path}: {folder.error}" for folder in folders if folder.error),
    )


def _entries(folder: Path) -> tuple[list[os.DirEntry[str]], str]:
    """Return what a folder holds, sorted by name, and why it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda each: each.name), ""
    except (OSError, ValueError) as error:
        return [], getattr(error, "strerror", None) or str(error)


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir():
            return "folder"
        # Reading a broken link gives the reason.
        plain = entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))  # noqa: PTH110 (bytes)
    except OSError:
        plain = True
    return "special" if not plain else "images" if is_image_name(entry.name) else "unknown"


def _is_new(entry: os.DirEntry[str], listed: set[str]) -> bool:
    real = os.path.realpath(entry.path)
    new = real not in listed
    listed.add(real)
    return new
