"""OpenVINO and its quantizer NNCF."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bench.contender import Contender, FloatNetwork
from export.bench.peers.family import Family

DEVICE = "CPU"
# Precision of what is not int8: float32 or, left to OpenVINO, bfloat16 where the CPU has it.
PRECISIONS = {"": "f32", ", bfloat16 allowed": None}
# Their files, and the options of `nncf.quantize`; `None`: not quantized.
MODELS: dict[str, tuple[str, dict[str, str] | None]] = {
    "OpenVINO float": ("openvino_float", None),
    "OpenVINO NNCF int8": ("openvino_int8", {}),
    "OpenVINO NNCF int8 transformer": ("openvino_int8_transformer", {"model_type": "TRANSFORMER"}),
}


def make(network: FloatNetwork, folder: Path) -> Iterator[Contender]:
    """Make the float model and two quantized by NNCF, each with and without bfloat16; see `Family.make`."""
    openvino = _without_telemetry()
    import nncf

    model = openvino.convert_model(network.model, input=list(network.input_shape))
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8)
    model = steps.build()
    images = nncf.Dataset([image[np.newaxis] for image in network.representative])
    stock = "convert_model, uint8 input by PrePostProcessor, float weights saved as float16 by default"
    for name, (file, options) in MODELS.items():
        description, made = stock, model
        if options is not None:
            arguments = {key: getattr(nncf.ModelType, value) for key, value in options.items()}
            made = nncf.quantize(model, images, subset_size=len(network.representative), **arguments)
            description += ", nncf.quantize" + "".join(f" with ModelType.{value}" for value in options.values())
        yield from _save(name, description, folder / f"{file}.xml", made)


FAMILY = Family(("openvino", "nncf"), tuple(f"{name}{suffix}" for name in MODELS for suffix in PRECISIONS), make)


def _without_telemetry() -> Any:
    """Import OpenVINO without the package by which it and NNCF report their use to their makers."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


def _save(name: str, description: str, path: Path, model: Any) -> Iterator[Contender]:
    """Save a model with default settings, which keep float weights as float16; yield it for each precision."""
    openvino = _without_telemetry()
    openvino.save_model(model, path)
    files = (path, path.with_suffix(".bin"))
    capable = "BF16" in openvino.Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    allowed = "bfloat16" if capable else "float32 again, as this CPU has no bfloat16"
    for suffix, precision in PRECISIONS.items():
        computed = allowed if precision is None else "float32"
        full = f"{description}; what is not int8 is computed in {computed}"
        yield Contender(f"{name}{suffix}", full, files, partial(OpenVinoClassifier, path, precision))


class OpenVinoClassifier:
    """A model with one uint8 input, the image; the logits are the output of that name, or else the first one."""

    def __init__(self, path: Path, precision: str | None, threads: int) -> None:
        """Open a model.

        Args:
            path: the .xml or .onnx file.
            precision: of what is not int8; `None` leaves it to OpenVINO, which takes bfloat16 where the CPU has it.
            threads: CPU threads.
        """
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        if precision is not None:
            config["INFERENCE_PRECISION_HINT"] = precision
        model = _without_telemetry().Core().compile_model(path, DEVICE, config)
        self._logits = next((each for each in model.outputs if "logits" in each.names), model.output(0))
        self._request = model.create_infer_request()

    def run(self, image: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Classify one image; see `export.bench.contender.Classifier`."""
        outputs = self._request.infer([image], share_inputs=True, share_outputs=True)
        return np.array(outputs[self._logits][0])
