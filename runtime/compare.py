"""Does int8 still agree with float? One verdict, from paired predictions on one split.

Classifies every picture of a split with both artifacts of a bundle, compares classes and gate maps, times
both, and writes report.json and report.html. Exit code 0: pass; 1: the drop is larger than allowed, or
int8 outputs are not finite; 2: bad input.

report.json, schema version 1 (accuracies 0..1, cosine similarities -1..1, `pp` = percentage points):

| field             | content                                                                              |
|-------------------|--------------------------------------------------------------------------------------|
| `schema_version`  | 1                                                                                    |
| `created_utc`     | ISO 8601 time                                                                        |
| `verdict`         | `passed`, `max_drop_pp`, `reasons` (sentences)                                       |
| `data`            | `dataset`, `split`, `pictures` compared, `pictures_in_split`, `sampling` (a sentence)|
| `accuracy`        | `top1_float32`, `top1_int8`, `drop_pp` (positive: int8 is worse),                    |
|                   | `drop_standard_error_pp`, `agreement` (share of equal predictions),                  |
|                   | `only_float32_correct`, `only_int8_correct`, `non_finite_int8` (pictures)            |
| `classes`         | a list: `label`, `pictures`, `top1_float32`, `top1_int8`, `drop_pp`; the last three  |
|                   | are null for a class without pictures                                                |
| `gate_similarity` | `edges` of the histogram; `maps`, a list: `map`, `mean`, `p5`, `min`, `histogram`    |
| `latency`         | `rounds`; `float32` and `int8`: `p50_ms`, `p90_ms`, `min_ms`; `speedup` (of medians) |
| `size`            | `float32_bytes`, `int8_bytes`, `ratio` (float to int8)                               |
| `machine`         | `engine`, `cpu`, `threads`                                                           |
| `bundle`          | `preset`, `overlay_layer`; `artifacts`, a list: `precision`, `engine`, `file`,       |
|                   | `sha256`, `size_bytes`; `scheme` (`name`, `float_layers`), and                       |
|                   | `fake_quant_agreement` of `fake_quant_pictures`, at export: the share of equal       |
|                   | predictions of int8 and the fake-quantized network; each null where not known        |

A picture whose int8 outputs hold a NaN or an infinity counts as a wrong prediction that agrees with
nothing, and its maps as similarity 0.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.benchmark import DEFAULT_ROUNDS, measure, speedup
from runtime.engine import Engine, open_engine
from runtime.errors import ArtifactError, ConfigError, DataError, FocalEdgeError, run_cli
from runtime.files import replacing, write_json
from runtime.manifest import ENGINES, Manifest, read_manifest
from runtime.metrics import (
    Classes,
    Floats,
    agreement,
    cosine_similarity,
    drop_pp,
    drop_standard_error_pp,
    per_class_accuracy,
    summarise_similarity,
    top1,
)
from runtime.outputs import Outputs
from runtime.overlay import gate_panel
from runtime.preprocess import Image, preprocess
from runtime.report_html import PicturePanel, render_report
from runtime.sampling import class_balanced_indices
from runtime.split_file import LabelledPictures, read_split

SCHEMA_VERSION = 1
REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
NO_CLASS = -1
SAMPLE_SEED = 0
WORST_PANELS = 2
RANDOM_PANELS = 2
TIMED_PICTURES = 8
PANEL_TILE_PX = 168
# Uneven, because nearly all similarities of a sound export lie above 0.98.
SIMILARITY_EDGES = (-1.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)


@dataclass(frozen=True)
class PairedOutputs:
    """What two engines say about the same pictures.

    Attributes:
        float32: int64 `[N]`, the float engine's classes.
        int8: int64 `[N]`, the int8 engine's classes; -1 where an output is not finite.
        similarity: float64 `[N, L+2]`, cosine similarity of each gate map and, last, the modulator.
    """

    float32: Classes
    int8: Classes
    similarity: Floats


@dataclass(frozen=True)
class Comparison:
    """The content of report.json, and the pictures of report.html."""

    report: dict[str, Any]
    panels: tuple[PicturePanel, ...]


def compare(
    engines: Mapping[str, Engine],
    manifest: Manifest,
    pictures: LabelledPictures,
    *,
    max_drop_pp: float = 0.5,
    limit: int | None = None,
    rounds: int = DEFAULT_ROUNDS,
) -> Comparison:
    """Compare an int8 engine with its float reference.

    Args:
        engines: the two engines, under `"float32"` and `"int8"`.
        manifest: the bundle that they come from.
        pictures: the labelled split, with the bundle's classes in the bundle's order.
        max_drop_pp: the largest top-1 drop that passes, in percentage points, >= 0.
        limit: compare a class-balanced sample of this many pictures; `None` takes all.
        rounds: measured runs of each engine in the latency benchmark.

    Returns:
        The report, whose verdict may be a fail, and a few pictures with both engines' gates.

    Raises:
        ConfigError: `max_drop_pp` or `limit` is out of range.
        DataError: the classes of the data are not the bundle's.
        ArtifactError: the float reference gives non-finite outputs, or outputs of a wrong shape.
    """
    _check_arguments(max_drop_pp, limit)
    _check_data(manifest, pictures)
    chosen = sample_indices(pictures.labels, limit)
    images = [pictures.images[index] for index in chosen]
    labels = pictures.labels[chosen]
    paired = classify(engines["float32"], engines["int8"], images, len(manifest.labels))
    accuracy = accuracy_figures(labels, paired)
    report = {
        "schema_version": SCHEMA_VERSION,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": verdict(accuracy, len(labels), max_drop_pp),
        "data": _data_figures(pictures, len(labels)),
        "accuracy": accuracy,
        "classes": _class_figures(labels, paired, manifest.labels),
        "gate_similarity": _similarity_figures(paired.similarity),
        "latency": _latency_figures(engines, images[:TIMED_PICTURES], rounds),
        "size": _size_figures(manifest, engines["int8"].kind),
        "machine": {
            "engine": engines["int8"].name,
            "cpu": cpu_model(),
            "threads": engines["int8"].threads,
        },
        "bundle": _bundle_figures(manifest, engines["int8"].kind),
    }
    ids = [pictures.ids[index] for index in chosen]
    panels = _panels(engines, manifest.labels, ids, images, labels, paired)
    return Comparison(report, panels)


def _check_arguments(max_drop_pp: float, limit: int | None) -> None:
    if not (math.isfinite(max_drop_pp) and max_drop_pp >= 0):
        raise ConfigError(f"received a largest drop of {max_drop_pp} percentage points; expected a number, 0 or more")
    if limit is not None and limit < 1:
        raise ConfigError(f"received a limit of {limit} pictures; expected 1 or more, or no limit")


def _check_data(manifest: Manifest, pictures: LabelledPictures) -> None:
    if len(pictures.class_names) != len(manifest.labels):
        raise DataError(
            f"the data has {len(pictures.class_names)} classes and the bundle {len(manifest.labels)}; "
            f"give the data set that the bundle was trained on ({manifest.dataset})"
        )
    for index, (name, label) in enumerate(zip(pictures.class_names, manifest.labels, strict=True)):
        if name != label:
            raise DataError(
                f"class {index} is {name!r} in the data and {label!r} in the bundle; "
                f"give the data set that the bundle was trained on ({manifest.dataset})"
            )


def sample_indices(labels: Classes, limit: int | None) -> NDArray[np.int64]:
    """Choose pictures: all of them, or a seeded sample as class-balanced as the labels allow.

    Args:
        labels: int64 `[N]`.
        limit: how many to choose, >= 1; `None` or N and more choose all.

    Returns:
        int64 `[min(limit, N)]`, ascending indices; the same ones for the same labels and limit.
    """
    if limit is None or limit >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    return class_balanced_indices(labels, limit, SAMPLE_SEED)


def classify(float32_engine: Engine, int8_engine: Engine, images: Sequence[Image], classes: int) -> PairedOutputs:
    """Run both engines on every picture.

    Args:
        float32_engine: the reference.
        int8_engine: the engine in question; its outputs may be non-finite.
        images: uint8 `[H, W, 3]` RGB each, one or more.
        classes: the number of logits to expect.

    Returns:
        Both predictions and the similarity of the maps, of each picture.

    Raises:
        ArtifactError: the reference gives non-finite outputs, or an engine another number of logits.
        FocalEdgeError: the engines' maps differ in shape.
    """
    float32: list[int] = []
    int8: list[int] = []
    similarity: list[Floats] = []
    for image in tqdm(images, desc="comparing", unit="picture", disable=None, leave=False):
        batch = preprocess(image, float32_engine.input_size)
        reference, outputs = float32_engine.run(batch), int8_engine.run(batch)
        _check_logits(float32_engine, reference, classes)
        _check_logits(int8_engine, outputs, classes)
        if not reference.is_finite():
            raise ArtifactError(
                f"the float32 artifact gives non-finite outputs (picture {len(float32)}), so there is "
                "nothing to compare with; train and export it anew"
            )
        reference_maps = _maps(reference)
        float32.append(int(top1(reference.logits)))
        if outputs.is_finite():
            int8.append(int(top1(outputs.logits)))
            similarity.append(cosine_similarity(reference_maps, _maps(outputs)))
        else:
            int8.append(NO_CLASS)
            similarity.append(np.zeros(len(reference_maps)))
    return PairedOutputs(np.asarray(float32), np.asarray(int8), np.asarray(similarity))


def _check_logits(engine: Engine, outputs: Outputs, classes: int) -> None:
    if outputs.logits.shape != (classes,):
        raise ArtifactError(
            f"the {engine.precision} artifact gives logits of shape {outputs.logits.shape}; expected "
            f"({classes},), one a label: make the bundle anew with `make export`"
        )


def _maps(outputs: Outputs) -> Floats:
    """Flatten the maps to `[L+2, h*w]`: focal levels, global gate, modulator."""
    gates = np.moveaxis(outputs.gates, -1, 0)
    flat_gates = gates.reshape(len(gates), -1)
    return np.concatenate([flat_gates, outputs.modulator.reshape(1, -1)]).astype(np.float64)


def accuracy_figures(labels: Classes, paired: PairedOutputs) -> dict[str, Any]:
    """Return `accuracy` of report.json.

    Args:
        labels: int64 `[N]`, the true classes.
        paired: both engines' predictions of the same pictures.

    Returns:
        The figures; see the table at the top of this module.

    Raises:
        FocalEdgeError: there is no picture, or the lengths differ.
    """
    pictures = len(labels)
    right_float32, right_int8 = paired.float32 == labels, paired.int8 == labels
    only_float32 = int(np.count_nonzero(right_float32 & ~right_int8))
    only_int8 = int(np.count_nonzero(right_int8 & ~right_float32))
    return {
        "top1_float32": agreement(paired.float32, labels),
        "top1_int8": agreement(paired.int8, labels),
        "drop_pp": drop_pp(int(right_float32.sum()), int(right_int8.sum()), pictures),
        "drop_standard_error_pp": drop_standard_error_pp(only_float32, only_int8, pictures),
        "agreement": agreement(paired.float32, paired.int8),
        "only_float32_correct": only_float32,
        "only_int8_correct": only_int8,
        "non_finite_int8": int(np.count_nonzero(paired.int8 == NO_CLASS)),
    }


def verdict(accuracy: Mapping[str, Any], pictures: int, max_drop_pp: float) -> dict[str, Any]:
    """Judge a comparison.

    Args:
        accuracy: what `accuracy_figures` returns.
        pictures: how many pictures were compared.
        max_drop_pp: the largest drop that passes; a drop of exactly this much does.

    Returns:
        `verdict` of report.json.
    """
    drop, non_finite = accuracy["drop_pp"], accuracy["non_finite_int8"]
    within = bool(drop <= max_drop_pp)
    change = f"loses {drop:.4g}" if drop > 0 else f"gains {-drop:.4g}" if drop < 0 else "loses 0"
    reasons = [
        f"int8 {change} percentage points of top-1, "
        f"{'within' if within else 'more than'} the limit of {max_drop_pp:.4g}"
    ]
    if non_finite:
        reasons.append(f"int8 gives NaN or infinite outputs for {non_finite} of {pictures} pictures")
    return {"passed": within and not non_finite, "max_drop_pp": max_drop_pp, "reasons": reasons}


def _data_figures(pictures: LabelledPictures, compared: int) -> dict[str, Any]:
    total = len(pictures.labels)
    sampling = "every picture of the split"
    if compared < total:
        sampling = f"a class-balanced sample (seed {SAMPLE_SEED}) of {compared} of {total} pictures"
    return {
        "dataset": pictures.dataset,
        "split": pictures.split,
        "pictures": compared,
        "pictures_in_split": total,
        "sampling": sampling,
    }


def _class_figures(labels: Classes, paired: PairedOutputs, names: Sequence[str]) -> list[dict[str, Any]]:
    classes = per_class_accuracy(labels, paired.float32, paired.int8, len(names))
    return [{"label": name, **asdict(figures)} for name, figures in zip(names, classes, strict=True)]


def map_names(maps: int) -> list[str]:
    """Name the maps of an overlay layer: focal levels from fine to coarse, global gate, modulator."""
    levels = [f"focal level {level}" for level in range(1, maps - 1)]
    return [*levels, "global gate", "modulator"]


def _similarity_figures(similarity: Floats) -> dict[str, Any]:
    maps = [
        {
            "map": name,
            **asdict(summarise_similarity(cosines)),
            "histogram": np.histogram(cosines, SIMILARITY_EDGES)[0].tolist(),
        }
        for name, cosines in zip(map_names(similarity.shape[1]), similarity.T, strict=True)
    ]
    return {"edges": list(SIMILARITY_EDGES), "maps": maps}


def _latency_figures(engines: Mapping[str, Engine], images: Sequence[Image], rounds: int) -> dict[str, Any]:
    batches = [preprocess(image, engines["float32"].input_size) for image in images]
    pair = {precision: engines[precision] for precision in ("float32", "int8")}
    latencies = measure(pair, batches, rounds)
    return {
        "rounds": rounds,
        **{precision: asdict(latency) for precision, latency in latencies.items()},
        "speedup": speedup(latencies["float32"], latencies["int8"]),
    }


def _size_figures(manifest: Manifest, engine: str) -> dict[str, Any]:
    float32, int8 = (manifest.artifact(precision, engine).size_bytes for precision in ("float32", "int8"))
    return {"float32_bytes": float32, "int8_bytes": int8, "ratio": float32 / int8}


def _bundle_figures(manifest: Manifest, engine: str) -> dict[str, Any]:
    fields = ("precision", "engine", "file", "sha256", "size_bytes")
    artifacts = [manifest.artifact(precision, engine) for precision in ("float32", "int8")]
    int8 = artifacts[1]
    return {
        "preset": manifest.preset,
        "overlay_layer": manifest.overlay.layer,
        "artifacts": [{field: getattr(artifact, field) for field in fields} for artifact in artifacts],
        "scheme": asdict(manifest.scheme) if manifest.scheme else None,
        "fake_quant_agreement": int8.accuracy.fake_quant_agreement if int8.accuracy else None,
        "fake_quant_pictures": int8.accuracy.pictures if int8.accuracy else None,
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name the processor.

    Args:
        cpuinfo: the kernel's description; x86 has `model name`, ARM boards have `Model` or `Hardware`.

    Returns:
        Its model, or its architecture where the kernel does not tell the model.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    for key in ("model name", "Model", "Hardware"):
        if fields.get(key):
            return fields[key]
    return platform.processor() or platform.machine() or "unknown"


def panel_indices(paired: PairedOutputs) -> list[tuple[int, str]]:
    """Choose the pictures to show: the worst, and a few at random.

    The worst are those on which the predictions disagree (a non-finite one always does), then those
    with the least similar map.

    Args:
        paired: both engines' outputs, of N pictures.

    Returns:
        Up to four pairs of an index, 0..N-1, and why it was chosen.
    """
    agrees = paired.float32 == paired.int8
    order = np.lexsort((paired.similarity.min(axis=1), agrees))
    worst, rest = order[:WORST_PANELS], order[WORST_PANELS:]
    count = min(RANDOM_PANELS, len(rest))
    drawn = np.random.default_rng(SAMPLE_SEED).choice(rest, count, replace=False)
    reasons = {True: "least similar maps", False: "predictions disagree"}
    return [(int(index), reasons[bool(agrees[index])]) for index in worst] + [
        (int(index), "chosen at random") for index in drawn
    ]


def _panels(
    engines: Mapping[str, Engine],
    names: Sequence[str],
    ids: Sequence[str],
    images: Sequence[Image],
    labels: Classes,
    paired: PairedOutputs,
) -> tuple[PicturePanel, ...]:
    return tuple(
        PicturePanel(
            picture_id=ids[index],
            reason=reason,
            label=names[labels[index]],
            float32_png=_panel_png(engines["float32"], images[index], names),
            int8_png=_panel_png(engines["int8"], images[index], names),
        )
        for index, reason in panel_indices(paired)
    )


def _panel_png(engine: Engine, image: Image, names: Sequence[str]) -> bytes:
    outputs = engine.run(preprocess(image, engine.input_size))
    panel = gate_panel(image, outputs, names, note=engine.precision, tile_size=PANEL_TILE_PX)
    encoded, png = cv2.imencode(".png", panel[..., ::-1])
    if not encoded:
        raise FocalEdgeError("OpenCV cannot encode PNG; install opencv-python anew")
    return png.tobytes()


def write_reports(folder: Path, comparison: Comparison, *, html: bool = True) -> list[Path]:
    """Write report.json and, unless told otherwise, report.html.

    Args:
        folder: where to; it is made if missing.
        comparison: what `compare` returns.
        html: whether to write report.html too.

    Returns:
        The paths written.

    Raises:
        FocalEdgeError: a file cannot be written.
    """
    paths = [folder / REPORT_JSON]
    write_json(paths[0], comparison.report)
    if html:
        paths.append(folder / REPORT_HTML)
        page = render_report(comparison.report, comparison.panels)
        with replacing(paths[1]) as temporary:
            # File names among the ids may not be valid Unicode.
            temporary.write_text(page, encoding="utf-8", errors="replace")
    return paths


def summary(report: Mapping[str, Any]) -> str:
    """Return the report as one screen of plain text."""
    accuracy, latency, size = report["accuracy"], report["latency"], report["size"]
    data, machine = report["data"], report["machine"]
    lines = [
        f"{'PASS' if report['verdict']['passed'] else 'FAIL'}: {'; '.join(report['verdict']['reasons'])}",
        f"data: {data['dataset']}, {data['split']} split, {data['sampling']}",
        f"engine: {machine['engine']}, {machine['threads']} thread(s), {machine['cpu']}",
        *_fake_quant_line(report["bundle"]),
        "",
        f"{'':20} {'float32':>11} {'int8':>11}",
        f"{'top-1 accuracy':20} {accuracy['top1_float32']:>11.2%} {accuracy['top1_int8']:>11.2%}"
        f"   drop {accuracy['drop_pp']:.2f} pp (standard error {accuracy['drop_standard_error_pp']:.2f}), "
        f"agreement {accuracy['agreement']:.2%}",
        _latency_row(latency, "p50_ms", f"   {latency['speedup']:.2f} times as fast"),
        _latency_row(latency, "p90_ms", ""),
        f"{'size, KiB':20} {size['float32_bytes'] / 1024:>11.1f} {size['int8_bytes'] / 1024:>11.1f}"
        f"   {size['ratio']:.2f} times smaller",
        "",
        f"{'cosine similarity':20} {'mean':>11} {'5th pct.':>11} {'min':>11}",
    ]
    for figures in report["gate_similarity"]["maps"]:
        lines.append(f"{figures['map']:20} {figures['mean']:>11.4f} {figures['p5']:>11.4f} {figures['min']:>11.4f}")
    return "\n".join(lines)


def _fake_quant_line(bundle: Mapping[str, Any]) -> list[str]:
    if bundle["fake_quant_agreement"] is None:
        return []
    share, pictures = bundle["fake_quant_agreement"], bundle["fake_quant_pictures"]
    return [f"fake-quantized network: {share:.2%} of {pictures:,} predictions equal to the int8 artifact's, at export"]


def _latency_row(latency: Mapping[str, Any], key: str, note: str) -> str:
    name = f"latency {key.removesuffix('_ms')}, ms"
    return f"{name:20} {latency['float32'][key]:>11.3f} {latency['int8'][key]:>11.3f}{note}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.compare",
        description="Compare a bundle's int8 artifact with its float32 one and write a report.",
        epilog="Exit code: 0 pass, 1 fail, 2 bad input.",
    )
    parser.add_argument("--bundle", type=Path, required=True, help="folder with manifest.json and artifacts")
    parser.add_argument("--data", type=Path, required=True, help="split file, e.g. test.npz")
    parser.add_argument("--out", type=Path, required=True, help="folder for report.json and report.html")
    parser.add_argument(
        "--max-drop", type=float, default=0.5, help="largest top-1 drop, percentage points (%(default)s)"
    )
    parser.add_argument("--limit", type=int, help="compare a class-balanced sample of this many pictures")
    parser.add_argument("--engine", choices=ENGINES, help="TFLite or ONNX Runtime (the manifest's first)")
    parser.add_argument("--threads", type=int, default=1, help="interpreter threads (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print report.json instead of a summary")
    parser.add_argument("--no-html", action="store_true", help="write report.json only")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`.

    Returns:
        0 when int8 passes, 1 when it fails.
    """
    arguments = _parser().parse_args(argv)
    _check_arguments(arguments.max_drop, arguments.limit)
    manifest = read_manifest(arguments.bundle)
    pictures = read_split(arguments.data)
    _check_data(manifest, pictures)
    engine = arguments.engine or manifest.artifact("int8").engine
    engines = {
        precision: open_engine(arguments.bundle, precision=precision, engine=engine, threads=arguments.threads)
        for precision in ("float32", "int8")
    }
    comparison = compare(engines, manifest, pictures, max_drop_pp=arguments.max_drop, limit=arguments.limit)
    paths = write_reports(arguments.out, comparison, html=not arguments.no_html)
    if arguments.json:
        print(json.dumps(comparison.report, indent=2))
    else:
        print(summary(comparison.report))
        print(f"wrote {', '.join(str(path) for path in paths)}")
    return 0 if comparison.report["verdict"]["passed"] else 1


if __name__ == "__main__":
    sys.exit(run_cli(main))
