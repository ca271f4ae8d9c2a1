"""Overlay layouts: a frame with its most likely classes, its gates and its modulator, each map with its range.

A layout is one function and one row of `LAYOUTS`. All functions are pure, from arrays to an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.core.errors import ConfigError
from runtime.draw.canvas import ACCENT, BRIGHT, DIM, TRACK, blank, fit, letterbox_place, write_text
from runtime.draw.maps import Map, colour_scale, greyed, output_maps, over_colour, over_grey, with_shared_spans
from runtime.engines.outputs import Outputs
from runtime.evaluation.metrics import softmax
from runtime.images.preprocess import Image, centre_square, square_side

UNSEEN_BRIGHTNESS = 0.4
GATE_PANEL_BARS = 3
VIEW_PANEL_BARS = 5
BAR_PITCH_PX = 17
BASE_TILE_SIZE = 224
MIN_TILE_SIZE = 32
LEGIBLE_TILE_SIZE = 168
# Side of the image in a layout of one map, in tiles; two artifacts side by side are as wide as the grid.
LARGE, LARGE_OF_TWO = 2.0, 1.25
WHOLE_FRAME_RATIO = 4 / 3

TopClasses = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class View:
    """The outputs of one artifact for a frame, and the artifact's name."""

    title: str
    outputs: Outputs


@dataclass(frozen=True)
class Scene:
    """All that a layout draws of one artifact.

    Attributes:
        image_rgb: the whole frame, uint8 `[H, W, 3]` RGB.
        seen_fraction: side of the centred square that the network saw, as a share of the frame's short side, 0 to 1.
        classes: names and probabilities of the classes that have a bar, the most likely first; empty if non-finite.
        maps: the maps to show: all, or the chosen one.
        heading: the top line, at the left.
        note: the top line, at the right.
        tile_px: side of a tile where all maps are shown, in pixels.
        large_px: side of the image where one map is shown, in pixels.
        unit: scale of text and margins, 1.0 for tiles of 224 pixels.
        bars: room for this many bars.
    """

    image_rgb: Image
    seen_fraction: float
    classes: TopClasses
    maps: Sequence[Map]
    heading: str
    note: str
    tile_px: int
    large_px: int
    unit: float
    bars: int

    def px(self, length: float) -> int:
        """Return a length in pixels, given in pixels at a unit of 1.0."""
        return round(length * self.unit)


@dataclass(frozen=True)
class Layout:
    """One way to arrange a frame and its maps.

    Attributes:
        title: its name on the web page.
        summary: what it shows, for help texts.
        draw: draws a scene, as uint8 `[h, w, 3]` RGB with even sides.
        shows_all_maps: it shows all maps, not a chosen one.
        compare_axis: two artifacts are joined along this axis: 0, one below the other; 1, side by side.
    """

    title: str
    summary: str
    draw: Callable[[Scene], Image]
    shows_all_maps: bool = False
    compare_axis: int = 1


def draw_grid(scene: Scene) -> Image:
    """Draw the frame and all maps as a row of tiles."""
    return _draw_row(scene, scene.tile_px)


def draw_single(scene: Scene) -> Image:
    """Draw the frame and one map side by side, both large."""
    return _draw_row(scene, scene.large_px)


def draw_blend(scene: Scene) -> Image:
    """Draw one map over the whole frame, in colour, with the class bars at its right."""
    height, width = scene.large_px, round(scene.large_px * WHOLE_FRAME_RATIO)
    (map_,) = scene.maps
    margin, header, title, footer = (scene.px(length) for length in (14, 46, 20, 56))
    side = scene.px(BASE_TILE_SIZE * 0.75)
    panel = _blank_panel(header + title + height + footer + margin, margin + width + margin + side + margin)
    block = panel[header:, margin : margin + width]
    write_text(block, f"{map_.title}, over the frame", (0, scene.px(12)), 9.5 * scene.unit, DIM, width)
    block[title : title + height] = _over_whole_frame(scene, height, width)
    _draw_scale(block[title + height :], map_, scene)
    left = margin + width + margin
    _draw_bars(panel[header + title :, left : left + side], scene)
    _draw_heading(panel, scene)
    return panel


LAYOUTS = {
    "grid": Layout("Grid", "all maps", draw_grid, shows_all_maps=True, compare_axis=0),
    "single": Layout("Single", "one map beside the frame", draw_single),
    "blend": Layout("Blended", "one map over the frame", draw_blend),
}


def gate_panel(
    image_rgb: Image,
    outputs: Outputs,
    labels: Sequence[str],
    *,
    note: str = "",
    tile_size: int = BASE_TILE_SIZE,
    seen_fraction: float = 1.0,
) -> Image:
    """Draw one frame, its 3 most likely classes and all maps as a row of tiles; see `view_panel`."""
    return view_panel(
        image_rgb,
        [View("", outputs)],
        labels,
        note=note,
        tile_size=tile_size,
        bars=GATE_PANEL_BARS,
        seen_fraction=seen_fraction,
    )


def view_panel(
    image_rgb: Image,
    views: Sequence[View],
    labels: Sequence[str],
    layout: str = "grid",
    level: int = 0,
    *,
    note: str = "",
    tile_size: int = BASE_TILE_SIZE,
    bars: int = VIEW_PANEL_BARS,
    seen_fraction: float = 1.0,
) -> Image:
    """Draw one frame as one artifact, or each of two, sees it.

    Args:
        image_rgb: uint8 `[H, W, 3]` RGB of any size.
        views: the artifacts, with their outputs; maps of two share their colour scale.
        labels: K class names, in the order of the logits.
        layout: a key of `LAYOUTS`.
        level: the map of a layout of one map: 1..L for a focal level, L+1 for the global gate, L+2 for the modulator.
        note: a line at the right of the heading, e.g. the latency.
        tile_size: the side of a tile in pixels, 32 or more.
        bars: how many classes have a bar, the most likely first.
        seen_fraction: side of the centred square that the network saw, as a share of the short side, 0 to 1:
            `InputSpec.seen_fraction`. "grid" and "single" show only that square, "blend" the whole frame.

    Returns:
        uint8 `[h, w, 3]` RGB with even sides, of a size that depends on neither the frame nor its values.
        A map or logits with a value that is not finite are marked and not drawn.

    Raises:
        ConfigError: there is no such map, or the tiles are too small.
    """
    if tile_size < MIN_TILE_SIZE:
        raise ConfigError(f"received tile_size {tile_size}; give {MIN_TILE_SIZE} or more pixels")
    chosen = LAYOUTS[layout]
    rows = with_shared_spans([output_maps(view.outputs) for view in views])
    blocks = []
    for index, (view, maps) in enumerate(zip(views, rows, strict=True)):
        classes = top_classes(view.outputs.logits, labels, bars)
        heading = f"{classes[0][0]}  {classes[0][1]:.1%}" if classes else "logits not finite"
        scene = Scene(
            image_rgb=image_rgb,
            seen_fraction=seen_fraction,
            classes=classes,
            maps=maps if chosen.shows_all_maps else [_map_of(maps, level)],
            heading=heading if len(views) == 1 else f"{view.title}:  {heading}",
            # The note is about the frame, which both blocks show.
            note=note if index == 0 else "",
            tile_px=tile_size,
            large_px=round(tile_size * (LARGE if len(views) == 1 else LARGE_OF_TWO)),
            # Text stops shrinking where it would stop being legible.
            unit=max(tile_size, LEGIBLE_TILE_SIZE) / BASE_TILE_SIZE,
            bars=bars,
        )
        blocks.append(chosen.draw(scene))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=chosen.compare_axis)


def top_classes(logits: NDArray[np.float32], labels: Sequence[str], count: int) -> TopClasses:
    """Return names and probabilities of the most likely classes; empty if a logit is not finite."""
    if not np.isfinite(logits).all():
        return ()
    probabilities = softmax(logits)
    best = np.argsort(-probabilities, kind="stable")[:count]
    return tuple((labels[int(index)], float(probabilities[index])) for index in best)


def _map_of(maps: Sequence[Map], level: int) -> Map:
    if not 1 <= level <= len(maps):
        titles = ", ".join(f"{i} ({each.title})" for i, each in enumerate(maps, start=1))
        raise ConfigError(f"received level {level}; choose one of {titles}")
    return maps[level - 1]


def _blank_panel(height: int, width: int) -> Image:
    # Video codecs with halved colour planes need even sides.
    return blank((height + 1) // 2 * 2, (width + 1) // 2 * 2)


def _draw_row(scene: Scene, tile: int) -> Image:
    """Draw the seen square and the maps over it, each a tile of `tile` pixels."""
    margin, header, title = scene.px(14), scene.px(46), scene.px(20)
    height = title + tile + scene.px(5 + BAR_PITCH_PX * scene.bars)
    panel = _blank_panel(header + height + margin, (len(scene.maps) + 1) * (tile + margin) + margin)
    frame = fit(centre_square(scene.image_rgb, scene.seen_fraction), tile, tile)
    grey = greyed(frame)
    for index, map_ in enumerate((None, *scene.maps)):
        left = margin + index * (tile + margin)
        column = panel[header : header + height, left : left + tile]
        name = map_.title if map_ else "frame"
        write_text(column, name, (0, scene.px(12)), 9.5 * scene.unit, DIM, tile)
        column[title : title + tile] = over_grey(grey, map_) if map_ else frame
        if map_:
            _draw_scale(column[title + tile :], map_, scene)
        else:
            _draw_bars(column[title + tile :], scene)
    _draw_heading(panel, scene)
    return panel


def _over_whole_frame(scene: Scene, height: int, width: int) -> Image:
    """Return the frame, letterboxed, with the map on the square that the network saw and the rest dimmed."""
    top, left, rows, columns = letterbox_place(scene.image_rgb.shape[0], scene.image_rgb.shape[1], height, width)
    image = fit(scene.image_rgb, rows, columns)
    side = square_side(rows, columns, scene.seen_fraction)
    inner = (slice((rows - side) // 2, (rows + side) // 2), slice((columns - side) // 2, (columns + side) // 2))
    canvas = blank(height, width)
    place = canvas[top : top + rows, left : left + columns]
    place[:] = cv2.convertScaleAbs(image, alpha=UNSEEN_BRIGHTNESS)
    place[inner] = over_colour(image[inner], scene.maps[0])
    return canvas


def _draw_heading(panel: Image, scene: Scene) -> None:
    margin, baseline, width = scene.px(14), scene.px(31), panel.shape[1]
    room = width - 2 * margin
    used = write_text(panel, scene.heading, (margin, baseline), 16 * scene.unit, BRIGHT, room, bold=True)
    place = (width - margin, baseline)
    write_text(panel, scene.note, place, 10 * scene.unit, DIM, room - used - margin, align="right")


def _draw_bars(footer: Image, scene: Scene) -> None:
    """Draw a bar for each of the most likely classes."""
    tile, size = footer.shape[1], 9 * scene.unit
    bar_left, bar_right = round(tile * 0.42), round(tile * 0.78)
    for rank, (label, share) in enumerate(scene.classes):
        baseline = scene.px(19 + BAR_PITCH_PX * rank)
        colour = BRIGHT if rank == 0 else DIM
        write_text(footer, label, (0, baseline), size, colour, bar_left - scene.px(8))
        write_text(footer, f"{share:.1%}", (tile, baseline), size, colour, tile // 5, align="right")
        rows = slice(baseline - scene.px(8), baseline - scene.px(1))
        footer[rows, bar_left:bar_right] = TRACK
        footer[rows, bar_left : bar_left + round((bar_right - bar_left) * share)] = ACCENT


def _draw_scale(footer: Image, map_: Map, scene: Scene) -> None:
    """Draw the colour scale of a map with the values at its ends."""
    tile, size = footer.shape[1], 9 * scene.unit
    if not map_.is_finite():
        write_text(footer, "not finite", (tile // 2, scene.px(19)), size, BRIGHT, tile, align="centre")
        return
    low, high = map_.span()
    footer[scene.px(9) : scene.px(19)] = colour_scale(tile, signed=map_.signed)
    baseline, room = scene.px(35), tile * 2 // 5
    form = "+.3g" if map_.signed else ".3g"
    write_text(footer, f"{low:{form}}", (0, baseline), size, DIM, room)
    write_text(footer, f"{high:{form}}", (tile, baseline), size, DIM, room, align="right")
    if map_.signed:
        write_text(footer, "0", (tile // 2, baseline), size, DIM, tile // 5, align="centre")
