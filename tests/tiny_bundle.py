"""A real bundle made in a second, for tests: a linear TFLite model whose outputs NumPy can check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.files import sha256_of
from runtime.manifest import Accuracy, Artifact, Manifest, Overlay, write_manifest

SIDE = 16
CELLS = 4
LABELS = ("red", "green", "blue")
OUTPUTS: dict[str, tuple[int, ...]] = {
    "logits": (1, 3),
    "gates": (1, CELLS, CELLS, 3),
    "modulator": (1, CELLS, CELLS),
}


def expected_outputs(image: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """What the tiny model computes, in NumPy.

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
    """Give the input and the outputs their names of the signature, or those of `renames` in their place."""
    import flatbuffers  # type: ignore[import-untyped]
    from tensorflow.lite.python import schema_py_generated as schema

    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    (signature,) = content.signatureDefs
    for entry in [*signature.inputs, *signature.outputs]:
        name = entry.name.decode()
        content.subgraphs[0].tensors[entry.tensorIndex].name = (renames or {}).get(name, name).encode()
    builder = flatbuffers.Builder(len(model))
    builder.Finish(content.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def write_bundle(folder: Path, model: bytes, **changes: Any) -> Manifest:
    """Write `model` as both artifacts of a bundle, with its manifest.

    Args:
        folder: made if missing.
        model: the content of both .tflite files.
        **changes: fields of the manifest to replace.

    Returns:
        The manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = []
    for precision, file in (("float32", "float.tflite"), ("int8", "int8.tflite")):
        (folder / file).write_bytes(model)
        accuracy = Accuracy("colours", "test", 30, 0.9)
        artifacts.append(Artifact(file, precision, "tflite", sha256_of(folder / file), len(model), accuracy))
    fields: dict[str, Any] = {
        "preset": "tiny",
        "config": {"image_size": SIDE},
        "input_shape": (1, SIDE, SIDE, 3),
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
