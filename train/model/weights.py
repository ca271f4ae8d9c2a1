"""Weights as safetensors keyed `layer/variable`, readable without a framework, the same for both Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from runtime.core.errors import ArtifactError
from runtime.core.files import replacing

Tensors = dict[str, NDArray[Any]]

# tf_keras' name for what Keras 3 calls "kernel".
_VARIABLE_NAMES = {"depthwise_kernel": "kernel"}


def write_tensors(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    """Write arrays as one safetensors file, by `replacing`.

    Args:
        path: the file.
        tensors: arrays by name.
        metadata: texts for the file's header.

    Raises:
        FocalEdgeError: the file cannot be written.
    """
    with replacing(path) as temporary:
        try:
            # Not ascontiguousarray, which would turn a scalar into a vector.
            save_file({k: np.asarray(v, order="C") for k, v in tensors.items()}, temporary, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read_tensors(path: Path) -> Tensors:
    """Read a safetensors file into NumPy arrays.

    Raises:
        ArtifactError: the file is missing, truncated or not safetensors.
    """
    try:
        return dict(load_file(path))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist; make it with `python -m train`") from error
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is not a whole safetensors file ({error}); make it again") from error


def model_weights(model: Any) -> dict[str, Any]:
    """Return the weight variables of a model of either Keras, by `layer/variable`."""
    weights = {}
    for layer in model.layers:
        for variable in layer.weights:
            name = variable.name.split("/")[-1].split(":")[0]
            weights[f"{layer.name}/{_VARIABLE_NAMES.get(name, name)}"] = variable
    return weights


def weight_arrays(model: Any) -> Tensors:
    """Return copies of a model's weights by `layer/variable`."""
    return {name: np.array(variable) for name, variable in model_weights(model).items()}


def load_weights(model: Any, path: Path) -> None:
    """Load a model's weights from a safetensors file, all or none.

    Args:
        model: a model of `build_focalnet`, from either Keras.
        path: the file.

    Raises:
        ArtifactError: tensors are missing, unknown or of another shape; the message lists them.
    """
    assign_weights(model_weights(model), read_tensors(path), str(path))


def listed(names: list[str], separator: str = "; ") -> str:
    """Join the first eight names, and the number of the others."""
    return separator.join([*names[:8], f"and {len(names) - 8} more"] if len(names) > 8 else names)


def assign_weights(weights: dict[str, Any], tensors: Tensors, source: str) -> None:
    """Assign arrays to variables of the same names, all or none.

    Args:
        weights: variables by name.
        tensors: arrays by name.
        source: origin of the arrays, for the error.

    Raises:
        ArtifactError: arrays are missing, unknown or of another shape; the message lists them.
    """
    faults = [f"missing {name}" for name in weights if name not in tensors]
    faults += [f"unknown {name}" for name in tensors if name not in weights]
    faults += [
        f"{name} has shape {tensors[name].shape}, not {tuple(variable.shape)}"
        for name, variable in weights.items()
        if name in tensors and tensors[name].shape != tuple(variable.shape)
    ]
    if faults:
        raise ArtifactError(f"{source} does not fit the model: {listed(faults)}; use the weights of the same preset")
    for name, variable in weights.items():
        variable.assign(tensors[name])
