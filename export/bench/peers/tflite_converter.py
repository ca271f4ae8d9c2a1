"""TensorFlow's own converter with its documented settings, run by the same interpreter as ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from export.bench.contender import Contender, FloatNetwork
from export.bench.peers.family import Family
from runtime.engines.tflite import load_interpreter


def convert(network: FloatNetwork, **settings: Any) -> bytes:
    """Convert a network with a static batch of 1, which spares peers the cost of dynamic shapes.

    Args:
        network: the network to convert.
        **settings: attributes of `tf.lite.TFLiteConverter`.

    Returns:
        The flatbuffer, from one image to the logits.
    """
    module = tf.Module()
    # Only the variables: saving the network itself layer by layer takes the converter minutes.
    module.variables_of_network = network.model.variables
    module.classify = tf.function(lambda image: network.model(image, training=False), autograph=False)
    signature = tf.TensorSpec(network.input_shape, tf.float32, name="image")
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.classify.get_concrete_function(signature)], module
    )
    for name, value in settings.items():
        setattr(converter, name, value)
    return bytes(converter.convert())


def _full_int8(network: FloatNetwork) -> dict[str, Any]:
    return {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": lambda: ([batch] for batch in network.float_batches()),
        "target_spec": tf.lite.TargetSpec(supported_ops=[tf.lite.OpsSet.TFLITE_BUILTINS_INT8]),
        "inference_input_type": tf.uint8,
    }


@dataclass(frozen=True)
class _Peer:
    """A row of `PEERS`; `settings` returns the arguments of `convert`."""

    description: str
    file: str
    settings: Callable[[FloatNetwork], dict[str, Any]]


PEERS = {
    "TFLite float": _Peer("TFLiteConverter without options", "tflite_float.tflite", lambda network: {}),
    "TFLite dynamic range": _Peer(
        "Optimize.DEFAULT: int8 weights, activations quantized while it runs",
        "tflite_dynamic.tflite",
        lambda network: {"optimizations": [tf.lite.Optimize.DEFAULT]},
    ),
    "TFLite full int8": _Peer(
        "full integer post-training quantization: Optimize.DEFAULT, a representative dataset, "
        "TFLITE_BUILTINS_INT8, uint8 input",
        "tflite_int8.tflite",
        _full_int8,
    ),
}


def make(network: FloatNetwork, folder: Path) -> Iterator[Contender]:
    """Make the float, the dynamic range and the fully quantized model; see `Family.make`."""
    for name, peer in PEERS.items():
        path = folder / peer.file
        path.write_bytes(convert(network, **peer.settings(network)))
        yield Contender(name, peer.description, (path,), partial(TFLiteClassifier, path))


FAMILY = Family((), tuple(PEERS), make)


class TFLiteClassifier:
    """A TFLite model with one input, the image, and one output, the logits; either may be quantized."""

    def __init__(self, path: Path, threads: int) -> None:
        """Open a model for a number of CPU threads."""
        _, interpreter_class = load_interpreter()
        self._interpreter = interpreter_class(model_content=path.read_bytes(), num_threads=threads)
        self._interpreter.allocate_tensors()
        (self._input,) = self._interpreter.get_input_details()
        (self._output,) = self._interpreter.get_output_details()
        self._values = quantized_pixels(self._input)

    def run(self, image: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Classify one image; see `export.bench.contender.Classifier`."""
        as_input = image.astype(self._input["dtype"], copy=False) if self._values is None else self._values[image]
        self._interpreter.set_tensor(self._input["index"], as_input)
        self._interpreter.invoke()
        logits = self._interpreter.get_tensor(self._output["index"])[0]
        scale, zero_point = self._output["quantization"]
        if scale:
            logits = (logits.astype(np.float32) - zero_point) * np.float32(scale)
        return np.asarray(logits, dtype=np.float32)


def quantized_pixels(detail: dict[str, Any]) -> NDArray[Any] | None:
    """Return the quantized input values of pixels 0..255.

    Args:
        detail: of the input, as the interpreter gives it.

    Returns:
        `[256]` of the input's dtype; `None` if the input takes pixels unchanged.
    """
    dtype, (scale, zero_point) = np.dtype(detail["dtype"]), detail["quantization"]
    if not scale:
        return None
    pixels, limits = np.arange(256), np.iinfo(dtype)
    values = np.clip(np.round(pixels / scale) + zero_point, limits.min, limits.max).astype(dtype)
    return None if np.array_equal(values, pixels) else values
