"""Folding: a network without its BatchNorms computes what it did with them."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import dataclasses
import re
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras

from tests.test_focalnet import network, pictures, with_drawn_weights
from train.config import PRESETS, FocalNetConfig
from train.focalnet import build_focalnet
from train.fold import fold_norms, folded
from train.weights import assign_weights, model_weights

NETWORKS = {
    "patches": network(4, (2, 1), (3, 3), norm="batch", block_norm_epsilon=0.3),
    "conv stem": network(4, (2, 1), (3, 3), norm="batch", stem="conv", embed_norm_epsilon=0.2),
    "no norm before the modulation": network(4, (1,), (3,), norm="batch", norm_before_modulation=False),
    "no norm after downsampling": network(4, (1, 1), (3, 3), norm="batch", norm_after_downsampling=False),
}


def folded_model(config: FocalNetConfig, weights: Any, framework: Any) -> Any:
    model = build_focalnet(folded(config), framework)
    assign_weights(model_weights(model), fold_norms(weights, config), "test")
    return model


@pytest.mark.parametrize("framework", [keras, tf_keras])
@pytest.mark.parametrize("name", NETWORKS)
def test_folding_changes_no_logit(name: str, framework: Any) -> None:
    config = NETWORKS[name]
    model, weights = with_drawn_weights(config)
    images = pictures(config).astype(np.float32)
    before = np.asarray(model(images, training=False))
    after = np.asarray(folded_model(config, weights, framework)(images, training=False))
    assert before.std() > 0.05
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_no_batchnorm_is_left_and_nothing_else_is_lost() -> None:
    config = NETWORKS["conv stem"]
    model, weights = with_drawn_weights(config)
    layers = build_focalnet(folded(config), keras).layers
    assert not [layer.name for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    lost = set(weights) - set(fold_norms(weights, config))
    assert lost == {name for name in weights if ".norm" in name and not re.search(r"block\d+\.norm1/", name)}
    assert len(lost) == 4 * sum(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)


def test_each_norm_matters() -> None:
    """A norm that folding missed would go unseen in a network on which it does nothing."""
    config = NETWORKS["conv stem"]
    _, weights = with_drawn_weights(config)
    whole = fold_norms(weights, config)
    norms = {name.rsplit("/", 1)[0] for name in weights if name.endswith("/moving_mean")}
    assert len(norms) == 7
    for norm in norms:
        changed = fold_norms({**weights, f"{norm}/gamma": weights[f"{norm}/gamma"] * 2}, config)
        assert any(not np.array_equal(changed[name], whole[name]) for name in whole), norm


@pytest.mark.parametrize("norm", ["layer", "folded"])
def test_without_batchnorms_there_is_nothing_to_fold(norm: Any) -> None:
    config = dataclasses.replace(NETWORKS["patches"], norm=norm)
    _, weights = with_drawn_weights(config)
    assert fold_norms(weights, config) is weights
    assert folded(config) is config


def test_every_edge_preset_deploys_without_batchnorms() -> None:
    edges = [preset.model for name, preset in PRESETS.items() if name.startswith("edge-")]
    assert len(edges) == 3
    assert all(folded(model).norm == "folded" for model in edges)
