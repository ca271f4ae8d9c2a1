"""Peak throughput: one large matrix product in float32 and in int8, by the interpreter that runs artifacts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle.manifest import PRECISIONS
from runtime.core.errors import ArtifactError
from runtime.engines.tflite import load_interpreter
from runtime.evaluation.timing import measure_times
from runtime.parity.measure import Context, Missing

# A map of this side and number of channels, by a square matrix: reaches the peak in 10 ms.
PRODUCT_SIDE, PRODUCT_CHANNELS = 48, 256
PRODUCT_MACS = PRODUCT_SIDE**2 * PRODUCT_CHANNELS**2
PRODUCT_FILES = {precision: Path(__file__).with_name(f"product_{precision}.tflite") for precision in PRECISIONS}
ROUNDS = 30


class Product:
    """One of the two models, opened; runs on random values and ignores its image."""

    def __init__(self, precision: str, threads: int) -> None:
        """Open the model of a precision.

        Raises:
            ArtifactError: no TFLite interpreter is installed, or it cannot open the model.
        """
        name, interpreter_class = load_interpreter()
        path = PRODUCT_FILES[precision]
        try:
            self._interpreter: Any = interpreter_class(model_content=path.read_bytes(), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (OSError, ValueError, RuntimeError) as error:
            raise ArtifactError(f"{name} cannot open {path} ({error}); reinstall FocalEdge") from error
        (detail,) = self._interpreter.get_input_details()
        values = np.random.default_rng(0).uniform(-1, 1, detail["shape"])
        filled = values if detail["dtype"] == np.float32 else 127 * values
        self._interpreter.set_tensor(detail["index"], filled.astype(detail["dtype"]))

    def run(self, image: NDArray[np.uint8], /) -> object:
        """Multiply once."""
        return self._interpreter.invoke()


def measure_peaks(threads: int) -> Mapping[str, float]:
    """Measure both peaks, taking turns.

    Args:
        threads: CPU threads, 1 or more.

    Returns:
        Multiply-accumulates per second by precision, of the fastest run.

    Raises:
        ArtifactError: no TFLite interpreter is installed.
    """
    products = {precision: Product(precision, threads) for precision in PRECISIONS}
    times_ms = measure_times(products, [np.zeros((1, 1, 1, 3), np.uint8)], ROUNDS)
    return {precision: PRODUCT_MACS / (min(values) / 1e3) for precision, values in times_ms.items()}


def measure_peak_throughput(
    context: Context, *, measure: Callable[[int], Mapping[str, float]] = measure_peaks
) -> list[dict[str, Any]] | Missing:
    """Measure `peak_throughput`: the machine's peaks, and the share of them that each artifact reaches.

    Args:
        context: see `Context`; its report has `cost`.
        measure: returns the peaks with a number of threads; see `measure_peaks`.
    """
    found: list[dict[str, Any]] = []
    for threads in context.effort.threads:
        try:
            peaks = measure(threads)
        except ArtifactError as error:
            return Missing(str(error))
        entry: dict[str, Any] = {"threads": threads, **{f"{key}_macs_per_s": value for key, value in peaks.items()}}
        for role, compared in context.pair.artifacts.items():
            peak = peaks[compared.artifact.precision]
            entry[f"{role}_share_of_peak"] = _share(context.report["cost"], role, threads, peak)
        found.append(entry)
    return found


def _share(cost: Mapping[str, Any], role: str, threads: int, peak: float) -> float | None:
    macs = cost[role]["macs"]
    p50_ms = next((each[role]["p50_ms"] for each in cost["threads"] if each["threads"] == threads), None)
    return macs / (p50_ms / 1e3) / peak if macs and p50_ms else None
