"""The maps of a network, gates and modulator, and the colours they are drawn in.

Gates are signed: their colours run both ways from 0, and the colour scale of each gate is symmetric about 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.draw.canvas import BACKGROUND, TRACK
from runtime.engines.outputs import Outputs
from runtime.images.preprocess import Image

# Blue and orange differ for every common kind of colour blindness; equal magnitudes are equally
# bright, and 0 is dark, so that the frame shows where a gate is shut.
SIGNED_ANCHORS = ((150, 210, 255), (50, 140, 228), (18, 24, 34), (208, 100, 28), (255, 190, 104))
MAP_OPACITY = 0.6
# Over a frame in colour, the strongest places of a map cover it this much, and its zero not at all.
BLEND_OPACITY = 0.85

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
    """One map to draw.

    Attributes:
        title: its name in the panel.
        values: float32 `[h, w]`.
        signed: colours are symmetric about 0.
        shared_span: both ends of a colour scale shared with another map; by default the map's own.
    """

    title: str
    values: NDArray[np.float32]
    signed: bool
    shared_span: Span | None = None

    def is_finite(self) -> bool:
        """Return whether no value is a NaN or an infinity."""
        return bool(np.isfinite(self.values).all())

    @property
    def colours(self) -> Image:
        """Colours from one end of the scale to the other, uint8 `[256, 3]` RGB."""
        return SIGNED_COLOURS if self.signed else UNSIGNED_COLOURS

    def span(self) -> Span:
        """Return the values at both ends of a finite map's colour scale."""
        if self.shared_span is not None:
            return self.shared_span
        if self.signed:
            limit = float(np.abs(self.values).max())
            return -limit, limit
        return float(self.values.min()), float(self.values.max())


def map_titles(focal_levels: int) -> tuple[str, ...]:
    """Return the titles of a network's maps, in drawing order."""
    return (*(f"gate, level {i}" for i in range(1, focal_levels + 1)), "gate, global", "modulator")


def output_maps(outputs: Outputs) -> list[Map]:
    """Return the maps of a network in drawing order: focal levels, global gate, modulator."""
    gates = [outputs.gates[..., i] for i in range(outputs.gates.shape[-1])]
    titles = map_titles(len(gates) - 1)
    return [
        *(Map(title, gate, signed=True) for title, gate in zip(titles, gates, strict=False)),
        Map(titles[-1], outputs.modulator, signed=False),
    ]


def with_shared_spans(rows: Sequence[list[Map]]) -> list[list[Map]]:
    """Return the maps of several artifacts, each on the colour scale that covers its finite counterparts."""
    if len(rows) < 2:
        return list(rows)
    spans = []
    for counterparts in zip(*rows, strict=True):
        finite = [each.span() for each in counterparts if each.is_finite()]
        spans.append((min(low for low, _ in finite), max(high for _, high in finite)) if finite else None)
    return [[replace(each, shared_span=span) for each, span in zip(maps, spans, strict=True)] for maps in rows]


def colour_scale(width: int, *, signed: bool) -> Image:
    """Return a colour scale from its low to its high end, uint8 `[1, width, 3]` RGB."""
    indices = np.rint(np.linspace(0.0, 1.0, width) * 255).astype(np.uint8)
    return _coloured(indices[np.newaxis], SIGNED_COLOURS if signed else UNSIGNED_COLOURS)


def greyed(frame: Image) -> Image:
    """Return a frame without its colours, uint8 `[h, w, 3]`."""
    return np.asarray(cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), dtype=np.uint8)


def over_grey(grey: Image, map_: Map) -> Image:
    """Blend a map evenly over a grey frame.

    Args:
        grey: uint8 `[S, S, 3]`, as `greyed` returns it.
        map_: a map of any size; it covers the whole frame.

    Returns:
        uint8 `[S, S, 3]` RGB; a hatched tile if a value of the map is not finite.
    """
    if not map_.is_finite():
        return _hatched(*grey.shape[:2])
    colours = _coloured(_smooth_indices(map_, grey.shape[0]), map_.colours)
    return np.asarray(cv2.addWeighted(grey, 1 - MAP_OPACITY, colours, MAP_OPACITY, 0.0), dtype=np.uint8)


def over_colour(frame: Image, map_: Map) -> Image:
    """Blend a map over a frame in colour, more opaque the further a value is from the dark end of the scale.

    Args:
        frame: uint8 `[S, S, 3]` RGB.
        map_: a map of any size; it covers the whole frame.

    Returns:
        uint8 `[S, S, 3]` RGB; a hatched tile if a value of the map is not finite.
    """
    if not map_.is_finite():
        return _hatched(*frame.shape[:2])
    indices = _smooth_indices(map_, frame.shape[0])
    steps = np.arange(256, dtype=np.float64)
    distance = np.abs(steps - 127.5) / 127.5 if map_.signed else steps / 255.0
    opacity = (BLEND_OPACITY * distance)[:, np.newaxis]
    colours = map_.colours * opacity
    kept = np.repeat(255.0 * (1.0 - opacity), 3, axis=1)
    shining = cv2.multiply(frame, _coloured(indices, np.rint(kept).astype(np.uint8)), scale=1 / 255)
    return np.asarray(cv2.add(shining, _coloured(indices, np.rint(colours).astype(np.uint8))), dtype=np.uint8)


def _smooth_indices(map_: Map, size: int) -> NDArray[np.uint8]:
    """Return places on a finite map's colour scale, uint8 `[size, size]`."""
    low, high = map_.span()
    span = high - low
    values = map_.values.astype(np.float64)
    # Not at 127.5, which the rounding below would scatter.
    middle = 128.0 if map_.signed else 0.0
    scaled = (values - low) * (255.0 / span) if span > 0 else np.full_like(values, middle)
    smooth = cv2.resize(scaled.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    # Rounds and saturates: a cubic curve overshoots the values that it joins.
    return np.asarray(cv2.add(smooth, 0.0, dtype=cv2.CV_8U), dtype=np.uint8)


def _coloured(indices: NDArray[np.uint8], colours: Image) -> Image:
    # OpenCV only looks each index up, so RGB goes in and comes out.
    return np.asarray(cv2.applyColorMap(indices, colours[:, np.newaxis]), dtype=np.uint8)


def _hatched(height: int, width: int) -> Image:
    rows, columns = np.indices((height, width))
    return np.array([TRACK, BACKGROUND], dtype=np.uint8)[(rows + columns) // 8 % 2]
