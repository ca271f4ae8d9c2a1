"""Compare two artifacts on the same images: run every measure, and judge the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.core.errors import ArtifactError, ConfigError, FocalEdgeError
from runtime.core.files import replacing, write_json
from runtime.draw.overlay import gate_panel
from runtime.engines.engine import Engine
from runtime.evaluation.metrics import Classes
from runtime.evaluation.sampling import SAMPLE_SEED, class_balanced_indices
from runtime.evaluation.split_file import LabelledImages
from runtime.images.preprocess import Image, preprocess
from runtime.parity.measures.accuracy import (
    accuracy_figures,
    class_figures,
    confusion_figures,
    disagreement_figures,
    largest_disagreements,
)
from runtime.parity.measures.calibration_leak import leak_figures
from runtime.parity.measures.cost import cost_figures
from runtime.parity.measures.layer_error import blame_figures, find_ranking
from runtime.parity.measures.predictions import PairedPredictions, predict_pair
from runtime.parity.measures.robustness import corruption_figures
from runtime.parity.measures.sight_figures import map_names, sight_figures, worst_places
from runtime.parity.pair import Pair, Subject, check_classes, describe
from runtime.parity.report.html import ImagePanel, render_report
from runtime.parity.report.junit import write_junit
from runtime.parity.report.markdown import to_markdown
from runtime.parity.rules import Budget
from runtime.parity.verdict import judge

SCHEMA_VERSION = 2
REPORT_JSON, REPORT_HTML, REPORT_MARKDOWN, JUNIT_XML = "report.json", "report.html", "report.md", "junit.xml"
DISAGREEMENT_PANELS = 6
TIMED_IMAGES = 8
PANEL_TILE_PX = 168
PANEL_QUALITY = 88


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured.

    Attributes:
        images: compare a class-balanced sample of so many; `None` takes all.
        corrupted_images: how many of them are corrupted, in each way and severity; 0 for none.
        layer_images: on how many of them layers are compared; 0 for none.
        rounds: measured runs of each artifact with each number of threads.
        starts: fresh processes that each artifact is started in.
        threads: numbers of CPU threads; the first is that of the verdict.
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
            raise ConfigError(
                f"received {self}; expected images of 0 or more, and a round, a start and a thread at least"
            )


QUICK = Effort(images=1000, corrupted_images=200, layer_images=200, rounds=100, starts=1)


@dataclass(frozen=True)
class Extras:
    """What may be at hand beside the artifacts.

    Attributes:
        calibration: the images that the candidate's ranges were chosen by.
        sensitivity: a sensitivity.json.
    """

    calibration: LabelledImages | None = None
    sensitivity: Path | None = None


@dataclass(frozen=True)
class Comparison:
    """The content of report.json, and the images of report.html."""

    report: dict[str, Any]
    panels: Mapping[str, Sequence[ImagePanel]] = field(default_factory=dict)


def compare(
    pair: Pair, split: LabelledImages, budget: Budget, effort: Effort, extras: Extras | None = None
) -> Comparison:
    """Compare two artifacts.

    Args:
        pair: the two.
        split: the labelled split, with the bundles' classes in the bundles' order.
        budget: the limits that the verdict holds the figures to.
        effort: how much is measured.
        extras: what is at hand beside the artifacts.

    Returns:
        The report, whose verdict may be a fail, and images with both artifacts' gates.

    Raises:
        DataError: the classes of the data are not the bundles'.
        ArtifactError: the reference gives non-finite outputs, or an artifact another number of logits.
    """
    extras = extras or Extras()
    check_classes(pair, split)
    chosen = sample_indices(split.labels, effort.images)
    images, labels = [split.images[index] for index in chosen], split.labels[chosen]
    ids, names = [split.ids[index] for index in chosen], pair.reference.manifest.labels
    reference, candidate = pair.reference.engine, pair.candidate.engine
    answers = predict_pair(reference, candidate, images, len(names))
    disagreements = largest_disagreements(answers, DISAGREEMENT_PANELS)
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": None,
        "kind": "quantization" if pair.is_quantization else "release",
        "subjects": {role: describe(subject) for role, subject in pair.subjects.items()},
        "data": _data_figures(split, len(labels)),
        "accuracy": accuracy_figures(labels, answers, _recorded_top1(pair.reference, split)),
        "classes": class_figures(labels, answers, names),
        "confusion": confusion_figures(labels, answers, names),
        "disagreements": disagreement_figures(disagreements, labels, answers, ids, names),
        "sight": None,
        "corruptions": None,
        "blame": None,
        "cost": None,
        "calibration": None,
        "missing": {},
    }
    worst = _add_sight(report, answers, ids)
    _add_corruptions(report, reference, candidate, images, labels, len(names), effort)
    _add_blame(report, pair, images, effort, extras)
    _add_cost(report, pair, images, effort)
    _add_leaks(report, pair, split, extras)
    report["verdict"] = judge(report, budget, pair.candidate.artifact.engine)
    shown = _Panels(pair, names, ids, images, labels)
    panels = {
        "disagreements": [shown.panel(index, "largest disagreement") for index in disagreements],
        "sight": [shown.panel(index, f"least similar: {name}") for index, name in worst],
    }
    return Comparison(report, panels)


def sample_indices(labels: Classes, limit: int | None) -> NDArray[np.int64]:
    """Choose images: all of them, or a seeded sample as class-balanced as the labels allow.

    Args:
        labels: int64 `[N]`.
        limit: how many to choose, >= 1; `None` or N and more choose all.

    Returns:
        int64 `[min(limit, N)]`, ascending indices; the same ones for the same labels and limit.
    """
    if limit is None or limit >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    return class_balanced_indices(labels, limit, SAMPLE_SEED)


def _data_figures(images: LabelledImages, compared: int) -> dict[str, Any]:
    total = len(images.labels)
    sampling = "every image of the split"
    if compared < total:
        sampling = f"a class-balanced sample (seed {SAMPLE_SEED}) of {compared} of {total} images"
    return {
        "dataset": images.dataset,
        "split": images.split,
        "images": compared,
        "images_in_split": total,
        "sampling": sampling,
    }


def _recorded_top1(subject: Subject, images: LabelledImages) -> float | None:
    """Return what the manifest says that an artifact reaches on this split, 0..1."""
    accuracy = subject.artifact.accuracy
    if accuracy is None or (accuracy.dataset, accuracy.split) != (images.dataset, images.split):
        return None
    return accuracy.top1


def _add_sight(report: dict[str, Any], answers: PairedPredictions, ids: Sequence[str]) -> list[tuple[int, str]]:
    """Add `sight`; return the images with the least similar maps, and which maps those are."""
    if answers.similarity is None:
        report["missing"]["sight"] = "the two have different numbers of maps, so theirs are not comparable"
        return []
    report["sight"] = sight_figures(answers.similarity, ids)
    names = map_names(answers.similarity.cosine.shape[1])
    return [(image, names[level]) for image, level in worst_places(answers.similarity)]


def _add_corruptions(
    report: dict[str, Any],
    reference: Engine,
    candidate: Engine,
    images: Sequence[Image],
    labels: Classes,
    classes: int,
    effort: Effort,
) -> None:
    if not effort.corrupted_images:
        report["missing"]["corruptions"] = "left out, as asked for"
        return
    part = sample_indices(labels, effort.corrupted_images)
    report["corruptions"] = corruption_figures(
        reference, candidate, [images[index] for index in part], labels[part], classes, SAMPLE_SEED
    )


def _add_blame(report: dict[str, Any], pair: Pair, images: Sequence[Image], effort: Effort, extras: Extras) -> None:
    reference, candidate = pair.reference.path, pair.candidate.path
    if not effort.layer_images:
        report["missing"]["blame"] = "left out, as asked for"
        return
    engines = {subject.artifact.engine for subject in pair.subjects.values()}
    if reference is None or candidate is None or engines != {"tflite"}:
        report["missing"]["blame"] = "only TFLite artifacts on disk show what is between their layers"
        return
    source = "images that are compared on"
    if extras.calibration is not None:
        images, source = list(extras.calibration.images), "the calibration set"
    if not _same_network(pair.reference.manifest.config, pair.candidate.manifest.config):
        report["missing"]["blame"] = "the two are different networks, so their layers are not comparable"
        return
    ranking = find_ranking(pair.candidate.folder, extras.sensitivity)
    if ranking is None:
        report["missing"]["blame.ranked_products"] = (
            "no sensitivity.json is at hand: it needs Keras, and `python -m export.sensitivity` makes it"
        )
    step = max(1, len(images) // effort.layer_images)
    batches = [preprocess(image, pair.reference.engine.input_spec) for image in images[::step][: effort.layer_images]]
    try:
        report["blame"] = blame_figures(reference, candidate, batches, source, ranking or [])
    except (ArtifactError, ValueError) as error:
        report["missing"]["blame"] = str(error)


def _same_network(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Return whether two configurations agree in the fields that both have: newer bundles say more than older ones."""
    return all(first[name] == second[name] for name in first.keys() & second.keys())


def _add_cost(report: dict[str, Any], pair: Pair, images: Sequence[Image], effort: Effort) -> None:
    batches = {
        role: [preprocess(image, subject.engine.input_spec) for image in images[:TIMED_IMAGES]]
        for role, subject in pair.subjects.items()
    }
    report["cost"], missing = cost_figures(pair, batches, effort.threads, effort.rounds, effort.starts)
    report["missing"] |= missing


def _add_leaks(report: dict[str, Any], pair: Pair, images: LabelledImages, extras: Extras) -> None:
    candidate = pair.candidate
    report["calibration"], reason = leak_figures(candidate.manifest, candidate.folder, images, extras.calibration)
    if reason:
        report["missing"]["calibration.leaked_images"] = reason


@dataclass(frozen=True)
class _Panels:
    """Draws images with both artifacts' gates."""

    pair: Pair
    names: Sequence[str]
    ids: Sequence[str]
    images: Sequence[Image]
    labels: Classes

    def panel(self, index: int, reason: str) -> ImagePanel:
        return ImagePanel(
            image_id=self.ids[index],
            reason=reason,
            label=self.names[self.labels[index]],
            reference_jpeg=self._jpeg(self.pair.reference, index),
            candidate_jpeg=self._jpeg(self.pair.candidate, index),
        )

    def _jpeg(self, subject: Subject, index: int) -> bytes:
        image = self.images[index]
        outputs = subject.engine.run(preprocess(image, subject.engine.input_spec))
        panel = gate_panel(
            image,
            outputs,
            self.names,
            note=subject.name,
            tile_size=PANEL_TILE_PX,
            seen_fraction=subject.engine.input_spec.seen_fraction,
        )
        encoded, jpeg = cv2.imencode(".jpg", panel[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, PANEL_QUALITY])
        if not encoded:
            raise FocalEdgeError("OpenCV cannot encode JPEG; install opencv-python anew")
        return bytes(jpeg.tobytes())


def write_reports(folder: Path, comparison: Comparison, *, html: bool = True) -> list[Path]:
    """Write report.json, report.md, junit.xml and, unless told otherwise, report.html.

    Args:
        folder: where to; it is made if missing.
        comparison: what `compare` returns.
        html: whether to write report.html too.

    Returns:
        The paths written.

    Raises:
        FocalEdgeError: a file cannot be written.
    """
    report = comparison.report
    write_json(folder / REPORT_JSON, report)
    write_junit(folder / JUNIT_XML, report)
    texts = {REPORT_MARKDOWN: to_markdown(report)}
    if html:
        texts[REPORT_HTML] = render_report(report, comparison.panels)
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            # File names among the ids may not be valid Unicode.
            temporary.write_text(text, encoding="utf-8", errors="replace")
    return [folder / name for name in (REPORT_JSON, JUNIT_XML, *texts)]
