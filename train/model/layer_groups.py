"""Where in a network a layer stands: which ones are frozen, and at what share of the rate the others learn.

A layer is told by its name, as `train/model/focalnet.py` gives it: `embed…` is the embedding, `stage2.…` of stage 2
(its downsampling, `stage2.embed…`, goes with its first block), and all else, such as `head.norm` and `logits`, the
head.
"""

from __future__ import annotations

import re

from train.model.config import FocalNetConfig

_OF_STAGE = re.compile(r"stage(\d+)\.(?:block(\d+))?")


def steps_from_head(layer: str, config: FocalNetConfig) -> int:
    """Count the blocks from the head down to a layer.

    Args:
        layer: its name.
        config: the network.

    Returns:
        0 for the head, 1 for the last block, the number of blocks for the first, and one more for the embedding.
    """
    blocks = sum(config.depths)
    if layer.startswith("embed"):
        return blocks + 1
    if found := _OF_STAGE.match(layer):
        return blocks - sum(config.depths[: int(found[1])]) - int(found[2] or 0)
    return 0


def rate_scale(layer: str, config: FocalNetConfig, layer_decay: float) -> float:
    """Return the share of the learning rate that a layer learns at (Clark et al., 2020, ELECTRA; BEiT).

    Args:
        layer: its name.
        config: the network.
        layer_decay: share that each block leaves to the one below, above 0 and at most 1.

    Returns:
        layer_decay ** steps_from_head.
    """
    return float(layer_decay ** steps_from_head(layer, config))


def is_frozen(layer: str, frozen_stages: int) -> bool:
    """Say whether a layer is of the embedding or the first stages, if any are frozen.

    Args:
        layer: its name.
        frozen_stages: how many stages are, from the first; 0 freezes the embedding neither.
    """
    if not frozen_stages:
        return False
    found = _OF_STAGE.match(layer)
    return layer.startswith("embed") or (found is not None and int(found[1]) < frozen_stages)
