"""Text on the canvas: any text is drawn, stays in its room, and is measured a few times only."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.draw import canvas
from runtime.draw.canvas import BRIGHT, blank, write_text

ROOM_PX = 150
MOST_MEASUREMENTS = 16


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of each text that is measured."""
    lengths: list[int] = []
    measure = cv2.getTextSize

    def counted(text: str, *others: Any) -> Any:
        lengths.append(len(text))
        return measure(text, *others)

    monkeypatch.setattr(cv2, "getTextSize", counted)
    return lengths


@settings(max_examples=300)
@given(st.text(st.characters(codec=None, exclude_categories=())), st.integers(-5, 400), st.booleans())
def test_any_text_is_drawn_within_its_room(text: str, room_px: int, bold: bool) -> None:
    image = blank(30, 500)
    width_px = write_text(image, text, (20, 20), 10.0, BRIGHT, room_px, bold=bold)
    assert width_px <= max(room_px, 0)


@pytest.mark.parametrize("text", ["y" * 20_000, "\x1b" * 20_000, "'" * 20_000, "wide words " * 1_000, "猫" * 20_000])
def test_a_long_text_is_measured_a_few_times(measured: list[int], text: str) -> None:
    image = blank(30, ROOM_PX + 40)
    assert 0 < write_text(image, text, (20, 20), 10.0, BRIGHT, ROOM_PX) <= ROOM_PX
    assert len(measured) <= MOST_MEASUREMENTS and max(measured) <= ROOM_PX


@pytest.mark.parametrize(
    "text", ["golden retriever of the west", "iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiii", "a b c d e f g h i"]
)
@pytest.mark.parametrize("room_px", [0, 5, 12, 30, 61, 90, 120])
def test_the_longest_part_that_fits_is_kept(text: str, room_px: int) -> None:
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.5
    found, width_px = canvas._cut(text, font, scale, room_px)
    parts = [text, *(text[:count].rstrip() + ".." for count in range(len(text) - 1, 0, -1)), ""]
    widths = {part: cv2.getTextSize(part, font, scale, 1)[0][0] if part else 0 for part in parts}
    expected = next((part for part in parts if widths[part] <= room_px), "")
    assert (found, width_px) == (expected, widths[expected])


def test_a_text_that_is_no_text_is_drawn_as_its_escapes() -> None:
    images = [blank(30, 300) for _ in range(2)]
    for image, text in zip(images, (os.fsdecode(b"Stra\xdfe\n\x1b"), r"Stra\xdfe\n\x1b"), strict=True):
        write_text(image, text, (5, 20), 10.0, BRIGHT, 290)
    assert np.array_equal(*images) and images[0].std() > 0
