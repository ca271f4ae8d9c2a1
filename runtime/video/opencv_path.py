"""Paths for OpenCV's videos, which must be text: a name that is not UTF-8 would end the process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.core.errors import SourceError


@contextmanager
def opencv_path(path: Path) -> Iterator[str]:
    """Give a path by which OpenCV opens a file, for the length of a `with` block.

    Args:
        path: the file, of any name; it need not exist.

    Yields:
        The absolute path if it is text, as FFmpeg takes `a:b.mp4` for a URL; else that of a symbolic link to it, in a
        new folder for temporary files.

    Raises:
        SourceError: the link cannot be made.
    """
    whole = path.absolute()
    if is_text(str(whole)):
        yield str(whole)
        return
    try:
        folder = tempfile.TemporaryDirectory(prefix="focaledge-")
    except OSError as error:
        raise _not_opened(path, error.strerror or str(error)) from error
    with folder as name:
        link = Path(name) / f"video{path.suffix if is_text(path.suffix) else ''}"
        if not is_text(str(link)):
            raise _not_opened(path, f"the folder for temporary files is {name}")
        try:
            link.symlink_to(whole)
        except OSError as error:
            raise _not_opened(path, error.strerror or str(error)) from error
        yield str(link)


def is_text(path: str) -> bool:
    """Return whether a path can be encoded: whether all its names are UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _not_opened(path: Path, reason: str) -> SourceError:
    return SourceError(
        f"{path} is not UTF-8 and gets no other name ({reason}); rename it, or set TMPDIR to a folder for links"
    )
