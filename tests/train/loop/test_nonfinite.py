"""The first non-finite step stops a run, and the layer where it began is named."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest

from runtime.core.errors import TrainingError
from tests.support.tiny_training import FULL_RECIPE, NETWORK, RECIPE, easy_dataset
from train.data.batches import EvalBatches, TrainBatches
from train.loop.fit import compile_model
from train.loop.nonfinite import StopIfNonfinite, nonfinite_gradient, nonfinite_in_training, nonfinite_output
from train.loop.training_model import TrainingModel
from train.model.focalnet import build_focalnet

IMAGES = easy_dataset().val.images[:4, :8, :8].astype(np.float32)
INPUTS = {"indices": np.arange(6, dtype=np.int32), "targets": np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]}


@pytest.fixture(scope="module")
def built() -> Any:
    return build_focalnet(NETWORK, keras)


@pytest.fixture
def network(built: Any) -> Iterator[Any]:
    before = [np.array(v) for v in built.variables]
    yield built
    for variable, value in zip(built.variables, before, strict=True):
        variable.assign(value)


def plant(network: Any, layer: str, value: float, name: str = "kernel") -> None:
    """Put one value into a weight of a layer."""
    variable = getattr(network.get_layer(layer), name)
    values = np.array(variable)
    values.flat[0] = value
    variable.assign(values)


def test_nothing_is_named_in_a_sound_network(network: Any) -> None:
    assert nonfinite_output(network, IMAGES, training=True) is None
    assert nonfinite_output(network, IMAGES, training=False) is None


@pytest.mark.parametrize(
    "layer", ["embed.proj", "stage0.block0.gate1", "stage0.block0.modulator", "stage0.block1.contract", "logits"]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_layer_with_a_nonfinite_weight_is_named(network: Any, layer: str, value: float) -> None:
    plant(network, layer, value)
    assert nonfinite_output(network, IMAGES, training=True) == layer


def test_the_first_of_several_is_named(network: Any) -> None:
    for layer in ("logits", "stage0.block1.query", "stage0.block0.contract"):
        plant(network, layer, np.nan)
    assert nonfinite_output(network, IMAGES, training=False) == "stage0.block0.contract"


def test_finite_weights_that_overflow_are_found_where_they_do(network: Any) -> None:
    for layer in ("query", "modulator"):
        each = network.get_layer(f"stage0.block0.{layer}")
        each.bias.assign(np.full(each.bias.shape, 1e30))
    assert nonfinite_output(network, IMAGES, training=False) == "stage0.block0.modulate"


def test_training_and_evaluation_differ_by_the_statistics_of_batchnorm(network: Any) -> None:
    plant(network, "stage0.block1.norm2", np.nan, "moving_mean")
    assert nonfinite_output(network, IMAGES, training=True) is None
    plant(network, "stage0.block1.norm2", np.nan, "moving_mean")
    assert nonfinite_output(network, IMAGES, training=False) == "stage0.block1.norm2"


def test_images_that_are_not_finite_are_named_by_the_input(network: Any) -> None:
    assert nonfinite_output(network, IMAGES * np.float32(np.nan), training=True) == "image"


def test_the_gradient_nearest_to_the_loss_is_named(network: Any) -> None:
    paths = [variable.path for variable in network.trainable_variables]

    def named(*names: str) -> str | None:
        return nonfinite_gradient(network, [path not in names for path in paths])

    assert named() is None
    assert named("embed.proj/kernel") == "embed.proj"
    assert named("embed.proj/kernel", "stage0.block1.query/bias", "stage0.block0.norm1/gamma") == "stage0.block1.query"
    assert named(*paths) == "logits"


def test_a_step_is_replayed_with_what_it_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TrainingModel(NETWORK, FULL_RECIPE, easy_dataset().train)
    model(INPUTS, training=True)  # an earlier step
    drawn: list[Any] = []
    augmented = TrainingModel.augmented

    def noted(self: TrainingModel, inputs: Any) -> Any:
        drawn.append(augmented(self, inputs))
        return drawn[-1]

    monkeypatch.setattr(TrainingModel, "augmented", noted)
    model(INPUTS, training=True)
    dropout = np.array(model.network.get_layer("embed.drop").seed_generator.state)
    plant(model.network, "stage0.block0.expand", np.nan)
    assert nonfinite_in_training(model, INPUTS) == "stage0.block0.expand"
    step, _, replay = drawn
    for ours, theirs in zip(replay, step, strict=True):
        assert np.array_equal(ours, theirs)
    assert not np.array_equal(drawn[1][0], step[0])
    # Dropout, too: after the replay its seed stands where the step had left it.
    assert np.array_equal(np.array(model.network.get_layer("embed.drop").seed_generator.state), dropout)


def test_nonfinite_augmentation_is_named() -> None:
    model = TrainingModel(NETWORK, FULL_RECIPE, easy_dataset().train)
    model(INPUTS, training=True)
    targets = INPUTS["targets"] * np.float32(np.nan)
    assert nonfinite_in_training(model, INPUTS | {"targets": targets}) == "augment"
    assert nonfinite_in_training(model, INPUTS) is None


@pytest.fixture(scope="module")
def training_model() -> Any:
    model = TrainingModel(NETWORK, RECIPE, easy_dataset().train)
    compile_model(model, RECIPE, total_steps=100)
    model.run_eagerly = True
    return model


@pytest.fixture
def watched(training_model: Any) -> Any:
    """A training_model, and the callback that watches it, in the epoch after two whole ones."""
    training_model.optimizer.build(training_model.trainable_variables)
    before = [np.array(v) for v in [*training_model.variables, *training_model.optimizer.variables]]
    dataset = easy_dataset()
    val = EvalBatches(dataset.val.images[:, :8, :8], dataset.val.labels, 3, batch_size=6)
    callback = StopIfNonfinite(TrainBatches(dataset.train.labels, 3, RECIPE), val)
    callback.set_model(training_model)
    callback.on_epoch_begin(2)
    yield training_model, callback, val
    for variable, value in zip([*training_model.variables, *training_model.optimizer.variables], before, strict=True):
        variable.assign(value)


def train_step(model: Any, callback: Any, batch: int) -> None:
    """One step of Keras' loop, on a batch that the callback knows."""
    inputs, targets = callback._train[batch]
    loss, _ = model.train_on_batch(inputs, targets)
    callback.on_train_batch_end(batch, {"loss": float(loss)})


def test_a_sound_run_goes_on(watched: Any) -> None:
    model, callback, _ = watched
    before = int(model.optimizer.iterations)
    for batch in (0, 1):
        train_step(model, callback, batch)
    callback.on_test_begin()
    callback.on_test_batch_end(0, {"loss": 1.0})
    assert int(model.optimizer.iterations) == before + 2


@pytest.mark.parametrize("layer", ["embed.proj", "stage0.block1.modulator"])
def test_a_loss_that_is_not_finite_stops_at_its_step(watched: Any, layer: str) -> None:
    model, callback, _ = watched
    train_step(model, callback, 0)
    kernel = model.network.get_layer(layer).kernel
    kernel.assign(np.full(kernel.shape, np.inf))
    other = model.network.get_layer("logits").kernel
    before = np.array(other)
    with pytest.raises(TrainingError) as caught:
        train_step(model, callback, 1)
    assert str(caught.value) == (
        f"epoch 3, step 2: received loss nan, which began in the output of layer {layer}; expected finite values "
        "(the checkpoint of epoch 2 is kept): lower learning_rate or raise warmup_fraction, in a new run"
    )
    assert np.array_equal(np.array(other), before)


def test_a_gradient_that_is_not_finite_stops_at_its_step(watched: Any) -> None:
    model, callback, _ = watched
    train_step(model, callback, 0)
    # y = proj(query(x) * modulator): with a query of 0, the loss is finite whatever `proj` is.
    block = "stage0.block1."
    for name, value in (("proj", 1e30), ("query", 0.0)):
        kernel = model.network.get_layer(block + name).kernel
        kernel.assign(np.full(kernel.shape, value))
    model.network.get_layer(block + "query").bias.assign(np.zeros(8))
    before = [np.array(v) for v in model.trainable_variables]
    with pytest.raises(TrainingError, match=r"step 2: received a non-finite gradient, .* layer stage0.block1.query;"):
        train_step(model, callback, 1)
    assert all(np.array_equal(np.array(v), b) for v, b in zip(model.trainable_variables, before, strict=True))
    # Seen at the epoch's end alone, the step is the same.
    model.optimizer.iterations.assign(2 * len(callback._train) + 1)
    with pytest.raises(TrainingError, match="epoch 3, step 2: received a non-finite gradient"):
        callback.on_test_begin()


def test_a_loss_of_finite_logits_is_said_to_be_one(watched: Any) -> None:
    _, callback, _ = watched
    with pytest.raises(TrainingError, match="step 1: received loss inf, which began in the loss of finite logits"):
        callback.on_train_batch_end(0, {"loss": math.inf})


def test_a_validation_that_is_not_finite_stops_the_run(watched: Any) -> None:
    model, callback, val = watched
    model.network.get_layer("stage0.block0.norm2").moving_variance.assign(np.full(8, -1.0))
    assert len(val) == 3
    with pytest.raises(
        TrainingError, match=r"epoch 3, validation step 2: received val_loss nan, .* of layer stage0.block0.norm2;"
    ):
        callback.on_test_batch_end(1, {"loss": math.nan})


def test_before_the_first_checkpoint_none_is_promised(watched: Any) -> None:
    _, callback, _ = watched
    callback.on_epoch_begin(0)
    with pytest.raises(TrainingError, match=r"epoch 1, step 1: .* \(there is no checkpoint yet\)"):
        callback.on_train_batch_end(0, {"loss": math.nan})
