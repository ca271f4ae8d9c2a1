"""Steps of the layer-wise optimizer as Keras' JAX trainer takes them; run by a test in a process of its own."""

from __future__ import annotations

import numpy as np

from tests.support.guard_on_jax import step
from tests.train.loop.test_layerwise import STEPS, expected, layerwise
from tests.train.loop.test_optimizer import gradients, variables


def main() -> None:
    """Hold compiled steps to AdamW's equations."""
    optimizer, weights = layerwise(), variables()
    optimizer.build(weights)
    for scale in STEPS:
        step(optimizer, weights, gradients([scale, 0.3, 0.0]))
    for variable, value in zip(weights, expected(), strict=True):
        np.testing.assert_allclose(np.array(variable), value, rtol=2e-5, atol=2e-5)


if __name__ == "__main__":
    main()
