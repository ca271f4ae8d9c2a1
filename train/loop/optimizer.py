"""AdamW that refuses non-finite gradients and takes a learning rate for each layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

Tensor = Any


class GuardedAdamW(keras.optimizers.AdamW):
    """AdamW that refuses a step with a non-finite gradient, and every step after it.

    A refused step changes no weight, moment or average, and is not counted.

    Attributes:
        finite: bool `[variables]`, whether the gradient of each trainable variable was finite in the refused step;
            all true if no step was refused.
    """

    def build(self, variables: list[Any]) -> None:
        """Create the moments of `variables`, and `finite`."""
        if self.built:
            return
        super().build(variables)
        self.finite = self.add_variable((len(variables),), initializer="ones", dtype="bool", name="finite")

    def apply(self, grads: Sequence[Tensor], trainable_variables: Sequence[Any] | None = None) -> None:
        """Take a step, unless it is refused."""
        step = super().apply
        if keras.backend.backend() == "jax":  # called by stateless_apply
            step(grads, trainable_variables)
            return
        if not self.built:
            self.build(list(trainable_variables or ()))
        finite = _finite(grads, self.finite)
        self.finite.assign(finite)
        ops.cond(ops.all(finite), lambda: step(grads, trainable_variables), lambda: None)

    def stateless_apply(
        self, optimizer_variables: list[Tensor], grads: list[Tensor], trainable_variables: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the weights and optimizer variables after a step, or the same ones if it is refused."""
        step = super().stateless_apply
        place = next(index for index, variable in enumerate(self.variables) if variable is self.finite)
        finite = _finite(grads, optimizer_variables[place])
        weights, state = step(optimizer_variables, grads, trainable_variables)
        # Selected by value: a branch would make a GPU wait for its host.
        accepted = ops.all(finite)
        weights = [ops.where(accepted, new, old) for new, old in zip(weights, trainable_variables, strict=True)]
        state = [ops.where(accepted, new, old) for new, old in zip(state, optimizer_variables, strict=True)]
        return weights, [*state[:place], finite, *state[place + 1 :]]


class LayerwiseAdamW(GuardedAdamW):
    """`GuardedAdamW` with a factor of the learning rate for each variable.

    AdamW's decay is a multiple of the rate and scales with it. With the factor s, a step is
    w <- w - s * rate * (m / (sqrt(v) + epsilon) + weight_decay * w).
    """

    weight_decay: float

    def __init__(self, *args: Any, rate_scale: Callable[[str], float], **settings: Any) -> None:
        """Create the optimizer.

        Args:
            *args: AdamW's.
            rate_scale: returns the factor for a variable's path, `layer/variable`.
            **settings: AdamW's.
        """
        super().__init__(*args, **settings)
        self._rate_scale = rate_scale
        self._scales: list[float] = []

    def build(self, variables: list[Any]) -> None:
        """Create the moments of `variables`, and look up their factors."""
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


def _finite(grads: Sequence[Tensor], before: Tensor) -> Tensor:
    """Return which gradients are finite; `before`, if a step was refused before."""
    # The squares, times the number of gradients: clipping by the global norm turns finite gradients into NaN where
    # their sum of squares overflows.
    squares = ops.stack([ops.sum(ops.square(gradient)) for gradient in grads])
    return ops.where(ops.all(before), ops.isfinite(squares * len(grads)), before)
