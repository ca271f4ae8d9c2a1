"""A real bundle, made in a second: a linear model whose outputs NumPy can check."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.bundle.manifest import Accuracy, Artifact, Manifest, Overlay, write_manifest
from runtime.core.files import sha256_of
from runtime.engines.registry import ENGINES
from runtime.images.input_spec import InputSpec

# What `tiny_tflite` returns; converting takes seconds, and needs TensorFlow.
TINY_MODEL = Path(__file__).with_name("tiny.tflite")
SIDE = 16
CELLS = 4
LABELS = ("red", "green", "blue")
OUTPUTS: dict[str, tuple[int, ...]] = {
    "logits": (1, 3),
    "gates": (1, CELLS, CELLS, 3),
    "modulator": (1, CELLS, CELLS),
}


def expected_outputs(image: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Compute the outputs of the tiny model in NumPy.

    The gates are the mean colour (-1..1) of each 4 x 4 patch, the logits 4 times their means, and
    the modulator their norms.
    """
    scaled = image[0].astype(np.float64) / 127.5 - 1.0
    step = SIDE // CELLS
    gates = scaled.reshape(CELLS, step, CELLS, step, 3).mean(axis=(1, 3))
    return {
        "logits": 4.0 * gates.mean(axis=(0, 1)),
        "gates": gates,
        "modulator": np.sqrt((gates**2).sum(axis=-1) + 1e-6),
    }


def tiny_tflite(input_dtype: str = "uint8") -> bytes:
    """Convert the model that `expected_outputs` describes, with the tensor names of the contract."""
    import tensorflow as tf

    class Tiny(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, SIDE, SIDE, 3), input_dtype, name="image")])
        def __call__(self, image: Any) -> dict[str, Any]:
            scaled = tf.cast(image, tf.float32) / 127.5 - 1.0
            gates = tf.nn.avg_pool2d(scaled, SIDE // CELLS, SIDE // CELLS, "VALID")
            return {
                "logits": 4.0 * tf.reduce_mean(gates, axis=(1, 2)),
                "gates": gates,
                "modulator": tf.sqrt(tf.reduce_sum(gates * gates, axis=-1) + 1e-6),
            }

    module = Tiny()
    function = module.__call__.get_concrete_function()
    converted = tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert()
    return rename_tensors(converted)


def rename_tensors(model: bytes, renames: dict[str, str] | None = None) -> bytes:
    """Name the input and outputs as the signature does, or as `renames` does."""
    import flatbuffers  # type: ignore[import-untyped]
    from ai_edge_litert import schema_py_generated as schema

    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    (signature,) = content.signatureDefs
    for entry in [*signature.inputs, *signature.outputs]:
        name = entry.name.decode()
        content.subgraphs[0].tensors[entry.tensorIndex].name = (renames or {}).get(name, name).encode()
    builder = flatbuffers.Builder(len(model))
    builder.Finish(content.Pack(builder), b"TFL3")
    return bytes(builder.Output())


TINY_ONNX = """
<ir_version: 9, opset_import: ["": OPSET]>
tiny (uint8[1, 16, 16, 3] image) => (float[1, 3] logits, float[1, 4, 4, 3] gates, float[1, 4, 4] modulator)
<float half = {127.5}, float one = {1.0}, float four = {4.0}, float small = {1e-6},
 int64[2] places = {1, 2}, int64[1] channels = {3}>
{
    floats = Cast <to = 1> (image)
    halves = Div (floats, half)
    scaled = Sub (halves, one)
    first = Transpose <perm = [0, 3, 1, 2]> (scaled)
    pooled = AveragePool <kernel_shape = [4, 4], strides = [4, 4]> (first)
    gates = Transpose <perm = [0, 2, 3, 1]> (pooled)
    mean = ReduceMean <keepdims = 0> (gates, places)
    logits = Mul (mean, four)
    squares = Mul (gates, gates)
    sums = ReduceSum <keepdims = 0> (squares, channels)
    positive = Add (sums, small)
    modulator = Sqrt (positive)
}
"""


def tiny_onnx(opset: int = 18, **renames: str) -> bytes:
    """Build the model of `expected_outputs` in ONNX, with the tensor names of the contract or others."""
    import onnx.parser

    text = TINY_ONNX.replace("OPSET", str(opset))
    for name, other in renames.items():
        text = re.sub(rf"\b{name}\b", other, text)
    return bytes(onnx.parser.parse_model(text).SerializeToString())


def write_budget(path: Path, **limits: float) -> list[str]:
    """Write a budget of a few rules, as tiny networks are neither fast nor small; return the options that take it."""
    rules = "\n".join(f"{rule} = {{ fail = {limit} }}" for rule, limit in limits.items())
    path.write_text(f"schema_version = 1\n[quantization]\n{rules}\n[release]\n{rules}\n")
    return ["--budget", str(path), "--quick", "--rounds", "3", "--corrupted-images", "0"]


def write_bundle(folder: Path, model: bytes, onnx: bytes | None = None, **changes: Any) -> Manifest:
    """Write `model` as both artifacts of a bundle, with its manifest.

    Args:
        folder: made if missing.
        model: the content of both .tflite files.
        onnx: the content of both .onnx files; `None` for none.
        **changes: fields of the manifest to replace.

    Returns:
        The manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = []
    for engine, content in (("tflite", model), ("ort", onnx)):
        if content is None:
            continue
        for precision, file in ENGINES[engine].files.items():
            (folder / file).write_bytes(content)
            accuracy = Accuracy("colours", "test", 30, 0.9)
            artifacts.append(Artifact(file, precision, engine, sha256_of(folder / file), len(content), accuracy))
    fields: dict[str, Any] = {
        "preset": "tiny",
        "config": {"image_size": SIDE},
        "input_spec": InputSpec(SIDE),
        "labels": LABELS,
        "outputs": OUTPUTS,
        "overlay": Overlay("stage1.block0", SIDE // CELLS, 2),
        "dataset": "colours",
        "calibration_sha256": None,
        "artifacts": tuple(artifacts),
        "tools": {"tensorflow": "2"},
    }
    manifest = Manifest(**(fields | changes))
    write_manifest(folder, manifest)
    return manifest
