"""Artifacts with more and fewer products in float: their accuracy, latency and size, as the interpreter has them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.observers import Range
from export.artifacts import convert_audited, describe_run
from export.quantize.network import QuantizedNetwork
from export.quantize.schemes import Scheme
from export.tflite.convert import convert_float
from runtime.engines.tflite import TFLiteEngine
from runtime.evaluation.metrics import Classes, RelativeAccuracy, accuracy_of
from runtime.evaluation.predict import predict
from runtime.evaluation.timing import Latency, latencies_of, measure_times
from runtime.images.preprocess import Image
from train.run import Run

TIMED_IMAGES = 8
# Where many artifacts take turns they push each other out of the caches, which a device that runs one does not see.
RUNS_BEFORE = 2
# Of the network's products: how many more the curve has in float, after those that were chosen.
REST_SHARES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One artifact: the products that it has in float, all of them in the float artifact, and what was measured."""

    float_layers: tuple[str, ...]
    accuracy: RelativeAccuracy
    size_bytes: int
    latency: Latency


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What one product in float adds to an artifact that has no other; negative where it saves.

    Attributes:
        layer: the product.
        latency_p50_ms: to the median latency.
        size_bytes: to the size.
    """

    layer: str
    latency_p50_ms: float
    size_bytes: int


class ArtifactBuilder:
    """Makes artifacts of one network, each once."""

    def __init__(
        self, model: Any, run: Run, ranges: dict[str, Range], scheme: Scheme, products: Collection[str], folder: Path
    ) -> None:
        """Take a network and how to quantize it.

        Args:
            model: a `tf_keras` network of `build_float`.
            run: what describes it.
            ranges: calibrated `(min, max)` of every layer's output.
            scheme: what is int8.
            products: its int8 products.
            folder: where the artifacts go.
        """
        self._model, self._run, self._ranges, self._scheme = model, run, ranges, scheme
        self._products, self._folder = frozenset(products), folder
        self._paths: dict[frozenset[str], Path] = {}

    def path(self, float_layers: Iterable[str]) -> Path:
        """Return the artifact with these products in float; with all of them it is the float artifact."""
        chosen = frozenset(float_layers)
        if chosen not in self._paths:
            path = self._folder / f"{len(self._paths)}.tflite"
            path.write_bytes(self._convert(chosen))
            self._paths[chosen] = path
        return self._paths[chosen]

    def open(self, float_layers: Iterable[str]) -> TFLiteEngine:
        """Open that artifact for one thread."""
        return TFLiteEngine(self.path(float_layers), describe_run(self._run), precision="int8", threads=1)

    def _convert(self, chosen: frozenset[str]) -> bytes:
        config = self._run.deployed
        if chosen == self._products:
            return convert_float(self._model, config)
        scheme = self._scheme.leaving_float(sorted(chosen))
        return convert_audited(QuantizedNetwork(self._model, config, self._ranges, scheme))[0]


class AccuracyMeter:
    """Tells the accuracy of artifacts beside that of the float one."""

    def __init__(self, builder: ArtifactBuilder, products: Collection[str], images: Image, labels: Classes) -> None:
        """Let the float artifact classify labelled images, uint8 `[N, S, S, 3]`."""
        self._builder, self._images, self._labels = builder, images, labels
        self._reference = self._classify(products)

    def __call__(self, float_layers: Collection[str]) -> RelativeAccuracy:
        """Classify them by the artifact with these products in float."""
        return accuracy_of(self._classify(float_layers), self._labels, self._reference)

    def _classify(self, float_layers: Collection[str]) -> Classes:
        engine = self._builder.open(float_layers)
        return predict(lambda image: engine.run(image).logits, self._images, f"{len(float_layers)} in float")


def extend_to_limit(
    examine: Callable[[Collection[str]], RelativeAccuracy],
    chosen: Sequence[str],
    ranked: Sequence[str],
    max_drop_pp: float,
) -> tuple[str, ...]:
    """Add to the products in float, the costliest first, until the artifact itself is within a budget.

    An interpreter rounds here and there otherwise than training does, which the search's network is of.

    Args:
        examine: tells the accuracy of the artifact with these products in float.
        chosen: what the search found.
        ranked: all products, the costliest first.
        max_drop_pp: the budget, in percentage points.

    Returns:
        The products to leave in float, those found first; all of them, if no int8 artifact is within the budget.
    """
    found = tuple(chosen)
    rest = [name for name in ranked if name not in found]
    while rest and examine(found).drop_pp > max_drop_pp:
        found = (*found, rest.pop(0))
    return found


def curve_selections(chosen: Sequence[str], ranked: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the points of the curve: ever more products in float, from none over those chosen to all.

    Args:
        chosen: products that are to be a point.
        ranked: all products, the costliest first.

    Returns:
        Up to 7 selections, each with those of the one before.
    """
    order = [*(name for name in ranked if name in chosen), *(name for name in ranked if name not in chosen)]
    rest = len(order) - len(chosen)
    counts = {0, len(chosen) // 2, len(chosen), *(len(chosen) + int(rest * share) for share in REST_SHARES), len(order)}
    return [tuple(order[:count]) for count in sorted(counts)]


def measure_latencies(
    builder: ArtifactBuilder, selections: Iterable[tuple[str, ...]], images: Image, rounds: int
) -> dict[tuple[str, ...], Latency]:
    """Time artifacts by turns, in one run, on one thread.

    Args:
        builder: makes them.
        selections: the products that each has in float.
        images: uint8 `[N, S, S, 3]`, N at least 1.
        rounds: timed runs of each.

    Returns:
        The latency by selection.
    """
    by_name = {" ".join(selection): selection for selection in selections}
    engines = {name: builder.open(selection) for name, selection in by_name.items()}
    inputs = [image[np.newaxis] for image in images[:TIMED_IMAGES]]
    found = latencies_of(measure_times(engines, inputs, rounds, runs_before=RUNS_BEFORE))
    return {by_name[name]: latency for name, latency in found.items()}
