"""What the container of a video file says about its frames: how many there are, and whether the file is all there.

OpenCV's `read` ends in the same way after the last frame, at a decode error and where a file is cut off. Its number of
frames is a guess for containers that state none. So the boxes of the file itself are read, never its frames.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

CUT_SHORT = "the file is cut short"
NO_COUNT = "its container states no number of frames"
_ISO = re.compile(rb"....(ftyp|moov|mdat|free|skip|wide|styp)", re.DOTALL)
# Index tables of longer videos are not read.
_MAX_INDEX_BYTES = 1 << 26
_MAX_BOXES = 1_000_000
_ISO_INSIDE = frozenset((b"trak", b"mdia", b"minf", b"stbl", b"edts", b"traf", b"mvex"))
# Where an edit list cuts, between which frames, depends on the player.
_EDIT_SLACK = 0.02
_EBML_SEGMENT = b"\x18\x53\x80\x67"


@dataclass(frozen=True)
class Extent:
    """What a container says.

    Attributes:
        frames: number of frames that it states; `None` if it states none.
        note: why it states none.
        fault: what is wrong with the file, "" if nothing is seen.
        seen: number of frames before the fault, in a file that is a list of them.
        slack: number of frames by which `frames` may be too large.
    """

    frames: int | None
    note: str = ""
    fault: str = ""
    seen: int = 0
    slack: int = 0


def read_extent(path: Path) -> Extent:
    """Read what a video's container says about its frames.

    Args:
        path: MP4, MOV, AVI, Matroska, WebM, GIF or animated PNG, WebP or AVIF; of other containers nothing is known.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
            size = file.seek(0, 2)
            file.seek(0)
            if start[:6] in (b"GIF87a", b"GIF89a"):
                return _gif(file.read())
            if start.startswith(b"\x89PNG"):
                return _png(file.read())
            if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
                return _webp(file.read())
            if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
                return _avi(file, size)
            if start.startswith(b"\x1a\x45\xdf\xa3"):
                return _matroska(file, size)
            if _ISO.match(start):
                return _iso(file, size)
    except (OSError, struct.error, IndexError, ValueError):
        return Extent(None, "its container's index cannot be read")
    return Extent(None, NO_COUNT)


# --- animated images --------------------------------------------------------------------------------


def _gif(content: bytes) -> Extent:
    """Count the images of a GIF: blocks of an introducer, a header and sub-blocks, each with its length."""
    flags = content[10]
    place = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    frames = 0
    while place < len(content):
        introducer = content[place]
        if introducer == 0x3B:
            return Extent(frames)
        if introducer == 0x2C and place + 9 < len(content):
            flags = content[place + 9]
            place += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
            frames += 1
        elif introducer == 0x21:
            place += 2
        elif introducer != 0x2C:
            return Extent(None, NO_COUNT, "the file is damaged", frames)
        else:
            break
        while place < len(content) and content[place]:
            place += 1 + content[place]
        place += 1
    return Extent(None, NO_COUNT, CUT_SHORT, frames)


def _png(content: bytes) -> Extent:
    frames, place = 1, 8
    while place + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        if kind == b"acTL":
            (frames,) = struct.unpack_from(">I", content, place + 8)
        if kind == b"IEND":
            return Extent(frames)
        place += 12 + length
    return Extent(frames, fault=CUT_SHORT)


def _webp(content: bytes) -> Extent:
    frames, place = 0, 12
    while place + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, place)
        frames += kind == b"ANMF"
        place += 8 + length + length % 2
    return Extent(max(frames, 1), fault=CUT_SHORT if place > len(content) + 1 else "")


# --- AVI and Matroska -------------------------------------------------------------------------------


def _avi(file: BinaryIO, size: int) -> Extent:
    """Read the length of the video stream, without the frames that were dropped when it was recorded."""
    head = file.read(_MAX_INDEX_BYTES if size < _MAX_INDEX_BYTES else 1 << 16)
    stream = head.find(b"strh")
    while stream >= 0 and head[stream + 8 : stream + 12] != b"vids":
        stream = head.find(b"strh", stream + 4)
    if stream < 0:
        return Extent(None, "its container's index cannot be read")
    (frames,) = struct.unpack_from("<I", head, stream + 8 + 32)
    (stated,) = struct.unpack_from("<I", head, 4)
    fault = CUT_SHORT if 8 + stated > size + 1 else ""
    return Extent(frames - _dropped_in_avi(file, size), fault=fault) if frames else Extent(None, NO_COUNT, fault)


def _dropped_in_avi(file: BinaryIO, size: int) -> int:
    """Count the video frames without data that the index names: players repeat the last frame, OpenCV does not."""
    place = 12
    for _ in range(_MAX_BOXES):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8 or place >= size:
            return 0
        kind, length = struct.unpack("<4sI", head)
        if kind == b"idx1":
            index = file.read(min(length, _MAX_INDEX_BYTES))
            entries = [index[at : at + 16] for at in range(0, len(index) - 15, 16)]
            return sum(each[2:4] in (b"dc", b"db") and each[12:] == b"\0\0\0\0" for each in entries)
        place += 8 + length + length % 2
    return 0


def _matroska(file: BinaryIO, size: int) -> Extent:
    """Check the length of the segment, which holds all else; a live recording states none."""
    head = file.read(4096)
    place = head.find(_EBML_SEGMENT)
    if place < 0:
        return Extent(None, NO_COUNT)
    first = head[place + 4]
    width = 9 - first.bit_length()
    length = int.from_bytes(head[place + 4 : place + 4 + width], "big") & ((1 << 7 * width) - 1)
    unknown = length == (1 << 7 * width) - 1
    cut = not unknown and place + 4 + width + length > size
    return Extent(None, NO_COUNT, CUT_SHORT if cut else "")


# --- MP4 and MOV ------------------------------------------------------------------------------------


@dataclass
class _Track:
    """The video track of an MP4: its samples, and the seconds that they take and that are shown of them."""

    id: int = 0
    video: bool = False
    samples: int = 0
    seconds: float = 0.0
    shown_seconds: float | None = None


def _iso(file: BinaryIO, size: int) -> Extent:
    tracks: list[_Track] = []
    fragments: dict[int, int] = {}
    fault, place = "", 0
    for _ in range(_MAX_BOXES):
        file.seek(place)
        head = file.read(16)
        if len(head) < 8:
            break
        length, kind = struct.unpack_from(">I4s", head)
        start = place + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", head, 8)
            start += 8
        length = length or size - place
        if length < start - place:
            return Extent(None, "its container's index cannot be read")
        if place + length > size:
            fault = CUT_SHORT
        if kind in (b"moov", b"moof") and length <= _MAX_INDEX_BYTES:
            file.seek(start)
            content = file.read(place + length - start)
            if kind == b"moov":
                tracks = _tracks(content)
            else:
                _count_fragments(content, fragments)
        place += length
    video = next((track for track in tracks if track.video), None)
    if video is None:
        return Extent(None, NO_COUNT, fault)
    frames = video.samples + fragments.get(video.id, 0)
    # An edit list may show a part of the samples, as in a video that was trimmed; OpenCV reads that part alone.
    shown = video.seconds if fragments or video.shown_seconds is None else video.shown_seconds
    if frames and video.seconds - shown > 1.5 * video.seconds / frames:
        frames = round(frames * shown / video.seconds)
        return Extent(frames, fault=fault, slack=2 + round(_EDIT_SLACK * frames))
    return Extent(frames, fault=fault) if frames else Extent(None, NO_COUNT, fault)


def _tracks(content: bytes) -> list[_Track]:
    tracks, movie_ticks = [], 1
    for kind, start, end in _iso_boxes(content, 0, len(content)):
        wide = content[start] == 1 if start < end else False
        if kind == b"mvhd":
            (movie_ticks,) = struct.unpack_from(">I", content, start + (20 if wide else 12))
        elif kind == b"trak":
            tracks.append(_Track())
        elif not tracks:
            continue
        elif kind == b"tkhd":
            (tracks[-1].id,) = struct.unpack_from(">I", content, start + (20 if wide else 12))
        elif kind == b"hdlr":
            tracks[-1].video |= content[start + 8 : start + 12] in (b"vide", b"pict")
        elif kind == b"mdhd":
            ticks, duration = struct.unpack_from(">IQ" if wide else ">II", content, start + (20 if wide else 12))
            tracks[-1].seconds = duration / max(ticks, 1)
        elif kind == b"elst":
            tracks[-1].shown_seconds = _shown_ticks(content, start, wide) / max(movie_ticks, 1)
        elif kind in (b"stsz", b"stz2"):
            (tracks[-1].samples,) = struct.unpack_from(">I", content, start + 8)
    return tracks


def _shown_ticks(content: bytes, start: int, wide: bool) -> int:
    (count,) = struct.unpack_from(">I", content, start + 4)
    form = ">Qq4x" if wide else ">Ii4x"
    step = struct.calcsize(form)
    edits = (struct.unpack_from(form, content, start + 8 + step * each) for each in range(min(count, _MAX_BOXES)))
    return sum(duration for duration, media_time in edits if media_time >= 0)


def _count_fragments(content: bytes, fragments: dict[int, int]) -> None:
    """Add the samples of a fragment to those of their tracks, by the tracks' numbers."""
    track = 0
    for kind, start, _ in _iso_boxes(content, 0, len(content)):
        if kind == b"tfhd":
            (track,) = struct.unpack_from(">I", content, start + 4)
        elif kind == b"trun":
            (count,) = struct.unpack_from(">I", content, start + 4)
            fragments[track] = fragments.get(track, 0) + count


def _iso_boxes(content: bytes, place: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each box's content, and of the boxes inside those that hold boxes."""
    while place + 8 <= end:
        length, kind = struct.unpack_from(">I4s", content, place)
        stop = place + length if length >= 8 else end
        yield kind, place + 8, min(stop, end)
        if kind in _ISO_INSIDE:
            yield from _iso_boxes(content, place + 8, min(stop, end))
        place = stop
