"""What Keras' backend trains on."""

from __future__ import annotations

import keras


def device_name() -> str:
    """Return "cpu" or the kind of accelerator that this backend trains on, such as "gpu"."""
    # Unasked for a kind, every backend lists its accelerators, and JAX those alone.
    kinds = {str(device).split(":")[0] for device in keras.distribution.list_devices()}
    return next(iter(sorted(kinds - {"cpu"})), "cpu")
