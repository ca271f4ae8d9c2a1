"""TensorFlow's own converter, its settings as its documentation gives them, run by the same interpreter as ours."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from export.bench.contender import Contender, FloatNetwork
from runtime.engines.tflite import load_interpreter


def make(network: FloatNetwork, folder: Path) -> Iterator[Contender]:
    """Make the float, the dynamic range and the fully quantized model.

    Args:
        network: what they are made from.
        folder: where their files go.

    Yields:
        The peers, in the order of `FAMILIES`.
    """
    yield _peer("TFLite float", "TFLiteConverter without options", folder / "tflite_float.tflite", convert(network))
    yield _peer(
        "TFLite dynamic range",
        "Optimize.DEFAULT: int8 weights, activations quantized while it runs",
        folder / "tflite_dynamic.tflite",
        convert(network, optimizations=[tf.lite.Optimize.DEFAULT]),
    )
    yield _peer(
        "TFLite full int8",
        "full integer post-training quantization: Optimize.DEFAULT, a representative data set, "
        "TFLITE_BUILTINS_INT8, uint8 input",
        folder / "tflite_int8.tflite",
        convert(
            network,
            optimizations=[tf.lite.Optimize.DEFAULT],
            representative_dataset=lambda: ([batch] for batch in network.float_batches()),
            target_spec=tf.lite.TargetSpec(supported_ops=[tf.lite.OpsSet.TFLITE_BUILTINS_INT8]),
            inference_input_type=tf.uint8,
        ),
    )


def convert(network: FloatNetwork, **settings: Any) -> bytes:
    """Convert a network, its batch fixed at 1 image, which spares peers what dynamic shapes cost.

    Args:
        network: what is converted.
        **settings: attributes of `tf.lite.TFLiteConverter`.

    Returns:
        The flatbuffer, from one image to the logits alone.
    """
    module = tf.Module()
    # The variables alone: the converter would save a network in here layer by layer, which takes minutes.
    module.variables_of_network = network.model.variables
    module.classify = tf.function(lambda image: network.model(image, training=False), autograph=False)
    signature = tf.TensorSpec(network.input_shape, tf.float32, name="image")
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.classify.get_concrete_function(signature)], module
    )
    for name, value in settings.items():
        setattr(converter, name, value)
    return bytes(converter.convert())


def _peer(name: str, what: str, path: Path, flatbuffer: bytes) -> Contender:
    path.write_bytes(flatbuffer)
    return Contender(name, what, (path,), partial(TFLiteClassifier, path))


class TFLiteClassifier:
    """A TFLite model with one input, the image, and one output, the logits; either may be quantized."""

    def __init__(self, path: Path, threads: int) -> None:
        """Open `path` for so many CPU threads."""
        _, interpreter_class = load_interpreter()
        self._interpreter = interpreter_class(model_path=str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        (self._input,) = self._interpreter.get_input_details()
        (self._output,) = self._interpreter.get_output_details()
        self._values = _quantized_pixels(self._input)

    def run(self, image: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Classify one image; see `export.bench.contender.Classifier`."""
        self._interpreter.set_tensor(self._input["index"], self._as_input(image))
        self._interpreter.invoke()
        logits = self._interpreter.get_tensor(self._output["index"])[0]
        scale, zero_point = self._output["quantization"]
        if scale:
            logits = (logits.astype(np.float32) - zero_point) * np.float32(scale)
        return np.asarray(logits, dtype=np.float32)

    def _as_input(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        if self._values is None:
            return image.astype(self._input["dtype"], copy=False)
        return np.take(self._values, image)


def _quantized_pixels(detail: dict[str, Any]) -> NDArray[Any] | None:
    """Return what a quantized input takes for each of the values 0..255, or `None` if it takes those as they are."""
    dtype, (scale, zero_point) = np.dtype(detail["dtype"]), detail["quantization"]
    if not scale:
        return None
    pixels, limits = np.arange(256), np.iinfo(dtype)
    values = np.clip(np.round(pixels / scale) + zero_point, limits.min, limits.max).astype(dtype)
    return None if np.array_equal(values, pixels) else values
