"""tf2onnx and ONNX Runtime, with ONNX Runtime's quantizer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from export.bench.contender import Contender, FloatNetwork
from export.bench.peers.family import Family

INPUT = "image"
FLOAT = "ONNX Runtime float"
DEFAULT = "ONNX Runtime int8, by default"
# The operators that are quantized; `None`: all.
QUANTIZED: dict[str, tuple[str, ...] | None] = {
    "ONNX Runtime int8, all operators": None,
    "ONNX Runtime int8, Conv and MatMul": ("Conv", "MatMul", "Gemm"),
}


def make(network: FloatNetwork, folder: Path) -> Iterator[Contender]:
    """Make the float model and three statically quantized ones; see `Family.make`."""
    import tf2onnx
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model, note = network.model, ""
    if any(_is_gelu(layer) for layer in model.layers):
        model, note = _with_erf(model), "; GELU by erf, as tf2onnx has no handler for TensorFlow's Erfc"
    path = folder / "onnxruntime_float.onnx"
    image = tf.TensorSpec(network.input_shape, tf.float32, name=INPUT)
    tf2onnx.convert.from_keras(model, input_signature=(image,), output_path=str(path))
    yield _contender(FLOAT, f"tf2onnx without options{note}", path)
    default = folder / "onnxruntime_int8_default.onnx"
    quantize_static(str(path), str(default), _reader(network))
    yield _contender(DEFAULT, "quantize_static without options: int8 activations", default)
    prepared = folder / "onnxruntime_prepared.onnx"
    # All shapes are static; symbolic shapes would need another package.
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    for name, operators in QUANTIZED.items():
        yield _quantize(name, network, prepared, operators)


FAMILY = Family(("onnx", "tf2onnx", "onnxruntime"), (FLOAT, DEFAULT, *QUANTIZED), make)


def _quantize(name: str, network: FloatNetwork, prepared: Path, operators: tuple[str, ...] | None) -> Contender:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    path = prepared.with_name(f"onnxruntime_int8_{'products' if operators else 'all'}.onnx")
    quantize_static(
        str(prepared),
        str(path),
        _reader(network),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=operators,
        per_channel=True,
        # Not the default, int8: its x86 kernels take two to four times as long.
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    description = "quant_pre_process and quantize_static: QDQ, uint8 activations, int8 weights per channel"
    return _contender(name, f"{description}; {', '.join(operators)} alone" if operators else description, path)


def _contender(name: str, description: str, path: Path) -> Contender:
    return Contender(name, description, (path,), partial(OnnxRuntimeClassifier, path))


def _reader(network: FloatNetwork) -> Any:
    """Return a reader that gives the representative images one by one."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        batches = iter(network.float_batches())

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    return Reader()


class OnnxRuntimeClassifier:
    """An ONNX model with one float input, the image, and one output, the logits."""

    def __init__(self, path: Path, threads: int) -> None:
        """Open a model for a number of CPU threads."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # By default its threads keep spinning for tens of milliseconds after a run, in the turns of others.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])

    def run(self, image: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Classify one image; see `export.bench.contender.Classifier`."""
        (logits,) = self._session.run(None, {INPUT: image.astype(np.float32)})
        return np.asarray(logits[0])


def _is_gelu(layer: Any) -> bool:
    return bool(layer.get_config().get("activation") == "gelu")


def _with_erf(model: Any) -> Any:
    """Copy a network with its GELUs written as x/2 (1 + erf(x/sqrt(2))), the same function."""

    def replace(layer: Any) -> Any:
        if _is_gelu(layer):
            return tf_keras.layers.Activation(_gelu_by_erf, name=layer.name)
        return layer.__class__.from_config(layer.get_config())

    copy = tf_keras.models.clone_model(model, clone_function=replace)
    copy.set_weights(model.get_weights())
    return copy


def _gelu_by_erf(x: Any) -> Any:
    return 0.5 * x * (1.0 + tf.math.erf(x / math.sqrt(2.0)))
