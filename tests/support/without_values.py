"""Networks without values, where only shapes matter: the largest would have 3 GB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras


@contextmanager
def without_values() -> Iterator[None]:
    """Leave the variables of networks that are built in the block without values."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        # Or Keras initialises them when another such scope ends.
        keras.utils.clear_session(free_memory=False)
