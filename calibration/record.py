"""calibration.json: the ranges that the export stage quantizes by, and what they were measured on."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from calibration.ranges import Range
from runtime.errors import ArtifactError
from runtime.files import read_json, write_json

SCHEMA_VERSION = 1
CALIBRATION_FILE = "calibration.json"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The outcome of a calibration.

    Attributes:
        dataset: name of the data set whose training split was sampled.
        observer: "minmax" or "percentile".
        percentile: share of the values kept, in percent (of no account for "minmax").
        seed: of the draw.
        sha256: hash over the ids and pixels of the representative set.
        ids: names of its pictures.
        ranges: `(min, max)` of every layer's output.
    """

    dataset: str
    observer: str
    percentile: float
    seed: int
    sha256: str
    ids: tuple[str, ...]
    ranges: dict[str, Range]


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Write a calibration to its run's folder."""
    content = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(calibration)}
    write_json(folder / CALIBRATION_FILE, content)


def read_calibration(folder: Path) -> Calibration:
    """Read the calibration of a run.

    Raises:
        ArtifactError: it is missing, damaged, of another schema, or a range is not one.
    """
    path = folder / CALIBRATION_FILE
    content = read_json(path, made_by="python -m calibration")
    remedy = "calibrate the run anew with `python -m calibration`"
    if not isinstance(content, dict) or content.pop("schema_version", None) != SCHEMA_VERSION:
        raise ArtifactError(f"{path} is not of schema version {SCHEMA_VERSION}; {remedy}")
    try:
        ranges = {layer: (float(low), float(high)) for layer, (low, high) in content.pop("ranges").items()}
        calibration = Calibration(ids=tuple(content.pop("ids")), ranges=ranges, **content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is no complete calibration ({error}); {remedy}") from error
    for layer, (low, high) in ranges.items():
        if not (math.isfinite(low) and math.isfinite(high) and low <= 0.0 <= high):
            raise ArtifactError(
                f"{path} gives layer {layer} the range {low}..{high}; expected finite ends around 0; {remedy}"
            )
    return calibration
