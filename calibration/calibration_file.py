"""calibration.json: the ranges that the export stage quantizes by, and what they were measured on."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from calibration.observers import Range, find_observer
from runtime.core.errors import ArtifactError, ConfigError
from runtime.core.files import read_json, write_json

SCHEMA_VERSION = 1
CALIBRATION_FILE = "calibration.json"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The outcome of a calibration.

    Attributes:
        dataset: name of the data set whose training split was sampled.
        observer: what chose the ranges, by its name in `calibration.observers`.
        percentile: share of the values that "percentile" kept, in percent; `None` for another observer.
        seed: of the draw.
        sha256: hash over the ids and pixels of the representative set.
        ids: names of its images.
        ranges: `(min, max)` of every layer's output.
    """

    dataset: str
    observer: str
    percentile: float | None
    seed: int
    sha256: str
    ids: tuple[str, ...]
    ranges: dict[str, Range]


def describe_observer(calibration: Calibration) -> str:
    """Return the observer in words, its parameter included."""
    return calibration.observer + ("" if calibration.percentile is None else f" {calibration.percentile:g}")


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Write a calibration to its run's folder."""
    content = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(calibration)}
    write_json(folder / CALIBRATION_FILE, content)


def read_calibration(folder: Path) -> Calibration:
    """Read the calibration of a run.

    Raises:
        ArtifactError: it is missing, damaged, of another schema, of an unknown observer, or a range is not one.
    """
    path = folder / CALIBRATION_FILE
    content = read_json(path, made_by="python -m calibration")
    remedy = "calibrate the run anew with `python -m calibration`"
    if not isinstance(content, dict) or content.pop("schema_version", None) != SCHEMA_VERSION:
        raise ArtifactError(f"{path} is not of schema version {SCHEMA_VERSION}; {remedy}")
    try:
        ranges = {layer: (float(low), float(high)) for layer, (low, high) in content.pop("ranges").items()}
        if content["observer"] == "minmax":
            content["percentile"] = None  # It had one in the first files, to no effect.
        find_observer(content["observer"], content["percentile"])
        calibration = Calibration(ids=tuple(content.pop("ids")), ranges=ranges, **content)
    except (AttributeError, ConfigError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is no complete calibration ({error}); {remedy}") from error
    for layer, (low, high) in ranges.items():
        if not (math.isfinite(low) and math.isfinite(high) and low <= 0.0 <= high):
            raise ArtifactError(
                f"{path} gives layer {layer} the range {low}..{high}; expected finite ends around 0; {remedy}"
            )
    return calibration
