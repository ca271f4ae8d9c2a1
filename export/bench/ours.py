"""This project's own rows of the benchmark."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.bench.candidate import OURS, OURS_PREFIX, Candidate
from export.bundle import QAT_WEIGHTS_FILE, copy_sources, write_artifacts
from runtime.engine import open_engine
from runtime.manifest import read_manifest, verified_file


def make_ours(bundle: Path, folder: Path) -> list[Candidate]:
    """Open this project's artifacts: as shipped and, if fine-tuned, calibrated alone too, as peers are.

    Args:
        bundle: as shipped.
        folder: where the artifact that is calibrated alone goes.

    Returns:
        The candidates.
    """
    tuned = (bundle / QAT_WEIGHTS_FILE).exists()
    how = "quantization-aware training from the float weights" if tuned else "calibration alone"
    maps = "uint8 input; logits, gates and modulator out"
    candidates = [
        _shipped(f"{OURS_PREFIX} float32", f"the bundle's, {maps}", bundle, "float32"),
        _shipped(OURS, f"the bundle's, by {how}, {maps}", bundle, "int8"),
    ]
    if tuned:
        calibrated = folder / "calibrated"
        copy_sources(bundle, calibrated)
        (calibrated / QAT_WEIGHTS_FILE).unlink()
        write_artifacts(calibrated, calibrated)
        alone = f"made now from the float weights by calibration alone, {maps}"
        candidates.append(_shipped(f"{OURS}, calibrated alone", alone, calibrated, "int8"))
    return candidates


def _shipped(name: str, what: str, bundle: Path, precision: str) -> Candidate:
    file = verified_file(bundle, read_manifest(bundle).artifact(precision))
    return Candidate(name, what, (file,), partial(ShippedClassifier, bundle, precision))


class ShippedClassifier:
    """An artifact of a bundle, run as the device runs it."""

    def __init__(self, bundle: Path, precision: str, threads: int) -> None:
        """Open the bundle's artifact of a precision for so many CPU threads."""
        self._engine = open_engine(bundle, precision=precision, threads=threads)

    def run(self, image: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Classify one picture; see `export.bench.candidate.Classifier`."""
        return self._engine.run(image).logits
