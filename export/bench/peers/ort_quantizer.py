"""tf2onnx and ONNX Runtime, with the quantizer of the latter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tensorflow as tf
import tf2onnx
import tf_keras
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from export.bench.contender import Contender, FloatNetwork

INPUT = "image"
PRODUCTS = ("Conv", "MatMul", "Gemm")


def make(network: FloatNetwork, folder: Path) -> Iterator[Contender]:
    """Make the float model and three statically quantized ones.

    Args:
        network: what they are made from.
        folder: where their files go.

    Yields:
        The peers, in the order of `FAMILIES`.
    """
    model, note = network.model, ""
    if any(_is_gelu(layer) for layer in model.layers):
        model, note = _with_erf(model), "; GELU by erf, as tf2onnx knows no Erfc, TensorFlow's form of it"
    path = folder / "onnxruntime_float.onnx"
    image = tf.TensorSpec(network.input_shape, tf.float32, name=INPUT)
    tf2onnx.convert.from_keras(model, input_signature=(image,), output_path=str(path))
    yield _peer("ONNX Runtime float", f"tf2onnx without options{note}", path)
    default = folder / "onnxruntime_int8_default.onnx"
    quantize_static(str(path), str(default), _Images(network.float_batches()))
    yield _peer("ONNX Runtime int8, by default", "quantize_static without options: int8 activations", default)
    prepared = folder / "onnxruntime_prepared.onnx"
    # Symbolic shapes need another package, and there are none: every shape is a number.
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    yield _quantized("ONNX Runtime int8, all operators", network, prepared)
    yield _quantized("ONNX Runtime int8, Conv and MatMul", network, prepared, PRODUCTS)


def _quantized(name: str, network: FloatNetwork, source: Path, operators: tuple[str, ...] | None = None) -> Contender:
    path = source.with_name(f"onnxruntime_int8_{'products' if operators else 'all'}.onnx")
    quantize_static(
        str(source),
        str(path),
        _Images(network.float_batches()),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=operators,
        per_channel=True,
        # Not int8, its default, for which its x86 kernels take two to four times as long.
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    what = "quant_pre_process and quantize_static: QDQ, uint8 activations, int8 weights per channel"
    return _peer(name, f"{what}; {', '.join(operators)} alone" if operators else what, path)


def _peer(name: str, what: str, path: Path) -> Contender:
    return Contender(name, what, (path,), partial(OnnxRuntimeClassifier, path))


class _Images(CalibrationDataReader):
    """Representative images, handed out one by one."""

    def __init__(self, batches: list[NDArray[np.float32]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


class OnnxRuntimeClassifier:
    """An ONNX model with one float input, the image, and one output, the logits."""

    def __init__(self, path: Path, threads: int) -> None:
        """Open `path` for so many CPU threads."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Else its threads keep the cores busy for tens of milliseconds after a run, in others' turns.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(self, image: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Classify one image; see `export.bench.contender.Classifier`."""
        (logits,) = self._session.run(None, {INPUT: image.astype(np.float32)})
        return np.asarray(logits[0])


def _is_gelu(layer: Any) -> bool:
    return bool(layer.get_config().get("activation") == "gelu")


def _with_erf(model: Any) -> Any:
    """Copy a network, its GELUs written as x/2 (1 + erf(x/sqrt(2))), the same function."""

    def replace(layer: Any) -> Any:
        if _is_gelu(layer):
            return tf_keras.layers.Activation(_gelu_by_erf, name=layer.name)
        return layer.__class__.from_config(layer.get_config())

    copy = tf_keras.models.clone_model(model, clone_function=replace)
    copy.set_weights(model.get_weights())
    return copy


def _gelu_by_erf(x: Any) -> Any:
    return 0.5 * x * (1.0 + tf.math.erf(x / math.sqrt(2.0)))
