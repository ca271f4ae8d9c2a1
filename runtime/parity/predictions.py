"""Predictions of both artifacts on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.engines.engine import Engine
from runtime.engines.outputs import Outputs
from runtime.evaluation.metrics import Classes, Floats
from runtime.evaluation.predict import finite_logits, predicted_classes, run_pair
from runtime.images.preprocess import Image
from runtime.parity.maps import MapSimilarity, compare_maps
from runtime.parity.statistics import PairedTable

# Maps are compared in batches, to hold no more of them at once.
MAP_BATCH = 256


@dataclass(frozen=True)
class PairedPredictions:
    """The outputs of a reference and a candidate for N images.

    Attributes:
        reference_logits: float64 `[N, K]`, finite.
        candidate_logits: float64 `[N, K]`; a row of NaN where any output is not finite.
        similarity: of M maps on each image: focal levels, global gate, modulator; 0 where the candidate's outputs
            are not finite. `None` where the two have different numbers of maps.
    """

    reference_logits: Floats
    candidate_logits: Floats
    similarity: MapSimilarity | None

    @property
    def reference(self) -> Classes:
        """The reference's classes: int64 `[N]`."""
        return predicted_classes(self.reference_logits)

    @property
    def candidate(self) -> Classes:
        """The candidate's classes: int64 `[N]`, -1 where its outputs are not finite."""
        return predicted_classes(self.candidate_logits)

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Whether the candidate's outputs are finite: `[N]`."""
        return np.asarray(np.isfinite(self.candidate_logits).all(axis=1))

    def table(self, labels: Classes, member: NDArray[np.bool_] | None = None) -> PairedTable:
        """Count right predictions.

        Args:
            labels: int64 `[N]`.
            member: bool `[N]`, the images to count; all by default.
        """
        chosen = slice(None) if member is None else member
        return PairedTable.count((self.reference == labels)[chosen], (self.candidate == labels)[chosen])


def predict_pair(
    reference: Engine, candidate: Engine, images: Sequence[Image], classes: int, task: str = "comparing"
) -> PairedPredictions:
    """Run two engines on every image.

    Args:
        reference: the engine that is compared with.
        candidate: the compared engine; its outputs may be non-finite.
        images: uint8 `[H, W, 3]` RGB each, 1 or more.
        classes: the expected number of logits.
        task: the title of the progress bar.

    Returns:
        The logits of both, and the similarity of their maps.

    Raises:
        ArtifactError: the reference gives non-finite outputs, or an engine another number of logits.
    """
    logits: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    waiting: list[tuple[Outputs, Outputs]] = []
    compared: list[MapSimilarity | None] = []
    for outputs in run_pair(reference, candidate, images, classes, task):
        logits.append((outputs[0].logits, finite_logits(outputs[1])))
        waiting.append(outputs)
        if len(waiting) == MAP_BATCH:
            compared.append(_compare_batch(waiting))
            waiting = []
    if waiting:
        compared.append(_compare_batch(waiting))
    return PairedPredictions(
        np.array([each[0] for each in logits], dtype=np.float64),
        np.array([each[1] for each in logits], dtype=np.float64),
        _joined(compared),
    )


def _stack_maps(outputs: Outputs) -> NDArray[np.float32]:
    """Stack the maps of an image to `[M, h, w]`: focal levels, global gate, modulator."""
    return np.concatenate([np.moveaxis(outputs.gates, -1, 0), outputs.modulator[np.newaxis]])


def _resize_maps(maps: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Resize maps `[M, h, w]` to those of a network with another stride."""
    if maps.shape[1:] == (height, width):
        return maps
    return np.stack([cv2.resize(each, (width, height), interpolation=cv2.INTER_AREA) for each in maps])


def _compare_batch(batch: Sequence[tuple[Outputs, Outputs]]) -> MapSimilarity | None:
    first = np.stack([_stack_maps(reference) for reference, _ in batch])
    height, width = first.shape[2:]
    others, sound = [], np.array([candidate.is_finite() for _, candidate in batch])
    for (_, candidate), finite, own in zip(batch, sound, first, strict=True):
        maps = _stack_maps(candidate)
        if len(maps) != len(own):
            return None
        others.append(_resize_maps(maps, height, width) if finite else own)
    found = compare_maps(first, np.stack(others))
    return MapSimilarity(*(np.where(sound[:, np.newaxis], each, 0.0) for each in found.figures))


def _joined(batches: Sequence[MapSimilarity | None]) -> MapSimilarity | None:
    known = [each.figures for each in batches if each is not None]
    if len(known) < len(batches):
        return None
    return MapSimilarity(*(np.concatenate(parts) for parts in zip(*known, strict=True)))
