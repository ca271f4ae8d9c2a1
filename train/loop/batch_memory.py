"""How many images fit into memory at once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

FLOAT32_BYTES = 4


def batch_within(tensors: Iterable[Any], budget_bytes: int, most: int) -> int:
    """Return how many images' tensors fit into a budget.

    Args:
        tensors: a network's, `[B, ...]` float32, all of which are kept at once.
        budget_bytes: what they may take.
        most: how many images to take at most.

    Returns:
        1 to `most`.
    """
    values = sum(math.prod(tensor.shape[1:]) for tensor in tensors)
    return max(1, min(most, budget_bytes // (values * FLOAT32_BYTES)))
