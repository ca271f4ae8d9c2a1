"""The protocol of parity measures: a function from a context to one section of report.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.core.errors import ConfigError
from runtime.evaluation.metrics import Classes
from runtime.evaluation.split_file import LabelledImages
from runtime.images.preprocess import Image, preprocess
from runtime.parity.pair import ComparedArtifact, Pair
from runtime.parity.predictions import PairedPredictions

TIMED_IMAGES = 8


@dataclass(frozen=True)
class Missing:
    """Stands for a section or a figure that was not measured.

    Attributes:
        reason: why, as the reports show it after "not measured: ".
    """

    reason: str


NOT_REQUESTED = Missing("left out on request")


@dataclass(frozen=True, kw_only=True)
class Effort:
    """The number of images and runs.

    Attributes:
        images: size of a class-balanced sample to compare, 1 or more; `None` for all.
        corrupted_images: images of it to corrupt, in each way and severity; 0 for none.
        layer_images: images to compare layers on; 0 for none.
        rounds: timed runs of each artifact with each number of threads, 1 or more.
        starts: fresh processes to start each artifact in, 1 or more.
        threads: numbers of CPU threads; the first is the verdict's.
    """

    images: int | None = None
    corrupted_images: int = 1000
    layer_images: int = 512
    rounds: int = 500
    starts: int = 3
    threads: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        """Check the fields; see the class."""
        if self.images is not None and self.images < 1:
            raise ConfigError(f"received a limit of {self.images} images; expected 1 or more, or no limit")
        if min(self.corrupted_images, self.layer_images) < 0 or min(self.rounds, self.starts, *self.threads) < 1:
            raise ConfigError(f"received {self}; expected 0 or more images, and 1 or more rounds, starts and threads")


QUICK = Effort(images=1000, corrupted_images=200, layer_images=200, rounds=100, starts=1)


@dataclass(frozen=True)
class Extras:
    """Optional inputs.

    Attributes:
        calibration: the images that the candidate's ranges were chosen by.
        sensitivity: path of a sensitivity.json.
    """

    calibration: LabelledImages | None = None
    sensitivity: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Context:
    """The input of every measure.

    Attributes:
        pair: the two artifacts, opened.
        split: the whole split.
        images: the N images that are compared, uint8 `[H, W, 3]` RGB each.
        labels: int64 `[N]`, their classes.
        ids: N names.
        class_names: K class names.
        predictions: of both artifacts on these images.
        effort: how much to measure.
        extras: optional inputs.
        report: report.json so far: the sections of the measures before this one.
    """

    pair: Pair
    split: LabelledImages
    images: Sequence[Image]
    labels: Classes
    ids: Sequence[str]
    class_names: Sequence[str]
    predictions: PairedPredictions
    effort: Effort
    extras: Extras
    report: Mapping[str, Any]

    def batches(self, compared: ComparedArtifact, count: int = TIMED_IMAGES) -> list[NDArray[np.uint8]]:
        """Return the first images as an artifact's inputs, uint8 `[1, S, S, 3]` each."""
        return [preprocess(image, compared.engine.input_spec) for image in self.images[:count]]


Section = dict[str, Any] | list[dict[str, Any]]


@dataclass(frozen=True)
class Measure:
    """One section of report.json.

    Attributes:
        section: its key.
        measure: returns its figures, with `Missing` in the place of each one that was not measured.
        needs: sections that must be measured before.
    """

    section: str
    measure: Callable[[Context], Section | Missing]
    needs: tuple[str, ...] = ()


def run_measures(measures: Sequence[Measure], context: Context, report: dict[str, Any]) -> None:
    """Run measures in order, and add their sections to a report.

    Args:
        measures: see `Measure`.
        context: their input; its `report` is the one given.
        report: gets one key a measure, `None` for a missing section, and `missing`: reasons by path.
    """
    missing: dict[str, str] = {}
    for each in measures:
        unmet = [need for need in each.needs if report.get(need) is None]
        found = Missing(f"it needs {', '.join(unmet)}") if unmet else each.measure(context)
        report[each.section] = _without_missing(found, each.section, missing)
    report["missing"] = missing


def _without_missing(figures: Any, path: str, missing: dict[str, str]) -> Any:
    """Replace each `Missing` by `None`, leave it out of lists, and note its reason."""
    if isinstance(figures, Missing):
        missing[path] = figures.reason
        return None
    if isinstance(figures, dict):
        return {key: _without_missing(value, f"{path}.{key}", missing) for key, value in figures.items()}
    if isinstance(figures, list):
        found = [_without_missing(value, f"{path}.{index}", missing) for index, value in enumerate(figures)]
        return [value for value, given in zip(found, figures, strict=True) if not isinstance(given, Missing)]
    return figures
