"""Optimizer steps as Keras' JAX trainer takes them; a test runs this in its own process."""

from __future__ import annotations

import sys
from typing import Any

import jax
import keras
import numpy as np

from tests.train.loop.test_optimizer import BAD, SETTINGS, STEPS, expected, gradients, layerwise, values, variables
from train.loop.optimizer import GuardedAdamW


def step(optimizer: Any, weights: list[Any], grads: list[Any]) -> None:
    """Take one compiled step."""
    state = [v.value for v in optimizer.variables]
    new, state = jax.jit(optimizer.stateless_apply)(state, grads, [v.value for v in weights])
    for variable, value in zip([*weights, *optimizer.variables], [*new, *state], strict=True):
        variable.assign(value)


def check_layerwise() -> None:
    """Compare compiled steps with AdamW's equations."""
    optimizer, weights = layerwise(), variables()
    optimizer.build(weights)
    for scale in STEPS:
        step(optimizer, weights, gradients([scale, 0.3, 0.0]))
    for variable, value in zip(weights, expected(), strict=True):
        np.testing.assert_allclose(np.array(variable), value, rtol=2e-5, atol=2e-5)


def check_guarded() -> None:
    """Compare finite steps with Keras' own; non-finite ones, and those after them, must change nothing."""
    ours, theirs = GuardedAdamW(**SETTINGS), keras.optimizers.AdamW(**SETTINGS)
    weights, others = variables(), variables()
    ours.build(weights)
    theirs.build(others)
    for scale in (1.0, -2.0, 1e6):
        step(ours, weights, gradients([scale, 0.3, 0.0]))
        step(theirs, others, gradients([scale, 0.3, 0.0]))
    for a, b in zip(values(ours, weights), values(theirs, others), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    before = values(ours, weights)
    for name, bad in BAD.items():
        for grads in (gradients(bad), gradients([1.0, 2.0, 3.0])):
            step(ours, weights, grads)
            changed = [i for i, (a, b) in enumerate(zip(values(ours, weights), before, strict=True)) if (a != b).any()]
            finite = np.array(ours.finite).tolist()
            if changed or finite[:2] != [False, True]:
                sys.exit(f"{name}: variables {changed} changed, finite {finite}")
        ours.finite.assign(np.ones(3, bool))
    if int(ours.iterations) != 3:
        sys.exit(f"{int(ours.iterations)} steps were counted; expected 3")


if __name__ == "__main__":
    check_guarded()
    check_layerwise()
