"""This project's own contenders."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from export.artifacts import write_artifacts
from export.bench.contender import OURS, OURS_PREFIX, Contender
from export.bench.peers.family import package_version
from export.bench.peers.openvino_nncf import OpenVinoClassifier
from export.quantize.schemes import SCHEMES, Scheme, write_scheme
from export.run_files import QAT_WEIGHTS_FILE, copy_sources, read_run_files
from runtime.bundle.manifest import PRECISIONS, read_manifest, verified_file
from runtime.engines.engine import open_engine

INTERFACE = "uint8 input; logits, gates and modulator out"


def make_ours(bundle: Path, folder: Path) -> list[Contender]:
    """Open the bundle's artifacts, and make those of the other schemes.

    If the bundle is fine-tuned, its scheme is also made by calibration alone, as for peers.

    Args:
        bundle: as shipped.
        folder: for the artifacts made here.
    """
    files = read_run_files(bundle)
    how = "quantization-aware training from the float weights" if files.is_fine_tuned else "calibration alone"
    contenders = [
        _contender(f"{OURS_PREFIX} float32", f"the bundle's, {INTERFACE}", bundle, "float32"),
        _contender(OURS, f"the bundle's, by {how}, {INTERFACE}", bundle, "int8"),
    ]
    # Where the first convolution pads, images are normalised in float before it, so no scheme is integer-only.
    integers = files.run.deployed.mean == (0.0, 0.0, 0.0)
    schemes = {"calibrated alone": files.scheme} if files.is_fine_tuned else {}
    for scheme in SCHEMES.values():
        if scheme.name != files.scheme.name and (integers or not scheme.integer_only):
            schemes[scheme.name] = scheme
    for name, scheme in tqdm(schemes.items(), desc="making ours", unit="artifact", disable=None):
        made = _made_without_training(bundle, folder / name.replace(" ", "_"), scheme)
        contenders.append(_contender(f"{OURS}, {name}", f"made now from the float weights, {INTERFACE}", made, "int8"))
    for precision in PRECISIONS:
        name, what = f"{OURS_PREFIX} {precision}", f"the bundle's .onnx file, {INTERFACE}"
        on_ort = _contender(f"{name}, ONNX Runtime", what, bundle, precision, "ort")
        contenders.append(on_ort)
        if package_version("openvino") is not None:
            what += ", read by OpenVINO; what is not int8 is computed in float32"
            opener = partial(OpenVinoClassifier, on_ort.files[0], "f32")
            contenders.append(Contender(f"{name}, OpenVINO", what, on_ort.files, opener))
    return contenders


def _made_without_training(bundle: Path, folder: Path, scheme: Scheme) -> Path:
    """Make a bundle's TFLite artifacts from its float weights, and return their folder."""
    copy_sources(bundle, folder)
    (folder / QAT_WEIGHTS_FILE).unlink(missing_ok=True)
    write_scheme(folder, scheme)
    write_artifacts(read_run_files(folder), folder, with_onnx=False)
    return folder


def _contender(name: str, what: str, bundle: Path, precision: str, engine: str = "tflite") -> Contender:
    file = verified_file(bundle, read_manifest(bundle).artifact(precision, engine))
    return Contender(name, what, (file,), partial(ShippedClassifier, bundle, precision, engine))


class ShippedClassifier:
    """An artifact of a bundle, run as on a device."""

    def __init__(self, bundle: Path, precision: str, engine: str, threads: int) -> None:
        """Open the artifact of a precision and an engine for a number of CPU threads."""
        self._engine = open_engine(bundle, precision=precision, engine=engine, threads=threads)

    def run(self, image: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Classify one image; see `export.bench.contender.Classifier`."""
        return self._engine.run(image).logits
