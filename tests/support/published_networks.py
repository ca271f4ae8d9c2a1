"""Small networks with the parts of the published ones, and their checkpoints in each naming."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support.tiny_run import draw_weights
from train.model.config import FocalNetConfig
from train.model.presets import IMAGENET_MEAN, IMAGENET_STD
from train.model.weights import Tensors
from train.pretrained.checkpoint_names import Naming, checkpoint_tensors


def small_network(**changes: Any) -> FocalNetConfig:
    """Two stages at 32 px."""
    fields: dict[str, Any] = {
        "input_size": 32,
        "classes": 3,
        "dims": (8, 16),
        "depths": (1, 2),
        "focal_levels": (2, 1),
        "focal_windows": (3, 5),
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }
    return FocalNetConfig(**(fields | changes))


PLAIN = small_network()
LARGE = small_network(
    focal_levels=(3, 2),
    stem="overlap",
    post_norm=True,
    norm_in_modulation=True,
    normalise_modulator=True,
    layer_scale=0.3,
)
NETWORKS = {"plain": PLAIN, "large": LARGE}


def drawn_checkpoint(config: FocalNetConfig, naming: Naming, seed: int = 0) -> Tensors:
    """Draw a checkpoint's tensors, of the shapes that PyTorch gives them."""
    shapes = {name: each.shape for name, each in checkpoint_tensors(config, naming).items()}
    return {name: value.astype(np.float32) for name, value in draw_weights(shapes, seed).items()}
