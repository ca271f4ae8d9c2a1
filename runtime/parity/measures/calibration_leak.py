"""Calibration leak: compared images that the quantization's ranges were chosen by.

Ranges fitted to the test images make int8 look better on them than on any others.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.bundle.manifest import Manifest
from runtime.core.errors import ArtifactError
from runtime.core.files import read_json
from runtime.core.schema import parse
from runtime.images.preprocess import Image
from runtime.parity.measure import Context, Missing

CALIBRATION_FILE = "calibration.json"
NAMED_LEAKS = 10


@dataclass(frozen=True)
class _Calibration:
    """The part of calibration.json that is needed here."""

    ids: tuple[str, ...]
    sha256: str


def measure_calibration_leak(context: Context) -> dict[str, Any]:
    """Measure `calibration_leak`.

    Leaks are found by the names in calibration.json, which is in the candidate's bundle or its run. With the
    calibration images at hand their pixels are compared too, which finds an image under another name.
    """
    split, calibration, candidate = context.split, context.extras.calibration, context.pair.candidate
    ids: tuple[str, ...] | None = ()
    if candidate.manifest.calibration_sha256 is not None:
        ids = _calibration_ids(candidate.manifest, candidate.folder)
    if ids is None and calibration is None:
        reason = f"the bundle has no {CALIBRATION_FILE}; copy it from the run, or give --calibration"
        return {"images": None, "leaked_images": Missing(reason), "leaked_ids": []}
    known, digests = set(ids or ()), set()
    if calibration is not None:
        known |= set(calibration.ids)
        digests = {_digest(image) for image in calibration.images}
    leaked = [
        name
        for name, image in zip(split.ids, split.images, strict=True)
        if name in known or (digests and _digest(image) in digests)
    ]
    return {"images": len(known), "leaked_images": len(leaked), "leaked_ids": leaked[:NAMED_LEAKS]}


def _calibration_ids(manifest: Manifest, folder: Path | None) -> tuple[str, ...] | None:
    """Return the names of the images that a bundle was calibrated on; `None` if they are not known."""
    if folder is None:
        return None
    for path in (folder / CALIBRATION_FILE, folder.resolve().parent / CALIBRATION_FILE):
        if not path.exists():
            continue
        content = read_json(path, "python -m calibration")
        try:
            calibration: _Calibration = parse(_Calibration, content, ignore_unknown=True)
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}; calibrate the run again with `python -m calibration`") from None
        # The run may have been calibrated again since.
        if calibration.sha256 == manifest.calibration_sha256:
            return calibration.ids
    return None


def _digest(image: Image) -> bytes:
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
