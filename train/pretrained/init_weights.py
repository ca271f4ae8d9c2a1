"""The weights of another run, or of a bundle made from one, as a start for a run with classes of its own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from runtime.core.errors import ArtifactError
from runtime.core.files import sha256_of
from train.data.dataset import Images, resize_all
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet
from train.model.fold_norms import folded
from train.model.unfold_norms import unfold_weights
from train.model.weights import Tensors, assign_weights, listed, model_weights, read_tensors
from train.run import WEIGHTS_FILE, Init, Run, read_run

HEAD = ("logits/kernel", "logits/bias")
STATISTICS_IMAGES = 512


@dataclass(frozen=True, eq=False)
class Source:
    """What a run is to start from.

    Attributes:
        path: its weights file.
        run: its description.
        tensors: its deployed weights, which fit its network and are finite.
        init: what is kept of it.
    """

    path: Path
    run: Run
    tensors: Tensors
    init: Init


@dataclass(frozen=True, eq=False)
class Start:
    """The weights that a run starts from.

    Attributes:
        tensors: by `layer/variable`; those of the head are left out if it is new.
        line: where they came from, in words.
    """

    tensors: Tensors
    line: str


def trainable(config: FocalNetConfig) -> FocalNetConfig:
    """Return a network with norms that learn, whose `folded` form is the one described, if it is folded."""
    return dataclasses.replace(config, folded=False)


def read_source(folder: Path) -> Source:
    """Read what a run is to start from.

    Args:
        folder: a run's, or a bundle's.

    Raises:
        ArtifactError: the folder is missing or no run's, or its weights are damaged, not finite or not those of its
            network, with a list of what is missing, unknown or of another shape.
        ConfigError: it describes a network that cannot be built.
    """
    if not folder.is_dir():
        raise ArtifactError(f"--init {folder} is not a folder; give that of a run, or of a bundle such as models/NAME")
    run, path = read_run(folder), folder / WEIGHTS_FILE
    tensors = read_tensors(path)
    assign_weights(model_weights(build_focalnet(folded(run.model), keras)), tensors, str(path))
    if spoilt := [name for name, values in tensors.items() if not np.isfinite(values).all()]:
        raise ArtifactError(f"{path} has values that are not finite in {listed(spoilt, ', ')}; start from another run")
    return Source(path, run, tensors, Init(preset=run.preset, sha256=sha256_of(path)))


def starting_weights(source: Source, run: Run, images: Images) -> Start:
    """Take all of a source's weights but its head, and that too where the classes are the same.

    Args:
        source: what to start from.
        run: the run that starts, of the source's network but for the classes.
        images: its training split, uint8 `[N, H, W, 3]`; BatchNorms get their statistics from 512 of it, by its seed.

    Returns:
        The weights of the run's network.

    Raises:
        ArtifactError: the network's values overflow on the images.
    """
    chosen = np.sort(np.random.default_rng(run.recipe.seed).permutation(len(images))[:STATISTICS_IMAGES])
    chosen_images = resize_all(images[chosen], run.model.input_spec)
    tensors = unfold_weights(source.tensors, trainable(source.run.model), chosen_images)
    set_anew = len(tensors) - len(source.tensors)
    keeps_head = run.labels == source.run.labels
    if not keeps_head:
        tensors = {name: values for name, values in tensors.items() if name not in HEAD}
    by = f" by {len(chosen_images)} training images" if any(name.endswith("/moving_mean") for name in tensors) else ""
    head = "the head is kept, as the classes are the same" if keeps_head else f"{' and '.join(HEAD)} are new"
    line = (
        f"{len(tensors) - set_anew} tensors are from {source.path} ({run.preset}); {set_anew} of norms that were "
        f"folded into them are set to change nothing{by}; {head}"
    )
    return Start(tensors, line)
