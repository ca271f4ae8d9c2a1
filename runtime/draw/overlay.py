"""Draws what the network saw: its gates and modulator over the frame, each with its range.

Gates are linear and signed, so their colours run both ways from 0 and the scale of each map is
symmetric about it. Everything here is a pure function from arrays to an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.core.errors import ConfigError
from runtime.demo.controls import Settings
from runtime.draw.canvas import (
    ACCENT,
    BACKGROUND,
    BRIGHT,
    DIM,
    TRACK,
    blank,
    fit,
    letterbox_place,
    write_text,
)
from runtime.engines.outputs import Outputs
from runtime.evaluation.metrics import softmax
from runtime.images.preprocess import Image, centre_square, square_side

# Blue and orange differ for every common kind of colour blindness; equal magnitudes are equally
# bright, and 0 is dark, so that the frame shows where a gate is shut.
SIGNED_ANCHORS = ((150, 210, 255), (50, 140, 228), (18, 24, 34), (208, 100, 28), (255, 190, 104))
MAP_OPACITY = 0.6
# Over the frame in colour, a map's strongest places cover it this much, and its zero not at all.
BLEND_OPACITY = 0.85
UNSEEN_BRIGHTNESS = 0.4
BAR_COUNT = 3
VIEW_BAR_COUNT = 5
BAR_PITCH_PX = 17
BASE_TILE_SIZE = 224
MIN_TILE_SIZE = 32
LEGIBLE_TILE_SIZE = 168
# Of the image that "single" and "blend" show, in tiles; of two beside each other, as wide as the grid.
LARGE, LARGE_OF_TWO = 2.0, 1.25
WHOLE_FRAME_RATIO = 4 / 3

Span = tuple[float, float]


def _signed_colours() -> Image:
    stops = np.linspace(0, 255, len(SIGNED_ANCHORS))
    anchors = np.array(SIGNED_ANCHORS, dtype=np.float64)
    table = np.stack([np.interp(np.arange(256), stops, anchors[:, c]) for c in range(3)], axis=-1)
    return np.rint(table).astype(np.uint8)


def _unsigned_colours() -> Image:
    indices = np.arange(256, dtype=np.uint8)[:, np.newaxis]
    return np.ascontiguousarray(cv2.applyColorMap(indices, cv2.COLORMAP_VIRIDIS)[:, 0, ::-1])


# uint8 [256, 3] RGB, from one end of the scale to the other.
SIGNED_COLOURS, UNSIGNED_COLOURS = _signed_colours(), _unsigned_colours()


@dataclass(frozen=True)
class Map:
    """One map to draw: `values` `[h, w]`, signed (symmetric colours about 0) or not.

    `span` holds the ends of the colour scale where it is shared with another map; else they are the map's own.
    """

    title: str
    values: NDArray[np.float32]
    signed: bool
    span: Span | None = None

    def is_finite(self) -> bool:
        """Return whether no value is a NaN or an infinity."""
        return bool(np.isfinite(self.values).all())


@dataclass(frozen=True)
class View:
    """What one artifact says about a frame, and what to call the artifact."""

    title: str
    outputs: Outputs


def gate_panel(
    image_rgb: Image,
    outputs: Outputs,
    labels: Sequence[str],
    *,
    note: str = "",
    tile_size: int = BASE_TILE_SIZE,
    level: int | None = None,
    seen_fraction: float = 1.0,
) -> Image:
    """Draw one frame, its classes and its gates as a row of tiles.

    Args:
        image_rgb: uint8 `[H, W, 3]` RGB of any size; of it, the centred square that the network saw is shown.
        outputs: what the network said about it.
        labels: K class names, in the order of the logits.
        note: a line for the right of the heading, e.g. the latency.
        tile_size: the side of a tile in pixels, 32 or more.
        level: `None` for all maps; 1..L for a focal level, L+1 for the global gate and L+2 for the
            modulator: that one map alone, at twice the size.
        seen_fraction: side of that square, as a share of the short side: `InputSpec.seen_fraction`.

    Returns:
        uint8 `[h, w, 3]` RGB; height and width are even and depend on `tile_size`, L and `level` only.

    Raises:
        ConfigError: the tile is too small, or there is no such level.
    """
    unit = _unit(tile_size)
    maps = output_maps(outputs)
    if level is not None:
        maps, tile_size = [_chosen(maps, level)], 2 * tile_size
    row = _Row(labels, unit, tile_size, BAR_COUNT)
    return row.draw(
        centre_square(image_rgb, seen_fraction), outputs.logits, maps, _heading(outputs.logits, labels), note
    )


def view_panel(
    image_rgb: Image,
    views: Sequence[View],
    labels: Sequence[str],
    settings: Settings,
    *,
    note: str = "",
    tile_size: int = BASE_TILE_SIZE,
    seen_fraction: float = 1.0,
) -> Image:
    """Draw one frame as a viewer chose to see it, as one artifact sees it or as two do.

    Args:
        image_rgb: uint8 `[H, W, 3]` RGB of any size.
        views: one artifact's outputs, or two artifacts', which share the scale of each map.
        labels: K class names, in the order of the logits.
        settings: the layout, and the map that "single" and "blend" show.
        note: a line for the right of the heading, e.g. the frame's name.
        tile_size: the side of a tile of the grid in pixels, 32 or more.
        seen_fraction: side of the centred square that the network saw, as a share of the frame's short side:
            `InputSpec.seen_fraction`. That square is what the tiles show, and where "blend" lays the map.

    Returns:
        uint8 `[h, w, 3]` RGB; height and width are even and do not depend on the frame.

    Raises:
        ConfigError: the tile is too small, or there is no such map.
    """
    unit = _unit(tile_size)
    every = _with_shared_spans([output_maps(view.outputs) for view in views])
    if settings.layout != "grid":
        every = [[_chosen(maps, settings.level)] for maps in every]
    large = round(tile_size * (LARGE if len(views) == 1 else LARGE_OF_TWO))
    blocks = []
    for index, (view, maps) in enumerate(zip(views, every, strict=True)):
        heading = _heading(view.outputs.logits, labels)
        if len(views) > 1:
            heading = f"{view.title}:  {heading}"
        # The note is about the frame, which both blocks show.
        own_note = note if index == 0 else ""
        if settings.layout == "blend":
            image = _over_whole_frame(image_rgb, maps[0], large, round(large * WHOLE_FRAME_RATIO), seen_fraction)
            block = _blend_block(image, view.outputs.logits, labels, maps[0], (heading, own_note), unit)
        else:
            row = _Row(labels, unit, tile_size if settings.layout == "grid" else large, VIEW_BAR_COUNT)
            block = row.draw(centre_square(image_rgb, seen_fraction), view.outputs.logits, maps, heading, own_note)
        blocks.append(block)
    if len(blocks) == 1:
        return blocks[0]
    return np.concatenate(blocks, axis=0 if settings.layout == "grid" else 1)


def output_maps(outputs: Outputs) -> list[Map]:
    """Return the maps of a network in drawing order: focal levels, global gate, modulator."""
    gates = [outputs.gates[..., i] for i in range(outputs.gates.shape[-1])]
    titles = map_titles(len(gates) - 1)
    return [
        *(Map(title, gate, signed=True) for title, gate in zip(titles, gates, strict=False)),
        Map(titles[-1], outputs.modulator, signed=False),
    ]


def map_titles(focal_levels: int) -> tuple[str, ...]:
    """Return what the maps of a network with so many focal levels are called, in drawing order."""
    return (*(f"gate, level {i}" for i in range(1, focal_levels + 1)), "gate, global", "modulator")


def map_range(each: Map) -> Span:
    """Return the values at the two ends of a finite map's colour scale, as it is drawn and labelled."""
    if each.span is not None:
        return each.span
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
    return _coloured(indices, SIGNED_COLOURS if signed else UNSIGNED_COLOURS)


def blend_map(frame: Image, each: Map) -> Image:
    """Blend a map over a greyed frame.

    Args:
        frame: uint8 `[S, S, 3]` RGB.
        each: the map, of any smaller or larger size; it covers the whole frame.

    Returns:
        uint8 `[S, S, 3]` RGB; a hatched tile if any value of the map is not finite.
    """
    return _over_grey(_greyed(frame), each)


def _with_shared_spans(every: Sequence[list[Map]]) -> list[list[Map]]:
    """Give each map the scale that takes in its finite counterparts: only then can two be compared."""
    if len(every) < 2:
        return list(every)
    spans = []
    for counterparts in zip(*every, strict=True):
        ranges = [map_range(each) for each in counterparts if each.is_finite()]
        spans.append((min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None)
    return [[replace(each, span=span) for each, span in zip(maps, spans, strict=True)] for maps in every]


def _unit(tile_size: int) -> float:
    if tile_size < MIN_TILE_SIZE:
        raise ConfigError(f"received tile_size {tile_size}; give {MIN_TILE_SIZE} or more pixels")
    # Text stops shrinking where it would stop being legible.
    return max(tile_size, LEGIBLE_TILE_SIZE) / BASE_TILE_SIZE


def _chosen(maps: Sequence[Map], level: int) -> Map:
    if not 1 <= level <= len(maps):
        titles = ", ".join(f"{i} ({each.title})" for i, each in enumerate(maps, start=1))
        raise ConfigError(f"received level {level}; choose one of {titles}")
    return maps[level - 1]


def _heading(logits: NDArray[np.float32], labels: Sequence[str]) -> str:
    if not np.isfinite(logits).all():
        return "logits not finite"
    best = int(logits.argmax())
    return f"{labels[best]}  {softmax(logits)[best]:.1%}"


@dataclass(frozen=True)
class _Row:
    """How a row of tiles, the frame and its maps, is laid out."""

    labels: Sequence[str]
    unit: float
    tile: int
    bars: int

    def px(self, length: float) -> int:
        return round(length * self.unit)

    def draw(self, square: Image, logits: NDArray[np.float32], maps: Sequence[Map], heading: str, note: str) -> Image:
        margin, header, title = self.px(14), self.px(46), self.px(20)
        footer = self.px(5 + BAR_PITCH_PX * self.bars)
        height, width = title + self.tile + footer, (len(maps) + 1) * (self.tile + margin) + margin
        # Video codecs with halved colour planes need even sides.
        panel = blank((header + height + margin + 1) // 2 * 2, (width + 1) // 2 * 2)
        frame = fit(square, self.tile, self.tile)
        grey = _greyed(frame)
        for i in range(len(maps) + 1):
            left = margin + i * (self.tile + margin)
            column = panel[header : header + height, left : left + self.tile]
            name, image = ("frame", frame) if i == 0 else (maps[i - 1].title, _over_grey(grey, maps[i - 1]))
            write_text(column, name, (0, self.px(12)), 9.5 * self.unit, DIM, self.tile)
            column[title : title + self.tile] = image
            if i == 0:
                _draw_bars(column[title + self.tile :], logits, self.labels, self.bars, self.unit)
            else:
                _draw_scale(column[title + self.tile :], maps[i - 1], self.unit)
        _draw_heading(panel, heading, note, self.unit)
        return panel


def _blend_block(
    image: Image,
    logits: NDArray[np.float32],
    labels: Sequence[str],
    each: Map,
    lines: tuple[str, str],
    unit: float,
) -> Image:
    """Draw a map that lies over the whole frame in `image`, with bars beside it; `lines` are heading and note."""
    height, width = image.shape[:2]
    margin, header, title, footer = (round(length * unit) for length in (14, 46, 20, 56))
    side = round(BASE_TILE_SIZE * 0.75 * unit)
    total = (margin + width + margin + side + margin, header + title + height + footer + margin)
    panel = blank((total[1] + 1) // 2 * 2, (total[0] + 1) // 2 * 2)
    block = panel[header:, margin : margin + width]
    write_text(block, f"{each.title}, over the frame", (0, round(12 * unit)), 9.5 * unit, DIM, width)
    block[title : title + height] = image
    _draw_scale(block[title + height :], each, unit)
    column = panel[header + title :, margin + width + margin : margin + width + margin + side]
    _draw_bars(column, logits, labels, VIEW_BAR_COUNT, unit)
    _draw_heading(panel, *lines, unit)
    return panel


def _draw_heading(panel: Image, heading: str, note: str, unit: float) -> None:
    margin, baseline, width = round(14 * unit), round(31 * unit), panel.shape[1]
    room = width - 2 * margin
    used = write_text(panel, heading, (margin, baseline), 16 * unit, BRIGHT, room, bold=True)
    write_text(panel, note, (width - margin, baseline), 10 * unit, DIM, room - used - margin, align="right")


def _draw_bars(footer: Image, logits: NDArray[np.float32], labels: Sequence[str], count: int, unit: float) -> None:
    if not np.isfinite(logits).all():
        return
    probabilities = softmax(logits)
    tile = footer.shape[1]
    bar_left, bar_right = round(tile * 0.42), round(tile * 0.78)
    for rank, best in enumerate(np.argsort(-probabilities, kind="stable")[:count]):
        baseline = round((19 + BAR_PITCH_PX * rank) * unit)
        colour = BRIGHT if rank == 0 else DIM
        share = float(probabilities[best])
        write_text(footer, labels[int(best)], (0, baseline), 9 * unit, colour, bar_left - round(8 * unit))
        write_text(footer, f"{share:.1%}", (tile, baseline), 9 * unit, colour, tile // 5, align="right")
        top, bottom = baseline - round(8 * unit), baseline - round(1 * unit)
        footer[top:bottom, bar_left:bar_right] = TRACK
        footer[top:bottom, bar_left : bar_left + round((bar_right - bar_left) * share)] = ACCENT


def _draw_scale(footer: Image, each: Map, unit: float) -> None:
    tile = footer.shape[1]
    if not each.is_finite():
        place = (tile // 2, round(19 * unit))
        write_text(footer, "not finite", place, 9 * unit, BRIGHT, tile, align="centre")
        return
    low, high = map_range(each)
    footer[round(9 * unit) : round(19 * unit)] = colour_map(np.linspace(0.0, 1.0, tile)[np.newaxis], signed=each.signed)
    baseline = round(35 * unit)
    form = "+.3g" if each.signed else ".3g"
    write_text(footer, f"{low:{form}}", (0, baseline), 9 * unit, DIM, tile * 2 // 5)
    write_text(footer, f"{high:{form}}", (tile, baseline), 9 * unit, DIM, tile * 2 // 5, align="right")
    if each.signed:
        write_text(footer, "0", (tile // 2, baseline), 9 * unit, DIM, tile // 5, align="centre")


def _greyed(frame: Image) -> Image:
    return np.asarray(cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), dtype=np.uint8)


def _over_grey(grey: Image, each: Map) -> Image:
    if not each.is_finite():
        return _hatched(*grey.shape[:2])
    colours = _coloured(_smooth_indices(each, grey.shape[0]), SIGNED_COLOURS if each.signed else UNSIGNED_COLOURS)
    return np.asarray(cv2.addWeighted(grey, 1 - MAP_OPACITY, colours, MAP_OPACITY, 0.0), dtype=np.uint8)


def _over_whole_frame(image_rgb: Image, each: Map, height: int, width: int, seen_fraction: float) -> Image:
    """Return the frame, letterboxed, with the map on the square that the network saw and the rest dimmed."""
    top, left, rows, columns = letterbox_place(image_rgb.shape[0], image_rgb.shape[1], height, width)
    image = fit(image_rgb, rows, columns)
    side = square_side(rows, columns, seen_fraction)
    inner = (slice((rows - side) // 2, (rows + side) // 2), slice((columns - side) // 2, (columns + side) // 2))
    canvas = blank(height, width)
    place = canvas[top : top + rows, left : left + columns]
    place[:] = cv2.convertScaleAbs(image, alpha=UNSEEN_BRIGHTNESS)
    place[inner] = _over_colour(image[inner], each) if each.is_finite() else _hatched(side, side)
    return canvas


def _over_colour(frame: Image, each: Map) -> Image:
    """Cover a frame in colour with a map, the more the further a value is from the scale's dark end."""
    indices = _smooth_indices(each, frame.shape[0])
    steps = np.arange(256, dtype=np.float64)
    distance = np.abs(steps - 127.5) / 127.5 if each.signed else steps / 255.0
    opacity = (BLEND_OPACITY * distance)[:, np.newaxis]
    colours = (SIGNED_COLOURS if each.signed else UNSIGNED_COLOURS) * opacity
    kept = np.repeat(255.0 * (1.0 - opacity), 3, axis=1)
    shining = cv2.multiply(frame, _coloured(indices, np.rint(kept).astype(np.uint8)), scale=1 / 255)
    return np.asarray(cv2.add(shining, _coloured(indices, np.rint(colours).astype(np.uint8))), dtype=np.uint8)


def _smooth_indices(each: Map, size: int) -> NDArray[np.uint8]:
    """Return uint8 `[size, size]`, places on a finite map's colour scale."""
    low, high = map_range(each)
    span = high - low
    values = each.values.astype(np.float64)
    # Not at 127.5, which the rounding below would scatter.
    middle = 128.0 if each.signed else 0.0
    scaled = (values - low) * (255.0 / span) if span > 0 else np.full_like(values, middle)
    smooth = cv2.resize(scaled.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    # Rounds and saturates: a cubic curve swings past the values that it joins.
    return np.asarray(cv2.add(smooth, 0.0, dtype=cv2.CV_8U), dtype=np.uint8)


def _coloured(indices: NDArray[np.uint8], colours: Image) -> Image:
    # OpenCV only looks each index up, so that RGB goes in and comes out.
    return np.asarray(cv2.applyColorMap(indices, colours[:, np.newaxis]), dtype=np.uint8)


def _hatched(height: int, width: int) -> Image:
    rows, columns = np.indices((height, width))
    return np.array([TRACK, BACKGROUND], dtype=np.uint8)[(rows + columns) // 8 % 2]
