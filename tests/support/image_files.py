"""Image files for tests, in memory: every format, orientation and kind of damage."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

PNG_START = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112
# Pillow's name of each format, and the options that keep the pixels where the format can.
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("JPEG", {"quality": 95, "subsampling": 0}),
    "PNG": ("PNG", {}),
    "WebP": ("WEBP", {"lossless": True}),
    "GIF": ("GIF", {}),
    "BMP": ("BMP", {}),
    "TIFF": ("TIFF", {}),
    "AVIF": ("AVIF", {"quality": 90, "subsampling": "4:4:4"}),
    "JPEG 2000": ("JPEG2000", {}),
    "PNM": ("PPM", {}),
}
# The largest difference of a value between two decoders of one file.
TOLERANCE = {"JPEG": 4, "AVIF": 4}


def scene(height: int = 48, width: int = 64) -> Pixels:
    """An image without symmetry, textured up to its corners: uint8 `[H, W, 3]` RGB."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([4 * x % 256, 5 * y % 256, (3 * x + 2 * y) % 256], axis=-1).astype(np.uint8)
    image[: height // 3, : width // 4] = (250, 20, 30)
    texture = np.random.default_rng(0).integers(0, 60, (height, width, 1), dtype=np.uint8)
    return np.asarray(image // 4 * 3 + texture, np.uint8)


def encode(image: Pixels, format_name: str, **options: Any) -> bytes:
    """Encode an image by Pillow, in one of `FORMATS`."""
    name, usual = FORMATS[format_name]
    return saved(PIL.Image.fromarray(image), name, **usual | options)


def saved(image: PIL.Image.Image, name: str, **options: Any) -> bytes:
    """What Pillow writes for an image."""
    stream = io.BytesIO()
    image.save(stream, format=name, **options)
    return stream.getvalue()


def oriented(image: Pixels, format_name: str, orientation: int) -> bytes:
    """Encode an image with an EXIF orientation, 1 to 8."""
    if format_name == "TIFF":
        return encode(image, format_name, tiffinfo={ORIENTATION: orientation})
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(image, format_name, exif=exif)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG's chunk, with its check sum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """The start of an 8-bit RGB PNG."""
    return PNG_START + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def png_data(image: Pixels, filter_byte: bytes = b"\0") -> bytes:
    """The compressed rows of an RGB PNG; no filter byte above 4 exists."""
    return zlib.compress(b"".join(filter_byte + row.tobytes() for row in image))


def hidden_default_apng(still: Pixels, frame: Pixels, filter_byte: bytes = b"\0") -> bytes:
    """An animated PNG whose still image is not one of its frames; `filter_byte` is the frame's.

    OpenCV 5 ends the process on one that does not exist.
    """
    height, width = still.shape[:2]
    control = struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 10, 0, 0)
    return b"".join(
        [
            png_header(width, height),
            png_chunk(b"acTL", struct.pack(">II", 1, 0)),
            png_chunk(b"IDAT", png_data(still)),
            png_chunk(b"fcTL", control),
            png_chunk(b"fdAT", struct.pack(">I", 1) + png_data(frame, filter_byte)),
            png_chunk(b"IEND", b""),
        ]
    )


def file_kinds() -> dict[str, tuple[bytes, str]]:
    """Kinds of image files: the content, and the reason why it is refused, "" where it is read."""
    image = scene()
    still = PIL.Image.fromarray(image)
    frames = {"save_all": True, "append_images": [PIL.Image.fromarray(image[::-1])]}
    jpeg = encode(scene(120, 160), "JPEG")
    kinds = {name: (encode(image, name), "") for name in FORMATS}
    for name in ("JPEG", "PNG", "WebP", "TIFF", "AVIF"):
        kinds |= {f"{name}, orientation {number}": (oriented(image, name, number), "") for number in (3, 5, 6)}
    for name in FORMATS:
        whole = encode(scene(120, 160), name)
        kinds[f"{name}, cut at 55%"] = (whole[: len(whole) * 55 // 100], "cut short|cannot decode|refuses")
    return kinds | {
        "progressive JPEG": (encode(image, "JPEG", progressive=True), ""),
        "CMYK JPEG": (saved(still.convert("CMYK"), "JPEG"), ""),
        "grey JPEG": (saved(still.convert("L"), "JPEG"), ""),
        "palette PNG": (saved(still.convert("P"), "PNG"), ""),
        "1-bit PNG": (saved(still.convert("1"), "PNG"), ""),
        "16-bit PNG": (saved(PIL.Image.fromarray(image[..., 0].astype(np.uint16) * 257), "PNG"), ""),
        "transparent PNG": (saved(still.convert("RGBA"), "PNG"), ""),
        "flat JPEG": (encode(np.full_like(image, 128), "JPEG"), ""),
        "JPEG without its last two bytes": (jpeg[:-2], ""),
        "JPEG with a tail of text": (jpeg + b"appended", ""),
        "animated PNG, hidden still image": (hidden_default_apng(image, image[::-1].copy()), ""),
        "animated PNG, broken frame": (hidden_default_apng(image, image, filter_byte=b"\x09"), ""),
        "animated WebP": (saved(still, "WEBP", lossless=True, **frames), ""),
        "animated GIF": (saved(still, "GIF", **frames), ""),
        "JPEG, cut and ended": (jpeg[: len(jpeg) // 2] + b"\xff\xd9", "cut short"),
        "JPEG, half of it zeros": (jpeg[: len(jpeg) // 2] + bytes(len(jpeg) // 2), "cut short"),
        "PNG of 30000x30000": (png_header(30000, 30000) + png_chunk(b"IEND", b""), "30000x30000 pixels"),
        "PNG without pixels": (png_header(0, 9) + png_chunk(b"IEND", b""), "damaged header"),
        "empty": (b"", "empty file"),
        "web page": (b"<!DOCTYPE html><html>404 not found</html>", "not an image of a known format"),
        "zeros": (bytes(2000), "not an image of a known format"),
    }
