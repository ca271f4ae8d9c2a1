"""Compare two artifacts on the same images: run every measure, and judge the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runtime.core.files import replacing, write_json
from runtime.core.text import printable_content
from runtime.evaluation.sampling import SAMPLE_SEED, class_balanced_indices
from runtime.evaluation.split_file import LabelledImages
from runtime.parity.measure import QUICK, Context, Effort, Extras, Measure, run_measures
from runtime.parity.measures import MEASURES
from runtime.parity.pair import Pair, check_classes
from runtime.parity.predictions import predict_pair
from runtime.parity.report.html import render_report
from runtime.parity.report.junit import to_junit
from runtime.parity.report.markdown import to_markdown
from runtime.parity.report.panels import ImagePanel, draw_panel
from runtime.parity.rules import Limits
from runtime.parity.verdict import judge

__all__ = ["MEASURES", "QUICK", "SCHEMA_VERSION", "Comparison", "Effort", "Extras", "compare", "write_reports"]

SCHEMA_VERSION = 3
REPORT_JSON, REPORT_HTML, REPORT_MARKDOWN, JUNIT_XML = "report.json", "report.html", "report.md", "junit.xml"


@dataclass(frozen=True)
class Comparison:
    """The content of report.json, and the images of report.html by section."""

    report: dict[str, Any]
    panels: Mapping[str, Sequence[ImagePanel]] = field(default_factory=dict)


def compare(
    pair: Pair,
    split: LabelledImages,
    limits: Limits,
    effort: Effort,
    extras: Extras | None = None,
    measures: Sequence[Measure] = MEASURES,
) -> Comparison:
    """Compare two artifacts.

    Args:
        pair: the two, opened.
        split: the labelled split, with the bundles' classes in the bundles' order.
        limits: the limits of the verdict, by rule.
        effort: how much to measure.
        extras: optional inputs.
        measures: the sections of the report.

    Returns:
        The report, whose verdict may be a fail, and images with both artifacts' gates.

    Raises:
        DataError: the classes of the data are not the bundles'.
        ArtifactError: the reference gives non-finite outputs, or an artifact another number of logits.
    """
    check_classes(pair, split)
    total = len(split.labels)
    chosen = class_balanced_indices(split.labels, effort.images or total, SAMPLE_SEED)
    images, names = [split.images[index] for index in chosen], pair.reference.manifest.labels
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": None,
        "kind": pair.kind,
        "artifacts": {role: compared.describe() for role, compared in pair.artifacts.items()},
        "data": _data_figures(split, len(images)),
    }
    context = Context(
        pair=pair,
        split=split,
        images=images,
        labels=split.labels[chosen],
        ids=[split.ids[index] for index in chosen],
        class_names=names,
        predictions=predict_pair(pair.reference.engine, pair.candidate.engine, images, len(names)),
        effort=effort,
        extras=extras or Extras(),
        report=report,
    )
    run_measures(measures, context, report)
    report["verdict"] = judge(report, limits, pair.candidate.artifact.engine)
    # Names come from manifests and split files of others.
    return Comparison(printable_content(report), _draw_panels(context))


def _data_figures(split: LabelledImages, compared: int) -> dict[str, Any]:
    total = len(split.labels)
    sampling = "every image of the split"
    if compared < total:
        sampling = f"a class-balanced sample (seed {SAMPLE_SEED}) of {compared} of {total} images"
    return {
        "dataset": split.dataset,
        "split": split.split,
        "images": compared,
        "images_in_split": total,
        "sampling": sampling,
    }


def _draw_panels(context: Context) -> dict[str, list[ImagePanel]]:
    """Draw the images that the report names."""
    report = context.report
    similarity = report["map_similarity"] or {"worst": []}
    reasons = {
        "disagreements": [(each["id"], "largest disagreement") for each in report["disagreements"]],
        "map_similarity": [(each["id"], f"lowest similarity: {each['map']}") for each in similarity["worst"]],
    }
    return {section: [draw_panel(context, *each) for each in images] for section, images in reasons.items()}


def write_reports(folder: Path, comparison: Comparison, *, html: bool = True) -> list[Path]:
    """Write report.json, junit.xml, report.md and report.html.

    Args:
        folder: where to; it is made if missing.
        comparison: from `compare`.
        html: whether to write report.html.

    Returns:
        The paths written.

    Raises:
        FocalEdgeError: a file cannot be written.
    """
    report = comparison.report
    write_json(folder / REPORT_JSON, report)
    texts = {JUNIT_XML: to_junit(report), REPORT_MARKDOWN: to_markdown(report)}
    if html:
        texts[REPORT_HTML] = render_report(report, comparison.panels)
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / name for name in (REPORT_JSON, *texts)]
