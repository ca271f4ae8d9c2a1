"""The engine for ONNX artifacts: ONNX Runtime."""

from __future__ import annotations

import importlib
import platform
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle.manifest import INPUT_NAME, MADE_BY, Manifest
from runtime.core.errors import ArtifactError
from runtime.engines.outputs import Outputs
from runtime.images.preprocess import check_input

# Types as ONNX Runtime's sessions name them.
INPUT_TYPE, OUTPUT_TYPE = "tensor(uint8)", "tensor(float)"


class OnnxRuntimeEngine:
    """One open ONNX artifact, checked against its manifest; see `runtime.engines.engine.Engine`."""

    kind = "ort"

    def __init__(self, path: Path, manifest: Manifest, *, precision: str, threads: int) -> None:
        """Open `path` on the CPU.

        Args:
            path: the .onnx file.
            manifest: the expected input and outputs.
            precision: the precision to report.
            threads: CPU threads, 1 or more.

        Raises:
            ArtifactError: ONNX Runtime is not installed, or the file is not a model with the manifest's input and
                outputs.
        """
        onnxruntime = _load()
        exact = may_saturate()
        how = "all graph optimizations" + (", exact int8 products" if exact else "")
        self.name = f"onnxruntime {onnxruntime.__version__} ({how})"
        self.precision = precision
        self.threads = threads
        self.input_spec = manifest.input_spec
        self._input_shape = manifest.input_shape
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3  # its warnings concern its own optimizations
        # Otherwise its threads spin between frames and take cores from the camera's threads.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # uint8 kernels: their products do not saturate but take half as long again. Used only where needed.
        options.add_session_config_entry("session.x64quantprecision", str(int(exact)))
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        # Its errors have no other common base.
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise ArtifactError(
                f"{path} cannot be opened as an ONNX model by {self.name} ({reason}); "
                f"rebuild the bundle with `{MADE_BY}`, or upgrade onnxruntime if it is older than the file's opset"
            ) from error
        inputs = {each.name: each for each in self._session.get_inputs()}
        outputs = {each.name: each for each in self._session.get_outputs()}
        _check(path, inputs, INPUT_NAME, INPUT_TYPE, manifest.input_shape)
        for name, shape in manifest.outputs.items():
            _check(path, outputs, name, OUTPUT_TYPE, shape)
        self._outputs = list(manifest.outputs)

    def run(self, image: NDArray[np.uint8]) -> Outputs:
        """Classify one uint8 `[1, S, S, 3]` RGB image; see `runtime.engines.engine.Engine.run`."""
        check_input(image, self._input_shape)
        values = self._session.run(self._outputs, {INPUT_NAME: image})
        return Outputs(**{name: value[0] for name, value in zip(self._outputs, values, strict=True)})


def may_saturate(machine: str | None = None, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return `True` if ONNX Runtime's uint8 by int8 products may saturate here and give wrong logits.

    x86 CPUs without VNNI add two such products in 16 bits.

    Args:
        machine: the architecture, as `platform.machine` names it; by default this machine's.
        cpuinfo: the kernel's description of the CPU.

    Returns:
        `True` on x86, unless `cpuinfo` has a VNNI flag.
    """
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64", "i386", "i686"):
        return False
    try:
        flags = set(cpuinfo.read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return True
    return flags.isdisjoint({"avx512_vnni", "avx_vnni"})


def _load() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ArtifactError(f"ONNX Runtime cannot be imported ({error}); run `pip install onnxruntime`") from error


def _check(path: Path, tensors: dict[str, Any], name: str, dtype: str, shape: tuple[int, ...]) -> None:
    if name not in tensors:
        raise ArtifactError(
            f"{path} has no tensor named {name!r}, only {', '.join(sorted(tensors))}; "
            f"rebuild the bundle with `{MADE_BY}`"
        )
    received = (tensors[name].type, tuple(tensors[name].shape))
    if received != (dtype, shape):
        raise ArtifactError(
            f"{path}: tensor {name!r} is {received[0]} {list(received[1])}, the manifest expects {dtype} "
            f"{list(shape)}; rebuild the bundle with `{MADE_BY}`"
        )
