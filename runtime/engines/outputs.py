"""The outputs of a network for one image, the same for all engines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
