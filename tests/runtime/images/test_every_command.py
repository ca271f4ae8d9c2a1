"""The table of file kinds and commands: a file gives equal pixels in every command, or is refused in every command."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.support.image_files import file_kinds
from tests.support.image_paths import COMMANDS, lay_out

KINDS = file_kinds()
# An animation by itself is a video to the demo, played whole or not at all; in a folder it is an image.
REFUSED_AS_VIDEOS = {"animated WebP": "is an animation of 2 frames, of which OpenCV reads one"}
# The demo alone takes what is no image for a video.
NO_IMAGE = r"cannot be read as an image or a video"


@pytest.mark.parametrize("kind", KINDS)
def test_every_command_gives_equal_pixels_or_refuses(kind: str, tmp_path: Path, tiny_bundle: Path) -> None:
    content, refusal = KINDS[kind]
    path = lay_out(tmp_path / "data", content)
    row = {command: read(path, tiny_bundle) for command, read in COMMANDS.items()}
    if refusal:
        reasons = {command: outcome for command, outcome in row.items() if isinstance(outcome, str)}
        assert reasons.keys() == row.keys()
        assert all(re.search(rf"{refusal}|{NO_IMAGE}", reason) for reason in reasons.values()), reasons
        assert len({reason for command, reason in reasons.items() if command != "demo"}) == 1, reasons
        return
    if kind in REFUSED_AS_VIDEOS:
        assert re.search(REFUSED_AS_VIDEOS[kind], str(row.pop("demo")))
    assert not {command: outcome for command, outcome in row.items() if isinstance(outcome, str)}
    first, *others = row.values()
    for other in others:
        np.testing.assert_array_equal(other, first)
