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
from runtime.core.machine import CPUINFO, read_cpu
from runtime.engines.outputs import Outputs, check_tensor
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
            # Its constructor takes no path that is not UTF-8.
            content = path.read_bytes()
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        # Its errors have no other common base.
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise ArtifactError(
                f"{path} cannot be opened as an ONNX model by {self.name} ({reason}); "
                f"rebuild the bundle with `{MADE_BY}`, or upgrade onnxruntime if it is older than the file's opset"
            ) from error
        inputs = {each.name: (each.type, tuple(each.shape)) for each in self._session.get_inputs()}
        outputs = {each.name: (each.type, tuple(each.shape)) for each in self._session.get_outputs()}
        check_tensor(path, inputs, INPUT_NAME, manifest.input_shape, INPUT_TYPE)
        for name, shape in manifest.outputs.items():
            check_tensor(path, outputs, name, shape, OUTPUT_TYPE)
        self._outputs = list(manifest.outputs)

    def run(self, image: NDArray[np.uint8]) -> Outputs:
        """Classify one uint8 `[1, S, S, 3]` RGB image; see `runtime.engines.engine.Engine.run`."""
        check_input(image, self._input_shape)
        values = self._session.run(self._outputs, {INPUT_NAME: image})
        return Outputs(**{name: value[0] for name, value in zip(self._outputs, values, strict=True)})


def may_saturate(machine: str | None = None, cpuinfo: Path = CPUINFO) -> bool:
    """Return `True` if ONNX Runtime's uint8 by int8 products may saturate here and give wrong logits.

    x86 CPUs without VNNI add two such products in 16 bits.

    Args:
        machine: the architecture, as `platform.machine` names it; by default this machine's.
        cpuinfo: the kernel's description of the CPU.
    """
    x86 = (machine or platform.machine()).lower() in ("x86_64", "amd64", "i386", "i686")
    return x86 and not {"AVX-VNNI", "AVX512-VNNI"} & set(read_cpu(cpuinfo).features)


def _load() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ArtifactError(f"ONNX Runtime cannot be imported ({error}); run `pip install onnxruntime`") from error
