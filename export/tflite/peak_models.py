"""Build the two models that `runtime.parity.measures.peak_throughput` measures a machine's peak throughput with.

Each is one matrix product. All weights are equal: the time of a product does not depend on the values, and files of
one value compress to almost nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from runtime.core.cli import command_parser, run_cli, say
from runtime.core.files import replacing
from runtime.parity.measures.peak_throughput import PRODUCT_CHANNELS, PRODUCT_FILES, PRODUCT_SIDE


def product_model(precision: str) -> bytes:
    """Convert a 1x1 convolution, which is a matrix product, to TFLite.

    Args:
        precision: `"float32"` or `"int8"`, of input, weights and output.

    Returns:
        The .tflite file.
    """
    kernel = np.full((1, 1, PRODUCT_CHANNELS, PRODUCT_CHANNELS), 1 / PRODUCT_CHANNELS, np.float32)
    shape = (1, PRODUCT_SIDE, PRODUCT_SIDE, PRODUCT_CHANNELS)

    class Product(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return tf.nn.conv2d(x, kernel, 1, "VALID")

    def sample() -> Iterator[list[NDArray[np.float32]]]:
        yield [np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)]

    module = Product()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.__call__.get_concrete_function()], module)
    if precision == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = sample
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def main(argv: Sequence[str] | None = None) -> int:
    """Write both models."""
    parser = command_parser("python -m export.tflite.peak_models", "Write the models that measure peak throughput.")
    folder = next(iter(PRODUCT_FILES.values())).parent
    parser.add_argument("--out", type=Path, default=folder, metavar="FOLDER", help="folder of the models")
    args = parser.parse_args(argv)
    for precision, file in PRODUCT_FILES.items():
        with replacing(args.out / file.name) as temporary:
            temporary.write_bytes(product_model(precision))
        say(str(args.out / file.name))
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
