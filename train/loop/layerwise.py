"""AdamW with a share of the learning rate for each variable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from train.loop.optimizer import GuardedAdamW

Tensor = Any


class LayerwiseAdamW(GuardedAdamW):
    """`GuardedAdamW` that steps each variable at its own share of the rate.

    AdamW's decay is a multiple of the rate, so it scales alike: a step of a variable at share s is
    w <- w - s * rate * (m / (sqrt(v) + epsilon) + weight_decay * w).
    """

    weight_decay: float

    def __init__(self, *args: Any, rate_scale: Callable[[str], float], **settings: Any) -> None:
        """Keep the shares.

        Args:
            *args: AdamW's.
            rate_scale: from a variable's path, `layer/variable`, to its share of the rate.
            **settings: AdamW's.
        """
        super().__init__(*args, **settings)
        self._rate_scale = rate_scale
        self._scales: list[float] = []

    def build(self, variables: list[Any]) -> None:
        """Make the moments of `variables`, and look their shares up."""
        if not self.built:
            self._scales = [self._rate_scale(variable.path) for variable in variables]
        super().build(variables)

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        """Step one variable."""
        super().update_step(gradient, variable, learning_rate * self._scale(variable))

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        whole = self.weight_decay
        try:
            for scale in sorted(set(map(self._scale, variables))):
                self.weight_decay = whole * scale
                super()._apply_weight_decay([v for v in variables if self._scale(v) == scale])
        finally:
            self.weight_decay = whole

    def _scale(self, variable: Any) -> float:
        return float(self._scales[self._get_variable_index(variable)])
