"""Panels of one colour, and a disk with room for a few of them."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.video.writer import ROOM_BYTES


def panel(value: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, np.uint8)


class Disk:
    """A disk with room for a number of panels."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, panels: int) -> None:
        self.panels = panels
        monkeypatch.setattr(shutil, "disk_usage", self.usage)

    def usage(self, _: object) -> SimpleNamespace:
        self.panels -= 1
        return SimpleNamespace(free=ROOM_BYTES + 1 if self.panels >= 0 else 2_000_000)
