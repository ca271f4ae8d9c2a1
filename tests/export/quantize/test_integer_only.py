"""The integer-only scheme: no float tensors, and the network's predictions, gates and modulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.quantize.fake_quant import build_fake_quant
from export.quantize.network import QuantizedNetwork
from export.quantize.schemes import INTEGER_ONLY, SELECTIVE
from export.tflite.convert import convert_int8
from export.tflite.operators import check_scheme, list_operators
from runtime.bundle.manifest import Manifest, read_manifest
from runtime.core.errors import ArtifactError
from runtime.engines.tflite import TFLiteEngine
from runtime.engines.tflite_graph import QUANTIZED_PREFIX
from tests.support.tiny_run import CONFIG, keras_outputs

Ranges = dict[str, tuple[float, float]]


@pytest.fixture(scope="module")
def artifact(tiny_float: Any, ranges: Ranges, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("integer") / "int8.tflite"
    path.write_bytes(convert_int8(QuantizedNetwork(tiny_float, CONFIG, ranges, INTEGER_ONLY)))
    return path


@pytest.fixture(scope="module")
def manifest(tiny_export: Path) -> Manifest:
    return read_manifest(tiny_export / "artifacts")


def engine_outputs(artifact: Path, manifest: Manifest, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    engine = TFLiteEngine(artifact, manifest, precision="int8", threads=1)
    outputs = [engine.run(image[np.newaxis]) for image in images]
    return {name: np.stack([getattr(each, name) for each in outputs]) for name in ("logits", "gates", "modulator")}


def cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    return float((first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second))


def test_all_inputs_and_outputs_of_operators_are_integers(artifact: Path, tiny_float: Any) -> None:
    listing = list_operators(artifact.read_bytes(), [layer.name for layer in tiny_float.layers])
    types = {each for operator in listing.operators for each in (*operator.inputs, *operator.outputs)}
    assert types == {"uint8", "int8"}
    assert {operator.weights for operator in listing.operators} == {"int8", None}
    assert {"GELU", "RSQRT", "DEPTHWISE_CONV_2D", "MEAN"} <= {operator.name for operator in listing.operators}
    check_scheme(listing, INTEGER_ONLY)


def test_the_file_has_no_float_tensor(artifact: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_path=str(artifact), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    types = {np.dtype(detail["dtype"]).name for detail in interpreter.get_tensor_details()}
    assert types == {"uint8", "int8", "int32"}


def test_a_selective_artifact_is_not_integer_only(tiny_export: Path, tiny_float: Any) -> None:
    content = (tiny_export / "artifacts" / "int8.tflite").read_bytes()
    listing = list_operators(content, [layer.name for layer in tiny_float.layers])
    with pytest.raises(ArtifactError, match="the scheme 'integer-only' lists none of them"):
        check_scheme(listing, INTEGER_ONLY)


def test_depthwise_kernels_have_a_scale_per_channel(artifact: Path) -> None:
    from tensorflow.lite.tools import flatbuffer_utils

    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(artifact.read_bytes())).subgraphs[0]
    kernels = [tensor for tensor in graph.tensors if list(tensor.shape[:3]) in ([1, 3, 3], [1, 5, 5])]
    assert len(kernels) == 3  # two focal levels in the first stage, one in the second
    for kernel in kernels:
        assert kernel.quantization.quantizedDimension == 3
        assert len(set(kernel.quantization.scale)) == kernel.shape[3]


def test_its_logits_are_near_the_fake_quantized_networks(
    artifact: Path, manifest: Manifest, tiny_float: Any, ranges: Ranges, images: NDArray[np.uint8]
) -> None:
    student = build_fake_quant(tiny_float, CONFIG, ranges, INTEGER_ONLY)
    expected = keras_outputs(student, QUANTIZED_PREFIX, images)["logits"]
    found = engine_outputs(artifact, manifest, images)["logits"]
    low, high = ranges["logits"]
    steps = np.abs(found - expected) / (high - low) * 255.0
    assert (found.argmax(axis=-1) == expected.argmax(axis=-1)).mean() >= 0.95
    # One value rounded the other way in an early layer changes every logit.
    assert steps.mean() <= 4.0


def test_its_outputs_are_near_the_float_networks(
    artifact: Path, manifest: Manifest, tiny_float: Any, images: NDArray[np.uint8]
) -> None:
    expected, found = keras_outputs(tiny_float, "", images), engine_outputs(artifact, manifest, images)
    noise = found["logits"] - expected["logits"]
    assert 10 * np.log10((expected["logits"] ** 2).sum() / (noise**2).sum()) > 15  # random weights amplify errors
    for level in range(3):
        assert cosine(found["gates"][..., level], expected["gates"][..., level]) > 0.99, f"gate {level}"
    assert cosine(found["modulator"], expected["modulator"]) > 0.99


def test_outputs_of_images_of_one_colour_are_finite(artifact: Path, manifest: Manifest) -> None:
    plain = np.stack([np.full((16, 16, 3), value, np.uint8) for value in (0, 127, 255)])
    assert all(np.isfinite(values).all() for values in engine_outputs(artifact, manifest, plain).values())


def test_outputs_are_dequantized(artifact: Path, manifest: Manifest, images: NDArray[np.uint8]) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(artifact))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images[:1])
    interpreter.invoke()
    outputs = engine_outputs(artifact, manifest, images[:1])
    for detail in interpreter.get_output_details():
        scale, zero_point = detail["quantization"]
        stored = interpreter.get_tensor(detail["index"])
        assert stored.dtype == np.int8
        expected = (stored.astype(np.float64) - zero_point) * scale
        np.testing.assert_allclose(outputs[detail["name"]], expected, rtol=1e-6)


def test_refuses_a_calibration_without_inner_tensors(tiny_float: Any, ranges: Ranges) -> None:
    layers = {layer.name for layer in tiny_float.layers}
    of_layers = {name: ends for name, ends in ranges.items() if name in layers}
    with pytest.raises(ArtifactError, match=r"no range for the tensors inside embed\.norm; run `python -m cal"):
        build_fake_quant(tiny_float, CONFIG, of_layers, INTEGER_ONLY)
    build_fake_quant(tiny_float, CONFIG, of_layers, SELECTIVE)


def test_training_survives_a_variance_of_zero() -> None:
    import tensorflow as tf

    from export.quantize.layer_norm import ChannelNorm

    ranges = dict.fromkeys(("mean", "centred", "square", "variance", "rsqrt"), (-4.0, 4.0))
    norm = ChannelNorm(ranges, scale=False, center=False)
    tokens = tf.constant([[1.0, 1.0, 1.0], [0.0, 1.0, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(tokens)
        total = tf.reduce_sum(norm(tokens, training=True) ** 2)
    assert np.isfinite(tape.gradient(total, tokens)).all()
