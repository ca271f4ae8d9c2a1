"""Draws what the network saw: its gates and modulator over the frame, each with its range.

Gates are linear and signed, so their colours run both ways from 0 and the scale of each map is
symmetric about it. Everything here is a pure function from arrays to a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import ConfigError
from runtime.metrics import softmax
from runtime.outputs import Outputs
from runtime.preprocess import Image, resize_square

Colour = tuple[int, int, int]

BACKGROUND: Colour = (20, 23, 28)
BRIGHT: Colour = (240, 243, 246)
DIM: Colour = (151, 160, 171)
TRACK: Colour = (45, 51, 60)
ACCENT: Colour = (88, 166, 255)
# Blue and orange differ for every common kind of colour blindness; equal magnitudes are equally
# bright, and 0 is dark, so that the frame shows where a gate is shut.
SIGNED_ANCHORS = ((150, 210, 255), (50, 140, 228), (18, 24, 34), (208, 100, 28), (255, 190, 104))
MAP_OPACITY = 0.6
BAR_COUNT = 3
BASE_TILE_SIZE = 224
MIN_TILE_SIZE = 32
LEGIBLE_TILE_SIZE = 168
# OpenCV's faces have capitals about this tall at scale 1.
CAPITAL_HEIGHT_PX = 21.0
MAX_TEXT_SHRINK = 0.7


@dataclass(frozen=True)
class Map:
    """One map to draw: `values` `[h, w]`, signed (symmetric colours about 0) or not."""

    title: str
    values: NDArray[np.float32]
    signed: bool


def gate_panel(
    image_rgb: Image,
    outputs: Outputs,
    labels: Sequence[str],
    *,
    note: str = "",
    tile_size: int = BASE_TILE_SIZE,
    level: int | None = None,
) -> Image:
    """Draw one frame, its classes and its gates as a row of tiles.

    Args:
        image_rgb: uint8 `[H, W, 3]` RGB of any size; its centred square is shown, as the network saw it.
        outputs: what the network said about it.
        labels: K class names, in the order of the logits.
        note: a line for the right of the heading, e.g. the latency.
        tile_size: the side of a tile in pixels, 32 or more.
        level: `None` for all maps; 1..L for a focal level, L+1 for the global gate and L+2 for the
            modulator: that one map alone, at twice the size.

    Returns:
        uint8 `[h, w, 3]` RGB; height and width are even and depend on `tile_size`, L and `level` only.

    Raises:
        ConfigError: the tile is too small, or there is no such level.
    """
    if tile_size < MIN_TILE_SIZE:
        raise ConfigError(f"received tile_size {tile_size}; give {MIN_TILE_SIZE} or more pixels")
    # Text stops shrinking where it would stop being legible.
    unit = max(tile_size, LEGIBLE_TILE_SIZE) / BASE_TILE_SIZE
    maps = output_maps(outputs)
    if level is not None:
        if not 1 <= level <= len(maps):
            titles = ", ".join(f"{i} ({each.title})" for i, each in enumerate(maps, start=1))
            raise ConfigError(f"received level {level}; choose one of {titles}")
        maps = [maps[level - 1]]
        tile_size *= 2
    frame = resize_square(image_rgb, tile_size)
    columns = [_frame_column(frame, outputs.logits, labels, unit)]
    columns += [_map_column(frame, each, unit) for each in maps]
    return _assemble(columns, _heading(outputs.logits, labels), note, unit)


def output_maps(outputs: Outputs) -> list[Map]:
    """Return the maps of a network in drawing order: focal levels, global gate, modulator."""
    gates = [outputs.gates[..., i] for i in range(outputs.gates.shape[-1])]
    maps = [Map(f"gate, level {i}", gate, signed=True) for i, gate in enumerate(gates[:-1], start=1)]
    return [
        *maps,
        Map("gate, global", gates[-1], signed=True),
        Map("modulator", outputs.modulator, signed=False),
    ]


def map_range(each: Map) -> tuple[float, float]:
    """Return the values at the two ends of a finite map's colour scale, as it is drawn and labelled."""
    if each.signed:
        limit = float(np.abs(each.values).max())
        return -limit, limit
    return float(each.values.min()), float(each.values.max())


def colour_map(values: NDArray[np.float64], *, signed: bool) -> Image:
    """Colour a map.

    Args:
        values: `[h, w]`, 0..1 along the scale; 0.5 is a signed map's zero.
        signed: blue - dark - orange if true, else dark - bright (viridis).

    Returns:
        uint8 `[h, w, 3]` RGB.
    """
    indices = np.rint(np.clip(values, 0.0, 1.0) * 255).astype(np.uint8)
    if not signed:
        return np.asarray(cv2.applyColorMap(indices, cv2.COLORMAP_VIRIDIS)[..., ::-1], dtype=np.uint8)
    stops = np.linspace(0, 255, len(SIGNED_ANCHORS))
    anchors = np.array(SIGNED_ANCHORS, dtype=np.float64)
    table = np.stack([np.interp(np.arange(256), stops, anchors[:, c]) for c in range(3)], axis=-1)
    return np.rint(table).astype(np.uint8)[indices]


def blend_map(frame: Image, each: Map) -> Image:
    """Blend a map over a greyed frame.

    Args:
        frame: uint8 `[S, S, 3]` RGB.
        each: the map, of any smaller or larger size; it covers the whole frame.

    Returns:
        uint8 `[S, S, 3]` RGB; a hatched tile if any value of the map is not finite.
    """
    size = frame.shape[0]
    if not np.isfinite(each.values).all():
        return _hatched(size)
    low, high = map_range(each)
    span = high - low
    middle = 0.5 if each.signed else 0.0
    values = each.values.astype(np.float64)
    scaled = (values - low) / span if span > 0 else np.full_like(values, middle)
    # Clipped in colour_map: a cubic curve swings past the values that it joins.
    smooth = cv2.resize(scaled, (size, size), interpolation=cv2.INTER_CUBIC)
    colours = colour_map(smooth, signed=each.signed)
    grey = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    blended = cv2.addWeighted(grey, 1 - MAP_OPACITY, colours, MAP_OPACITY, 0.0)
    return np.asarray(blended, dtype=np.uint8)


def letterbox(image: Image, height: int, width: int) -> Image:
    """Fit a picture into `[height, width, 3]` without distorting it, on the panel's background."""
    if image.shape[:2] == (height, width):
        return image
    scale = min(height / image.shape[0], width / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    canvas = _blank(height, width)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return canvas


def _heading(logits: NDArray[np.float32], labels: Sequence[str]) -> str:
    if not np.isfinite(logits).all():
        return "logits not finite"
    best = int(logits.argmax())
    return f"{labels[best]}  {softmax(logits)[best]:.1%}"


def _assemble(columns: Sequence[Image], heading: str, note: str, unit: float) -> Image:
    margin, header = round(14 * unit), round(46 * unit)
    height, tile = columns[0].shape[:2]
    width = len(columns) * (tile + margin) + margin
    # Video codecs with halved colour planes need even sides.
    panel = _blank((header + height + margin + 1) // 2 * 2, (width + 1) // 2 * 2)
    for i, column in enumerate(columns):
        left = margin + i * (tile + margin)
        panel[header : header + height, left : left + tile] = column
    room = width - 2 * margin
    baseline = round(31 * unit)
    used = _text(panel, heading, (margin, baseline), 16 * unit, BRIGHT, room, bold=True)
    _text(panel, note, (width - margin, baseline), 10 * unit, DIM, room - used - margin, align="right")
    return panel


def _frame_column(frame: Image, logits: NDArray[np.float32], labels: Sequence[str], unit: float) -> Image:
    column, footer = _column("frame", frame, unit)
    if not np.isfinite(logits).all():
        return column
    probabilities = softmax(logits)
    tile = frame.shape[0]
    bar_left, bar_right = round(tile * 0.42), round(tile * 0.78)
    for rank, best in enumerate(np.argsort(-probabilities, kind="stable")[:BAR_COUNT]):
        baseline = footer + round((19 + 17 * rank) * unit)
        colour = BRIGHT if rank == 0 else DIM
        _text(column, labels[int(best)], (0, baseline), 9 * unit, colour, bar_left - round(8 * unit))
        _text(column, f"{probabilities[best]:.1%}", (tile, baseline), 9 * unit, colour, tile // 5, align="right")
        top, bottom = baseline - round(8 * unit), baseline - round(1 * unit)
        end = bar_left + round((bar_right - bar_left) * float(probabilities[best]))
        column[top:bottom, bar_left:bar_right] = TRACK
        column[top:bottom, bar_left:end] = ACCENT
    return column


def _map_column(frame: Image, each: Map, unit: float) -> Image:
    column, footer = _column(each.title, blend_map(frame, each), unit)
    tile = frame.shape[0]
    if not np.isfinite(each.values).all():
        _text(
            column,
            "not finite",
            (tile // 2, footer + round(19 * unit)),
            9 * unit,
            BRIGHT,
            tile,
            align="centre",
        )
        return column
    low, high = map_range(each)
    scale = np.linspace(0.0, 1.0, tile)[np.newaxis]
    column[footer + round(9 * unit) : footer + round(19 * unit)] = colour_map(scale, signed=each.signed)
    baseline = footer + round(35 * unit)
    form = "+.3g" if each.signed else ".3g"
    _text(column, f"{low:{form}}", (0, baseline), 9 * unit, DIM, tile * 2 // 5)
    _text(column, f"{high:{form}}", (tile, baseline), 9 * unit, DIM, tile * 2 // 5, align="right")
    if each.signed:
        _text(column, "0", (tile // 2, baseline), 9 * unit, DIM, tile // 5, align="centre")
    return column


def _column(title: str, picture: Image, unit: float) -> tuple[Image, int]:
    """Return a titled tile with an empty footer, and the row where the footer starts."""
    tile = picture.shape[0]
    header, footer = round(20 * unit), round(56 * unit)
    column = _blank(header + tile + footer, tile)
    _text(column, title, (0, round(12 * unit)), 9.5 * unit, DIM, tile)
    column[header : header + tile] = picture
    return column, header + tile


def _hatched(size: int) -> Image:
    rows, columns = np.indices((size, size))
    stripes = (rows + columns) // 8 % 2
    return np.array([TRACK, BACKGROUND], dtype=np.uint8)[stripes]


def _blank(height: int, width: int) -> Image:
    return np.full((height, width, 3), BACKGROUND, dtype=np.uint8)


def _text(
    canvas: Image,
    text: str,
    anchor: tuple[int, int],
    height_px: float,
    colour: Colour,
    room_px: int,
    *,
    align: str = "left",
    bold: bool = False,
) -> int:
    """Write `text` with its baseline at `anchor` (x, y), smaller and then cut to stay within `room_px`.

    Returns:
        The width it takes, in pixels.
    """
    face = cv2.FONT_HERSHEY_DUPLEX if bold else cv2.FONT_HERSHEY_SIMPLEX
    scale = height_px / CAPITAL_HEIGHT_PX
    scale *= min(1.0, max(MAX_TEXT_SHRINK, room_px / max(_text_width(text, face, scale), 1)))
    fitted = text
    while fitted and _text_width(fitted, face, scale) > room_px:
        fitted = fitted.removesuffix("..")[:-1].rstrip() + ".." if len(fitted) > 3 else ""
    if not fitted:
        return 0
    width_px = _text_width(fitted, face, scale)
    x = anchor[0] - {"left": 0, "centre": width_px // 2, "right": width_px}[align]
    cv2.putText(canvas, fitted, (x, anchor[1]), face, scale, colour, 1, cv2.LINE_AA)
    return width_px


def _text_width(text: str, face: int, scale: float) -> int:
    return int(cv2.getTextSize(text, face, scale, 1)[0][0]) if text else 0
