"""The fitted model: images by index, the loss of mixed targets, accuracy by the true ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_training import NETWORK, RECIPE, RUN, easy_dataset
from train.data.batches import EvalBatches, TrainBatches
from train.loop.fit import compile_model, fit
from train.loop.training_model import TrainingModel
from train.model.recipe import TrainConfig

STILL: dict[str, Any] = {"resize_margin": 0, "flip": False, "mixup_alpha": 0.0, "mix_rate": 1.0}
CONFIG = dataclasses.replace(NETWORK, drop_rate=0.0, drop_path_rate=0.0, norm="layer", input_size=12)
TRAIN = easy_dataset().train


def training_model(**recipe: Any) -> TrainingModel:
    model = TrainingModel(CONFIG, dataclasses.replace(RECIPE, **(STILL | recipe)), TRAIN)
    compile_model(model, dataclasses.replace(RECIPE, **recipe), total_steps=10)
    return model


def logits_of(model: TrainingModel, images: Any) -> Any:
    return np.asarray(model.network(images.astype(np.float32), training=False))


def cross_entropy(logits: Any, targets: Any) -> float:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return float(-(targets * (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))).sum(axis=1).mean())


def batch(indices: list[int]) -> dict[str, Any]:
    return {
        "indices": np.array(indices, np.int32),
        "targets": np.eye(CONFIG.classes, dtype=np.float32)[TRAIN.labels[indices]],
    }


def test_training_looks_images_up_by_index() -> None:
    model, chosen = training_model(), [5, 0, 17]
    outputs = model(batch(chosen), training=True)
    np.testing.assert_allclose(outputs["logits"], logits_of(model, TRAIN.images[chosen]), rtol=1e-5, atol=1e-5)


def test_validation_takes_images_as_they_are() -> None:
    model = training_model(erase_rate=1.0, mixup_alpha=1.0)
    inputs = {"images": TRAIN.images[:3], "targets": np.eye(3, dtype=np.float32)}
    outputs = model(inputs, training=False)
    np.testing.assert_allclose(outputs["logits"], logits_of(model, TRAIN.images[:3]), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(outputs["targets"], np.eye(3))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_cross_entropy_with_smoothed_targets(smoothing: float) -> None:
    model = training_model(label_smoothing=smoothing)
    dataset = easy_dataset()
    loss, accuracy = model.evaluate(EvalBatches(dataset.val.images, dataset.val.labels, CONFIG.classes), verbose=0)
    logits = logits_of(model, dataset.val.images)
    targets = np.eye(CONFIG.classes)[dataset.val.labels] * (1 - smoothing) + smoothing / CONFIG.classes
    assert loss == pytest.approx(cross_entropy(logits, targets), rel=1e-4)
    assert accuracy == pytest.approx((logits.argmax(axis=1) == dataset.val.labels).mean())


def test_the_loss_of_a_mixed_batch_is_that_of_its_mixed_targets() -> None:
    model = training_model(mixup_alpha=1.0)
    inputs = batch(list(range(16)))
    outputs = model(inputs, training=True)
    logits, targets = (np.asarray(outputs[name]) for name in ("logits", "targets"))
    assert not np.array_equal(targets, inputs["targets"])
    smoothed = targets * (1 - RECIPE.label_smoothing) + RECIPE.label_smoothing / CONFIG.classes
    loss = float(model.compute_loss(y=inputs["targets"], y_pred=outputs))
    assert loss == pytest.approx(cross_entropy(logits, smoothed), rel=1e-4)


def test_a_step_trains_the_network_and_leaves_the_images_alone() -> None:
    model = training_model(learning_rate=1e-2, warmup_fraction=0.0)
    before = [np.array(v) for v in model.network.trainable_variables]
    inputs, labels = TrainBatches(TRAIN.labels, CONFIG.classes, RECIPE)[0]
    model.train_on_batch(inputs, labels)
    assert all(np.any(np.asarray(v) != b) for v, b in zip(model.network.trainable_variables, before, strict=True))
    assert len(model.trainable_variables) == len(model.network.trainable_variables)
    np.testing.assert_allclose(
        model(batch([3]), training=True)["logits"], logits_of(model, TRAIN.images[[3]]), rtol=1e-5
    )


def test_its_state_is_the_network_s_and_every_seed_but_not_the_images() -> None:
    recipe = TrainConfig(rand_augment_ops=1, erase_rate=0.5, mixup_alpha=0.2, cutmix_alpha=1.0)
    model = TrainingModel(NETWORK, recipe, TRAIN)
    state = model.state()
    assert {f"{layer.name}/{v.name}" for layer in model.network.layers for v in layer.variables} <= set(state)
    dropouts = [layer.name for layer in model.network.layers if "drop" in layer.name]
    assert dropouts
    assert {f"{name}/seed_generator_state" for name in dropouts} <= set(state)
    assert len([name for name in state if name.startswith("augment/")]) == len(model.augment.variables) > 10
    assert all(tuple(v.shape) != tuple(TRAIN.images.shape) for v in state.values())


def test_the_state_of_keras_jax_trainer_is_not_searched_for_layers() -> None:
    model, state = training_model(), {"trainable_variables": [1.0]}
    model._jax_state = state
    model.other = state
    assert model._jax_state is state
    assert model.other is not state  # as Keras keeps what it tracks


def test_in_mixed_precision_products_are_bfloat16_and_weights_and_loss_float32() -> None:
    import keras

    model = training_model(precision="mixed_bfloat16", learning_rate=1e-2, warmup_fraction=0.0)
    assert model.network.get_layer("stage0.block0.query").compute_dtype == "bfloat16"
    assert {v.dtype for v in model.network.trainable_variables} == {"float32"}
    outputs = model(batch(list(range(16))), training=True)
    assert np.asarray(outputs["logits"]).dtype == np.float32
    plain = training_model()
    plain.network.set_weights(model.network.get_weights())
    exact = logits_of(plain, TRAIN.images[:16])
    error = np.abs(np.asarray(outputs["logits"]) - exact).max()
    assert 0 < error < 0.1 * np.abs(exact).max()
    assert keras.config.dtype_policy().name == "float32"


def test_a_network_trained_in_mixed_precision_is_handed_on_in_float32(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, precision="mixed_bfloat16", monitor_every=4)
    network, history = fit(dataclasses.replace(RUN, recipe=recipe), easy_dataset(), tmp_path, resume=False)
    assert history[-1]["val_loss"] < history[0]["val_loss"]
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    assert (tmp_path / "monitor" / "epoch_004.png").exists()
