"""One image file through what each command reads images with: its pixels as the network gets them, or the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.representative_set import named_representative_set
from runtime.classify import Classifier
from runtime.core.errors import FocalEdgeError
from runtime.engines.outputs import Outputs
from runtime.evaluation.split_file import read_split, write_split
from runtime.images.input_spec import InputSpec
from runtime.images.preprocess import preprocess
from runtime.video.sources import open_source
from tests.support.image_files import encode, scene
from train.data.dataset import Dataset, labelled, resize_all
from train.data.registry import load_dataset

SIZE = 32
SPEC = InputSpec(SIZE)
Outcome = NDArray[np.uint8] | str  # uint8 [SIZE, SIZE, 3] RGB, or the reason

# The name says nothing about the format; all commands look at the content.
NAME = "file.png"


def lay_out(root: Path, content: bytes) -> Path:
    """Write a folder that can be trained on, with a file in its training split.

    Args:
        root: a new folder.
        content: of the file.

    Returns:
        The file, in the training split's class `a`.
    """
    for number, (split, count) in enumerate((("train", 4), ("val", 1), ("test", 1))):
        for label, class_name in enumerate("ab"):
            folder = root / split / class_name
            folder.mkdir(parents=True)
            for index in range(count):
                shade = np.roll(scene(SIZE, SIZE), 9 * number + 5 * label + index, axis=0)
                (folder / f"{index}.png").write_bytes(encode(255 - shade, "PNG"))
    path = root / "train" / "a" / NAME
    path.write_bytes(content)
    return path


def by_training(path: Path, stream: str = "false") -> Outcome:
    """Read the file as `train` does, into memory or from disk."""
    dataset, name = _load(path, stream)
    rows = [row for row, each in enumerate(dataset.train.ids) if each == name]
    image = dataset.train.images[rows]
    return _reason(dataset, name) or image[0]


def by_calibration(path: Path) -> Outcome:
    """Read the file as `calibrate` does: into a representative set."""
    dataset, name = _load(path)
    chosen = named_representative_set(dataset.train, [name])
    return _reason(dataset, name) if chosen is None else chosen.images[0]


def by_export(path: Path) -> Outcome:
    """Read the file as `export` does: into the images of quantization-aware training."""
    dataset, name = _load(path)
    images = dict(zip(dataset.train.ids, resize_all(dataset.train.images, SPEC), strict=True))
    return images[name] if name in images else _reason(dataset, name)


def by_comparison(path: Path) -> Outcome:
    """Read the file as `compare` does: from the split file that training wrote."""
    moved = path.rename(path.parents[2] / "test" / path.parent.name / path.name)
    dataset, name = _load(moved)
    write_split(moved.parents[2] / "test.npz", labelled(dataset, "test"))
    moved.rename(path)
    split = read_split(moved.parents[2] / "test.npz")
    return split.images[split.ids.index(name)] if name in split.ids else _reason(dataset, name)


def by_classify(path: Path, bundle: Path) -> Outcome:
    """Read the file as `classify` does: what reaches the engine."""
    classifier = Classifier(bundle)
    classifier.engine = _Recorder()  # type: ignore[assignment]
    try:
        classifier(path)
    except FocalEdgeError as error:
        return str(error).removeprefix(f"{path}: ")
    return classifier.engine.seen[0]  # type: ignore[attr-defined, no-any-return]


def by_demo(path: Path, whole_folder: bool = False) -> Outcome:
    """Read the file as the demo does, by itself or with its folder."""
    skipped: list[str] = []
    try:
        with open_source(str(path.parent if whole_folder else path), on_skip=skipped.append) as source:
            frames = {frame.name: frame.image_rgb for frame in source.frames}
    except FocalEdgeError as error:
        return str(error).removeprefix(f"{path}: ")
    for name in (path.name, f"{path.name}:0"):  # an animation by itself is a video
        if name in frames:
            return preprocess(frames[name], SPEC)[0]
    return next(line for line in skipped if str(path) in line).removeprefix(f"{path}: ")


COMMANDS: dict[str, Callable[[Path, Path], Outcome]] = {
    "train": lambda path, _: by_training(path),
    "train, streamed": lambda path, _: by_training(path, "true"),
    "calibrate": lambda path, _: by_calibration(path),
    "export": lambda path, _: by_export(path),
    "compare": lambda path, _: by_comparison(path),
    "classify": by_classify,
    "demo": lambda path, _: by_demo(path),
    "demo, folder": lambda path, _: by_demo(path, whole_folder=True),
}


class _Recorder:
    """An engine that keeps its inputs."""

    input_spec = SPEC

    def __init__(self) -> None:
        self.seen: list[NDArray[np.uint8]] = []

    def run(self, image: NDArray[np.uint8]) -> Outputs:
        self.seen.append(image[0])
        return Outputs(np.zeros(3, np.float32), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.float32))


def _load(path: Path, stream: str = "false") -> tuple[Dataset, str]:
    root = path.parents[2]
    return load_dataset("folder", data_dir=root, image_size=SIZE, stream=stream), path.relative_to(root).as_posix()


def _reason(dataset: Dataset, name: str) -> str:
    """Return why a file is left out, "" if it is not."""
    lines = [*dataset.skipped, *dataset.unreadable]
    return next((line.removeprefix(f"{name}: ") for line in lines if line.startswith(f"{name}: ")), "")
