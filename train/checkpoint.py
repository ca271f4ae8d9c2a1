"""Everything a training run needs to go on, in one file that is replaced whole after each epoch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from runtime.errors import ArtifactError
from train.weights import assign_weights, read_tensors, write_tensors

CHECKPOINT_FILE = "checkpoint.safetensors"
History = list[dict[str, float]]


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says beside the variables: the finished epochs' figures, one row each."""

    history: History

    @property
    def epochs_done(self) -> int:
        """Number of whole epochs behind it."""
        return len(self.history)


def save_checkpoint(path: Path, model: Any, checkpoint: Checkpoint) -> None:
    """Write a compiled model's variables, its optimizer's and the dropout's seeds.

    Args:
        path: the file; the old one stays until the new one is whole.
        model: the compiled Keras model.
        checkpoint: the finished epochs' figures.
    """
    tensors = {name: np.asarray(v) for name, v in _variables(model).items()}
    write_tensors(path, tensors, {"history": json.dumps(checkpoint.history)})


def load_checkpoint(path: Path, model: Any) -> Checkpoint:
    """Put a compiled model back to where `save_checkpoint` found it.

    Raises:
        ArtifactError: the file is missing, damaged or of another model.
    """
    tensors = read_tensors(path)
    try:
        with safe_open(path, "np") as file:
            history = json.loads((file.metadata() or {})["history"])
    except (KeyError, ValueError) as error:
        raise ArtifactError(f"{path} has no training history in its header; train the run anew") from error
    assign_weights(_variables(model), tensors, str(path))
    return Checkpoint(history)


def _variables(model: Any) -> dict[str, Any]:
    model.optimizer.build(model.trainable_variables)
    # By layer: the paths of dropout seeds count the seed generators that the process has made.
    named = {f"{layer.name}/{v.name}": v for layer in model.layers for v in layer.variables}
    return named | {v.path: v for v in model.optimizer.variables}
