"""What a step is fed: indices of shuffled training pictures, or validation pictures in order."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from runtime.preprocess import Image
from train.config import TrainConfig

Batch = tuple[dict[str, NDArray[Any]], NDArray[np.float32]]


def steps_per_epoch(pictures: int, recipe: TrainConfig) -> int:
    """Return the training batches of an epoch; a last one that is not full is left out, unless it is the only one."""
    return max(1, pictures // recipe.batch_size)


class TrainBatches(keras.utils.PyDataset):
    """Indices of the training split in an order that depends on seed and epoch alone, so a resumed run repeats it."""

    def __init__(self, labels: NDArray[np.int64], classes: int, recipe: TrainConfig, first_epoch: int = 0) -> None:
        """Keep the training split's labels.

        Args:
            labels: int64 `[N]`.
            classes: number of classes.
            recipe: batch size and seed.
            first_epoch: epochs that an earlier part of this run has done.
        """
        super().__init__()
        self._labels = labels
        self._one_hot = np.eye(classes, dtype=np.float32)
        self._recipe = recipe
        self._epoch = first_epoch
        self._order = self._shuffled()

    def __len__(self) -> int:
        """Return the batches per epoch; a last one that is not full is left out."""
        return steps_per_epoch(len(self._labels), self._recipe)

    def __getitem__(self, index: int) -> Batch:
        """Return batch `index` of this epoch: int32 indices `[B]`, and one-hot float32 `[B, classes]` twice."""
        batch = self._recipe.batch_size
        chosen = self._order[index * batch : (index + 1) * batch]
        targets = self._one_hot[self._labels[chosen]]
        return {"pictures": chosen.astype(np.int32), "targets": targets}, targets

    def on_epoch_end(self) -> None:
        """Go on to the next epoch's order."""
        self._epoch += 1
        self._order = self._shuffled()

    def _shuffled(self) -> NDArray[np.int64]:
        return np.random.default_rng((self._recipe.seed, self._epoch)).permutation(len(self._labels))


class EvalBatches(keras.utils.PyDataset):
    """Pictures in order, as a trainee is validated on them."""

    def __init__(self, images: Image, labels: NDArray[np.int64], classes: int, batch_size: int = 250) -> None:
        """Keep uint8 `[N, S, S, 3]` pictures and int64 `[N]` labels."""
        super().__init__()
        self._images, self._labels = images, labels
        self._one_hot = np.eye(classes, dtype=np.float32)
        self._batch = batch_size

    def __len__(self) -> int:
        """Return the number of batches, the last one perhaps smaller."""
        return math.ceil(len(self._labels) / self._batch)

    def __getitem__(self, index: int) -> Batch:
        """Return batch `index`: uint8 pictures `[B, S, S, 3]`, and one-hot float32 `[B, classes]` twice."""
        chosen = slice(index * self._batch, (index + 1) * self._batch)
        targets = self._one_hot[self._labels[chosen]]
        return {"pictures": self._images[chosen], "targets": targets}, targets
