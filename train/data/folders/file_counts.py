"""The account of a dataset's files: how many were seen, and what became of each."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class FileCounts:
    """Numbers of files; all others add up to `seen`.

    Attributes:
        seen: all files below the folder.
        used: images of the three splits.
        copies: images equal to one that is used.
        unreadable: image files that cannot be read.
        left_out: images that the run was not divided with.
        outside_classes: image files in no class folder.
        hidden: hidden and system files.
        unknown_format: files without the ending of an image format.
        not_plain: FIFOs, sockets, devices, and links to folders that were listed already.
    """

    seen: int
    used: int
    copies: int
    unreadable: int
    left_out: int
    outside_classes: int
    hidden: int
    unknown_format: int
    not_plain: int

    def line(self) -> str:
        """Return the counts in one line, without those that are 0."""
        counts = {each.name: getattr(self, each.name) for each in fields(self)}
        seen, used = counts.pop("seen"), counts.pop("used")
        others = "".join(f", {count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
        return f"files: {seen} seen = {used} used{others}"
