"""What the machine can do at best: a matrix product in float32 and in int8, by the interpreter that runs artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle.manifest import PRECISIONS
from runtime.core.errors import ArtifactError
from runtime.engines.tflite import load_interpreter
from runtime.evaluation.timing import measure_times

# An image of this side with so many channels, by a square matrix: large enough to reach the peak, and in 10 ms.
PRODUCT_SIDE, PRODUCT_CHANNELS = 48, 256
PRODUCT_MACS = PRODUCT_SIDE**2 * PRODUCT_CHANNELS**2
PRODUCT_FILES = {precision: Path(__file__).with_name(f"product_{precision}.tflite") for precision in PRECISIONS}
ROUNDS = 30


class Product:
    """One of the two models, opened; runs on what it holds, whatever image it is given."""

    def __init__(self, precision: str, threads: int) -> None:
        """Open the model of a precision.

        Raises:
            ArtifactError: no TFLite interpreter is installed, or it cannot open the model.
        """
        name, interpreter_class = load_interpreter()
        path = PRODUCT_FILES[precision]
        try:
            self._interpreter: Any = interpreter_class(model_path=str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ArtifactError(f"{name} cannot open {path} ({error}); install FocalEdge anew") from error
        (detail,) = self._interpreter.get_input_details()
        values = np.random.default_rng(0).uniform(-1, 1, detail["shape"])
        filled = values if detail["dtype"] == np.float32 else 127 * values
        self._interpreter.set_tensor(detail["index"], filled.astype(detail["dtype"]))

    def run(self, image: NDArray[np.uint8], /) -> object:
        """Multiply once."""
        return self._interpreter.invoke()


def measure_peaks(threads: int) -> Mapping[str, float]:
    """Measure both peaks, by turns.

    Args:
        threads: CPU threads, 1 or more.

    Returns:
        Multiply-accumulates per second by precision, of the fastest of a few runs.

    Raises:
        ArtifactError: no TFLite interpreter is installed.
    """
    products = {precision: Product(precision, threads) for precision in PRECISIONS}
    times_ms = measure_times(products, [np.zeros((1, 1, 1, 3), np.uint8)], ROUNDS)
    return {precision: PRODUCT_MACS / (min(values) / 1e3) for precision, values in times_ms.items()}
