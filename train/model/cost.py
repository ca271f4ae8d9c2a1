"""Cost of a network, peak of a device, and the fraction of that peak which training reaches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
LONG_ENOUGH_S = 0.05  # the launch of a step is negligible against it
PRODUCTS = 8
REPEATS = 3


@dataclass(frozen=True)
class Cost:
    """Cost of a network.

    Attributes:
        macs: multiply-accumulates of convolutions and linear layers in the forward pass of one image, padding included;
            norms, activations, gating and sums are not counted.
        parameters: number of weights.
    """

    macs: int
    parameters: int


def network_cost(config: FocalNetConfig) -> Cost:
    """Count the cost of a deployed network, its norms folded."""
    return model_cost(build_focalnet(folded(config), keras))


def model_cost(model: Any) -> Cost:
    """Count the cost of a functional Keras model with channels last and fixed sizes (but for the batch)."""
    linear = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
    # A kernel, depthwise and grouped ones too, uses each weight once per output position.
    macs = sum(
        math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
        for layer in model.layers
        if isinstance(layer, linear)
    )
    return Cost(macs, int(model.count_params()))


def training_flops(macs: int) -> int:
    """Return the floating-point operations of one training step per image.

    Two operations per multiply-accumulate, and a backward pass of twice the forward pass, for the gradients of inputs
    and weights (Chowdhery et al., 2022, "PaLM", appendix B).

    Args:
        macs: multiply-accumulates of the forward pass, per image.
    """
    return 3 * 2 * macs


def fraction_of_peak(images_per_s: float, macs: int, peak_flops_per_s: float) -> float:
    """Return the fraction of a device's peak that training reaches (model FLOPs utilization).

    Args:
        images_per_s: training images per second.
        macs: multiply-accumulates of the forward pass, per image.
        peak_flops_per_s: floating-point operations per second, from `measure_peak`.

    Returns:
        A fraction, 0 to about 1.

    Raises:
        TrainingError: the peak is not a positive number.
    """
    if not 0 < peak_flops_per_s < math.inf:
        raise TrainingError(
            f"received a peak of {peak_flops_per_s} FLOP/s; expected a positive number: measure it with measure_peak"
        )
    return images_per_s * training_flops(macs) / peak_flops_per_s


def measure_peak(
    dtype: str = "float32", sides: Sequence[int] = PEAK_SIDES, clock_s: Callable[[], float] = perf_counter
) -> float:
    """Measure the peak of Keras' device in large matrix products, in a second or two.

    Sides grow until the products last long enough to time.

    Args:
        dtype: "float32", at the backend's training precision (which may be TF32), or "bfloat16".
        sides: sides of the square matrices, ascending.
        clock_s: the time, in seconds.

    Returns:
        The best rate, in floating-point operations per second.

    Raises:
        ConfigError: another dtype, or no sides.
        TrainingError: every measured time was 0.
    """
    if dtype not in PEAK_DTYPES or not sides:
        raise ConfigError(
            f"received dtype {dtype!r} and sides {tuple(sides)}; expected one of {', '.join(PEAK_DTYPES)}, and a side"
        )
    best = 0.0
    for side in sides:
        time_s = _time_s(_Products(side, dtype), clock_s)
        if time_s <= 0:
            continue
        best = max(best, PRODUCTS * 2 * side**3 / time_s)
        if time_s >= LONG_ENOUGH_S:
            break
    if not best:
        raise TrainingError(f"matrix products of sides {tuple(sides)} took no time; expected some: try larger sides")
    return best


def _time_s(model: Any, clock_s: Callable[[], float]) -> float:
    """Return the best time of a few calls, after one that compiles."""
    start = np.ones((1, 1), np.float32)
    model.predict_on_batch(start)
    times_s = []
    for _ in range(REPEATS):
        begin_s = clock_s()
        model.predict_on_batch(start)  # waits for the result
        times_s.append(clock_s() - begin_s)
    return min(times_s)


class _Products(keras.Model):
    """A compiled power of a square matrix, reduced to one number."""

    def __init__(self, side: int, dtype: str) -> None:
        super().__init__(name="products", dtype=dtype)
        # Spectral radius 1 keeps the powers finite.
        normal = keras.initializers.RandomNormal(stddev=side**-0.5, seed=0)
        self._matrix = self.add_weight(
            name="matrix", shape=(side, side), initializer=normal, dtype=dtype, trainable=False
        )
        # TensorFlow's own kernels are faster than XLA's on a CPU, and the same on a GPU.
        self.jit_compile = keras.backend.backend() == "jax"

    def call(self, start: Any) -> Any:
        """Return the largest entry, `[1, 1]`, which needs all products."""
        product = self._matrix * start  # depends on the input, so nothing is folded ahead
        for _ in range(PRODUCTS):
            product = ops.matmul(product, self._matrix)
        return ops.reshape(ops.max(product), (1, 1))
