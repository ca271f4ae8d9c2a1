"""What a network costs, counted, and what a device can do, measured: their ratio says how well training uses it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import keras
import numpy as np
from keras import ops

from runtime.core.errors import ConfigError, TrainingError
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet
from train.model.fold_norms import folded

PEAK_DTYPES = ("float32", "bfloat16")
PEAK_SIDES = (1024, 2048, 4096, 8192, 16384)
LONG_ENOUGH_S = 0.05  # beside it, the launch of a step takes no time to speak of
PRODUCTS = 8
REPEATS = 3


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        macs: multiply-accumulates of one image's forward pass in convolutions and linear layers, padding
            included; norms, activations, gating and sums are not counted.
        parameters: the weights.
    """

    macs: int
    parameters: int


def network_cost(config: FocalNetConfig) -> Cost:
    """Count the cost of a network as it is deployed, its norms folded.

    Args:
        config: the network.

    Returns:
        Its exact cost, from its built layers.
    """
    return model_cost(build_focalnet(folded(config), keras))


def model_cost(model: Any) -> Cost:
    """Count the cost of a functional model of stock layers.

    Args:
        model: a model with channels last, of fixed sizes but for the batch's.

    Returns:
        Its exact cost.
    """
    linear = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
    # Each weight of a kernel, depthwise and grouped ones too, is used once at every position of the output.
    macs = sum(
        math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
        for layer in model.layers
        if isinstance(layer, linear)
    )
    return Cost(macs, int(model.count_params()))


def training_flops(macs: int) -> int:
    """Return the floating-point operations of one training step, for each image.

    The usual accounting: two operations a multiply-accumulate, and a backward pass of twice the forward
    pass, once for the inputs' gradients and once for the weights'.

    Args:
        macs: multiply-accumulates of the forward pass.

    Returns:
        3 * 2 * macs.
    """
    return 3 * 2 * macs


def fraction_of_peak(images_per_s: float, macs: int, peak_flops_per_s: float) -> float:
    """Return the share of a device's peak that training makes use of.

    Args:
        images_per_s: images that were trained on, per second.
        macs: multiply-accumulates of one image's forward pass.
        peak_flops_per_s: what `measure_peak` measured.

    Returns:
        A fraction, 0 to about 1.

    Raises:
        TrainingError: the peak is not a positive number.
    """
    if not 0 < peak_flops_per_s < math.inf:
        raise TrainingError(
            f"received a peak of {peak_flops_per_s} FLOP/s; expected a positive number: measure it anew by measure_peak"
        )
    return images_per_s * training_flops(macs) / peak_flops_per_s


def measure_peak(dtype: str = "float32", sides: Sequence[int] = PEAK_SIDES) -> float:
    """Measure what the device of the current Keras backend reaches in large matrix products.

    Products grow until they last long enough to time, which takes a second or two in all.

    Args:
        dtype: "float32", at the precision that the backend trains with (which may be TF32), or "bfloat16".
        sides: sides of the square matrices to try, ascending.

    Returns:
        The best rate, in floating-point operations per second.

    Raises:
        ConfigError: another dtype, or no side.
        TrainingError: the clock measured nothing.
    """
    if dtype not in PEAK_DTYPES or not sides:
        raise ConfigError(
            f"received dtype {dtype!r} and sides {tuple(sides)}; expected one of {', '.join(PEAK_DTYPES)}, and a side"
        )
    best = 0.0
    for side in sides:
        time_s = _time_s(_Products(side, dtype))
        if time_s <= 0:
            continue
        best = max(best, PRODUCTS * 2 * side**3 / time_s)
        if time_s >= LONG_ENOUGH_S:
            break
    if not best:
        raise TrainingError(f"matrix products of sides {tuple(sides)} took no time; expected some: try larger sides")
    return best


def _time_s(model: Any) -> float:
    """Return the best time of a few calls, after one that compiles."""
    start = np.ones((1, 1), np.float32)
    model.predict_on_batch(start)
    times_s = []
    for _ in range(REPEATS):
        begin_s = perf_counter()
        model.predict_on_batch(start)  # waits for the result
        times_s.append(perf_counter() - begin_s)
    return min(times_s)


class _Products(keras.Model):
    """Powers of a square matrix, compiled, of which one number leaves the device."""

    def __init__(self, side: int, dtype: str) -> None:
        super().__init__(name="products", dtype=dtype)
        # Of spectral radius 1, so that its powers stay finite.
        normal = keras.initializers.RandomNormal(stddev=side**-0.5, seed=0)
        self._matrix = self.add_weight(
            name="matrix", shape=(side, side), initializer=normal, dtype=dtype, trainable=False
        )
        # Of TensorFlow, the graph alone: its own kernels are the fast ones on a CPU, and the same on a GPU.
        self.jit_compile = keras.backend.backend() == "jax"

    def call(self, start: Any) -> Any:
        """Return the largest entry, `[1, 1]`, which no compiler can have for less than the products."""
        product = self._matrix * start  # of the input, so that nothing is computed ahead
        for _ in range(PRODUCTS):
            product = ops.matmul(product, self._matrix)
        return ops.reshape(ops.max(product), (1, 1))
