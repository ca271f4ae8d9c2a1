"""calibration.json: activation ranges for the export stage, and the images they were measured on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calibration.observers import Range, find_observer
from runtime.core.errors import ConfigError
from runtime.core.files import write_json
from runtime.core.schema import read_as

SCHEMA_VERSION = 1
CALIBRATION_FILE = "calibration.json"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Content of calibration.json.

    Attributes:
        dataset: name of the dataset whose training split was sampled.
        observer: name of the rule that chose the ranges, from `calibration.observers`.
        percentile: percent of the values that observer percentile kept; `None` for the others.
        seed: of the draw.
        sha256: hash over the ids and pixels of the representative set.
        ids: names of its images.
        ranges: `(min, max)` of every layer's output, min <= 0 <= max.
    """

    dataset: str
    observer: str
    percentile: float | None
    seed: int
    sha256: str
    ids: tuple[str, ...]
    ranges: dict[str, Range]

    def __post_init__(self) -> None:
        """Check the observer and the ranges.

        Raises:
            ConfigError: the observer is unknown, its percentile is invalid, or a range does not include 0.
        """
        find_observer(self.observer, self.percentile)
        for layer, (low, high) in self.ranges.items():
            if not low <= 0.0 <= high:
                raise ConfigError(f"layer {layer} has the range {low}..{high}; expected one that includes 0")


def describe_observer(calibration: Calibration) -> str:
    """Return the observer's name with its parameter, e.g. "percentile 99.99"."""
    return calibration.observer + ("" if calibration.percentile is None else f" {calibration.percentile:g}")


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Write a calibration to its run's folder."""
    write_json(folder / CALIBRATION_FILE, {"schema_version": SCHEMA_VERSION, **asdict(calibration)})


def read_calibration(folder: Path) -> Calibration:
    """Read the calibration of a run.

    Raises:
        ArtifactError: the file is missing, damaged, of another schema version, or a field is invalid.
    """
    path = folder / CALIBRATION_FILE
    return read_as(Calibration, path, "python -m calibration", version=SCHEMA_VERSION, migrate=_without_percentile)


def _without_percentile(content: dict[str, Any]) -> dict[str, Any]:
    """Drop the percentile that early files of observer minmax have, to no effect."""
    return content | {"percentile": None} if content.get("observer") == "minmax" else content
