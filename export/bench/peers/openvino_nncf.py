"""OpenVINO, and its quantizer NNCF."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Both report their use to their makers through this package, unless it cannot be imported: nobody was asked.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import nncf  # noqa: E402
import openvino  # noqa: E402

from export.bench.contender import Contender, FloatNetwork  # noqa: E402

DEVICE = "CPU"
# What is not int8 is in float32 or, left to OpenVINO, in bfloat16 where the CPU has it.
PRECISIONS = {"": "f32", ", bfloat16 allowed": None}


def make(network: FloatNetwork, folder: Path) -> Iterator[Contender]:
    """Make the float model and two that NNCF quantized; each with bfloat16 allowed and not.

    Args:
        network: what they are made from.
        folder: where their files go.

    Yields:
        The peers, in the order of `FAMILIES`.
    """
    model = openvino.convert_model(network.model, input=list(network.input_shape))
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8)
    model = steps.build()
    how = "convert_model, uint8 input by PrePostProcessor, float weights saved as float16 by default"
    yield from _peers("OpenVINO float", how, folder / "openvino_float", model)
    images = nncf.Dataset([image[np.newaxis] for image in network.representative])
    quantize = partial(nncf.quantize, model, images, subset_size=len(network.representative))
    how += ", nncf.quantize"
    yield from _peers("OpenVINO NNCF int8", how, folder / "openvino_int8", quantize())
    yield from _peers(
        "OpenVINO NNCF int8 transformer",
        f"{how} with ModelType.TRANSFORMER",
        folder / "openvino_int8_transformer",
        quantize(model_type=nncf.ModelType.TRANSFORMER),
    )


def _peers(name: str, what: str, stem: Path, model: Any) -> Iterator[Contender]:
    """Save a model by its stock settings, which keep float weights as float16, and yield it for each precision."""
    path = stem.with_suffix(".xml")
    openvino.save_model(model, path)
    files = (path, path.with_suffix(".bin"))
    capable = "BF16" in openvino.Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    allowed = "bfloat16" if capable else "float32 again, as this CPU has no bfloat16"
    for suffix, precision in PRECISIONS.items():
        computed = allowed if precision is None else "float32"
        how = f"{what}; what is not int8 is computed in {computed}"
        yield Contender(f"{name}{suffix}", how, files, partial(OpenVinoClassifier, path, precision))


class OpenVinoClassifier:
    """A model with one uint8 input, the image, whose first output or the one of that name are the logits."""

    def __init__(self, path: Path, precision: str | None, threads: int) -> None:
        """Open `path`.

        Args:
            path: the .xml or .onnx file.
            precision: of what is not int8; `None` leaves it to OpenVINO, which takes bfloat16 where the CPU has it.
            threads: CPU threads.
        """
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        if precision is not None:
            config["INFERENCE_PRECISION_HINT"] = precision
        model = openvino.Core().compile_model(path, DEVICE, config)
        self._logits = next((each for each in model.outputs if "logits" in each.names), model.output(0))
        self._request = model.create_infer_request()

    def run(self, image: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Classify one image; see `export.bench.contender.Classifier`."""
        outputs = self._request.infer([image], share_inputs=True, share_outputs=True)
        return np.array(outputs[self._logits][0])
