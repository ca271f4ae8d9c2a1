"""Networks of which only the shapes are of interest, the largest having 3 GB of values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras


@contextmanager
def without_values() -> Iterator[None]:
    """Give the variables of networks that are built inside it no values, neither now nor later."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        # Keras would make up for it as soon as another such scope ends.
        keras.utils.clear_session(free_memory=False)
