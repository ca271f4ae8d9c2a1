"""Whether images that are compared on were already used to choose the quantization's ranges.

Ranges fitted to the test images make int8 look better there than it will be anywhere else.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from runtime.bundle.manifest import Manifest
from runtime.core.errors import ArtifactError
from runtime.core.files import read_json
from runtime.evaluation.split_file import LabelledImages
from runtime.images.preprocess import Image

CALIBRATION_FILE = "calibration.json"
NAMED_LEAKS = 10


def leak_figures(
    manifest: Manifest, folder: Path | None, images: LabelledImages, calibration: LabelledImages | None
) -> tuple[dict[str, Any], str | None]:
    """Return `calibration` of report.json, and why the count is missing if it is.

    Args:
        manifest: of the candidate's bundle.
        folder: that bundle; calibration.json is looked for there and in the run that it is in.
        images: those that are compared on.
        calibration: those that ranges were chosen by, if they are at hand: then pixels are compared too, and an
            image under another name is found.

    Returns:
        The figures, and the reason or `None`.
    """
    if manifest.calibration_sha256 is None and calibration is None:
        return _figures(0, []), None
    ids = _calibration_ids(manifest, folder)
    if ids is None and calibration is None:
        return {"images": None, "leaked_images": None, "leaked_ids": []}, (
            f"no {CALIBRATION_FILE} of this bundle is beside it; copy it from the run, or give --calibration"
        )
    known = set(ids or ()) | set(calibration.ids if calibration else ())
    leaked = {index for index, name in enumerate(images.ids) if name in known}
    if calibration is not None:
        digests = {_digest(image) for image in calibration.images}
        leaked |= {index for index, image in enumerate(images.images) if _digest(image) in digests}
    return _figures(len(known), [images.ids[index] for index in sorted(leaked)]), None


def _figures(images: int, leaked: list[str]) -> dict[str, Any]:
    return {"images": images, "leaked_images": len(leaked), "leaked_ids": leaked[:NAMED_LEAKS]}


def _calibration_ids(manifest: Manifest, folder: Path | None) -> list[str] | None:
    """Return the names of the images that a bundle was calibrated on; none where they are not known."""
    if folder is None:
        return None
    for path in (folder / CALIBRATION_FILE, folder.resolve().parent / CALIBRATION_FILE):
        if not path.exists():
            continue
        content = read_json(path, "python -m calibration")
        if not isinstance(content, dict) or not isinstance(content.get("ids"), list):
            raise ArtifactError(f"{path} lists no images; calibrate the run anew with `python -m calibration`")
        # Of another calibration than the bundle's it says nothing.
        if content.get("sha256") == manifest.calibration_sha256:
            return [str(name) for name in content["ids"]]
    return None


def _digest(image: Image) -> bytes:
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
