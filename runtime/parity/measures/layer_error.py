"""Which layer is to blame: what flows between the layers of two TFLite artifacts, compared on the same images.

The artifacts themselves are asked, tensor by tensor, with the delegate switched off: it keeps what is inside its
partitions to itself. So a fault is found wherever it came in, by training, conversion or a damaged file, and without
Keras.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.core.errors import ArtifactError, ConfigError
from runtime.core.files import read_json
from runtime.engines.tflite import load_interpreter
from runtime.engines.tflite_graph import Tensor, layer_of, list_graph
from runtime.evaluation.metrics import Floats

SENSITIVITY_FILES = ("sensitivity.json", "sensitivity/sensitivity.json")
HISTOGRAM_BINS = 48
DRAWN_RANGES = 6
# More than float32 resolves.
SAME_DB = 150.0
# Conversions between types; what they give belongs to the layer that they convert for.
CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")


class OpenGraph:
    """A TFLite artifact that tells every tensor.

    Attributes:
        outputs: where each layer's output is, in the order of the graph: the last tensor of that name.
        integers: the last integer tensor of each layer that has one.
        sources: the layers that each layer reads.
        named: those that are layers of the network, by their tensors' paths.
    """

    def __init__(self, path: Path) -> None:
        """Open an artifact without a delegate.

        Raises:
            ArtifactError: no interpreter is installed, it cannot open the file, or does not tell its operators.
        """
        name, interpreter_class = load_interpreter()
        try:
            self._interpreter = interpreter_class(
                model_path=str(path),
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=_without_delegates(interpreter_class),
            )
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{name} cannot show the tensors inside {path.name} ({error})") from error
        graph = list_graph(name, self._interpreter)
        self._input = graph.inputs[0]
        self.outputs: dict[str, Tensor] = {}
        self.integers: dict[str, Tensor] = {}
        self.sources: dict[str, set[str]] = {}
        self.named: set[str] = set()
        makers: dict[int, str] = {}
        for node in graph.nodes:
            for tensor in (graph.tensors[index] for index in node.outputs):
                named = layer_of([tensor.name])
                layer = named or tensor.name
                makers[tensor.index] = layer
                if named:
                    self.named.add(layer)
                read = {makers[index] for index in node.inputs if index in makers} - {layer}
                self.sources.setdefault(layer, set()).update(read)
                self.outputs[layer] = tensor
                # What a conversion reads is the layer's own; what it gives is of the layer that it is named after.
                if tensor.scale and (node.name not in CONVERSIONS or layer not in self.integers):
                    self.integers[layer] = tensor

    def run(self, batch: NDArray[np.uint8]) -> None:
        """Run on uint8 `[1, S, S, 3]`, and keep every tensor."""
        self._interpreter.set_tensor(self._input, batch)
        self._interpreter.invoke()

    def read(self, tensor: Tensor) -> Floats:
        """Return the values of a tensor of the last run, dequantized: float64."""
        values = np.asarray(self._interpreter.get_tensor(tensor.index), dtype=np.float64)
        return (values - tensor.zero_point) * tensor.scale if tensor.scale else values


def _without_delegates(interpreter_class: Any) -> Any:
    module = importlib.import_module(interpreter_class.__module__)
    return module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


@dataclass
class _Layer:
    """What is added up of one layer: energies by channel, and what lies beyond the range."""

    signal: Floats
    noise: Floats
    values: int = 0
    below: int = 0
    beyond: int = 0


def blame_figures(
    reference: Path, candidate: Path, batches: Sequence[NDArray[np.uint8]], source: str, ranking: Sequence[str]
) -> dict[str, Any]:
    """Return `blame` of report.json.

    Args:
        reference: a .tflite artifact.
        candidate: another one of the same network.
        batches: uint8 `[1, S, S, 3]` each.
        source: what these images are, in words.
        ranking: the network's products by their sensitivity to int8, the most sensitive first; may be empty.

    Returns:
        The figures of every layer that both have, the worst first; see docs/guides/parity.md.

    Raises:
        ArtifactError: the interpreter does not show tensors, or the artifacts have no layer in common.
    """
    first, second = OpenGraph(reference), OpenGraph(candidate)
    shared = [
        layer
        for layer, place in first.outputs.items()
        if layer in second.outputs and place.shape == second.outputs[layer].shape and len(place.shape) >= 2
    ]
    if not shared:
        raise ArtifactError("the two artifacts have no layer of one name and shape in common")
    sums = {layer: _Layer(*np.zeros((2, first.outputs[layer].shape[-1]))) for layer in shared}
    histograms = _Histograms(second)
    for batch in tqdm(batches, desc="layers", unit="image", disable=None, leave=False):
        first.run(batch)
        second.run(batch)
        for layer in shared:
            _add(sums[layer], layer, first, second, histograms)
    sqnr = {layer: _decibels(each.signal.sum(), each.noise.sum()) for layer, each in sums.items()}
    entries: list[dict[str, Any]] = [
        {
            "layer": layer,
            "sqnr_db": sqnr[layer],
            "own_sqnr_db": _own(layer, sqnr, first.sources),
            "channel_sqnr_db": _worst_channel(sums[layer])[0],
            "channel": _worst_channel(sums[layer])[1],
            "clipped_share": (sums[layer].below + sums[layer].beyond) / sums[layer].values
            if sums[layer].values
            else None,
            "sensitivity_rank": ranking.index(layer) + 1 if layer in ranking else None,
        }
        for layer in shared
    ]
    entries.sort(key=lambda entry: math.inf if entry["sqnr_db"] is None else entry["sqnr_db"])
    known = [entry["sqnr_db"] for entry in entries if entry["sqnr_db"] is not None]
    channels = [entry["channel_sqnr_db"] for entry in entries if entry["channel_sqnr_db"] is not None]
    adding = [entry for entry in entries if entry["own_sqnr_db"] is not None]
    # What makes outputs of the last layers has no layer's name, and nobody can retrain it.
    adding = [entry for entry in adding if entry["layer"] in first.named] or adding
    return {
        "images": len(batches),
        "source": source,
        # Where nothing is lost anywhere, the two are the same network.
        "lowest_sqnr_db": min(known, default=SAME_DB),
        "lowest_channel_sqnr_db": min(channels, default=SAME_DB),
        "noisiest_layer": min(adding, key=lambda entry: entry["own_sqnr_db"])["layer"] if adding else None,
        "ranked_products": len(ranking),
        "layers": entries,
        "ranges": histograms.figures([entry["layer"] for entry in entries]),
    }


def _add(total: _Layer, layer: str, first: OpenGraph, second: OpenGraph, histograms: _Histograms) -> None:
    exact, found = first.read(first.outputs[layer]), second.read(second.outputs[layer])
    places = tuple(range(exact.ndim - 1))
    total.signal += np.square(exact).sum(axis=places)
    noise = np.square(exact - found).sum(axis=places)
    total.noise += np.where(np.isnan(noise), np.inf, noise)
    place = second.integers.get(layer)
    if place is None or place.range is None:
        return
    low, high = place.range
    half = place.scale / 2
    total.values += exact.size
    total.below += int(np.count_nonzero(exact < low - half))
    total.beyond += int(np.count_nonzero(exact > high + half))
    histograms.add(layer, exact)


class _Histograms:
    """How the reference's values lie in the candidate's integer ranges, half a range further on either side."""

    def __init__(self, graph: OpenGraph) -> None:
        self._ends = {layer: place.range for layer, place in graph.integers.items() if place.range is not None}
        self._counts = {layer: np.zeros(HISTOGRAM_BINS, dtype=np.int64) for layer in self._ends}

    def add(self, layer: str, values: Floats) -> None:
        low, high = self._span(layer)
        # np.histogram takes longer than both networks.
        places = ((values.ravel() - low) * (HISTOGRAM_BINS / (high - low))).astype(np.int64)
        self._counts[layer] += np.bincount(np.clip(places, 0, HISTOGRAM_BINS - 1), minlength=HISTOGRAM_BINS)

    def _span(self, layer: str) -> tuple[float, float]:
        low, high = self._ends[layer]
        reach = (high - low) / 4
        return low - reach, high + reach

    def figures(self, worst_first: Sequence[str]) -> list[dict[str, Any]]:
        chosen = [layer for layer in worst_first if layer in self._ends and self._counts[layer].any()][:DRAWN_RANGES]
        return [
            {
                "layer": layer,
                "low": self._ends[layer][0],
                "high": self._ends[layer][1],
                "span": list(self._span(layer)),
                "histogram": self._counts[layer].tolist(),
            }
            for layer in chosen
        ]


def _decibels(signal: float, noise: float) -> float | None:
    """Return 10 log10(signal / noise), within what float32 resolves; `None` of a layer that is always 0."""
    if noise == 0:
        return SAME_DB if signal > 0 else None
    if signal == 0 or not math.isfinite(noise):
        return -SAME_DB
    return float(np.clip(10 * math.log10(signal / noise), -SAME_DB, SAME_DB))


def _worst_channel(total: _Layer) -> tuple[float | None, int | None]:
    """Return the channel that is furthest off, its energy counted as the layer's mean channel's at least.

    Else a channel that is nearly always 0, and that nobody reads much from, would be the worst of every layer.
    """
    mean = total.signal.mean()
    if mean == 0:
        return _decibels(0.0, float(total.noise.sum())), None
    share = total.noise / np.maximum(total.signal, mean)
    worst = int(np.argmax(share))
    return _decibels(1.0, float(share[worst])), worst


def _own(layer: str, sqnr: Mapping[str, float | None], sources: Mapping[str, set[str]]) -> float | None:
    """Return the SQNR that a layer would have if what it reads were exact; `None` where it adds no noise.

    Noise adds up, so its own is what its output has more of than the noisiest of its inputs, as a share of the signal.
    """
    own = sqnr[layer]
    if own is None or own >= SAME_DB:
        return None
    inherited = 0.0
    waiting, seen = list(sources.get(layer, ())), {layer}
    while waiting:
        source = waiting.pop()
        if source in seen:
            continue
        seen.add(source)
        value = sqnr.get(source)
        if value is None:
            waiting += sources.get(source, ())
        else:
            inherited = max(inherited, 10 ** (-value / 10))
    added = 10 ** (-own / 10) - inherited
    return -10 * math.log10(added) if added > 0 else None


def read_ranking(path: Path) -> list[str]:
    """Read the products by sensitivity from what `python -m export.sensitivity` wrote.

    Returns:
        Names of layers, the most sensitive first.

    Raises:
        ArtifactError: the file is missing or no sensitivity.json.
    """
    content = read_json(path, "python -m export.sensitivity")
    try:
        return [str(each["layer"]) for each in content["layers"]]
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{path} ranks no layers; make it anew with `python -m export.sensitivity`") from error


def find_ranking(folder: Path | None, given: Path | None) -> list[str] | None:
    """Return the ranking that is given, or that lies in a bundle or its run; `None` where there is none.

    Raises:
        ConfigError: the given file does not exist.
    """
    if given is not None:
        if not given.exists():
            raise ConfigError(f"{given} does not exist; make it with `python -m export.sensitivity`")
        return read_ranking(given)
    if folder is None:
        return None
    places = [root / file for root in (folder, folder.resolve().parent) for file in SENSITIVITY_FILES]
    return next((read_ranking(path) for path in places if path.exists()), None)
