"""Panels of report.html: one image with the maps of both artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2

from runtime.core.errors import FocalEdgeError
from runtime.draw.overlay import gate_panel
from runtime.images.preprocess import Image, preprocess
from runtime.parity.measure import Context
from runtime.parity.pair import ComparedArtifact

TILE_PX = 168
JPEG_QUALITY = 88


@dataclass(frozen=True)
class ImagePanel:
    """One image with both artifacts' gates drawn over it, as JPEG files."""

    image_id: str
    reason: str
    label: str
    reference_jpeg: bytes
    candidate_jpeg: bytes


def draw_panel(context: Context, image_id: str, reason: str) -> ImagePanel:
    """Draw one of the compared images.

    Args:
        context: see `Context`.
        image_id: one of its ids.
        reason: why the image is shown, for the caption.
    """
    index = context.ids.index(image_id)
    image, names = context.images[index], context.class_names
    jpegs = (_jpeg(compared, image, names) for compared in (context.pair.reference, context.pair.candidate))
    return ImagePanel(image_id, reason, names[context.labels[index]], *jpegs)


def _jpeg(compared: ComparedArtifact, image: Image, names: Sequence[str]) -> bytes:
    spec = compared.engine.input_spec
    panel = gate_panel(
        image,
        compared.engine.run(preprocess(image, spec)),
        names,
        note=compared.name,
        tile_size=TILE_PX,
        seen_fraction=spec.seen_fraction,
    )
    encoded, jpeg = cv2.imencode(".jpg", panel[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not encoded:
        raise FocalEdgeError("OpenCV cannot encode JPEG; reinstall opencv-python")
    return bytes(jpeg.tobytes())
