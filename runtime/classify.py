"""Classify images, from Python or from the command line.

from runtime.classify import Classifier

classifier = Classifier("models/edge-nano-cifar10")
for label, probability in classifier("dog.jpg").top(3):
    print(label, probability)
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The command multiplies no large matrices in NumPy; creating NumPy's thread pool would take a sixth of its start.
if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from runtime.bundle.manifest import read_manifest
from runtime.core.cli import BAR_DELAY_S, command_parser, run_cli, say, shared_options
from runtime.core.errors import ConfigError, DataError
from runtime.core.files import json_text
from runtime.core.text import LONGEST_SHOWN_LABEL, printable
from runtime.engines.engine import open_engine
from runtime.engines.options import engine_options
from runtime.evaluation.metrics import softmax
from runtime.images.decode import read_image
from runtime.images.listing import images_of
from runtime.images.preprocess import Image, preprocess
from runtime.video.opencv_log import silence_opencv


@dataclass(frozen=True)
class Classification:
    """The prediction and maps of one image.

    Attributes:
        labels: the K class names.
        probabilities: float64 `[K]`, 0..1, summing to 1, in the order of `labels`.
        gates: float32 `[h, w, L+1]`, linear and signed; the last map is the global gate.
        modulator: float32 `[h, w]`, L2 norm over the channels, >= 0.
    """

    labels: tuple[str, ...]
    probabilities: NDArray[np.float64]
    gates: NDArray[np.float32]
    modulator: NDArray[np.float32]

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Return the most likely classes and their probabilities (0..1), the most likely first.

        Args:
            count: how many classes, 1 or more.

        Raises:
            ConfigError: `count` is less than 1.
        """
        if count < 1:
            raise ConfigError(f"received a top of {count} classes; give 1 or more")
        # Stable: the lowest index wins a tie, as in all of this project.
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.labels[index], float(self.probabilities[index])) for index in order]


class Classifier:
    """An open bundle that classifies image files or arrays of any size."""

    def __init__(
        self, bundle: str | Path, *, precision: str = "int8", engine: str | None = None, threads: int = 1
    ) -> None:
        """Open one artifact of a bundle.

        Args:
            bundle: folder with manifest.json and artifacts.
            precision: `"int8"` or `"float32"`.
            engine: `"tflite"` or `"ort"`; by default the engine of the manifest's first artifact of the precision.
            threads: CPU threads, 1 or more.

        Raises:
            ConfigError: `threads` is less than 1.
            ArtifactError: the bundle is missing or damaged, or no interpreter for it is installed.
        """
        self.labels = read_manifest(Path(bundle)).labels
        self.engine = open_engine(Path(bundle), precision=precision, engine=engine, threads=threads)

    def __call__(self, source: str | Path | Image) -> Classification:
        """Classify one image: its centred square, or the part of it that the manifest specifies.

        Args:
            source: an image file (see `read_image`), or uint8 `[H, W, 3]` RGB.

        Raises:
            DataError: the file cannot be read, or the array has another dtype or shape.
            FocalEdgeError: the logits are not finite.
        """
        image = read_image(source) if isinstance(source, str | Path) else _checked(source)
        outputs = self.engine.run(preprocess(image, self.engine.input_spec))
        return Classification(self.labels, softmax(outputs.logits), outputs.gates, outputs.modulator)


def _checked(image: Image) -> Image:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        received = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(f"received an image of {received}; expected uint8 [H, W, 3] in RGB, or a path")
    if image.size == 0:
        raise DataError(f"received an image of shape {list(image.shape)}; expected 1 pixel or more")
    return image


def find_images(specs: Iterable[str], say: Callable[[str], None] = lambda line: None) -> Iterator[Path]:
    """List the images that a command line names.

    Args:
        specs: files, folders (searched through) and patterns such as `"shots/**/*.jpg"`.
        say: receives a line on what a folder holds besides images.

    Yields:
        Each file once for each spec that names it, the files of one spec sorted by path. A spec that names
        nothing is yielded unchanged; reading it gives the error.

    Raises:
        DataError: a pattern is not valid.
    """
    for spec in specs:
        listing = images_of(spec)
        if listing is None:
            yield Path(spec)
            continue
        if passed := listing.passed_over():
            say(f"{spec}: passed over {passed}")
        yield from listing.images


def classify_all(
    classifier: Classifier, paths: Sequence[Path], *, bar: bool
) -> Iterator[tuple[Path, Classification | DataError]]:
    """Classify files one by one; an unreadable file gives its error and does not stop the others.

    Args:
        classifier: the open bundle.
        paths: the files.
        bar: show a progress bar on stderr, if it takes longer than 5 seconds.

    Yields:
        Each path with its result, or with the error of an unreadable file.
    """
    for path in _with_bar(paths) if bar else paths:
        try:
            yield path, classifier(path)
        except DataError as error:
            yield path, error


def _with_bar(paths: Sequence[Path]) -> Iterable[Path]:
    # Imported here: the import takes a tenth of the time of one image.
    from tqdm import tqdm

    bar: Iterable[Path] = tqdm(paths, desc="classify", unit="image", disable=None, leave=False, delay=BAR_DELAY_S)
    return bar


def _as_json(path: Path, result: Classification, count: int) -> dict[str, Any]:
    top = [{"label": label, "probability": round(share, 6)} for label, share in result.top(count)]
    means = [round(float(mean), 6) for mean in result.gates.mean(axis=(0, 1))]
    return {"image": str(path), "top": top, "gate_means": means, "modulator_mean": float(result.modulator.mean())}


def _as_text(path: Path, result: Classification, count: int) -> str:
    width = min(LONGEST_SHOWN_LABEL, max(map(len, result.labels)))
    return "\n".join([printable(str(path)), *(f"  {label:{width}} {share:7.2%}" for label, share in result.top(count))])


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "python -m runtime.classify",
        "Classify images.",
        parents=[
            engine_options("--bundle", "--precision", "--engine", "--threads"),
            shared_options("--json", json="print the results as JSON"),
        ],
    )
    parser.epilog = "Exit code: 0 if at least one image was read, 2 if none was, or on bad input."
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="files, folders, or patterns in quotes, e.g. 'shots/**/*.jpg'")
    add("--top", type=int, default=5, metavar="N", help="number of classes to print, 1 or more")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`."""
    args = _parser().parse_args(argv)
    if args.top < 1:
        raise ConfigError(f"received --top {args.top}; give 1 or more")
    silence_opencv()
    classifier = Classifier(args.bundle, precision=args.precision, engine=args.engine, threads=args.threads)
    paths = list(find_images(args.images, lambda line: print(f"note: {line}", file=sys.stderr)))
    results: list[dict[str, Any]] = []
    unreadable: list[str] = []
    read = 0
    # On a terminal, the results themselves show the progress.
    bar = len(paths) > 1 and (args.json or not sys.stdout.isatty())
    for path, result in classify_all(classifier, paths, bar=bar):
        if isinstance(result, DataError):
            unreadable.append(str(path))
            say(f"warning: skipped: {result}", sys.stderr)
            continue
        read += 1
        if args.json:
            results.append(_as_json(path, result, args.top))
        else:
            # Flushed, because a pipe's reader may wait for it.
            print(_as_text(path, result, args.top), flush=True)
    if args.json:
        engine = classifier.engine
        run = {"engine": engine.name, "precision": engine.precision, "threads": engine.threads}
        print(json_text({**run, "images": results, "unreadable": unreadable}))
    if not read:
        raise DataError(f"none of {len(paths)} images could be read; give JPEG, PNG or WebP files, or folders of them")
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
