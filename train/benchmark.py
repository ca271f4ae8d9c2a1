"""Training speed: this project's step against the Keras tutorial's, in one process.

`python -m train.benchmark` trains both constructions at the same size and with the same recipe on random images. They
take turns, step by step, so that whatever slows the machine slows both. A step takes the next batch of its own input
pipeline and runs forward, backward and update. The tutorial's threads also prepare batches during the other's turns,
which favours it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from runtime.core.cli import command_parser, run_cli, shared_options
from runtime.core.errors import FocalEdgeError
from runtime.core.files import json_text
from runtime.evaluation.metrics import percentile
from runtime.evaluation.timing import measure_times
from train.data.batches import Batch, TrainBatches
from train.data.dataset import Split
from train.distributed.placement import device_name
from train.loop.fit import compile_model, learning_rate_schedule
from train.loop.training_model import TrainingModel
from train.model.config import FocalNetConfig
from train.model.cost import Cost, fraction_of_peak, measure_peak, model_cost
from train.model.focalnet import build_focalnet
from train.model.presets import PRESETS
from train.model.recipe import TrainConfig
from train.studies.keras_tutorial import build_tutorial, tutorial_batches

OURS, TUTORIAL = "focaledge", "tutorial"
TARGET_SPEEDUP = 1.5
WARM_UP_STEPS = 3
DEFAULT_DIMS = (48, 96, 192)
IMAGES = 4096
IMAGE_SIZE = 32


@dataclass(frozen=True)
class Speed:
    """Speed of one construction.

    Attributes:
        construction: its name.
        images_per_s: of the median step.
        step_time_p50_ms: the median.
        step_time_p90_ms: the 90th percentile.
        fraction_of_peak: floating-point operations of the median step, over the device's measured peak.
    """

    construction: str
    images_per_s: float
    step_time_p50_ms: float
    step_time_p90_ms: float
    fraction_of_peak: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Speeds of both constructions of a network.

    Attributes:
        backend: Keras' backend.
        device: the training device.
        xla: XLA compiles both steps, or neither (but for grouped convolutions, which Keras always hands to it).
        network: the network.
        batch_size: images per step.
        rounds: rounds of each construction.
        steps: steps per round.
        cost: of the trained network, the same for both.
        peak_flops_per_s: float32, measured first.
        speeds: of this project and of the tutorial.
        speedup: the tutorial's median step time over ours.
    """

    backend: str
    device: str
    xla: bool
    network: FocalNetConfig
    batch_size: int
    rounds: int
    steps: int
    cost: Cost
    peak_flops_per_s: float
    speeds: tuple[Speed, Speed]
    speedup: float


@dataclass(frozen=True)
class Stepper:
    """A training step as `runtime.evaluation.timing.measure_times` times it."""

    step: Callable[[], object]

    def run(self, _: object, /) -> object:
        """Do one step."""
        return self.step()


def compare(
    config: FocalNetConfig,
    recipe: TrainConfig,
    rounds: int,
    steps: int,
    *,
    images: int = IMAGES,
    peak_flops_per_s: float | None = None,
) -> Comparison:
    """Measure both constructions of a network on random images.

    Args:
        config: the network, of a structure that the tutorial has.
        recipe: the training recipe.
        rounds: rounds of each construction.
        steps: steps per round.
        images: size of the training split, at least a batch.
        peak_flops_per_s: the device's peak; measured if `None`.

    Raises:
        ConfigError: Keras does not run on TensorFlow, the tutorial has no such network, or there are no steps.
    """
    keras.utils.set_random_seed(recipe.seed)
    split = random_split(max(images, recipe.batch_size), config.classes)
    pipeline = iter(tutorial_batches(split, config.input_size, recipe))
    tutorial = build_tutorial(config)
    ours = TrainingModel(config, recipe, split)
    total_steps = WARM_UP_STEPS + rounds * steps
    compile_model(ours, recipe, total_steps)
    tutorial.compile(
        optimizer=keras.optimizers.AdamW(learning_rate_schedule(recipe, total_steps), recipe.weight_decay),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=ours.jit_compile,
    )
    batches = _endless(TrainBatches(split.labels, config.classes, recipe))
    peak = peak_flops_per_s or measure_peak("float32")
    steppers = {
        OURS: Stepper(lambda: ours.train_on_batch(*next(batches))),
        TUTORIAL: Stepper(lambda: tutorial.train_on_batch(*next(pipeline))),
    }
    no_image = np.zeros((1, 1, 1, 3), np.uint8)  # a step takes its own batch
    times_ms = measure_times(steppers, [no_image], rounds * steps, warm_up_runs=WARM_UP_STEPS, task="training steps")
    cost = model_cost(build_focalnet(config, keras))
    speeds = {name: speed(name, times, recipe.batch_size, cost.macs, peak) for name, times in times_ms.items()}
    return Comparison(
        backend=keras.backend.backend(),
        device=device_name(),
        xla=bool(ours.jit_compile),
        network=config,
        batch_size=recipe.batch_size,
        rounds=rounds,
        steps=steps,
        cost=cost,
        peak_flops_per_s=peak,
        speeds=(speeds[OURS], speeds[TUTORIAL]),
        speedup=speeds[TUTORIAL].step_time_p50_ms / speeds[OURS].step_time_p50_ms,
    )


def speed(construction: str, times_ms: Sequence[float], batch_size: int, macs: int, peak_flops_per_s: float) -> Speed:
    """Summarise the step times of a construction.

    Args:
        construction: its name.
        times_ms: of each step, in milliseconds.
        batch_size: images per step.
        macs: multiply-accumulates of the forward pass, per image.
        peak_flops_per_s: the device's peak.

    Raises:
        FocalEdgeError: no times, one that is not finite, or a median that is not positive.
    """
    p50_ms = percentile(times_ms, 50)
    if p50_ms <= 0:
        raise FocalEdgeError(f"received a median step of {p50_ms} ms; expected a positive time: take a larger batch")
    images_per_s = batch_size / (p50_ms / 1e3)
    return Speed(
        construction,
        images_per_s,
        p50_ms,
        percentile(times_ms, 90),
        fraction_of_peak(images_per_s, macs, peak_flops_per_s),
    )


def random_split(count: int, classes: int) -> Split:
    """Draw noise images of CIFAR-10's size, uint8, with labels; the content does not change a step's time."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    labels = generator.integers(0, classes, count, dtype=np.int64)
    return Split(images, labels, tuple(map(str, range(count))))


def table(result: Comparison) -> str:
    """Render a comparison as text."""
    network = result.network
    dims, depths = ("/".join(map(str, values)) for values in (network.dims, network.depths))
    lines = [
        f"Keras {keras.__version__} on {result.backend}, device {result.device}; "
        + (
            "both compiled by XLA"
            if result.xla
            else "neither compiled by XLA, except the tutorial's grouped convolutions, which Keras always hands to it"
        ),
        f"{network.input_size} px, dims {dims}, depths {depths}: {result.cost.parameters:,} parameters, "
        f"{result.cost.macs / 1e6:.1f} M multiply-accumulates; random images, batch {result.batch_size}",
        f"{result.rounds} rounds of {result.steps} step(s) each, taking turns; "
        f"peak {result.peak_flops_per_s / 1e9:,.0f} GFLOP/s (measured, float32)",
        f"{'construction':12} {'images/s':>9} {'p50 ms':>9} {'p90 ms':>9} {'of peak':>8}",
    ]
    lines += [
        f"{each.construction:12} {each.images_per_s:9.1f} {each.step_time_p50_ms:9.1f} {each.step_time_p90_ms:9.1f} "
        f"{each.fraction_of_peak:8.1%}"
        for each in result.speeds
    ]
    lines.append(
        f"{OURS} is {result.speedup:.2f} times as fast as the tutorial's construction (median steps); "
        f"target: at least {TARGET_SPEEDUP}"
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None, *, compare: Callable[..., Comparison] = compare) -> int:
    """Run the command line; see `--help`.

    Args:
        argv: the arguments.
        compare: measures both constructions.
    """
    arguments = _parser().parse_args(argv)
    preset = PRESETS["seed-cifar10"]
    config = dataclasses.replace(preset.model, dims=tuple(arguments.dims))
    recipe = dataclasses.replace(preset.train, batch_size=arguments.batch_size)
    result = compare(config, recipe, arguments.rounds, arguments.steps)
    if arguments.json:
        print(json_text(asdict(result) | {"target_speedup": TARGET_SPEEDUP, "data": "random uint8 images"}))
    else:
        print(table(result))
    return 0


def _endless(batches: TrainBatches) -> Iterator[Batch]:
    while True:
        for index in range(len(batches)):
            yield batches[index]
        batches.on_epoch_end()


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "python -m train.benchmark",
        "Measure training steps of a smaller seed network against the Keras tutorial's construction.",
        parents=[shared_options("--json")],
    )
    dims_help = f"channels of each stage (default: {' '.join(map(str, DEFAULT_DIMS))})"
    parser.add_argument("--dims", type=int, nargs="+", default=DEFAULT_DIMS, metavar="C", help=dims_help)
    counts = (("--batch-size", 128, "images per step"), ("--rounds", 5, "rounds"), ("--steps", 2, "steps per round"))
    for name, default, text in counts:
        parser.add_argument(name, type=int, default=default, metavar="N", help=f"{text}, 1 or more")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
