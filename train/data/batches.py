"""Batches: shuffled training images or their indices, and validation images in order."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from train.data.dataset import Images
from train.model.recipe import TrainConfig

EVAL_BATCH_SIZE = 250
EVAL_SIZE_PX = 64
FLOAT32_BYTES = 4
Batch = tuple[dict[str, NDArray[Any]], NDArray[np.float32]]


def steps_per_epoch(images: int, recipe: TrainConfig) -> int:
    """Return the training batches of an epoch; a last one that is not full is left out, unless it is the only one."""
    return max(1, images // recipe.batch_size)


def one_hot(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Return int64 `[B]` labels as one-hot float32 `[B, classes]`."""
    # Of these rows alone: a table for 21,842 classes takes 1.9 GB.
    return (labels[:, np.newaxis] == np.arange(classes)).astype(np.float32)


class Batches(keras.utils.PyDataset):
    """Batches that list their images before any is read, so that each process reads only its own."""

    def rows(self, index: int) -> NDArray[np.int64]:
        """Return the numbers of the images of batch `index` in their split, int64 `[B]`."""
        raise NotImplementedError

    def batch_of(self, rows: NDArray[np.int64]) -> Batch:
        """Return the batch of these images: inputs by name, `[B, ...]`, and one-hot float32 `[B, classes]`."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Batch:
        """Return batch `index`."""
        return self.batch_of(self.rows(index))


class TrainBatches(Batches):
    """The training split in an order that depends only on seed and epoch, so that a resumed run repeats it."""

    def __init__(
        self,
        labels: NDArray[np.int64],
        classes: int,
        recipe: TrainConfig,
        first_epoch: int = 0,
        images: Images | None = None,
    ) -> None:
        """Keep the training split's labels.

        Args:
            labels: int64 `[N]`.
            classes: number of classes.
            recipe: batch size and seed.
            first_epoch: epochs that an earlier part of this run has done.
            images: uint8 `[N, P, P, 3]`; `None` if the model looks them up.
        """
        super().__init__()
        self._labels = labels
        self._classes = classes
        self._recipe = recipe
        self._images = images
        self._epoch = first_epoch
        self._order = self._shuffled()

    def __len__(self) -> int:
        """Return the batches per epoch; a last one that is not full is left out."""
        return steps_per_epoch(len(self._labels), self._recipe)

    def rows(self, index: int) -> NDArray[np.int64]:
        """Return the images of batch `index` of this epoch, int64 `[B]`."""
        batch = self._recipe.batch_size
        return self._order[index * batch : (index + 1) * batch]

    def batch_of(self, rows: NDArray[np.int64]) -> Batch:
        """Return the batch of images of the split.

        Args:
            rows: int64 `[B]`.

        Returns:
            `indices`, int32 `[B]`, or `raw`, the images before augmentation, uint8 `[B, P, P, 3]`; with `targets`,
            one-hot float32 `[B, classes]`, and these again.
        """
        targets = one_hot(self._labels[rows], self._classes)
        if self._images is None:
            return {"indices": rows.astype(np.int32), "targets": targets}, targets
        return {"raw": self._images[rows], "targets": targets}, targets

    def on_epoch_end(self) -> None:
        """Shuffle for the next epoch."""
        self._epoch += 1
        self._order = self._shuffled()

    def _shuffled(self) -> NDArray[np.int64]:
        return np.random.default_rng((self._recipe.seed, self._epoch)).permutation(len(self._labels))


def batch_within(tensors: Iterable[Any], limit_bytes: int, most: int) -> int:
    """Return the largest batch, 1 to `most` images, whose float32 tensors fit into a memory limit.

    Args:
        tensors: a network's `[B, ...]` tensors that are in memory at once.
        limit_bytes: memory that they may take.
        most: upper bound of the batch.
    """
    values = sum(math.prod(tensor.shape[1:]) for tensor in tensors)
    return max(1, min(most, limit_bytes // (values * FLOAT32_BYTES)))


def eval_batch_size(input_size: int) -> int:
    """Return how many images of a size, in pixels, are classified at once: 250, or fewer where they are large."""
    return max(1, min(EVAL_BATCH_SIZE, EVAL_BATCH_SIZE * EVAL_SIZE_PX**2 // input_size**2))


class EvalBatches(Batches):
    """Images in order, as a training model is validated on them."""

    def __init__(self, images: Images, labels: NDArray[np.int64], classes: int, batch_size: int = 0) -> None:
        """Keep uint8 `[N, S, S, 3]` images and int64 `[N]` labels; 0 takes the batch of `eval_batch_size`."""
        super().__init__()
        self._images, self._labels = images, labels
        self._classes = classes
        self._batch = batch_size or eval_batch_size(images.shape[1])

    def __len__(self) -> int:
        """Return the number of batches, the last one perhaps smaller."""
        return math.ceil(len(self._labels) / self._batch)

    def rows(self, index: int) -> NDArray[np.int64]:
        """Return the images of batch `index`, int64 `[B]`."""
        return np.arange(index * self._batch, min(len(self._labels), (index + 1) * self._batch))

    def batch_of(self, rows: NDArray[np.int64]) -> Batch:
        """Return `images`, uint8 `[B, S, S, 3]`, and `targets`, one-hot float32 `[B, classes]`, and these again."""
        targets = one_hot(self._labels[rows], self._classes)
        return {"images": self._images[rows], "targets": targets}, targets
