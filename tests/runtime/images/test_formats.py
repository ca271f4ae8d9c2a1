"""Headers of image files: size, orientation and what is decoded, without decoding."""

from __future__ import annotations

import io
import struct

import PIL.Image
import pytest

from runtime.core.errors import DataError
from runtime.images.formats import FIRST_BYTES, NAMES, SUFFIXES, read_header, read_jpeg, starts_like_an_image
from tests.support.image_files import (
    FORMATS,
    PNG_START,
    encode,
    hidden_default_apng,
    oriented,
    png_chunk,
    png_data,
    png_header,
    saved,
    scene,
)

WITH_EXIF = ("JPEG", "PNG", "WebP", "TIFF", "AVIF")


@pytest.mark.parametrize("name", NAMES)
def test_the_header_gives_format_and_size(name: str) -> None:
    content = encode(scene(height=33, width=50), name)
    header = read_header(content)
    assert (header.format, header.width, header.height, header.orientation) == (name, 50, 33, 1)
    assert starts_like_an_image(content[:FIRST_BYTES])


def test_every_format_is_tried() -> None:
    assert set(FORMATS) == set(NAMES)
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SUFFIXES)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", WITH_EXIF)
def test_the_orientation_is_read(name: str, orientation: int) -> None:
    assert read_header(oriented(scene(), name, orientation)).orientation == orientation


@pytest.mark.parametrize("value", [0, 9, 65535])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WebP", "TIFF"])
def test_an_orientation_that_does_not_exist_is_upright(name: str, value: int) -> None:
    assert read_header(oriented(scene(), name, value)).orientation == 1


def test_damaged_exif_is_upright() -> None:
    plain = encode(scene(), "JPEG")
    for block in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0XX*\0\x08\0\0\0", b"Exif\0\0MM\0*\0\0"):
        content = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]
        assert read_header(content).orientation == 1


@pytest.mark.parametrize(
    "content",
    [b"<html><body>404</body></html>", b"\0" * 100, b"GIF90a" + b"\0" * 20, b"RIFF\0\0\0\0AVI LIST", b"P7\nWIDTH 1\n"],
)
def test_another_kind_of_file_is_named_as_such(content: bytes) -> None:
    with pytest.raises(DataError, match=r"not an image of a known format \(JPEG, PNG"):
        read_header(content)
    assert not starts_like_an_image(content[:FIRST_BYTES])


def test_an_empty_file_is_named_as_such() -> None:
    with pytest.raises(DataError, match="empty file"):
        read_header(b"")


@pytest.mark.parametrize("name", NAMES)
def test_only_the_first_bytes_are_never_an_image(name: str) -> None:
    content = encode(scene(), name)
    for length in range(1, 9):
        with pytest.raises(DataError):
            read_header(content[:length])


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_no_width_or_no_height_is_damage(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="damaged header"):
        read_header(png_header(*size) + png_chunk(b"IEND", b""))


def test_animation_and_metadata_of_a_png_are_left_out() -> None:
    content = hidden_default_apng(scene(), scene()[::-1])
    kept = read_header(content).content
    assert kept.startswith(PNG_START)
    assert not [kind for kind in (b"acTL", b"fcTL", b"fdAT") if kind in kept]
    assert PIL.Image.open(io.BytesIO(kept)).size == (64, 48)


def test_a_png_may_lack_its_end_chunk_alone() -> None:
    content = png_header(64, 48) + png_chunk(b"IDAT", png_data(scene()))
    assert read_header(content).content == content + png_chunk(b"IEND", b"")
    with pytest.raises(DataError, match="cut short"):
        read_header(content[:-1])


def test_of_an_animated_webp_the_first_frame_is_decoded() -> None:
    frames = [PIL.Image.fromarray(image) for image in (scene(), scene()[::-1].copy())]
    content = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    header = read_header(content)
    assert (header.width, header.height) == (64, 48)
    assert b"ANMF" not in header.content


def test_a_jpeg_that_ends_as_it_should_is_not_searched() -> None:
    whole = encode(scene(), "JPEG")
    header = read_header(whole)
    assert (header.content, header.ended, header.scan_end) == (whole, True, 0)
    assert read_jpeg(whole, to_the_end=True).scan_end == len(whole) - 2


@pytest.mark.parametrize("tail", [b"appended by a camera", b"\xff\xe1 not a segment", b"\0" * 5000])
def test_what_follows_a_jpeg_is_of_no_matter(tail: bytes) -> None:
    whole = encode(scene(), "JPEG")
    header = read_header(whole + tail)
    assert (header.ended, header.scan_end) == (True, len(whole) - 2)


def test_a_jpeg_without_its_end_marker_gets_one() -> None:
    whole = encode(scene(), "JPEG")
    for missing in (1, 2):
        header = read_header(whole[:-missing])
        assert (header.content, header.ended) == (whole, False)


def test_the_end_marker_of_a_thumbnail_is_not_the_image_s() -> None:
    whole, thumbnail = encode(scene(240, 320), "JPEG"), encode(scene(8, 8), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    content = whole[:2] + segment + whole[2:]
    assert read_header(content).height == 240
    assert not read_header(content[:-900]).ended


def _scans(content: bytes) -> list[int]:
    """Where the scans of a JPEG start."""
    return [place for place in range(len(content)) if content[place : place + 2] == b"\xff\xda"]


def test_a_progressive_jpeg_needs_its_scans() -> None:
    whole = encode(scene(), "JPEG", progressive=True)
    starts = _scans(whole)
    assert len(starts) > 3
    assert read_header(whole).ended
    for start in starts[1:]:
        with pytest.raises(DataError, match="cut short"):
            read_header(whole[:start] + b"\xff\xd9")


def test_a_colour_that_no_scan_gives_is_missed() -> None:
    """A baseline JPEG of one scan a component, whose last is missing."""
    whole = encode(scene(), "JPEG")
    start = _scans(whole)[0]
    only_first = whole[:start] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + b"\x12\x34\x56" + b"\xff\xd9"
    with pytest.raises(DataError, match="cut short"):
        read_header(only_first)
