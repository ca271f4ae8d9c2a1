"""Check that a network fits into one artifact."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from runtime.core.errors import ArtifactError, ConfigError

# FlatBuffer offsets are signed 32-bit numbers; protobuf, the format of ONNX files, has the same limit.
LIMIT_BYTES = 1 << 31
BYTES_PER_GB = 10**9


def check_weights_fit(path: Path) -> None:
    """Check that the weights of a safetensors file fit into an artifact.

    Raises:
        ArtifactError: the file is missing or damaged.
        ConfigError: it has too many parameters.
    """
    check_parameters_fit(count_parameters(path))


def count_parameters(path: Path) -> int:
    """Return the number of parameters in a safetensors file, from its header alone.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as tensors:
            names = tensors.keys()
            return sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist; make it with `python -m train`") from error
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is not a whole safetensors file ({error}); replace it") from error


def check_parameters_fit(parameters: int) -> None:
    """Check that a network fits into an artifact as float32, which an int8 artifact is converted from.

    Raises:
        ConfigError: the network has too many parameters.
    """
    size_bytes = parameters * np.dtype(np.float32).itemsize
    if size_bytes > LIMIT_BYTES:
        raise ConfigError(
            f"received a network of {parameters:,} parameters, {size_bytes / BYTES_PER_GB:.2f} GB as float32; expected "
            f"at most {LIMIT_BYTES / BYTES_PER_GB:.2f} GB, as neither a TFLite nor an ONNX file can be larger: "
            "take a smaller network"
        )
