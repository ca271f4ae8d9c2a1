"""Layer error: the difference of each layer's output between two TFLite artifacts, on the same images.

Both run without the delegate, which hides the tensors inside its partitions. So a fault is found in training, in
conversion and in a damaged file alike, and without Keras.
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
from runtime.core.schema import parse
from runtime.engines.tflite import load_interpreter
from runtime.engines.tflite_graph import Tensor, layer_of, list_graph
from runtime.evaluation.metrics import Floats
from runtime.images.preprocess import preprocess
from runtime.parity.measure import NOT_REQUESTED, Context, Missing

SENSITIVITY_FILES = ("sensitivity.json", "sensitivity/sensitivity.json")
HISTOGRAM_BINS = 48
DRAWN_RANGES = 6
# Beyond float32's resolution.
SAME_DB = 150.0
NO_RANKING = Missing("the bundle has no sensitivity.json; make one with `python -m export.sensitivity` (needs Keras)")
# Conversions between types; their output belongs to the layer that they are named after.
CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")


class OpenGraph:
    """A TFLite artifact of which every tensor can be read.

    Attributes:
        outputs: each layer's output, in the order of the graph: the last tensor of that name.
        integers: the last integer tensor of each layer that has one.
        sources: the layers that each layer reads.
        named: the layers of the network, by their tensors' paths.
    """

    def __init__(self, path: Path) -> None:
        """Open an artifact without a delegate.

        Raises:
            ArtifactError: no interpreter is installed, or it cannot open the file or list its operators.
        """
        name, interpreter_class = load_interpreter()
        try:
            self._interpreter = interpreter_class(
                model_content=path.read_bytes(),
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=_without_delegates(interpreter_class),
            )
            self._interpreter.allocate_tensors()
        except (OSError, ValueError, RuntimeError, TypeError, AttributeError) as error:
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


class _Layer:
    """Sums over one layer: energies by channel, and the reference's values over the candidate's integer range."""

    def __init__(self, channels: int, integers: Tensor | None) -> None:
        self.signal, self.noise = np.zeros((2, channels))
        self.values = self.clipped = 0
        self.counts = np.zeros(HISTOGRAM_BINS, dtype=np.int64)
        self._range = integers.range if integers else None
        self._half_step = integers.scale / 2 if integers else 0.0

    @property
    def sqnr_db(self) -> float | None:
        """The ratio of the whole layer."""
        return _decibels(self.signal.sum(), self.noise.sum())

    @property
    def worst_channel(self) -> tuple[float | None, int | None]:
        """The lowest ratio of a channel, and its index.

        A channel's energy counts as the mean channel's at least. Otherwise one that is nearly always 0 would be the
        worst of every layer.
        """
        mean = self.signal.mean()
        if mean == 0:
            return _decibels(0.0, float(self.noise.sum())), None
        share = self.noise / np.maximum(self.signal, mean)
        worst = int(np.argmax(share))
        return _decibels(1.0, float(share[worst])), worst

    def add(self, exact: Floats, found: Floats) -> None:
        """Add the layer's output for one image, of the reference and the candidate."""
        places = tuple(range(exact.ndim - 1))
        self.signal += np.square(exact).sum(axis=places)
        noise = np.square(exact - found).sum(axis=places)
        self.noise += np.where(np.isnan(noise), np.inf, noise)
        if self._range is None:
            return
        low, high = self._range
        self.values += exact.size
        self.clipped += int(np.count_nonzero((exact < low - self._half_step) | (exact > high + self._half_step)))
        start, end = _span(low, high)
        # np.histogram would take longer than both networks.
        bins = ((exact.ravel() - start) * (HISTOGRAM_BINS / (end - start))).astype(np.int64)
        self.counts += np.bincount(np.clip(bins, 0, HISTOGRAM_BINS - 1), minlength=HISTOGRAM_BINS)

    def range_figures(self, layer: str) -> dict[str, Any] | None:
        """Return the layer's entry of `ranges`; `None` without an integer range."""
        if self._range is None or not self.values:
            return None
        low, high = self._range
        counts = self.counts.tolist()
        return {"layer": layer, "low": low, "high": high, "span": list(_span(low, high)), "histogram": counts}


def _span(low: float, high: float) -> tuple[float, float]:
    """Return an integer range and a quarter more on either side."""
    reach = (high - low) / 4
    return low - reach, high + reach


def _decibels(signal: float, noise: float) -> float | None:
    """Return 10 log10(signal / noise), within +-`SAME_DB`; `None` for a layer that is always 0."""
    if noise == 0:
        return SAME_DB if signal > 0 else None
    if signal == 0 or not math.isfinite(noise):
        return -SAME_DB
    return float(np.clip(10 * math.log10(signal / noise), -SAME_DB, SAME_DB))


def measure_layer_error(context: Context) -> dict[str, Any] | Missing:
    """Measure `layer_error`, on the calibration images if they are at hand, else on compared ones."""
    first, second = context.pair.reference, context.pair.candidate
    if not context.effort.layer_images:
        return NOT_REQUESTED
    if first.path is None or second.path is None or {first.artifact.engine, second.artifact.engine} != {"tflite"}:
        return Missing("only TFLite artifacts on disk show the tensors between their layers")
    if not _same_network(first.manifest.config, second.manifest.config):
        return Missing("the two are different networks, so their layers are not comparable")
    images, source = context.images, "images that are compared on"
    if context.extras.calibration is not None:
        images, source = list(context.extras.calibration.images), "the calibration set"
    step = max(1, len(images) // context.effort.layer_images)
    chosen = images[::step][: context.effort.layer_images]
    batches = [preprocess(image, first.engine.input_spec) for image in chosen]
    ranking = find_ranking(second.folder, context.extras.sensitivity)
    try:
        return layer_error_figures(first.path, second.path, batches, source, ranking)
    except (ArtifactError, ValueError) as error:
        return Missing(str(error))


def _same_network(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Return whether two configurations agree in the fields that both have: older bundles have fewer."""
    return all(first[name] == second[name] for name in first.keys() & second.keys())


def layer_error_figures(
    reference: Path, candidate: Path, batches: Sequence[NDArray[np.uint8]], source: str, ranking: Sequence[str] | None
) -> dict[str, Any]:
    """Compare the layers of two artifacts.

    Args:
        reference: a .tflite artifact.
        candidate: another one of the same network.
        batches: uint8 `[1, S, S, 3]` each.
        source: what these images are, in words.
        ranking: the network's products by their sensitivity to int8, the most sensitive first; `None` if unknown.

    Returns:
        The figures of every layer that both have, the worst first; see docs/guides/parity.md.

    Raises:
        ArtifactError: the interpreter does not show tensors, or the artifacts have no layer in common.
    """
    first, second = OpenGraph(reference), OpenGraph(candidate)
    sums = {
        layer: _Layer(tensor.shape[-1], second.integers.get(layer))
        for layer, tensor in first.outputs.items()
        if layer in second.outputs and tensor.shape == second.outputs[layer].shape and len(tensor.shape) >= 2
    }
    if not sums:
        raise ArtifactError("the two artifacts have no layer of one name and shape in common")
    for batch in tqdm(batches, desc="layers", unit="image", disable=None, leave=False):
        first.run(batch)
        second.run(batch)
        for layer, total in sums.items():
            total.add(first.read(first.outputs[layer]), second.read(second.outputs[layer]))
    entries = _entries(sums, first.sources, ranking or ())
    noisy = [entry for entry in entries if entry["own_sqnr_db"] is not None]
    # Tensors after the last layer have no layer's name, and nothing to retrain.
    noisy = [entry for entry in noisy if entry["layer"] in first.named] or noisy
    ranges = [sums[entry["layer"]].range_figures(entry["layer"]) for entry in entries]
    return {
        "images": len(batches),
        "source": source,
        "lowest_sqnr_db": _lowest(entries, "sqnr_db"),
        "lowest_channel_sqnr_db": _lowest(entries, "channel_sqnr_db"),
        "noisiest_layer": min(noisy, key=lambda entry: entry["own_sqnr_db"])["layer"] if noisy else None,
        "ranked_products": NO_RANKING if ranking is None else len(ranking),
        "layers": entries,
        "ranges": [each for each in ranges if each][:DRAWN_RANGES],
    }


def _entries(
    sums: Mapping[str, _Layer], sources: Mapping[str, set[str]], ranking: Sequence[str]
) -> list[dict[str, Any]]:
    """Return `layers`, the worst first."""
    sqnr = {layer: total.sqnr_db for layer, total in sums.items()}
    entries: list[dict[str, Any]] = []
    for layer, total in sums.items():
        channel_sqnr, channel = total.worst_channel
        entries.append(
            {
                "layer": layer,
                "sqnr_db": sqnr[layer],
                "own_sqnr_db": _own(layer, sqnr, sources),
                "channel_sqnr_db": channel_sqnr,
                "channel": channel,
                "clipped_share": total.clipped / total.values if total.values else None,
                "sensitivity_rank": ranking.index(layer) + 1 if layer in ranking else None,
            }
        )
    return sorted(entries, key=lambda entry: math.inf if entry["sqnr_db"] is None else entry["sqnr_db"])


def _lowest(entries: Sequence[Mapping[str, Any]], key: str) -> float:
    """Return the lowest ratio; `SAME_DB` where no layer loses anything."""
    return min((entry[key] for entry in entries if entry[key] is not None), default=SAME_DB)


def _own(layer: str, sqnr: Mapping[str, float | None], sources: Mapping[str, set[str]]) -> float | None:
    """Return a layer's SQNR without the noise of its inputs; `None` where it adds none.

    Noise adds up: the layer's own is its output's less that of its noisiest input, as shares of the signal.
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


@dataclass(frozen=True)
class _RankedLayer:
    layer: str


@dataclass(frozen=True)
class _Ranking:
    """The part of sensitivity.json that is needed here."""

    layers: tuple[_RankedLayer, ...]


def read_ranking(path: Path) -> list[str]:
    """Read the products by sensitivity from a sensitivity.json of `python -m export.sensitivity`.

    Returns:
        Names of layers, the most sensitive first.

    Raises:
        ArtifactError: the file is missing or not a sensitivity.json.
    """
    try:
        ranking = parse(_Ranking, read_json(path, "python -m export.sensitivity"), ignore_unknown=True)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}; rebuild it with `python -m export.sensitivity`") from None
    return [each.layer for each in ranking.layers]


def find_ranking(folder: Path | None, given: Path | None) -> list[str] | None:
    """Read the given ranking, or that of a bundle or its run; `None` if there is none.

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
