"""Predictions of networks over many images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.core.cli import BAR_DELAY_S
from runtime.core.errors import ArtifactError
from runtime.engines.engine import Engine
from runtime.engines.outputs import Outputs
from runtime.evaluation.metrics import Classes
from runtime.images.preprocess import Image, preprocess

NO_CLASS = -1


def predict(run: Callable[[Image], NDArray[np.float32]], images: Sequence[Image] | Image, task: str) -> Classes:
    """Run a network on images one by one.

    Args:
        run: from an image, uint8 `[1, S, S, 3]`, to its logits, `[K]`.
        images: uint8 `[S, S, 3]` each, one or more.
        task: label of the progress bar.

    Returns:
        int64 `[N]`; -1 where a logit is not finite.
    """
    bar = tqdm(images, desc=task, unit="image", disable=None, leave=False, delay=BAR_DELAY_S)
    return predicted_classes([run(image[np.newaxis]) for image in bar])


def predicted_classes(logits: Sequence[NDArray[np.floating]] | NDArray[np.floating]) -> Classes:
    """Return the class with the largest logit, the first of equals.

    Args:
        logits: `[N, K]`, N at least 1.

    Returns:
        int64 `[N]`; -1 where a logit is not finite.
    """
    array = np.asarray(logits)
    return np.where(np.isfinite(array).all(axis=1), array.argmax(axis=1), NO_CLASS).astype(np.int64)


def run_pair(
    reference: Engine, candidate: Engine, images: Sequence[Image] | Image, classes: int, task: str
) -> Iterator[tuple[Outputs, Outputs]]:
    """Run two engines on every image.

    Args:
        reference: the engine that is compared with.
        candidate: the engine in question; its outputs may be non-finite.
        images: uint8 `[H, W, 3]` RGB each, of any size.
        classes: the number of logits to expect.
        task: label of the progress bar.

    Yields:
        The outputs of both, an image at a time.

    Raises:
        ArtifactError: the reference returns non-finite outputs, or an engine another number of logits.
    """
    bar = tqdm(images, desc=task, unit="image", disable=None, leave=False, delay=BAR_DELAY_S)
    for index, image in enumerate(bar):
        batch = preprocess(image, reference.input_spec)
        other = batch if candidate.input_spec == reference.input_spec else preprocess(image, candidate.input_spec)
        pair = reference.run(batch), candidate.run(other)
        for engine, outputs in zip((reference, candidate), pair, strict=True):
            if outputs.logits.shape != (classes,):
                raise ArtifactError(
                    f"the {engine.precision} artifact gives logits of shape {outputs.logits.shape}; expected "
                    f"({classes},), one a label: rebuild the bundle with `make export`"
                )
        if not pair[0].is_finite():
            raise ArtifactError(
                f"the {reference.precision} artifact gives non-finite outputs (image {index}); expected finite ones "
                "to compare with: train and export again"
            )
        yield pair


def finite_logits(outputs: Outputs) -> NDArray[np.float32]:
    """Return the logits, float32 `[K]`; all NaN where any output is not finite."""
    return outputs.logits if outputs.is_finite() else np.full_like(outputs.logits, np.nan)
