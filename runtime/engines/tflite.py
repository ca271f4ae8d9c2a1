"""The engine for TFLite artifacts: LiteRT, tflite-runtime or TensorFlow, whichever is installed."""

from __future__ import annotations

import importlib
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle.manifest import INPUT_NAME, MADE_BY, Manifest
from runtime.core.errors import ArtifactError
from runtime.engines.outputs import Outputs, check_tensor
from runtime.engines.registry import ENGINES
from runtime.images.preprocess import check_input

KIND = ENGINES["tflite"]


class TFLiteEngine:
    """One open TFLite artifact, checked against its manifest; see `runtime.engines.engine.Engine`."""

    kind = "tflite"

    def __init__(self, path: Path, manifest: Manifest, *, precision: str, threads: int) -> None:
        """Open `path`.

        Args:
            path: the .tflite file.
            manifest: the expected tensors.
            precision: the precision to report.
            threads: CPU threads, 1 or more.

        Raises:
            ArtifactError: no interpreter is installed, or the file is not a model with the manifest's input and
                outputs.
        """
        self.name, interpreter_class = load_interpreter()
        self.precision = precision
        self.threads = threads
        self.input_spec = manifest.input_spec
        self._input_shape = manifest.input_shape
        try:
            # From memory: an interpreter given a path maps the file, and overwriting it would end this process.
            self._interpreter = interpreter_class(model_content=path.read_bytes(), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (OSError, ValueError, RuntimeError) as error:
            raise ArtifactError(
                f"{path} cannot be opened as a TFLite model by {self.name} ({error}); "
                f"rebuild the bundle with `{MADE_BY}`"
            ) from error
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._input = int(_checked(path, inputs, INPUT_NAME, manifest.input_shape, "uint8")["index"])
        self._outputs = {}
        for name, shape in manifest.outputs.items():
            tensor = _checked(path, outputs, name, shape, "float32", "int8")
            self._outputs[name] = int(tensor["index"]), _scale_and_zero_point(tensor)

    def run(self, image: NDArray[np.uint8]) -> Outputs:
        """Classify one uint8 `[1, S, S, 3]` RGB image; see `runtime.engines.engine.Engine.run`."""
        check_input(image, self._input_shape)
        self._interpreter.set_tensor(self._input, image)
        self._interpreter.invoke()
        return Outputs(**{name: self._read(*output) for name, output in self._outputs.items()})

    def _read(self, index: int, quantization: tuple[float, int]) -> NDArray[np.float32]:
        """Return an output in float32; an integer output is `scale * (q - zero point)`."""
        values: NDArray[Any] = self._interpreter.get_tensor(index)[0]
        if values.dtype == np.float32:
            return values
        scale, zero_point = quantization
        return (values.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def load_interpreter() -> tuple[str, Any]:
    """Import the first interpreter that is installed.

    Returns:
        Its distribution with the version, and its `Interpreter` class.

    Raises:
        ArtifactError: none can be imported; the message gives the reasons and what to install.
    """
    reasons = []
    for interpreter in KIND.interpreters:
        try:
            interpreter_class = attrgetter(interpreter.attribute)(importlib.import_module(interpreter.module))
        except (ImportError, AttributeError) as error:
            reasons.append(f"{interpreter.module}: {error}")
            continue
        version = getattr(importlib.import_module(interpreter.package), "__version__", "")
        return f"{interpreter.distributions[0]} {version}".strip(), interpreter_class
    raise ArtifactError(
        f"no TFLite interpreter can be imported ({'; '.join(reasons)}); run `pip install {KIND.install}`"
    )


def _scale_and_zero_point(tensor: dict[str, Any]) -> tuple[float, int]:
    """Return the quantization of an integer tensor; (0, 0) of a float one."""
    scale, zero_point = tensor["quantization"]
    return float(scale), int(zero_point)


def _checked(
    path: Path, details: list[dict[str, Any]], name: str, shape: tuple[int, ...], *dtypes: str
) -> dict[str, Any]:
    """Return an interpreter's description of a tensor after checking its type and shape."""
    tensors = {each["name"]: (str(np.dtype(each["dtype"])), tuple(map(int, each["shape"]))) for each in details}
    check_tensor(path, tensors, name, shape, *dtypes)
    return next(each for each in details if each["name"] == name)
