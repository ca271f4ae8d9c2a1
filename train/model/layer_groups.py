"""Groups of layers by their place in the network: learning rates and frozen stages.

Names decide, as `train/model/focalnet.py` gives them: `embed…` is the embedding, `stage2.…` belongs to stage 2 (its
downsampling, `stage2.embed…`, goes with its first block), and all else, such as `head.norm` and `logits`, is the head.
"""

from __future__ import annotations

import re

from train.model.config import FocalNetConfig

_OF_STAGE = re.compile(r"stage(\d+)\.(?:block(\d+))?")


def steps_from_head(layer: str, config: FocalNetConfig) -> int:
    """Return the distance of a layer from the head, in blocks: 0 for the head, 1 for the last block."""
    blocks = sum(config.depths)
    if layer.startswith("embed"):
        return blocks + 1
    if found := _OF_STAGE.match(layer):
        return blocks - sum(config.depths[: int(found[1])]) - int(found[2] or 0)
    return 0


def rate_scale(layer: str, config: FocalNetConfig, layer_decay: float) -> float:
    """Return a layer's factor of the learning rate (Clark et al., 2020, "ELECTRA"; Bao et al., 2021, "BEiT").

    Args:
        layer: its name.
        config: the network.
        layer_decay: factor from each block to the one before it, above 0 and at most 1.
    """
    return float(layer_decay ** steps_from_head(layer, config))


def is_frozen(layer: str, frozen_stages: int) -> bool:
    """Tell whether a layer is frozen.

    Args:
        layer: its name.
        frozen_stages: number of frozen stages, from the first, with the embedding; 0 freezes nothing.
    """
    if not frozen_stages:
        return False
    found = _OF_STAGE.match(layer)
    return layer.startswith("embed") or (found is not None and int(found[1]) < frozen_stages)
