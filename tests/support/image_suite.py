"""Read a folder of image files as training and as `classify` do, each in a child process, and compare.

python -m tests.support.image_suite FOLDER
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from tqdm import tqdm

from runtime.core.cli import command_parser, run_cli, say
from runtime.core.errors import DataError
from runtime.images.decode import read_content
from runtime.video.opencv_log import silence_opencv
from tests.support.image_paths import Outcome, by_classify, by_training, lay_out
from tests.support.tiny_bundle import TINY_MODEL, write_bundle

TIME_LIMIT_S = 120
VERDICTS = ("equal", "refused", "differs", "crashed")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`."""
    parser = command_parser(
        "python -m tests.support.image_suite",
        "Read every file of a folder as training and as classify do; exit code 1 if any crashes or differs.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of image files, searched through")
    folder = parser.parse_args(argv).folder
    paths = list(_files(folder))
    if not paths:
        raise DataError(f"{folder} has no files; give a folder of image files (make test-images IMAGES=folder)")
    silence_opencv()
    counts: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch) / "bundle"
        write_bundle(bundle, TINY_MODEL.read_bytes())
        for path in tqdm(paths, unit="file", disable=None):
            verdict, detail = judge(path, bundle)
            counts[verdict] += 1
            if verdict == "refused":
                # The reason alone: without what was expected.
                refusals[re.split(r"[(;:]", detail.removeprefix("refused: "))[0].strip()] += 1
            elif verdict != "equal":
                say(f"{verdict}: {path}: {detail}")
    for reason, count in refusals.most_common():
        say(f"{count:5} {reason}")
    say(f"{len(paths)} files: {', '.join(f'{counts[verdict]} {verdict}' for verdict in VERDICTS)}")
    return 1 if counts["crashed"] or counts["differs"] else 0


def judge(path: Path, bundle: Path) -> tuple[str, str]:
    """Read a file both ways in a child process.

    Args:
        path: the file.
        bundle: the bundle that classifies it.

    Returns:
        "equal", "refused" (both ways, for the same reason), "differs" or "crashed"; and what was seen.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _read_both_ways(path, bundle, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        answer = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status or not answer:
        return "crashed", f"signal {-status}" if status < 0 else f"exit code {status}"
    training, classify = json.loads(answer)
    if training != classify:
        return "differs", f"training {training}, classify {classify}"
    return ("refused" if training.startswith("refused") else "equal"), training


def _read_both_ways(path: Path, bundle: Path, writer: int) -> None:
    """In the child: write both outcomes as JSON, and end."""
    status = 1
    try:
        signal.alarm(TIME_LIMIT_S)
        # libjpeg, and a traceback, which is a crash.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with tempfile.TemporaryDirectory() as scratch:
            copy = lay_out(Path(scratch) / "data", _content(path))
            outcomes = [_words(by_training(copy)), _words(by_classify(copy, bundle))]
        os.write(writer, json.dumps(outcomes).encode())
        status = 0
    finally:
        os._exit(status)


def _content(path: Path) -> bytes:
    try:
        return read_content(path)
    except DataError:
        return b""


def _words(outcome: Outcome) -> str:
    if isinstance(outcome, str):
        return f"refused: {outcome}"
    return f"pixels {sha256(np.ascontiguousarray(outcome)).hexdigest()[:16]}"


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names))


if __name__ == "__main__":
    sys.exit(run_cli(main))
