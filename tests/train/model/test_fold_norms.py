"""Folding norms changes no output."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from typing import Any

import keras
import numpy as np
import pytest
import tf_keras

from tests.train.model.test_focalnet import inputs, network, with_drawn_weights
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet
from train.model.fold_norms import fold_weights, folded
from train.model.presets import IMAGENET_MEAN, IMAGENET_STD, PRESETS
from train.model.weights import assign_weights, model_weights

NETWORKS = {
    "BatchNorm": network(4, (2, 1), (3, 3), norm="batch", block_norm_epsilon=0.3),
    "BatchNorm, conv stem": network(4, (2, 1), (3, 3), norm="batch", stem="conv", embed_norm_epsilon=0.2),
    "BatchNorm, none before the modulation": network(4, (1,), (3,), norm="batch", norm_before_modulation=False),
    "BatchNorm, none after downsampling": network(4, (1, 1), (3, 3), norm="batch", norm_after_downsampling=False),
    "LayerNorm": network(4, (2, 1), (3, 3), block_norm_epsilon=0.3),
    "LayerNorm, conv stem": network(4, (2, 1), (3, 3), stem="conv", mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "LayerNorm, none before the modulation": network(4, (2,), (3,), norm_before_modulation=False),
    "BatchNorm, images normalised": network(4, (1,), (3,), norm="batch", mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "LayerNorm, images normalised": network(4, (2, 1), (3, 3), mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "LayerNorm, layer scale": network(4, (2, 1), (3, 3), layer_scale=0.1, normalise_modulator=True),
    "LayerNorm, as in the large networks": network(
        8,
        (2, 3),
        (3, 3),
        stem="overlap",
        patch_size=4,
        input_size=32,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        post_norm=True,
        norm_in_modulation=True,
        normalise_modulator=True,
        layer_scale=0.1,
    ),
}
NORMS = (keras.layers.BatchNormalization, keras.layers.LayerNormalization)


def folded_model(config: FocalNetConfig, weights: Any, framework: Any) -> Any:
    model = build_focalnet(folded(config), framework)
    assign_weights(model_weights(model), fold_weights(weights, config), "test")
    return model


@pytest.mark.parametrize("framework", [keras, tf_keras])
@pytest.mark.parametrize("name", NETWORKS)
def test_folding_changes_no_logit(name: str, framework: Any) -> None:
    config = NETWORKS[name]
    model, weights = with_drawn_weights(config)
    images = inputs(config).astype(np.float32)
    before = np.asarray(model(images, training=False))
    after = np.asarray(folded_model(config, weights, framework)(images, training=False))
    assert before.std() > 0.05
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_foldable_norm_is_left(name: str) -> None:
    config = NETWORKS[name]
    model, weights = with_drawn_weights(config)
    left = [layer for layer in build_focalnet(folded(config), keras).layers if isinstance(layer, NORMS)]
    assert all(isinstance(layer, keras.layers.LayerNormalization) for layer in left)
    # The residual stream has more readers than one; norms that open it or end a branch keep their scale and offset.
    kept = {layer.name for layer in left if layer.weights}
    assert all(norm.rpartition(".")[0].endswith("embed") or norm.endswith("_post") for norm in kept)
    lost = {norm.name for norm in model.layers if isinstance(norm, NORMS)} - kept
    assert len(lost) >= 3
    scales = {layer.name for layer in model.layers if "layer_scale" in layer.name}
    assert bool(scales) == bool(config.layer_scale)
    gone = {name for name in weights if name.rsplit("/", 1)[0] in lost | scales}
    assert set(weights) - set(fold_weights(weights, config)) == gone


@pytest.mark.parametrize("name", ["BatchNorm, conv stem", "LayerNorm"])
def test_each_norm_matters(name: str) -> None:
    """Else the other tests would not see a norm that folding missed."""
    config = NETWORKS[name]
    _, weights = with_drawn_weights(config)
    whole = fold_weights(weights, config)
    norms = sorted({name.rsplit("/", 1)[0] for name in weights if name.endswith("/gamma")})
    assert len(norms) == 10 if config.stem == "conv" else 9
    for norm in norms:
        for part in ("gamma", "beta"):
            key = f"{norm}/{part}"
            changed = fold_weights({**weights, key: weights[key] * 2}, config)
            assert any(not np.array_equal(changed[name], whole[name]) for name in whole), key


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_twice_changes_nothing(name: str) -> None:
    config = folded(NETWORKS[name])
    _, weights = with_drawn_weights(config)
    assert fold_weights(weights, config) is weights
    assert folded(config) == config


def test_images_stay_normalised_before_a_convolution_that_pads() -> None:
    """The zeros around a normalised image are the mean colour; around a plain one they would be black."""
    config = NETWORKS["LayerNorm, conv stem"]
    assert (folded(config).mean, folded(config).std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert folded(NETWORKS["LayerNorm, images normalised"]).mean == (0.0, 0.0, 0.0)


def test_every_edge_preset_deploys_without_batchnorms() -> None:
    edges = [preset.model for name, preset in PRESETS.items() if name.startswith("edge-")]
    assert len(edges) == 3
    assert all(model.norm == "batch" and folded(model).folded for model in edges)
