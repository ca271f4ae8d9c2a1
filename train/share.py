"""What one process of several feeds of every batch."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from train.distribute import Placement


def share(batches: keras.utils.PyDataset, placement: Placement) -> keras.utils.PyDataset:
    """Return the rows of each batch that this process feeds; the batches themselves with one device.

    Args:
        batches: of all processes, the same in each: dictionaries of arrays `[B, ...]`, and targets `[B, classes]`.
        placement: where this process stands.
    """
    return batches if placement.devices == 1 else Share(batches, placement)


class Share(keras.utils.PyDataset):
    """A process' rows of every batch; batches that do not divide by the devices are filled up with rows of weight 0."""

    def __init__(self, batches: keras.utils.PyDataset, placement: Placement) -> None:
        """Take the batches of all processes, and where this one stands."""
        super().__init__()
        self._batches, self._placement = batches, placement
        rows = [len(batches[index][1]) for index in range(len(batches))]
        full = [math.ceil(size / placement.devices) * placement.devices for size in rows]
        self._fills = rows != full
        # Keras averages a batch over all its rows, and batches by these; a fill is made up for by the other weights.
        self._weight = sum(full) / sum(rows)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Return this process' rows of batch `index`; with their float32 weights, if any batch is filled up."""
        inputs, targets = self._batches[index]
        mine = {name: self._mine(rows) for name, rows in inputs.items()}, self._mine(targets)
        if not self._fills:
            return mine
        weights = np.full(len(targets), self._weight, np.float32)
        return *mine, self._mine(weights, fill=0.0)

    def on_epoch_end(self) -> None:
        """Go on to the next epoch's order."""
        self._batches.on_epoch_end()

    def _mine(self, rows: NDArray[Any], fill: float | None = None) -> NDArray[Any]:
        missing = -len(rows) % self._placement.devices
        filling = np.repeat(rows[:1], missing, axis=0)
        if fill is not None:
            filling[:] = fill
        full = np.concatenate([rows, filling]) if missing else rows
        # A slice, not every n-th row: the devices' shares in their order are the batch, which augmentation counts on.
        size = len(full) // self._placement.processes
        return full[self._placement.process_id * size : (self._placement.process_id + 1) * size]
