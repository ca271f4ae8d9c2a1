"""This project's own rows of the benchmark."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.artifacts import write_artifacts
from export.bench.contender import OURS, OURS_PREFIX, Contender
from export.bench.peers.registry import installed_version
from export.quantize.schemes import SCHEMES, Scheme, read_scheme, write_scheme
from export.run_files import QAT_WEIGHTS_FILE, copy_sources, read_run_files
from runtime.bundle.manifest import PRECISIONS, read_manifest, verified_file
from runtime.engines.engine import open_engine
from train.run import read_run

INTERFACE = "uint8 input; logits, gates and modulator out"


def make_ours(bundle: Path, folder: Path) -> list[Contender]:
    """Open this project's artifacts: as shipped; if fine-tuned, calibrated alone too, as peers are; by other schemes.

    Args:
        bundle: as shipped.
        folder: where the artifacts go that are made for the comparison.

    Returns:
        The candidates.
    """
    tuned, shipped = (bundle / QAT_WEIGHTS_FILE).exists(), read_scheme(bundle)
    how = "quantization-aware training from the float weights" if tuned else "calibration alone"
    candidates = [
        _candidate(f"{OURS_PREFIX} float32", f"the bundle's, {INTERFACE}", bundle, "float32"),
        _candidate(OURS, f"the bundle's, by {how}, {INTERFACE}", bundle, "int8"),
    ]
    deployed = read_run(bundle).deployed
    # Where the first convolution pads, images are normalised in float before it, and nothing is in integers alone.
    integers = deployed.mean == (0.0, 0.0, 0.0)
    others = [
        scheme for scheme in SCHEMES.values() if scheme.name != shipped.name and (integers or not scheme.integer_only)
    ]
    for scheme in ([shipped] if tuned else []) + others:
        name = "calibrated alone" if scheme is shipped else scheme.name
        made = _made_without_training(bundle, folder / name.replace(" ", "_"), scheme)
        candidates.append(_candidate(f"{OURS}, {name}", f"made now from the float weights, {INTERFACE}", made, "int8"))
    for precision in PRECISIONS:
        name, what = f"{OURS_PREFIX} {precision}", f"the bundle's .onnx file, {INTERFACE}"
        candidates.append(_candidate(f"{name}, ONNX Runtime", what, bundle, precision, "ort"))
        if installed_version("openvino") is not None:
            candidates.append(_on_openvino(f"{name}, OpenVINO", f"{what}, read by OpenVINO", bundle, precision))
    return candidates


def _made_without_training(bundle: Path, folder: Path, scheme: Scheme) -> Path:
    """Make a bundle's TFLite artifacts from its float weights, and return the folder they are in."""
    copy_sources(bundle, folder)
    (folder / QAT_WEIGHTS_FILE).unlink(missing_ok=True)
    write_scheme(folder, scheme)
    write_artifacts(read_run_files(folder), folder, with_onnx=False)
    return folder


def _candidate(name: str, what: str, bundle: Path, precision: str, engine: str = "tflite") -> Contender:
    file = verified_file(bundle, read_manifest(bundle).artifact(precision, engine))
    return Contender(name, what, (file,), partial(ShippedClassifier, bundle, precision, engine))


def _on_openvino(name: str, what: str, bundle: Path, precision: str) -> Contender:
    from export.bench.peers.openvino_nncf import OpenVinoClassifier

    file = verified_file(bundle, read_manifest(bundle).artifact(precision, "ort"))
    what = f"{what}; what is not int8 is computed in float32"
    return Contender(name, what, (file,), partial(OpenVinoClassifier, file, "f32"))


class ShippedClassifier:
    """An artifact of a bundle, run as the device runs it."""

    def __init__(self, bundle: Path, precision: str, engine: str, threads: int) -> None:
        """Open the bundle's artifact of a precision for an engine and so many CPU threads."""
        self._engine = open_engine(bundle, precision=precision, engine=engine, threads=threads)

    def run(self, image: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Classify one image; see `export.bench.contender.Classifier`."""
        return self._engine.run(image).logits
