"""Image file formats: size, orientation and the still image of a file, from its header alone.

One function a format, found by the first bytes of the file. None of them decodes pixels.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from runtime.core.errors import DataError

CUT_SHORT = "cut short"
DAMAGED = "damaged header"
FIRST_BYTES = 16
JPEG_END = b"\xff\xd9"
ORIENTATION_TAG, WIDTH_TAG, HEIGHT_TAG = 0x0112, 0x0100, 0x0101
# A JPEG marker that ends entropy-coded data: not a stuffed byte, a restart or a fill byte.
SCAN_END = rb"\xff[\x01-\xcf\xd8-\xfe]"
PNG_START = b"\x89PNG\r\n\x1a\n"
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE_MARKERS = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_PNG_STILL = (b"IHDR", b"PLTE", b"IDAT")
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


@dataclass(frozen=True)
class Header:
    """What the header of an image file says.

    Attributes:
        format: name of the format.
        width: of the stored image, in pixels.
        height: of the stored image, in pixels.
        content: the bytes to decode: the file; of an animation, its still image; with an end marker if a JPEG has none.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        scan_end: of a JPEG, where its last scan ends in `content`, or 0 if that was not searched; 0 for other formats.
        ended: of a JPEG, whether an end marker follows the last scan.
    """

    format: str
    width: int
    height: int
    content: bytes
    orientation: int = 1
    scan_end: int = 0
    ended: bool = True


def read_header(content: bytes) -> Header:
    """Read the header of an image file.

    Args:
        content: of the file.

    Raises:
        DataError: the format is not known, the header is damaged, or the file ends before its image does.
    """
    if not content:
        raise DataError("empty file")
    for offset, signatures, read in FORMATS:
        if content.startswith(signatures, offset):
            try:
                header = read(content)
            except (struct.error, IndexError, ValueError) as error:
                raise DataError(CUT_SHORT) from error
            if header.width < 1 or header.height < 1:
                raise DataError(DAMAGED)
            return header
    raise DataError(f"not an image of a known format ({', '.join(NAMES)})")


def starts_like_an_image(first_bytes: bytes) -> bool:
    """Return whether a file's first bytes are those of a known format; `FIRST_BYTES` of them decide."""
    return any(first_bytes.startswith(signatures, offset) for offset, signatures, _ in FORMATS)


def read_jpeg(content: bytes, to_the_end: bool = False) -> Header:
    """Read the header of a JPEG; where it ends with its end marker, its last scan is not searched.

    Args:
        content: of the file.
        to_the_end: search the last scan all the same, so that `scan_end` is known.

    Raises:
        DataError: it is damaged, or ends before its last scan.
    """
    position, size, orientation, scan_end, ended = 2, None, 0, 0, False
    scans = _Scans()
    while not ended:
        start = content[position : position + 4]
        marker = start[1] if start[:1] == b"\xff" and len(start) > 1 else None
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xD9:
            ended = True
            break
        if marker is None or len(start) < 4:
            if scan_end:  # what follows the last scan is cut off or not JPEG
                break
            raise DataError(CUT_SHORT if len(start) < 4 else DAMAGED)
        first, position = position + 4, position + 2 + (start[2] << 8 | start[3])
        if not first <= position <= len(content):
            raise DataError(CUT_SHORT)
        if marker in _FRAME_MARKERS:
            size = struct.unpack_from(">HH", content, first + 1)
            scans = _Scans(content[first + 6 : position : 3], progressive=marker in _PROGRESSIVE_MARKERS)
        elif marker == 0xE1 and content.startswith(b"Exif\0\0", first) and not orientation:
            orientation = _exif_orientation(content[first + 6 : position])
        elif marker == 0xDA:
            scans.add(content[first:position])
            if not to_the_end and not scans.progressive and scans.complete() and content.endswith(JPEG_END):
                ended = True
                break
            found = re.compile(SCAN_END).search(content, position)
            position = scan_end = found.start() if found else len(content)
            if not found:
                break
    if size is None:
        raise DataError(DAMAGED)
    if not scans.complete():
        raise DataError(CUT_SHORT)
    if not ended:  # a file may lack its end marker and nothing else
        data = content[:scan_end].rstrip(b"\xff")
        content, scan_end = data + JPEG_END, len(data)
    return Header("JPEG", size[1], size[0], content, orientation or 1, scan_end, ended)


class _Scans:
    """How many bits of each coefficient the scans of a JPEG have not given so far."""

    def __init__(self, components: bytes = b"", progressive: bool = False) -> None:
        self.progressive = progressive
        self._missing = {(component, band): 16 for component in components for band in range(64 if progressive else 1)}

    def add(self, scan: bytes) -> None:
        """Count a scan, by its header."""
        count = scan[0] if scan else 0
        components, (first, last, bits) = scan[1 : 1 + 2 * count : 2], scan[1 + 2 * count : 4 + 2 * count]
        for component in components if self._missing else b"":
            for band in range(first, min(last, 63) + 1) if self.progressive else (0,):
                self._missing[component, band] = bits & 15 if self.progressive else 0

    def complete(self) -> bool:
        """Return whether every coefficient has all its bits."""
        # Encoders may leave out high frequencies that are all zero; the mean colour is always there.
        return not any(bits for (_, band), bits in self._missing.items() if band == 0 or bits < 16)


def _png(content: bytes) -> Header:
    kept, orientation, size = [content[:8]], 1, (0, 0)
    for kind, start, end in _png_chunks(content):
        if kind == b"IHDR":
            size = struct.unpack_from(">II", content, start + 8)
        elif kind == b"eXIf":
            orientation = _exif_orientation(content[start + 8 : end - 4])
        if kind in _PNG_STILL:
            kept.append(content[start:end])
    # Animation and metadata are left out: versions of OpenCV differ in what they make of them.
    return Header("PNG", *size, b"".join([*kept, _PNG_END]), orientation)


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each chunk before the end chunk; it may be missing, other bytes may not."""
    position = 8
    while position < len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        if kind == b"IEND":
            return
        end = position + 12 + length
        if end > len(content):
            raise DataError(CUT_SHORT)
        yield kind, position, end
        position = end


def _webp(content: bytes) -> Header:
    if not content.startswith(b"RIFF"):
        raise DataError(DAMAGED)
    end = 8 + int.from_bytes(content[4:8], "little")
    if end > len(content) + 1:  # a last padding byte may be missing
        raise DataError(CUT_SHORT)
    chunks = dict(_riff_chunks(content[:end], 12))
    orientation = _exif_orientation(chunks[b"EXIF"].removeprefix(b"Exif\0\0")) if b"EXIF" in chunks else 1
    frame = dict(_riff_chunks(chunks[b"ANMF"], 16)) if b"ANMF" in chunks else chunks
    for kind in (b"VP8 ", b"VP8L"):
        if kind in frame:
            data = frame[kind]
            chunk = struct.pack("<4sI", kind, len(data)) + data + b"\0" * (len(data) % 2)
            still = b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk
            width, height = _vp8_size(data) if kind == b"VP8 " else _vp8l_size(data)
            return Header("WebP", width, height, still, orientation)
    raise DataError(DAMAGED)


def _riff_chunks(content: bytes, position: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and data of each chunk, the first of a kind last, so that a `dict` keeps that one."""
    found = []
    while position + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, position)
        if position + 8 + length > len(content):
            raise DataError(CUT_SHORT)
        found.append((kind, content[position + 8 : position + 8 + length]))
        position += 8 + length + length % 2
    return reversed(found)


def _vp8_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width & 0x3FFF, height & 0x3FFF


def _vp8l_size(data: bytes) -> tuple[int, int]:
    (bits,) = struct.unpack_from("<I", data, 1)
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _gif(content: bytes) -> Header:
    width, height = struct.unpack_from("<HH", content, 6)
    return Header("GIF", width, height, content)


def _bmp(content: bytes) -> Header:
    (offset, header_bytes) = struct.unpack_from("<II", content, 10)
    if header_bytes == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", content, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", content, 18)
    stored = (abs(width) * bits + 31) // 32 * 4 * abs(height)
    if compression in (0, 3) and offset + stored > len(content):
        raise DataError(CUT_SHORT)
    return Header("BMP", abs(width), abs(height), content)


def _tiff(content: bytes) -> Header:
    tags = {tag: (value, place) for tag, value, place in _tiff_tags(content)}
    orientation, place = tags.get(ORIENTATION_TAG, (1, 0))
    if place:
        upright = struct.pack("<H" if content.startswith(b"II") else ">H", 1)
        content = content[:place] + upright + content[place + 2 :]
    width, height = (tags.get(tag, (0, 0))[0] for tag in (WIDTH_TAG, HEIGHT_TAG))
    return Header("TIFF", width, height, content, orientation if 1 <= orientation <= 8 else 1)


def _exif_orientation(block: bytes) -> int:
    """Return the orientation of an EXIF block, 1 where it has none or cannot be read."""
    try:
        found = next((value for tag, value, _ in _tiff_tags(block) if tag == ORIENTATION_TAG), 1)
    except (struct.error, DataError):
        return 1
    return found if 1 <= found <= 8 else 1


def _tiff_tags(block: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield tag, value and the value's place, of the tags of one short or long in the first directory."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        raise DataError(DAMAGED)
    big = struct.unpack_from(order + "H", block, 2)[0] == 43
    (directory,) = struct.unpack_from(order + ("Q" if big else "I"), block, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), block, directory)
    first, step, inline = directory + (8 if big else 2), 20 if big else 12, 12 if big else 8
    for place in range(first, first + step * min(count, 4096), step):
        tag, kind = struct.unpack_from(order + "HH", block, place)
        if kind in (3, 4):
            yield tag, struct.unpack_from(order + ("H" if kind == 3 else "I"), block, place + inline)[0], place + inline


def _avif(content: bytes) -> Header:
    boxes = list(_boxes(content, 0, len(content), (b"meta", b"iprp", b"ipco")))
    sizes = [struct.unpack_from(">II", content, start + 4) for kind, start, _ in boxes if kind == b"ispe"]
    if not sizes:
        raise DataError(DAMAGED)
    turns = next((content[start] & 3 for kind, start, _ in boxes if kind == b"irot"), 0)
    mirror = next((content[start] & 1 for kind, start, _ in boxes if kind == b"imir"), None)
    orientation = {None: (1, 8, 3, 6), 0: (4, 5, 2, 7), 1: (2, 7, 4, 5)}[mirror][turns]
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return Header("AVIF", width, height, content, orientation)


def _boxes(content: bytes, position: int, end: int, inside: tuple[bytes, ...]) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of the ISO boxes, and of those in some of them."""
    while position + 8 <= end:
        length, kind = struct.unpack_from(">I4s", content, position)
        if length < 8 or position + length > end:
            if position + length > len(content):
                raise DataError(CUT_SHORT)
            return
        yield kind, position + 8, position + length
        if kind in inside:
            yield from _boxes(content, position + (12 if kind == b"meta" else 8), position + length, inside)
        position += length


def _jp2(content: bytes) -> Header:
    start = content.find(b"\xff\x4f\xff\x51")
    if start < 0 or content.rfind(JPEG_END) < start:
        raise DataError(CUT_SHORT)
    right, bottom, left, top = struct.unpack_from(">IIII", content, start + 8)
    return Header("JPEG 2000", right - left, bottom - top, content)


def _pnm(content: bytes) -> Header:
    words = re.match(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s", content[:4096])
    if words is None:
        raise DataError(DAMAGED)
    return Header("PNM", int(words[1]), int(words[2]), content)


# Where a file's signature is, the signatures, and what reads its header.
FORMATS: tuple[tuple[int, tuple[bytes, ...], Callable[[bytes], Header]], ...] = (
    (0, (b"\xff\xd8\xff",), read_jpeg),
    (0, (PNG_START,), _png),
    (8, (b"WEBP",), _webp),
    (0, (b"GIF87a", b"GIF89a"), _gif),
    (0, (b"BM",), _bmp),
    (0, (b"II*\0", b"II+\0", b"MM\0*", b"MM\0+"), _tiff),
    (4, (b"ftypavif", b"ftypavis"), _avif),
    (0, (b"\0\0\0\x0cjP  \r\n\x87\n",), _jp2),
    (0, tuple(b"P%d%c" % (kind, end) for kind in range(1, 7) for end in b" \t\r\n#"), _pnm),
)
NAMES = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF", "AVIF", "JPEG 2000", "PNM")
# fmt: off
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".avif", ".jp2", ".pbm", ".pgm", ".ppm", ".pnm",
)
# fmt: on
