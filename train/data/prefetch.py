"""Batches prepared while earlier steps run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import keras

from runtime.core.errors import FocalEdgeError

AHEAD = 2


class Ahead(keras.utils.PyDataset):
    """Prepares the next batches in another thread; a batch still depends only on its index.

    Keras' own workers, on JAX, would feed batches of one epoch's order into the next, left over from its first build.

    Attributes:
        failure: the error of a batch; TensorFlow raises its own in its place.
    """

    def __init__(self, batches: keras.utils.PyDataset) -> None:
        """Wrap batches, which one other thread will index."""
        super().__init__()
        self._batches = batches
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._coming: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self.failure: FocalEdgeError | None = None

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        """Return batch `index`, and start on the two after it.

        Raises:
            FocalEdgeError: the batch cannot be made.
        """
        with self._lock:
            for each in range(index, min(index + 1 + AHEAD, len(self))):
                if each not in self._coming:
                    self._coming[each] = self._maker.submit(self._batches.__getitem__, each)
            batch = self._coming.pop(index)
        try:
            return batch.result()
        except FocalEdgeError as error:
            self.failure = error
            raise

    def on_epoch_end(self) -> None:
        """Drop this epoch's batches, and shuffle for the next one."""
        with self._lock:
            for each in self._coming.values():
                each.cancel()
            self._coming.clear()
            self._batches.on_epoch_end()


@contextmanager
def own_errors(*batches: keras.utils.PyDataset) -> Iterator[None]:
    """Raise the error of a batch itself, not what TensorFlow makes of it.

    Raises:
        FocalEdgeError: a batch could not be made.
    """
    try:
        yield
    except Exception:
        for each in batches:
            if isinstance(each, Ahead) and each.failure:
                raise each.failure from None
        raise
