"""The model that is fitted: augmentation and network, with the training images on the device.

A step receives indices; images are gathered, cropped, augmented and mixed inside the compiled step, so that an
accelerator never waits for its host. If the training split stays on disk, a step receives the images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from train.data.dataset import Split, resize_all
from train.data.lazy_images import LazyImages
from train.distributed.placement import ALONE, Placement, device_name, everywhere
from train.loop.augment import Augment
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet
from train.model.layer_groups import is_frozen
from train.model.matmul_depthwise import depthwise_class
from train.model.recipe import TrainConfig, image_spec

Tensor = Any


@contextmanager
def _precision(policy: str) -> Iterator[None]:
    """Give layers that are made inside it a precision."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


class TrainingModel(keras.Model):
    """A FocalNet that trains on indices into its training split, or on its images, and is validated on images."""

    def __init__(self, config: FocalNetConfig, recipe: TrainConfig, train: Split, placement: Placement = ALONE) -> None:
        """Build the network and move the training split to the device, unless it stays on disk.

        Args:
            config: the network.
            recipe: the augmentation.
            train: the images to train on.
            placement: the place of this process in the run.
        """
        super().__init__(name="training_model")
        with _precision(recipe.precision):
            self.network = build_focalnet(config, keras, depthwise_class(keras.backend.backend(), device_name()))
        for layer in self.network.layers:
            layer.trainable = not is_frozen(layer.name, recipe.frozen_stages)  # Keras then keeps BatchNorm's statistics
        self.config = config
        self.augment = Augment(recipe, config.input_size)
        if not isinstance(train.images, LazyImages):
            images = resize_all(train.images, image_spec(config, recipe))
            self._images = self.add_weight(
                name="images", shape=images.shape, dtype="uint8", initializer="zeros", trainable=False
            )
            self._images.assign(everywhere(images, placement))
        self._loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; the state that Keras' JAX trainer keeps after each step is not searched for layers."""
        if name == "_jax_state":  # a millisecond of Python a step
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> dict[str, Tensor]:
        """Classify images.

        Args:
            inputs: `targets`, one-hot float32 `[B, classes]`, and one of: `indices` of the training split, int32
                `[B]`, whose images are looked up and augmented; `raw`, uint8 `[B, P, P, 3]`, which are augmented;
                or `images`, `[B, S, S, 3]` in 0..255, which are taken as they are.
            training: whether dropout and norms are to work as in training.

        Returns:
            `logits` `[B, classes]`, and the `targets` that they are held to, mixed as the images were.
        """
        # By name, not by `training`: on JAX, Keras first builds by a call out of training, on what it trains on.
        if "images" in inputs:
            images, targets = inputs["images"], inputs["targets"]
        else:
            images, targets = self.augmented(inputs)
        logits = self.network(ops.cast(images, "float32"), training=training)
        return {"logits": ops.cast(logits, "float32"), "targets": targets}

    def augmented(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Augment training images, looked up if they are given by their indices.

        Args:
            inputs: as `call` takes them in training.

        Returns:
            float32 `[B, S, S, 3]` in 0..255, and the targets, float32 `[B, classes]`, mixed as the images were.
        """
        raw = ops.take(self._images, inputs["indices"], axis=0) if "indices" in inputs else inputs["raw"]
        return self.augment(raw, inputs["targets"])

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Return the cross-entropy with the mixed targets."""
        return self._loss(y_pred["targets"], y_pred["logits"], sample_weight=sample_weight)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Compare the logits with the labels as they were before mixing."""
        return super().compute_metrics(x, y, y_pred["logits"], sample_weight)

    def state(self) -> dict[str, Any]:
        """Return every variable that a resumed run needs beside the optimizer's, by a name that no process changes."""
        # By layer: the paths of seeds count the seed generators that the process has made.
        named = {f"{layer.name}/{v.name}": v for layer in self.network.layers for v in layer.variables}
        return named | {f"augment/{index}": v for index, v in enumerate(self.augment.variables)}
