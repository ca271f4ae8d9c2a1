"""Artifacts with more and fewer products in float: accuracy, latency and size, measured with the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.artifacts import convert_audited, describe_run
from export.quantize.network import QuantizedNetwork
from export.run_files import RunFiles
from export.tflite.convert import convert_float
from runtime.engines.tflite import TFLiteEngine
from runtime.evaluation.metrics import Classes, RelativeAccuracy, accuracy_of
from runtime.evaluation.predict import predict
from runtime.evaluation.timing import Latency, latencies_of, measure_times
from runtime.images.preprocess import Image

TIMED_IMAGES = 8
# Interleaved artifacts evict each other from the caches; a device runs only one.
RUNS_BEFORE = 2
# Further points of the curve, as shares of the products that were not chosen.
REST_SHARES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One artifact of the curve: its products in float (all: the float artifact), and its figures."""

    float_layers: tuple[str, ...]
    accuracy: RelativeAccuracy
    size_bytes: int
    latency: Latency


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """Cost of one product in float, against an artifact with none; negative: it saves.

    Attributes:
        layer: the product.
        latency_p50_ms: difference of the median latencies.
        size_bytes: difference of the sizes.
    """

    layer: str
    latency_p50_ms: float
    size_bytes: int


class ArtifactBuilder:
    """Makes artifacts of one run, each once."""

    def __init__(self, files: RunFiles, products: Collection[str], folder: Path) -> None:
        """Take a run.

        Args:
            files: of the run.
            products: its int8 products.
            folder: for the artifacts.
        """
        self._files, self._products, self._folder = files, frozenset(products), folder
        self._paths: dict[frozenset[str], Path] = {}

    def path(self, float_layers: Iterable[str]) -> Path:
        """Return the artifact with these products in float; with all of them, the float artifact."""
        chosen = frozenset(float_layers)
        if chosen not in self._paths:
            path = self._folder / f"{len(self._paths)}.tflite"
            path.write_bytes(self._convert(chosen))
            self._paths[chosen] = path
        return self._paths[chosen]

    def open(self, float_layers: Iterable[str]) -> TFLiteEngine:
        """Open that artifact for one thread."""
        return TFLiteEngine(self.path(float_layers), describe_run(self._files.run), precision="int8", threads=1)

    def _convert(self, chosen: frozenset[str]) -> bytes:
        files, config = self._files, self._files.run.deployed
        if chosen == self._products:
            return convert_float(files.float_model, config)
        scheme = files.scheme.leaving_float(sorted(chosen))
        return convert_audited(QuantizedNetwork(files.float_model, config, files.ranges, scheme))[0]


class ArtifactEvaluator:
    """Measures the accuracy of artifacts against the float artifact."""

    def __init__(self, builder: ArtifactBuilder, products: Collection[str], images: Image, labels: Classes) -> None:
        """Classify labelled images, uint8 `[N, S, S, 3]`, with the float artifact."""
        self._builder, self._images, self._labels = builder, images, labels
        self._reference = self._classify(products)

    def __call__(self, float_layers: Collection[str]) -> RelativeAccuracy:
        """Return the accuracy of the artifact with these products in float."""
        return accuracy_of(self._classify(float_layers), self._labels, self._reference)

    def _classify(self, float_layers: Collection[str]) -> Classes:
        engine = self._builder.open(float_layers)
        return predict(lambda image: engine.run(image).logits, self._images, f"{len(float_layers)} in float")


def extend_to_max_drop(
    evaluate: Callable[[Collection[str]], RelativeAccuracy],
    chosen: Sequence[str],
    ranked: Sequence[str],
    max_drop_pp: float,
) -> tuple[str, ...]:
    """Add products to those in float, the most sensitive first, until the artifact itself keeps to the largest drop.

    The search simulates int8, and an interpreter rounds differently in places.

    Args:
        evaluate: returns the accuracy of the artifact with these products in float.
        chosen: result of the search.
        ranked: all products, the most sensitive first.
        max_drop_pp: largest drop, in percentage points.

    Returns:
        The products to leave in float, `chosen` first; all of them if no int8 artifact keeps to the largest drop.
    """
    found = tuple(chosen)
    rest = [name for name in ranked if name not in found]
    while rest and evaluate(found).drop_pp > max_drop_pp:
        found = (*found, rest.pop(0))
    return found


def curve_selections(chosen: Sequence[str], ranked: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the points of the curve: products in float, from none over those chosen to all.

    Args:
        chosen: products of one point.
        ranked: all products, the most sensitive first.

    Returns:
        Up to 7 selections, each a superset of the one before.
    """
    order = [*(name for name in ranked if name in chosen), *(name for name in ranked if name not in chosen)]
    rest = len(order) - len(chosen)
    counts = {0, len(chosen) // 2, len(chosen), *(len(chosen) + int(rest * share) for share in REST_SHARES), len(order)}
    return [tuple(order[:count]) for count in sorted(counts)]


def measure_latencies(
    builder: ArtifactBuilder, selections: Iterable[tuple[str, ...]], images: Image, rounds: int
) -> dict[tuple[str, ...], Latency]:
    """Time artifacts, interleaved, on one thread.

    Args:
        builder: of the artifacts.
        selections: products in float of each artifact.
        images: uint8 `[N, S, S, 3]`, N at least 1.
        rounds: timed runs of each.

    Returns:
        Latencies by selection.
    """
    by_name = {" ".join(selection): selection for selection in selections}
    engines = {name: builder.open(selection) for name, selection in by_name.items()}
    inputs = [image[np.newaxis] for image in images[:TIMED_IMAGES]]
    found = latencies_of(measure_times(engines, inputs, rounds, runs_before=RUNS_BEFORE))
    return {by_name[name]: latency for name, latency in found.items()}
