"""Pictures in files: the right colours, and the old file when the new one fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from runtime.errors import FocalEdgeError
from runtime.recording import save_picture

PICTURE = np.full((4, 5, 3), (200, 90, 10), dtype=np.uint8)  # R, G, B


def test_a_picture_keeps_its_colours(tmp_path: Path) -> None:
    save_picture(tmp_path / "new" / "picture.png", PICTURE)
    found = cv2.imread(str(tmp_path / "new" / "picture.png"))
    assert found is not None
    assert found.shape == PICTURE.shape
    assert found[3, 4].tolist() == [10, 90, 200]  # B, G, R


def test_a_full_disk_leaves_the_old_picture_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FocalEdgeError, match=r"cannot write .*picture\.png: No space left"):
        save_picture(path, PICTURE)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("shape", [(0, 5, 3), (4, 5, 7)])
def test_what_is_no_picture_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(FocalEdgeError, match="expected uint8"):
        save_picture(tmp_path / "picture.png", np.zeros(shape, dtype=np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FocalEdgeError, match="cannot write"):
        save_picture(tmp_path / "file" / "picture.png", PICTURE)
