"""The interface of inference engines, and the opening of a bundle's artifact."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.bundle.manifest import read_manifest, verified_file
from runtime.core.errors import ConfigError
from runtime.engines.outputs import Outputs
from runtime.engines.registry import ENGINES
from runtime.images.input_spec import InputSpec


class Engine(Protocol):
    """One open artifact.

    Attributes:
        kind: its key in `runtime.engines.registry.ENGINES`, e.g. `"tflite"`.
        name: the interpreter, its version and settings, e.g. `"ai-edge-litert 2.3.0"`.
        precision: `"float32"` or `"int8"`.
        threads: CPU threads it may use.
        input_spec: how an image becomes its input.
    """

    kind: str
    name: str
    precision: str
    threads: int
    input_spec: InputSpec

    def run(self, image: NDArray[np.uint8]) -> Outputs:
        """Classify one image.

        Args:
            image: uint8 `[1, S, S, 3]` RGB, 0..255, with S = `input_spec.size`.

        Returns:
            The outputs; they stay valid after the next call.

        Raises:
            DataError: the image has another shape or dtype.
        """


def open_engine(folder: Path, *, precision: str = "int8", engine: str | None = None, threads: int = 1) -> Engine:
    """Open one artifact of a bundle, after checking its manifest and hash.

    Args:
        folder: the bundle.
        precision: `"float32"` or `"int8"`.
        engine: a key of `ENGINES`; by default the engine of the manifest's first artifact of this precision.
        threads: CPU threads, 1 or more.

    Returns:
        The engine, ready to run.

    Raises:
        ConfigError: `threads` is less than 1.
        ArtifactError: the bundle or its artifact is missing, damaged or contradicts the manifest, or no interpreter
            is installed.
    """
    if threads < 1:
        raise ConfigError(f"received {threads} threads; give 1 or more")
    manifest = read_manifest(folder)
    artifact = manifest.artifact(precision, engine)
    path = verified_file(folder, artifact)
    # Imported here: no device needs the interpreters of all engines.
    module, _, name = ENGINES[artifact.engine].opener.partition(":")
    opened: Engine = getattr(import_module(module), name)(path, manifest, precision=precision, threads=threads)
    return opened
