"""Initial weights from another run, or from a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from runtime.core.errors import ArtifactError
from runtime.core.files import sha256_of
from runtime.images.preprocess import Image
from train.model.focalnet import build_focalnet
from train.model.fold_norms import folded, unfolded
from train.model.unfold_norms import unfold_weights
from train.model.weights import Tensors, assign_weights, listed, model_weights, read_tensors
from train.run import WEIGHTS_FILE, Run, WeightsId, read_run

HEAD = ("logits/kernel", "logits/bias")
STATISTICS_IMAGES = 512


@dataclass(frozen=True, eq=False)
class PretrainedWeights:
    """Trained weights to start from.

    Attributes:
        path: the weights file.
        run: the run that made it.
        tensors: finite weights of the run's deployed network.
        id: preset and hash, which the new run keeps.
    """

    path: Path
    run: Run
    tensors: Tensors
    id: WeightsId


@dataclass(frozen=True, eq=False)
class InitialWeights:
    """Initial weights of a run.

    Attributes:
        tensors: by `layer/variable`, without those of a new head.
        summary: one line about their origin.
    """

    tensors: Tensors
    summary: str


def read_pretrained(folder: Path) -> PretrainedWeights:
    """Read the weights of a run or bundle.

    Args:
        folder: the run's or the bundle's.

    Raises:
        ArtifactError: the folder is missing or not a run's, or its weights are damaged, not finite or not those of
            its network; the message lists what is missing, unknown or of another shape.
    """
    if not folder.is_dir():
        raise ArtifactError(f"--init {folder} is not a folder; give that of a run, or of a bundle such as models/NAME")
    run, path = read_run(folder), folder / WEIGHTS_FILE
    tensors = read_tensors(path)
    assign_weights(model_weights(build_focalnet(folded(run.model), keras)), tensors, str(path))
    if non_finite := [name for name, values in tensors.items() if not np.isfinite(values).all()]:
        raise ArtifactError(
            f"{path} has values that are not finite in {listed(non_finite, ', ')}; start from another run"
        )
    return PretrainedWeights(path, run, tensors, WeightsId(preset=run.preset, sha256=sha256_of(path)))


def statistics_indices(images: int, seed: int) -> NDArray[np.int64]:
    """Draw the training images that `initial_weights` measures BatchNorm statistics on, at most 512, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(images)[:STATISTICS_IMAGES])


def initial_weights(pretrained: PretrainedWeights, run: Run, images: Image) -> InitialWeights:
    """Make a run's initial weights: all pretrained ones, the head's only if the classes are the same.

    Args:
        pretrained: the weights to start from.
        run: the run, with the same network but for its classes.
        images: training images of `statistics_indices`, uint8 `[N, S, S, 3]` at the input size.

    Raises:
        ArtifactError: activations overflow on the images.
    """
    tensors = unfold_weights(pretrained.tensors, unfolded(pretrained.run.model), images)
    neutral = len(tensors) - len(pretrained.tensors)
    keeps_head = run.labels == pretrained.run.labels
    if not keeps_head:
        tensors = {name: values for name, values in tensors.items() if name not in HEAD}
    by = f" by {len(images)} training images" if any(name.endswith("/moving_mean") for name in tensors) else ""
    head = "the head is kept, as the classes are the same" if keeps_head else f"{' and '.join(HEAD)} are new"
    summary = (
        f"{len(tensors) - neutral} tensors are from {pretrained.path} ({pretrained.run.preset}); {neutral} of norms "
        f"that were folded into them are set to change nothing{by}; {head}"
    )
    return InitialWeights(tensors, summary)
