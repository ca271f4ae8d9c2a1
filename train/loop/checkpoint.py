"""Checkpoints: all state of a training run in one file, replaced after each epoch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from runtime.core.errors import ArtifactError, TrainingError
from train.loop.training_model import TrainingModel
from train.model.weights import assign_weights, read_tensors, write_tensors

History = list[dict[str, float]]


@dataclass(frozen=True)
class Checkpoint:
    """The metadata of a checkpoint: the figures of the finished epochs, one row each."""

    history: History

    @property
    def epochs_done(self) -> int:
        """Number of finished epochs."""
        return len(self.history)


def save_checkpoint(path: Path, model: TrainingModel, checkpoint: Checkpoint) -> None:
    """Write the variables of a training model and its optimizer, and the seeds of dropout and augmentation.

    Args:
        path: the file; the old one stays until the new one is whole.
        model: the compiled training model.
        checkpoint: the finished epochs' figures.

    Raises:
        TrainingError: a variable is not finite; the old file stays.
        FocalEdgeError: the file cannot be written; the old one stays.
    """
    tensors = {name: np.asarray(v) for name, v in _variables(model).items()}
    # Variables that no loss depends on can overflow unnoticed.
    nonfinite = [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
    if nonfinite:
        raise TrainingError(
            f"received non-finite values in {nonfinite[0]} after epoch {checkpoint.epochs_done}; expected finite "
            f"ones ({path} is unchanged): lower learning_rate or raise warmup_fraction, in a new run"
        )
    write_tensors(path, tensors, {"history": json.dumps(checkpoint.history)})


def load_checkpoint(path: Path, model: TrainingModel) -> Checkpoint:
    """Restore a compiled training model to where `save_checkpoint` found it.

    Raises:
        ArtifactError: the file is missing, damaged or of another model.
    """
    tensors = read_tensors(path)
    try:
        with safe_open(path, "np") as file:
            history = json.loads((file.metadata() or {})["history"])
    except (KeyError, ValueError) as error:
        raise ArtifactError(f"{path} has no training history in its header; train the run again") from error
    assign_weights(_variables(model), tensors, str(path))
    return Checkpoint(history)


def _variables(model: TrainingModel) -> dict[str, Any]:
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    # Nothing is saved after a refused step, so `finite` is no state.
    return model.state() | {v.path: v for v in optimizer.variables if v is not optimizer.finite}
