"""The one decoder: pixels as Pillow's, upright, or a reason; no file ends the process."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.core.errors import ConfigError, DataError
from runtime.images.decode import (
    MAX_BYTES,
    MAX_PIXELS,
    MAX_PIXELS_VARIABLE,
    NEEDS_OPENCV_5,
    decode,
    largest_image,
    read_content,
    read_image,
)
from runtime.images.formats import NAMES
from tests.support.image_files import (
    TOLERANCE,
    encode,
    hidden_default_apng,
    oriented,
    png_chunk,
    png_data,
    png_header,
    saved,
    scene,
)
from tests.support.paths import ROOT

OPENCV_5 = int(cv2.__version__.partition(".")[0]) >= 5
READ = tuple(name for name in NAMES if OPENCV_5 or name not in NEEDS_OPENCV_5)
Pixels = NDArray[np.uint8]


def by_pillow(content: bytes) -> Pixels:
    image = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(content)))
    return np.asarray(image.convert("RGB"))


def assert_close(found: Pixels, expected: Pixels, tolerance: int = 0) -> None:
    assert found.shape == expected.shape
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert np.abs(found.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("name", READ)
def test_every_format_gives_pillow_s_pixels(name: str) -> None:
    content = encode(scene(), name)
    assert_close(decode(content), by_pillow(content), TOLERANCE.get(name, 0))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", [name for name in ("JPEG", "PNG", "WebP", "TIFF", "AVIF") if name in READ])
def test_every_orientation_comes_out_upright(name: str, orientation: int) -> None:
    content = oriented(scene(), name, orientation)
    expected = by_pillow(content)
    assert expected.shape[:2] == ((64, 48) if orientation > 4 else (48, 64))
    assert_close(decode(content), expected, TOLERANCE.get(name, 0))


@pytest.mark.skipif(OPENCV_5, reason="OpenCV 5 reads them")
@pytest.mark.parametrize("name", NEEDS_OPENCV_5)
def test_older_versions_of_opencv_refuse_some_formats(name: str) -> None:
    with pytest.raises(DataError, match=f"{name} needs OpenCV 5 or newer"):
        decode(encode(scene(), name))


def _image_of_mode(mode: str) -> PIL.Image.Image:
    if mode == "I;16":
        return PIL.Image.fromarray(np.asarray(scene()[..., 0], np.uint16) * 257)
    return PIL.Image.fromarray(scene()).convert(mode)


@pytest.mark.parametrize(
    ("mode", "file_format", "tolerance"),
    [
        ("1", "PNG", 0),
        ("1", "TIFF", 0),
        ("1", "BMP", 0),
        ("L", "PNG", 0),
        ("L", "JPEG", 0),
        ("L", "TIFF", 0),
        ("L", "BMP", 0),
        ("L", "PPM", 0),
        ("P", "PNG", 0),
        ("P", "BMP", 0),
        ("P", "TIFF", 0),
        ("RGBA", "PNG", 0),
        ("RGBA", "WEBP", 4),
        ("CMYK", "JPEG", 4),
    ],
)
def test_every_kind_of_pixel_is_read(mode: str, file_format: str, tolerance: int) -> None:
    content = saved(_image_of_mode(mode), file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    assert_close(decode(content), by_pillow(content), tolerance)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bits_are_scaled_to_8(file_format: str) -> None:
    content = saved(_image_of_mode("I;16"), file_format)
    assert_close(decode(content), np.repeat(scene()[..., :1], 3, axis=-1), 1)


def test_the_still_image_of_an_animated_png_is_read() -> None:
    still, frame = scene(), scene()[::-1].copy()
    assert_close(decode(hidden_default_apng(still, frame)), still)


def test_the_first_frame_of_an_animated_webp_is_read() -> None:
    frames = [PIL.Image.fromarray(image) for image in (scene(), scene()[::-1].copy())]
    content = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert_close(decode(content), scene())


@pytest.mark.parametrize("share", [0.2, 0.55, 0.9])
@pytest.mark.parametrize("name", NAMES)
def test_a_part_of_a_file_is_refused(name: str, share: float) -> None:
    content = encode(scene(120, 160), name)
    with pytest.raises(DataError):
        decode(content[: int(share * len(content))])


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.55, 0.8])
def test_a_cut_jpeg_with_an_end_marker_is_refused(share: float, progressive: bool) -> None:
    content = encode(scene(120, 160), "JPEG", progressive=progressive)
    with pytest.raises(DataError, match="cut short"):
        decode(content[: int(share * len(content))] + b"\xff\xd9")


@pytest.mark.parametrize("tail", [b"\0", b"\0\0\0\xff\xd9"])
@pytest.mark.parametrize("share", [0.3, 0.55, 0.8])
def test_a_jpeg_that_ends_in_zeros_is_refused(share: float, tail: bytes) -> None:
    """A download that was not finished, in a file of the full length."""
    content = encode(scene(240, 320), "JPEG")
    kept = content[: int(share * len(content))]
    with pytest.raises(DataError, match="cut short"):
        decode(kept + b"\0" * (len(content) - len(kept) - len(tail)) + tail)


@pytest.mark.parametrize("tail", [b"\xff", b"\xff\xff\xff\xd9"])
def test_a_jpeg_that_ends_in_ones_is_refused(tail: bytes) -> None:
    """A file on erased flash memory."""
    content = encode(scene(240, 320), "JPEG")
    with pytest.raises(DataError, match="cut short"):
        decode(content[:9000] + b"\xff" * 5000 + tail)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.55, 0.8])
def test_a_webp_that_ends_in_zeros_is_refused(share: float, lossless: bool) -> None:
    content = encode(scene(240, 320), "WebP", lossless=lossless)
    kept = content[: int(share * len(content))]
    with pytest.raises(DataError, match=r"cut short|cannot decode"):
        decode(kept + bytes(len(content) - len(kept)))


@pytest.mark.parametrize("optimize", [False, True])
def test_a_sound_jpeg_may_have_zeros_at_its_end(optimize: bool) -> None:
    """Optimised tables give the commonest value of a flat image a code of zeros."""
    flat = encode(np.full((600, 800, 3), 90, np.uint8), "JPEG", optimize=optimize)
    half = scene(600, 800)
    half[200:] = 90
    for content in (flat, encode(half, "JPEG", optimize=optimize)):
        for whole in (content, content[:-2], content[:-2] + bytes(3000)):
            assert_close(decode(whole), by_pillow(content), 4)
    assert (bytes(100) in flat) == optimize


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_that_lacks_its_end_marker_alone_is_whole(missing: int, progressive: bool) -> None:
    content = encode(scene(), "JPEG", progressive=progressive)
    np.testing.assert_array_equal(decode(content[:-missing]), decode(content))


@pytest.mark.parametrize("colour", [(0, 0, 0), (128, 128, 128), (255, 255, 255), (200, 30, 60)])
@pytest.mark.parametrize("missing", [0, 2])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (375, 500)])
def test_a_flat_image_is_not_called_cut(size: tuple[int, int], missing: int, colour: tuple[int, int, int]) -> None:
    image = np.full((*size, 3), colour, np.uint8)
    content = encode(image, "JPEG")
    assert_close(decode(content[: len(content) - missing]), by_pillow(content), 4)


def test_a_flat_corner_is_not_called_cut() -> None:
    image = scene(120, 160)
    image[60:, 40:] = 128
    content = encode(image, "JPEG")
    assert_close(decode(content), by_pillow(content), 4)


def test_the_size_is_limited_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    huge = png_header(30000, 30000) + png_chunk(b"IDAT", png_data(scene())) + png_chunk(b"IEND", b"")
    with pytest.raises(DataError, match=r"30000x30000 pixels; expected at most 64,000,000: .*FOCALEDGE_MAX_PIXELS"):
        decode(huge)


@pytest.mark.parametrize("name", READ)
def test_the_limit_can_be_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(scene(), name)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, str(48 * 64))
    assert decode(content).shape == (48, 64, 3)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, str(48 * 64 - 1))
    with pytest.raises(DataError, match="64x48 pixels; expected at most 3,071"):
        decode(content)
    assert decode(content, max_pixels=48 * 64).shape == (48, 64, 3)


@pytest.mark.parametrize("text", ["0", "-1", "64e6", "many", "1" * 20, " "])
def test_a_limit_that_is_no_number_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, text)
    with pytest.raises(ConfigError, match=f"{MAX_PIXELS_VARIABLE}='"):
        largest_image()
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "")
    assert largest_image() == MAX_PIXELS


def test_what_is_no_plain_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    reasons = {
        "fifo.jpg": "not a plain file",
        "folder.jpg": "not a plain file",
        "empty.jpg": "empty file",
        "page.jpg": "not an image of a known format",
        "loop.jpg": "cannot be read",
        "missing.jpg": "no such file",
        "large.jpg": "1,073,741,825 bytes; expected an image file of at most 1,073,741,824",
        "nul\0.jpg": "cannot be read",
    }
    for name, reason in reasons.items():
        with pytest.raises(DataError, match=reason) as caught:
            read_image(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(DataError, match="not a plain file"):
            read_image(device)


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    content = encode(scene(480, 640), "BMP")
    (tmp_path / "image.bmp").write_bytes(content)
    assert read_content(tmp_path / "image.bmp") == content
    np.testing.assert_array_equal(read_image(str(tmp_path / "image.bmp")), decode(content))


def _run_decoder(path: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\nfrom runtime.core.errors import DataError\nfrom runtime.images.decode import read_image\n"
        "try:\n    print(read_image(sys.argv[1]).shape)\nexcept DataError as error:\n    print(error)\n"
    )
    return subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=ROOT, timeout=60)


def test_no_animated_png_ends_the_process(tmp_path: Path) -> None:
    """OpenCV 5 ends it on a frame with a filter that does not exist."""
    still = scene(64, 64)
    (tmp_path / "broken.png").write_bytes(hidden_default_apng(still, still, filter_byte=b"\x09"))
    done = _run_decoder(tmp_path / "broken.png")
    assert (done.returncode, done.stdout) == (0, "(64, 64, 3)\n"), done.stderr


def test_no_file_name_ends_the_process(tmp_path: Path) -> None:
    """OpenCV 5's binding ends it on a name that is not UTF-8."""
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(name, "wb") as file:
        file.write(encode(scene(), "PNG"))
    done = _run_decoder(Path(os.fsdecode(name)))
    assert (done.returncode, done.stdout) == (0, "(48, 64, 3)\n"), done.stderr


def _drawn() -> dict[str, bytes]:
    """Files that are the same bytes on every machine: none of an encoder whose versions differ."""
    image = scene(24, 32)
    rows = b"".join(row[:, ::-1].tobytes() for row in image[::-1])
    size = struct.pack("<IHHI", 54 + len(rows), 0, 0, 54)
    return {
        "PNG": png_header(32, 24) + png_chunk(b"IDAT", png_data(image)) + png_chunk(b"IEND", b""),
        "APNG": hidden_default_apng(image, image[::-1].copy()),
        "BMP": b"BM" + size + struct.pack("<IiiHHIIiiII", 40, 32, 24, 1, 24, 0, len(rows), 0, 0, 0, 0) + rows,
        "PNM": b"P6 32 24 255\n" + image.tobytes(),
    }


@pytest.mark.parametrize("kind", _drawn())
def test_lossless_files_give_what_was_drawn(kind: str) -> None:
    np.testing.assert_array_equal(decode(_drawn()[kind]), scene(24, 32))


SEEDS = [encode(scene(24, 32), name) for name in READ] + [
    encode(scene(24, 32), "JPEG", progressive=True),
    oriented(scene(24, 32), "JPEG", 6),
    oriented(scene(24, 32), "PNG", 7),
    hidden_default_apng(scene(24, 32), scene(24, 32)),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """One of the formats with some bytes changed, removed or repeated, or its end cut off."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, min(len(content), draw(st.sampled_from([64, 400, 10**6])))))
        length = draw(st.integers(0, 8))
        content[place : place + length] = draw(st.binary(max_size=8))
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


@settings(max_examples=400, deadline=None)
@given(st.one_of(mutated(), mutated(), st.binary(max_size=200)))
def test_any_bytes_give_pixels_or_a_reason(content: bytes) -> None:
    try:
        image = decode(content, max_pixels=1_000_000)
    except DataError as error:
        assert str(error)
        assert "\n" not in str(error)
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert 0 < image.size <= 3_000_000
    assert hashlib.sha256(decode(content, max_pixels=1_000_000)).digest() == hashlib.sha256(image).digest()


def test_the_checks_own_bytes_are_not_reported_as_corrupt(capfd: pytest.CaptureFixture[str]) -> None:
    flat = np.full((64, 64, 3), 250, np.uint8)
    flat[:20, :20] = 30
    content = cv2.imencode(".jpg", flat)[1].tobytes()
    assert decode(content).shape == flat.shape
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"
