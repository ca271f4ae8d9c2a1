"""Training batches: random crop and flip, reproducible for any step of any run."""

from __future__ import annotations

import keras
import numpy as np
from numpy.typing import NDArray

from runtime.preprocess import Image
from train.config import FocalNetConfig, TrainConfig
from train.splits import resize_all


def crop_and_flip(images: Image, size: int, flip: bool, rng: np.random.Generator) -> Image:
    """Crop every picture at a random place and mirror half of them.

    Args:
        images: uint8 `[N, H, W, 3]`, at least `size` high and wide.
        size: side of the crops, in pixels.
        flip: whether to mirror horizontally, each picture with probability 1/2.
        rng: the source of chance.

    Returns:
        uint8 `[N, size, size, 3]`.
    """
    count, height, width = images.shape[:3]
    top = rng.integers(0, height - size + 1, count)
    left = rng.integers(0, width - size + 1, count)
    # [N, H - S + 1, W - S + 1, 3, S, S], a view
    windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
    crops = windows[np.arange(count), top, left].transpose(0, 2, 3, 1)  # [N, 3, S, S] -> [N, S, S, 3]
    if flip:
        mirrored = rng.random((count,)) < 0.5
        crops = np.where(mirrored[:, None, None, None], crops[:, :, ::-1], crops)
    return np.ascontiguousarray(crops)


class TrainBatches(keras.utils.PyDataset):
    """Augmented batches whose content depends on seed, epoch and batch alone, so a resumed run repeats them."""

    def __init__(
        self,
        images: Image,
        labels: NDArray[np.int64],
        config: FocalNetConfig,
        recipe: TrainConfig,
        first_epoch: int = 0,
    ) -> None:
        """Keep the training split, resized with its margin.

        Args:
            images: uint8 `[N, H, W, 3]` RGB.
            labels: int64 `[N]`.
            config: the network's input size and classes.
            recipe: batch size, margin, flip and seed.
            first_epoch: epochs that an earlier part of this run has done.
        """
        super().__init__()
        self._images = resize_all(images, config.input_size + recipe.resize_margin)
        self._labels = labels
        self._one_hot = np.eye(config.classes, dtype=np.float32)
        self._size = config.input_size
        self._recipe = recipe
        self._epoch = first_epoch
        self._order = self._shuffled()

    def __len__(self) -> int:
        """Return the batches per epoch; a last one that is not full is left out."""
        return max(1, len(self._labels) // self._recipe.batch_size)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return batch `index` of this epoch: float32 `[B, S, S, 3]` in 0..255, one-hot float32 `[B, classes]`."""
        batch = self._recipe.batch_size
        chosen = self._order[index * batch : (index + 1) * batch]
        rng = np.random.default_rng((self._recipe.seed, self._epoch, index))
        crops = crop_and_flip(self._images[chosen], self._size, self._recipe.flip, rng)
        return crops.astype(np.float32), self._one_hot[self._labels[chosen]]

    def on_epoch_end(self) -> None:
        """Go on to the next epoch's order."""
        self._epoch += 1
        self._order = self._shuffled()

    def _shuffled(self) -> NDArray[np.int64]:
        return np.random.default_rng((self._recipe.seed, self._epoch)).permutation(len(self._labels))
