"""Benchmark this project's artifacts against their alternatives.

    python -m export.bench --bundle models/mine
    python -m export.bench --preset focalnet_tiny_srf    untrained weights, which take the same time

All rows have the same float weights, are calibrated on the same training images, and are timed in one process,
interleaved. Peers get the classifier alone; ours is timed as shipped, with the overlay maps among its outputs. A row's
conversion of the uint8 image to its input counts as part of its time.
Exit code: 0; 1 if a peer whose packages are installed could not be made; 2 for bad input.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from export.bench.contender import LOWER_BOUND, Contender
from export.bench.lower_bound import make_lower_bound
from export.bench.ours import make_ours
from export.bench.peers.family import Family, package_version
from export.bench.peers.registry import FAMILIES, make_peers
from export.bench.report import Benchmark, Row, to_dict, to_markdown, write_reports
from export.bench.setup import Setup, load_setup
from export.bench.untrained import make_untrained_bundle
from export.reporting.tables import machine_facts
from runtime.core.cli import command_parser, run_cli, shared_options
from runtime.core.errors import ConfigError
from runtime.core.files import json_text
from runtime.engines.tflite import load_interpreter
from runtime.evaluation.metrics import RelativeAccuracy, accuracy_of
from runtime.evaluation.predict import predict
from runtime.evaluation.timing import Latency, Timed, latencies_of, measure_times
from runtime.images.preprocess import Image

DEFAULT_IMAGES = 2000
DEFAULT_ROUNDS = 200
# For a preset: predictions of untrained weights are meaningless, and most of these networks are large.
PRESET_IMAGES = 50
PRESET_ROUNDS = 30
DEFAULT_THREADS = (1, 2)
DEFAULT_OUT = Path("runs/bench")
TIMED_IMAGES = 8
# Longer than idle threads of these runtimes spin on a core.
REST_S = 0.002
RUNS_BEFORE = 2
PACKAGES = ("tensorflow", "tf_keras", "tensorflow-model-optimization")


def main(argv: Sequence[str] | None = None, families: Mapping[str, Family] = FAMILIES) -> int:
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
    with redirect_stdout(sys.stderr):  # the converters print
        bundle = args.bundle or out / f"{args.preset}-untrained"
        if args.preset:
            make_untrained_bundle(bundle, args.preset)
        result = bench(bundle, args.data_dir, out / "artifacts", images, rounds, args.threads, families)
    paths = write_reports(out, result)
    if args.json:
        print(json_text(to_dict(result)))
    else:
        print(to_markdown(result))
        print(f"wrote {', '.join(str(path) for path in paths)}")
    return 1 if any(each.failed for each in result.not_measured) else 0


def bench(
    bundle: Path,
    data_dir: Path | None,
    folder: Path,
    images: int,
    rounds: int,
    threads: Sequence[int],
    families: Mapping[str, Family] = FAMILIES,
) -> Benchmark:
    """Make and measure every row of the table.

    Args:
        bundle: with artifacts, weights and calibration.
        data_dir: folder of the images; `None` takes the dataset's default.
        folder: for the artifacts made here; created if missing.
        images: number of test images to classify, 1 or more.
        rounds: timed runs of each row, 1 or more.
        threads: numbers of CPU threads to time with, all different.
        families: of peers, by name.
    """
    load_before = os.getloadavg()[0]
    folder.mkdir(parents=True, exist_ok=True)
    setup = load_setup(bundle, data_dir, images)
    peers, not_measured = make_peers(families, setup.network, folder)
    contenders = [*make_ours(bundle, folder), *peers]
    open_lower_bound, lower_bound_is = make_lower_bound(bundle, folder)
    accuracies = [_accuracy(each, setup) for each in contenders]
    openers = {each.name: each.open for each in contenders} | {LOWER_BOUND: open_lower_bound}
    latencies = {count: _latencies(openers, setup.images[:TIMED_IMAGES], rounds, count) for count in threads}
    by_name = {name: {count: latencies[count][name] for count in threads} for name in openers}
    rows = [
        Row(each.name, each.what, each.size_bytes, accuracy, by_name[each.name])
        for each, accuracy in zip(contenders, accuracies, strict=True)
    ]
    return Benchmark(
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        bundle=bundle.resolve().name,
        data=setup.data,
        machine=machine_facts(load_before),
        versions=_versions(families),
        rounds=rounds,
        threads=tuple(threads),
        rows=(*rows, Row(LOWER_BOUND, lower_bound_is, None, None, by_name[LOWER_BOUND])),
        not_measured=tuple(not_measured),
    )


def _accuracy(contender: Contender, setup: Setup) -> RelativeAccuracy:
    predicted = predict(contender.open(1).run, setup.images, contender.name)
    return accuracy_of(predicted, setup.labels, setup.reference)


def _latencies(
    openers: Mapping[str, Callable[[int], Timed]], images: Image, rounds: int, threads: int
) -> dict[str, Latency]:
    opened = {name: open_with(threads) for name, open_with in openers.items()}
    inputs = [image[np.newaxis] for image in images]
    return latencies_of(measure_times(opened, inputs, rounds, rest_s=REST_S, runs_before=RUNS_BEFORE))


def _versions(families: Mapping[str, Family]) -> dict[str, str]:
    """Return the versions of the installed packages, and of the interpreter in use."""
    interpreter, _, version = load_interpreter()[0].partition(" ")
    packages = [*PACKAGES, *(package for family in families.values() for package in family.packages)]
    found = {package: package_version(package) for package in packages}
    return {interpreter: version} | {package: version for package, version in found.items() if version is not None}


def _check_arguments(images: int, rounds: int, threads: Sequence[int]) -> None:
    if images < 1 or rounds < 1 or min(threads) < 1 or len(set(threads)) < len(threads):
        raise ConfigError(
            f"received {images} images, {rounds} rounds and {', '.join(map(str, threads))} threads; "
            "expected 1 or more of each, and different numbers of threads"
        )


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "python -m export.bench",
        "Compare a bundle's artifacts with those that other converters and runtimes make of its weights. Exit code: 0; "
        "1 if a peer whose packages are installed could not be made; 2 for bad input.",
        parents=[shared_options("--data-dir", "--json", json="print bench.json instead of the table")],
    )
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--bundle", type=Path, metavar="FOLDER", help="folder with artifacts, weights and calibration")
    network.add_argument("--preset", metavar="NAME", help="preset to measure untrained, calibrated on rendered shapes")
    parser.add_argument(
        "--images",
        "--pictures",
        type=int,
        metavar="N",
        help=f"class-balanced test images to classify (default: {DEFAULT_IMAGES}, for a preset {PRESET_IMAGES})",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help=f"timed runs of each row (default: {DEFAULT_ROUNDS}, for a preset {PRESET_ROUNDS})",
    )
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=DEFAULT_THREADS,
        metavar="N",
        help="CPU threads to time with (default: 1 2)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help=f"folder for the reports (default: {DEFAULT_OUT}/NAME)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
