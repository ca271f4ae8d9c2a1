"""The export's LayerNorm against Keras' LayerNorm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from export.quantize.layer_norm import ChannelNorm, lower_layer_norms


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("epsilon", [1e-7, 1e-3, 0.5])
def test_equals_keras(epsilon: float, affine: bool) -> None:
    import tf_keras

    fields: dict[str, Any] = {"epsilon": epsilon, "center": affine, "scale": affine, "name": "norm"}
    x = np.random.default_rng(0).normal(3.0, 2.0, (2, 5, 4, 8)).astype(np.float32)
    theirs, ours = tf_keras.layers.LayerNormalization(**fields), ChannelNorm(**fields)
    theirs.build(x.shape)
    ours.build(x.shape)
    weights = [np.linspace(-2, 3, 8), np.linspace(1, -1, 8)] if affine else []
    theirs.set_weights(weights)
    ours.set_weights(weights)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_lowering_copies_the_network_with_its_weights() -> None:
    import tf_keras

    layers = tf_keras.layers
    image = tf_keras.Input((4, 4, 6))
    x = layers.LayerNormalization(name="first")(layers.Conv2D(6, 1, name="product")(image))
    model = tf_keras.Model(image, layers.LayerNormalization(center=False, scale=False, name="second")(x))
    model.get_layer("first").set_weights([np.arange(6.0), np.arange(6.0) - 3.0])
    lowered = lower_layer_norms(model)
    assert [layer.name for layer in lowered.layers] == [layer.name for layer in model.layers]
    assert [type(layer) is ChannelNorm for layer in lowered.layers] == [False, False, True, True]
    assert not any(isinstance(layer, ChannelNorm) for layer in model.layers)
    images = np.random.default_rng(1).normal(size=(3, 4, 4, 6)).astype(np.float32)
    np.testing.assert_allclose(lowered(images), model(images), rtol=1e-4, atol=1e-5)
