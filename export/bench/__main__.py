"""This project's artifacts against what a user would run instead.

    python -m export.bench --bundle models/mine
    python -m export.bench --preset focalnet_tiny_srf    of untrained weights, which take as long

All rows come from the float weights of one bundle, their ranges from one set of training images, and all are
timed in one process, taking turns. Peers are given the classifier alone; ours is timed as it ships, with the maps for
overlays among its outputs. What a row needs to make its input of a uint8 image counts as part of its time.
Exit code: 0; 1 if a peer whose packages are installed could not be made; 2 for bad input.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from export.accuracy import Accuracy, accuracy_of, classify
from export.bench.contender import LOWER_BOUND, Contender
from export.bench.lower_bound import make_lower_bound
from export.bench.ours import make_ours
from export.bench.peers.registry import FAMILIES, installed_version, make_peers
from export.bench.report import Benchmark, Row, to_dict, to_markdown, write_reports
from export.bench.setup import Setup, load_setup
from export.bench.untrained import make_untrained_bundle
from runtime.benchmark import Latency, Timed, measure
from runtime.core.cli import run_cli
from runtime.core.errors import ConfigError
from runtime.core.machine import cpu_model
from runtime.engines.tflite import load_interpreter
from runtime.images.preprocess import Image

DEFAULT_IMAGES = 2000
DEFAULT_ROUNDS = 200
# Of a preset: what an untrained network predicts is of no interest, and those without weights here are large.
PRESET_IMAGES = 50
PRESET_ROUNDS = 30
DEFAULT_THREADS = (1, 2)
DEFAULT_OUT = Path("runs/bench")
TIMED_IMAGES = 8
# Longer than the threads of these runtimes wait for more work, which they do by keeping a core busy.
REST_S = 0.002
RUNS_BEFORE = 2
PACKAGES = ("tensorflow", "tf_keras", "tensorflow-model-optimization")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`.

    Returns:
        0, or 1 if a peer whose packages are installed could not be made.
    """
    args = _parser().parse_args(argv)
    images, rounds = (PRESET_IMAGES, PRESET_ROUNDS) if args.preset else (DEFAULT_IMAGES, DEFAULT_ROUNDS)
    images = images if args.images is None else args.images
    rounds = rounds if args.rounds is None else args.rounds
    _check_arguments(images, rounds, args.threads)
    out = args.out or DEFAULT_OUT / (args.preset or args.bundle.resolve().name)
    with redirect_stdout(sys.stderr):  # for the converters, which print
        bundle = args.bundle or out / f"{args.preset}-untrained"
        if args.preset:
            make_untrained_bundle(bundle, args.preset)
        result = bench(bundle, args.data_dir, out / "artifacts", images, rounds, args.threads)
    paths = write_reports(out, result)
    if args.json:
        print(json.dumps(to_dict(result), indent=2))
    else:
        print(to_markdown(result))
        print(f"wrote {', '.join(str(path) for path in paths)}")
    return 1 if any(each.failed for each in result.not_measured) else 0


def bench(
    bundle: Path, data_dir: Path | None, folder: Path, images: int, rounds: int, threads: Sequence[int]
) -> Benchmark:
    """Make every row of the table and measure it.

    Args:
        bundle: with artifacts, weights and calibration.
        data_dir: where the data set of the bundle is.
        folder: where the artifacts of the peers go; made if missing.
        images: how many of the test split to classify.
        rounds: timed runs of each row.
        threads: CPU threads to time with, one or more different numbers.

    Returns:
        The figures.
    """
    load_before = os.getloadavg()[0]
    folder.mkdir(parents=True, exist_ok=True)
    setup = load_setup(bundle, data_dir, images)
    peers, not_measured = make_peers(FAMILIES, setup.network, folder)
    candidates = [*make_ours(bundle, folder), *peers]
    open_floor, floor_is = make_lower_bound(bundle, folder)
    accuracies = [_accuracy(each, setup) for each in candidates]
    openers = {each.name: each.open for each in candidates} | {LOWER_BOUND: open_floor}
    latencies = {count: _latencies(openers, setup.images[:TIMED_IMAGES], rounds, count) for count in threads}
    by_name = {name: {count: latencies[count][name] for count in threads} for name in openers}
    rows = [
        Row(each.name, each.what, each.size_bytes, accuracy, by_name[each.name])
        for each, accuracy in zip(candidates, accuracies, strict=True)
    ]
    return Benchmark(
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        bundle=bundle.resolve().name,
        data=setup.data,
        machine={
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "load_before": load_before,
            "load_after": os.getloadavg()[0],
        },
        versions=_versions(),
        rounds=rounds,
        threads=tuple(threads),
        rows=(*rows, Row(LOWER_BOUND, floor_is, None, None, by_name[LOWER_BOUND])),
        not_measured=tuple(not_measured),
    )


def _accuracy(candidate: Contender, setup: Setup) -> Accuracy:
    predicted = classify(candidate.open(1).run, setup.images, candidate.name)
    return accuracy_of(predicted, setup.labels, setup.reference)


def _latencies(
    openers: Mapping[str, Callable[[int], Timed]], images: Image, rounds: int, threads: int
) -> dict[str, Latency]:
    opened = {name: open_with(threads) for name, open_with in openers.items()}
    inputs = [image[np.newaxis] for image in images]
    return measure(opened, inputs, rounds, rest_s=REST_S, runs_before=RUNS_BEFORE)


def _versions() -> dict[str, str]:
    """Return the versions of what is installed; the interpreter's package is the one that is used."""
    interpreter, _, version = load_interpreter()[0].partition(" ")
    packages = [*PACKAGES, *(package for family in FAMILIES for package in family.packages)]
    found = {package: installed_version(package) for package in packages}
    return {interpreter: version} | {package: version for package, version in found.items() if version is not None}


def _check_arguments(images: int, rounds: int, threads: Sequence[int]) -> None:
    if images < 1 or rounds < 1 or min(threads) < 1 or len(set(threads)) < len(threads):
        raise ConfigError(
            f"received {images} images, {rounds} rounds and {', '.join(map(str, threads))} threads; "
            "expected 1 or more of each, and no number of threads twice"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.bench",
        description="Compare a bundle's artifacts with what stock converters and other runtimes make of its weights.",
        epilog="Exit code: 0; 1 if a peer whose packages are installed could not be made; 2 for bad input.",
    )
    setup = parser.add_mutually_exclusive_group(required=True)
    setup.add_argument("--bundle", type=Path, help="folder with artifacts, weights and calibration")
    setup.add_argument("--preset", help="a preset's network, untrained, calibrated on rendered shapes")
    parser.add_argument("--data-dir", type=Path, help="where the images are (default: $DATA_DIR)")
    parser.add_argument(
        "--images",
        type=int,
        help=f"class-balanced test images to classify ({DEFAULT_IMAGES}, of a preset {PRESET_IMAGES})",
    )
    parser.add_argument(
        "--rounds", type=int, help=f"timed runs of each row ({DEFAULT_ROUNDS}, of a preset {PRESET_ROUNDS})"
    )
    parser.add_argument(
        "--threads", type=int, nargs="+", default=DEFAULT_THREADS, metavar="N", help="CPU threads to time with (1 2)"
    )
    parser.add_argument("--out", type=Path, help=f"folder for the reports ({DEFAULT_OUT}/NAME of the bundle)")
    parser.add_argument("--json", action="store_true", help="print bench.json instead of the table")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
