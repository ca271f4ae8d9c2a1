"""The outputs of a network for one image, the same for all engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.bundle.manifest import MADE_BY
from runtime.core.errors import ArtifactError


@dataclass(frozen=True)
class Outputs:
    """The outputs for one image; values may be non-finite.

    Attributes:
        logits: float32 `[K]`, one for each class.
        gates: float32 `[h, w, L+1]`, linear and signed; the last map is the global gate.
        modulator: float32 `[h, w]`, L2 norm over the channels, >= 0.
    """

    logits: NDArray[np.float32]
    gates: NDArray[np.float32]
    modulator: NDArray[np.float32]

    def is_finite(self) -> bool:
        """Return `True` if no value is NaN or infinite."""
        return all(bool(np.isfinite(array).all()) for array in (self.logits, self.gates, self.modulator))


def check_tensor(
    path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]], name: str, shape: tuple[int, ...], *types: str
) -> None:
    """Check one tensor of an artifact.

    Args:
        path: the artifact.
        tensors: types and shapes by name.
        name: the tensor.
        shape: its shape in the manifest.
        types: the types it may have.

    Raises:
        ArtifactError: the artifact does not have this tensor.
    """
    again = f"rebuild the bundle with `{MADE_BY}`"
    if name not in tensors:
        raise ArtifactError(f"{path} has no tensor named {name!r}, only {', '.join(sorted(tensors))}; {again}")
    received, size = tensors[name]
    if received not in types or size != shape:
        raise ArtifactError(
            f"{path}: tensor {name!r} is {received} {list(size)}, the manifest expects {' or '.join(types)} "
            f"{list(shape)}; {again}"
        )
