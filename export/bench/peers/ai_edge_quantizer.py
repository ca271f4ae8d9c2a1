"""ai-edge-quantizer, which quantizes a float TFLite model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from export.bench.contender import Contender, FloatNetwork
from export.bench.peers.family import Family
from export.bench.peers.tflite_converter import TFLiteClassifier, convert
from runtime.engines.tflite import load_interpreter

NAME = "ai-edge-quantizer static int8"


def make(network: FloatNetwork, folder: Path) -> Iterator[Contender]:
    """Make the statically quantized model; see `Family.make`."""
    from ai_edge_quantizer import quantizer, recipe

    float_model = convert(network)
    _, interpreter_class = load_interpreter()
    ((signature, tensors),) = interpreter_class(model_content=float_model).get_signature_list().items()
    (image,) = tensors["inputs"]
    quantizing = quantizer.Quantizer(float_model, recipe.static_wi8_ai8())
    statistics = quantizing.calibrate({signature: [{image: batch} for batch in network.float_batches()]})
    path = folder / "ai_edge_int8.tflite"
    path.write_bytes(quantizing.quantize(statistics).quantized_model)
    description = "recipe static_wi8_ai8 (int8 weights and activations wherever it can) on TFLite float"
    yield Contender(NAME, description, (path,), partial(TFLiteClassifier, path))


FAMILY = Family(("ai-edge-quantizer",), (NAME,), make)
