"""The rows of each batch that one of several processes feeds."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from train.data.batches import Batches
from train.distributed.placement import Placement


def share(batches: Batches, placement: Placement) -> keras.utils.PyDataset:
    """Return the rows of each batch that this process feeds; the batches themselves with one device.

    Args:
        batches: of all processes, the same in each.
        placement: the place of this process.
    """
    return batches if placement.devices == 1 else Share(batches, placement)


class Share(keras.utils.PyDataset):
    """A process' rows of every batch, padded with rows of weight 0 to a multiple of the devices."""

    def __init__(self, batches: Batches, placement: Placement) -> None:
        """Wrap the batches of all processes; only the rows of this one are read."""
        super().__init__()
        self._batches, self._placement = batches, placement
        rows = [len(batches.rows(index)) for index in range(len(batches))]
        full = [math.ceil(size / placement.devices) * placement.devices for size in rows]
        self._fills = rows != full
        # Keras averages over all rows, so the other weights compensate for the padding.
        self._weight = sum(full) / sum(rows)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Return this process' rows of batch `index`; with their float32 weights, if any batch is filled up."""
        rows = self._batches.rows(index)
        size = math.ceil(len(rows) / self._placement.devices) * self._placement.devices // self._placement.processes
        # A slice, not every n-th row: concatenated, the shares must be the batch, as augmentation expects.
        mine = rows[self._placement.process_id * size : (self._placement.process_id + 1) * size]
        # A process without rows needs one to repeat.
        inputs, targets = self._batches.batch_of(mine if len(mine) else rows[-1:])
        full = {name: _filled(values, size) for name, values in inputs.items()}, _filled(targets, size)
        if not self._fills:
            return full
        weights = np.zeros(size, np.float32)
        weights[: len(mine)] = self._weight
        return *full, weights

    def on_epoch_end(self) -> None:
        """Shuffle for the next epoch."""
        self._batches.on_epoch_end()


def _filled(values: NDArray[Any], size: int) -> NDArray[Any]:
    """Repeat the last row until there are `size`."""
    missing = size - len(values)
    return np.concatenate([values, np.repeat(values[-1:], missing, axis=0)]) if missing else values
