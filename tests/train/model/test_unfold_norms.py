"""Unfolding norms changes no output, and the norms can learn."""

from __future__ import annotations

import dataclasses
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from typing import Any

import keras
import numpy as np
import pytest
import tf_keras

from runtime.core.errors import ArtifactError
from tests.support.tiny_run import soft_images
from tests.train.model import test_fold_norms as test_fold
from tests.train.model.test_focalnet import with_drawn_weights
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet
from train.model.fold_norms import fold_weights, folded
from train.model.presets import PRESETS
from train.model.unfold_norms import unfold_weights
from train.model.weights import assign_weights, model_weights

TINY = {"dims": (8, 12, 16, 20), "depths": (2, 1, 1, 1)}


def tiny(preset: str) -> FocalNetConfig:
    """A preset's network, a few channels wide."""
    model = PRESETS[preset].model
    stages = len(model.dims)
    size = model.patch_size * 2**stages
    return dataclasses.replace(model, classes=3, input_size=size, **{k: v[:stages] for k, v in TINY.items()})


FAMILIES = ("seed-cifar10", "edge-nano", "focalnet_tiny_srf", "focalnet_base_iso", "focalnet_huge_fl4")
NETWORKS = test_fold.NETWORKS | {f"tiny {name}": tiny(name) for name in FAMILIES}
BATCH_NETWORKS = [name for name, config in NETWORKS.items() if config.norm == "batch"]


def logits(config: FocalNetConfig, weights: Any, images: Any, training: bool = False, framework: Any = keras) -> Any:
    model = build_focalnet(config, framework)
    assign_weights(model_weights(model), weights, "test")
    return np.asarray(model(images.astype(np.float32), training=training))


def unfolded(name: str, images: int = 70) -> tuple[FocalNetConfig, Any, Any, Any]:
    """A network, images, its folded weights, and the weights unfolded from these."""
    config = dataclasses.replace(NETWORKS[name], drop_rate=0.0, drop_path_rate=0.0)
    _, weights = with_drawn_weights(config)
    deployed = {k: np.float32(v) for k, v in fold_weights(weights, config).items()}
    inputs = soft_images(images, 4, config.input_size)
    return config, inputs, deployed, unfold_weights(deployed, config, inputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_unfolding_changes_no_logit(name: str) -> None:
    config, _, deployed, weights = unfolded(name)
    others = soft_images(9, 5, config.input_size)  # not those of the statistics
    before = logits(folded(config), deployed, others, framework=tf_keras)
    assert before.std() > 0.02
    np.testing.assert_allclose(logits(config, weights, others), before, rtol=0, atol=1e-4)
    # And what was unfolded folds to what it was made of.
    again = fold_weights(weights, config)
    assert set(again) == set(deployed)
    for key, value in deployed.items():
        np.testing.assert_allclose(again[key], value, rtol=1e-3, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("name", BATCH_NETWORKS)
def test_a_batch_s_own_statistics_change_little(name: str) -> None:
    config, images, deployed, weights = unfolded(name)
    before = logits(folded(config), deployed, images)
    # All images of the statistics in one batch: the same statistics.
    np.testing.assert_allclose(logits(config, weights, images, training=True), before, rtol=0, atol=1e-3)
    part = logits(config, weights, images[:32], training=True)
    naive = {k: np.float32(v) for k, v in weights.items()}
    for key in naive.keys() - deployed.keys():  # as norms are made: the folded layers' scale is lost on a batch
        naive[key] = np.full_like(naive[key], key.endswith(("gamma", "moving_variance")))
    lost = logits(config, naive, images[:32], training=True)
    far = np.abs(lost - before[:32]).mean()
    assert np.abs(part - before[:32]).mean() < min(0.5 * before.std(), 0.5 * far)


@pytest.mark.parametrize("name", NETWORKS)
def test_layer_norms_are_neutral_and_batch_norms_the_identity(name: str) -> None:
    config, _, deployed, weights = unfolded(name, images=8)
    new = weights.keys() - deployed.keys()
    norms = {key.rsplit("/", 1)[0] for key in new}
    assert norms
    assert weights.keys() == model_weights(build_focalnet(config, keras)).keys()
    scales = {layer for layer in norms if ".layer_scale" in layer}
    assert all((weights[f"{scale}/kernel"] == 1).all() for scale in scales)
    for norm in norms - scales:
        gamma, beta = weights[f"{norm}/gamma"], weights[f"{norm}/beta"]
        if f"{norm}/moving_mean" in new:
            assert np.array_equal(beta, weights[f"{norm}/moving_mean"])
            epsilon = config.block_norm_epsilon if ".block" in norm else config.embed_norm_epsilon
            np.testing.assert_allclose(gamma**2, weights[f"{norm}/moving_variance"] + epsilon, rtol=1e-5)
        else:
            assert (gamma == 1).all()
            assert (beta == 0).all()


def test_normalisation_comes_out_of_the_patches_as_it_went_in() -> None:
    """The embedding's norm is not folded, so the trained kernel and bias come back."""
    config = NETWORKS["LayerNorm, images normalised"]
    _, trained = with_drawn_weights(config)
    _, _, deployed, weights = unfolded("LayerNorm, images normalised", images=1)
    for part in ("kernel", "bias"):
        key = f"embed.proj/{part}"
        assert np.abs(deployed[key] - trained[key]).max() > 0.1
        np.testing.assert_allclose(weights[key], trained[key], rtol=1e-5, atol=1e-5)


def test_statistics_are_those_of_all_images() -> None:
    """Computed after the embedding: every patch times the kernel, plus the bias."""
    config, images, _, weights = unfolded("BatchNorm, images normalised")
    x = (images / 255.0 - np.array(config.mean)) / np.array(config.std)
    side, tokens = config.patch_size, config.input_size // config.patch_size
    patches = x.reshape(-1, tokens, side, tokens, side, 3).swapaxes(2, 3).reshape(-1, side * side * 3)
    values = patches @ weights["embed.proj/kernel"].reshape(side * side * 3, -1) + weights["embed.proj/bias"]
    np.testing.assert_allclose(weights["embed.norm/moving_mean"], values.mean(axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(weights["embed.norm/moving_variance"], values.var(axis=0), rtol=1e-4, atol=1e-4)


def test_a_channel_that_never_moves_stays_finite() -> None:
    config, images, deployed, _ = unfolded("BatchNorm", images=4)
    still = {**deployed, "embed.proj/kernel": np.zeros_like(deployed["embed.proj/kernel"])}
    weights = unfold_weights(still, config, images)
    assert (weights["embed.norm/moving_variance"] == 0).all()
    expected = logits(folded(config), still, images)
    np.testing.assert_allclose(logits(config, weights, images), expected, rtol=0, atol=1e-4)


def test_weights_that_overflow_are_refused() -> None:
    config, images, deployed, _ = unfolded("BatchNorm", images=4)
    loud = {**deployed, "embed.proj/kernel": deployed["embed.proj/kernel"] * 1e30}
    with pytest.raises(ArtifactError, match=r"values overflow at embed\.norm"):
        unfold_weights(loud, config, images)


def test_tensors_of_another_network_are_refused() -> None:
    config, images, deployed, _ = unfolded("BatchNorm", images=4)
    with pytest.raises(ArtifactError, match=r"unknown other/kernel"):
        unfold_weights({**deployed, "other/kernel": deployed["logits/kernel"]}, config, images)
