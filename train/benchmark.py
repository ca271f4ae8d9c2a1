"""Speed of training: this project's step against the Keras tutorial's, side by side in one run.

`python -m train.benchmark` trains both constructions at the same size, with the same recipe, on random
images, by turns of a few steps, so that whatever slows the machine slows both. A step is a whole one: the
next batch from each one's own input pipeline, forward, backward, update. The tutorial's threads prepare
batches in the other's turns too, which is to its advantage.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter_ns

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from tqdm import tqdm

from runtime.core.cli import run_cli
from runtime.core.errors import ConfigError, FocalEdgeError
from runtime.evaluation.metrics import percentile
from train.data.batches import Batch, TrainBatches
from train.data.dataset import Split
from train.distributed.placement import device_name
from train.loop.fit import compile_model, learning_rate_schedule
from train.loop.training_model import Trainee
from train.model.config import FocalNetConfig
from train.model.cost import Cost, fraction_of_peak, measure_peak, model_cost
from train.model.focalnet import build_focalnet
from train.model.presets import PRESETS
from train.model.recipe import TrainConfig
from train.studies.keras_tutorial import build_tutorial, tutorial_batches

Step = Callable[[], object]
OURS, TUTORIAL = "focaledge", "tutorial"
TARGET_RATIO = 1.5
WARM_UP_STEPS = 3
DEFAULT_DIMS = (48, 96, 192)
DEFAULT_BATCH_SIZE = 128
DEFAULT_ROUNDS = 5
DEFAULT_STEPS = 2
IMAGES = 4096
IMAGE_SIZE = 32


@dataclass(frozen=True)
class Speed:
    """The speed of one construction; `fraction_of_peak` is of the device's measured peak."""

    construction: str
    images_per_s: float
    step_time_p50_ms: float
    step_time_p90_ms: float
    fraction_of_peak: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Both speeds and what they are of.

    Attributes:
        backend: Keras' backend.
        device: what it trains on.
        xla: whether the steps are compiled by XLA: both or neither (Keras compiles a grouped convolution even so).
        network: the network.
        batch_size: images per step.
        rounds: turns of each.
        steps: steps per turn.
        cost: of the network as it is trained, either way.
        peak_flops_per_s: float32, measured before.
        speeds: of this project and of the tutorial.
        ratio: of the median step times, the tutorial's to ours.
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
    ratio: float


def measure(steppers: Mapping[str, Step], rounds: int, steps: int) -> dict[str, list[float]]:
    """Time training steps, the steppers taking turns; the one that goes first alternates.

    Args:
        steppers: by name, what does one step and returns when it is done.
        rounds: turns of each.
        steps: steps per turn.

    Returns:
        Under each name, the times of its `rounds * steps` steps, in milliseconds; a few before were not timed.

    Raises:
        ConfigError: there is no stepper, round or step.
    """
    if not steppers or rounds < 1 or steps < 1:
        raise ConfigError(
            f"received {len(steppers)} constructions, {rounds} rounds and {steps} steps a round; "
            "expected at least one of each"
        )
    for step in steppers.values():
        for _ in range(WARM_UP_STEPS):
            step()
    names = list(steppers)
    times_ms: dict[str, list[float]] = {name: [] for name in names}
    for index in tqdm(range(rounds), desc="training steps", unit="round", disable=None, leave=False):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            times_ms[name] += [_time_ms(steppers[name]) for _ in range(steps)]
    return times_ms


def compare(config: FocalNetConfig, recipe: TrainConfig, rounds: int, steps: int) -> Comparison:
    """Measure both constructions of one network.

    Args:
        config: the network, one that the tutorial can build.
        recipe: the training recipe.
        rounds: turns of each.
        steps: steps per turn.

    Returns:
        Their speeds, on random images.

    Raises:
        ConfigError: Keras does not run on TensorFlow, the tutorial has no such network, or nothing is to be measured.
    """
    keras.utils.set_random_seed(recipe.seed)
    split = random_split(max(IMAGES, recipe.batch_size), config.classes)
    pipeline = iter(tutorial_batches(split, config.input_size, recipe))
    tutorial = build_tutorial(config)
    ours = Trainee(config, recipe, split)
    total_steps = WARM_UP_STEPS + rounds * steps
    compile_model(ours, recipe, total_steps)
    tutorial.compile(
        optimizer=keras.optimizers.AdamW(learning_rate_schedule(recipe, total_steps), recipe.weight_decay),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=ours.jit_compile,
    )
    batches = _without_end(TrainBatches(split.labels, config.classes, recipe))
    peak = measure_peak("float32")
    steppers: dict[str, Step] = {
        OURS: lambda: ours.train_on_batch(*next(batches)),
        TUTORIAL: lambda: tutorial.train_on_batch(*next(pipeline)),
    }
    times_ms = measure(steppers, rounds, steps)
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
        ratio=speeds[TUTORIAL].step_time_p50_ms / speeds[OURS].step_time_p50_ms,
    )


def speed(construction: str, times_ms: Sequence[float], batch_size: int, macs: int, peak_flops_per_s: float) -> Speed:
    """Summarise the steps of one construction.

    Args:
        construction: its name.
        times_ms: one time a step, in milliseconds.
        batch_size: images per step.
        macs: multiply-accumulates of one image's forward pass.
        peak_flops_per_s: the device's peak.

    Returns:
        Its speed, by the median step.

    Raises:
        FocalEdgeError: there is no time, one is not finite, or their median is not positive.
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
    """Draw uint8 noise images of CIFAR-10's size, and labels; what they show does not change a step's time."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    labels = generator.integers(0, classes, count, dtype=np.int64)
    return Split(images, labels, tuple(map(str, range(count))))


def table(result: Comparison) -> str:
    """Lay a comparison out as text."""
    network = result.network
    dims, depths = ("/".join(map(str, values)) for values in (network.dims, network.depths))
    lines = [
        f"Keras {keras.__version__} on {result.backend}, device {result.device}; "
        + (
            "both compiled by XLA"
            if result.xla
            else "neither compiled by XLA, but for the tutorial's grouped convolutions, which Keras always hands to it"
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
        f"{OURS} is {result.ratio:.2f} times as fast as the tutorial's construction (ratio of median steps); "
        f"target: at least {TARGET_RATIO}"
    )
    return "\n".join(lines)


def to_dict(result: Comparison) -> dict[str, object]:
    """Return a comparison's JSON form."""
    return asdict(result) | {"target_ratio": TARGET_RATIO, "data": "random uint8 images"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`."""
    arguments = _parser().parse_args(argv)
    preset = PRESETS["seed-cifar10"]
    config = dataclasses.replace(preset.model, dims=tuple(arguments.dims))
    recipe = dataclasses.replace(preset.train, batch_size=arguments.batch_size)
    result = compare(config, recipe, arguments.rounds, arguments.steps)
    print(json.dumps(to_dict(result), indent=2) if arguments.json else table(result))
    return 0


def _time_ms(step: Step) -> float:
    start_ns = perf_counter_ns()
    step()
    return (perf_counter_ns() - start_ns) / 1e6


def _without_end(batches: TrainBatches) -> Iterator[Batch]:
    while True:
        for index in range(len(batches)):
            yield batches[index]
        batches.on_epoch_end()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.benchmark",
        description="Measure training steps of the seed network, smaller, against the Keras tutorial's construction.",
    )
    parser.add_argument(
        "--dims", type=int, nargs="+", default=DEFAULT_DIMS, metavar="C", help="channels of each stage (48 96 192)"
    )
    parser.add_argument("--batch-size", type=int, default=DEFAULT_BATCH_SIZE, help="images per step (%(default)s)")
    parser.add_argument("--rounds", type=int, default=DEFAULT_ROUNDS, help="turns of each (%(default)s)")
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="steps per turn (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
