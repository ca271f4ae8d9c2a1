"""Atomic writing of files, JSON and hashes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runtime.core.errors import ArtifactError, FocalEdgeError
from runtime.core.text import unicode_only

# Of a temporary file's name, in characters of up to 4 bytes; a name has 255 bytes.
LONGEST_PREFIX = 48


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, and rename it to `path` when the block succeeds.

    Args:
        path: the file to write; its folder is made if missing.

    Yields:
        A path in the same folder, with the same suffix, for the block to write.

    Raises:
        FocalEdgeError: the folder or the file cannot be written; the old file stays.
    """
    # Imported here: most processes only read, and start faster without it.
    import tempfile

    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:LONGEST_PREFIX]}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # mkstemp makes the file private; a result has the permissions of any new file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise FocalEdgeError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that is writable and has room"
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, by `replacing`; NaN and infinities are refused."""
    text = json_text(content, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(content: Any, *, allow_nan: bool = True) -> str:
    """Return `content` as indented JSON in ASCII, without the lone surrogates of names that are not UTF-8."""
    return json.dumps(unicode_only(content), indent=2, allow_nan=allow_nan)


def read_json(path: Path, made_by: str) -> Any:
    """Read a JSON file of an earlier stage.

    Args:
        path: the file.
        made_by: the command that makes it, named in the error.

    Returns:
        The parsed content.

    Raises:
        ArtifactError: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist; make it with `{made_by}`") from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} is not readable JSON ({error}); rebuild it with `{made_by}`") from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
