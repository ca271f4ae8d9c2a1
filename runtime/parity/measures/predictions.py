"""What two artifacts say about the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.core.errors import ArtifactError
from runtime.engines.engine import Engine
from runtime.engines.outputs import Outputs
from runtime.evaluation.metrics import Classes, Floats
from runtime.images.preprocess import Image, preprocess
from runtime.parity.measures.map_similarity import MapSimilarity, compare_maps

NO_CLASS = -1
# Maps are compared in batches: no more of them need to be held at once.
MAP_BATCH = 256


@dataclass(frozen=True)
class PairedPredictions:
    """What a reference and a candidate say about N images.

    Attributes:
        reference_logits: float64 `[N, K]`, finite.
        candidate_logits: float64 `[N, K]`; NaN in every place where any of its outputs is not finite.
        similarity: of M maps on each image: focal levels, global gate, modulator; 0 where the candidate's outputs
            are not finite. `None` where the two have maps of other kinds.
    """

    reference_logits: Floats
    candidate_logits: Floats
    similarity: MapSimilarity | None

    @property
    def reference(self) -> Classes:
        """The reference's classes: int64 `[N]`."""
        return np.asarray(self.reference_logits.argmax(axis=1), dtype=np.int64)

    @property
    def candidate(self) -> Classes:
        """The candidate's classes: int64 `[N]`, -1 where its outputs are not finite."""
        classes = np.nan_to_num(self.candidate_logits).argmax(axis=1)
        return np.where(self.finite, classes, NO_CLASS).astype(np.int64)

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Whether the candidate's outputs are finite: `[N]`."""
        return np.asarray(np.isfinite(self.candidate_logits).all(axis=1))


def predict_pair(
    reference: Engine, candidate: Engine, images: Sequence[Image], classes: int, task: str = "comparing"
) -> PairedPredictions:
    """Run two engines on every image.

    Args:
        reference: the engine that is compared with.
        candidate: the engine in question; its outputs may be non-finite.
        images: uint8 `[H, W, 3]` RGB each, one or more.
        classes: the number of logits to expect.
        task: what the progress bar says.

    Returns:
        The logits of both, and how alike their maps are.

    Raises:
        ArtifactError: the reference gives non-finite outputs, or an engine another number of logits.
    """
    logits: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    waiting: list[tuple[Outputs, Outputs]] = []
    compared: list[MapSimilarity | None] = []
    for image in tqdm(images, desc=task, unit="image", disable=None, leave=False):
        batch = preprocess(image, reference.input_spec)
        other = batch if candidate.input_spec == reference.input_spec else preprocess(image, candidate.input_spec)
        answers = reference.run(batch), candidate.run(other)
        for engine, outputs in zip((reference, candidate), answers, strict=True):
            _check_logits(engine, outputs, classes)
        if not answers[0].is_finite():
            raise ArtifactError(
                f"the {reference.precision} artifact gives non-finite outputs (image {len(logits)}), so there is "
                "nothing to compare with; train and export it anew"
            )
        sound = answers[1].is_finite()
        logits.append((answers[0].logits, answers[1].logits if sound else np.full(classes, np.nan, np.float32)))
        waiting.append(answers)
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


def _check_logits(engine: Engine, outputs: Outputs, classes: int) -> None:
    if outputs.logits.shape != (classes,):
        raise ArtifactError(
            f"the {engine.precision} artifact gives logits of shape {outputs.logits.shape}; expected "
            f"({classes},), one a label: make the bundle anew with `make export`"
        )


def stacked_maps(outputs: Outputs) -> NDArray[np.float32]:
    """Stack the maps of an image to `[M, h, w]`: focal levels, global gate, modulator."""
    return np.concatenate([np.moveaxis(outputs.gates, -1, 0), outputs.modulator[np.newaxis]])


def fitted(maps: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Resize maps `[M, h, w]`, where a network of another stride has others."""
    if maps.shape[1:] == (height, width):
        return maps
    return np.stack([cv2.resize(each, (width, height), interpolation=cv2.INTER_AREA) for each in maps])


def _compare_batch(batch: Sequence[tuple[Outputs, Outputs]]) -> MapSimilarity | None:
    first = np.stack([stacked_maps(reference) for reference, _ in batch])
    height, width = first.shape[2:]
    others, sound = [], np.array([candidate.is_finite() for _, candidate in batch])
    for (_, candidate), finite, own in zip(batch, sound, first, strict=True):
        maps = stacked_maps(candidate)
        if len(maps) != len(own):
            return None
        others.append(fitted(maps, height, width) if finite else own)
    found = compare_maps(first, np.stack(others))
    lost = ~sound[:, np.newaxis]
    return MapSimilarity(*(np.where(lost, 0.0, each) for each in (found.cosine, found.ssim, found.rank_correlation)))


def _joined(batches: Sequence[MapSimilarity | None]) -> MapSimilarity | None:
    known = [each for each in batches if each is not None]
    if len(known) < len(batches):
        return None
    return MapSimilarity(
        np.concatenate([each.cosine for each in known]),
        np.concatenate([each.ssim for each in known]),
        np.concatenate([each.rank_correlation for each in known]),
    )
