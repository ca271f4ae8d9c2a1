"""Augmentation as one Keras layer, so that it runs where the network does, inside the compiled step."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from train.model.recipe import TrainConfig

Tensor = Any
ERASED = 127.5  # mid-grey, of 0..255


class Augment(keras.layers.Layer):
    """Crop, mirror, RandAugment and erase images, then mix them and their targets (mixup, CutMix).

    All but the crop are Keras layers; its `RandomCrop` crops a whole batch at one place.
    """

    def __init__(self, recipe: TrainConfig, size: int) -> None:
        """Create the layers of a recipe's augmentation.

        Args:
            recipe: the augmentation and its seed.
            size: side of the crops, in pixels.
        """
        super().__init__(name="augment")
        layers, seed = keras.layers, recipe.seed
        self._size = size
        self._pad = recipe.pad
        self._mix_rate = recipe.mix_rate
        self._seeds = keras.random.SeedGenerator(seed)
        self._single = []
        if recipe.flip:
            self._single.append(layers.RandomFlip("horizontal", seed=seed))
        if recipe.rand_augment_ops:
            self._single.append(
                layers.RandAugment(num_ops=recipe.rand_augment_ops, factor=recipe.rand_augment_magnitude, seed=seed)
            )
        if recipe.erase_rate and recipe.erase_area:
            self._single.append(
                layers.RandomErasing(
                    factor=(recipe.erase_rate, recipe.erase_rate),
                    scale=(0.02, max(0.02, recipe.erase_area)),
                    fill_value=ERASED,
                    seed=seed,
                )
            )
        self._mixers = []
        if recipe.mixup_alpha:
            self._mixers.append(layers.MixUp(recipe.mixup_alpha, seed=seed))
        if recipe.cutmix_alpha:
            self._mixers.append(layers.CutMix(recipe.cutmix_alpha, seed=seed))

    def call(self, stored: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Augment a batch.

        Args:
            stored: uint8 `[B, H, W, 3]`, at least `size` high and wide.
            targets: float32 `[B, classes]`.

        Returns:
            float32 `[B, size, size, 3]` in 0..255, and the targets, mixed as the images are.
        """
        images = ops.cast(self._crop(stored), "float32")
        for layer in self._single:
            images = layer(images, training=True)
        return self._mix(images, targets)

    def _crop(self, images: Tensor) -> Tensor:
        """Pad images by reflection, then crop each at its own place."""
        if self._pad:
            edge = (self._pad, self._pad)
            images = ops.pad(images, ((0, 0), edge, edge, (0, 0)), mode="reflect")
        batch, height, width, channels = ops.shape(images)
        grid = ops.arange(self._size, dtype="int32")
        top = keras.random.randint((batch, 1), 0, height - self._size + 1, dtype="int32", seed=self._seeds)
        left = keras.random.randint((batch, 1), 0, width - self._size + 1, dtype="int32", seed=self._seeds)
        rows = ops.expand_dims(top + grid, 2)  # [B, S, 1]
        columns = ops.expand_dims(left + grid, 1)  # [B, 1, S]
        image = ops.reshape(ops.arange(batch, dtype="int32"), (-1, 1, 1))
        pixels = (image * height + rows) * width + columns  # [B, S, S], into [B * H * W]
        return ops.take(ops.reshape(images, (-1, channels)), pixels, axis=0)

    def _mix(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if not self._mixers:
            return images, targets
        draw = keras.random.uniform((), seed=self._seeds)
        share = self._mix_rate / len(self._mixers)
        mixed_images, mixed_targets = images, targets
        for turn, layer in enumerate(self._mixers):
            mixed = layer({"images": images, "labels": targets}, training=True)
            chosen = ops.logical_and(draw >= turn * share, draw < (turn + 1) * share)
            mixed_images = ops.where(chosen, mixed["images"], mixed_images)
            mixed_targets = ops.where(chosen, mixed["labels"], mixed_targets)
        return mixed_images, mixed_targets
