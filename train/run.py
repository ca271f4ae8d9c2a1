"""A run folder: file names, and the description that all stages read.

config.json             this description
checkpoint.safetensors  the training state after the last whole epoch
float.safetensors       the trained weights, norms folded
train.json              speed and accuracy of the training
history.csv curves.png confusion.png test_panel.png
monitor/                panels of the gates during training, and training.webp of them all
test.npz                the test split, or a sample of it, for the device
split.npz               of a folder of images: which file is in which split
import.json             of a published checkpoint: its origin
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.core.errors import ConfigError, TrainingError
from runtime.core.files import write_json
from runtime.core.schema import read_as
from runtime.core.text import check_labels
from train.model.config import FocalNetConfig
from train.model.fold_norms import folded
from train.model.recipe import TrainConfig, check_recipe, stored_image_size

SCHEMA_VERSION = 1
CONFIG_FILE = "config.json"
CHECKPOINT_FILE = "checkpoint.safetensors"
WEIGHTS_FILE = "float.safetensors"
SUMMARY_FILE = "train.json"
TEST_FILE = "test.npz"
SPLIT_FILE = "split.npz"


@dataclass(frozen=True, kw_only=True)
class WeightsId:
    """Identity of the weights that a run was initialised from.

    Attributes:
        preset: name of their preset.
        sha256: of their float.safetensors, hexadecimal.
    """

    preset: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """Description of a run.

    Attributes:
        preset: name of its preset.
        model: the network, with the dataset's number of classes.
        recipe: the training recipe.
        dataset: name of the dataset, as `train.data.registry.load_dataset` takes it.
        labels: class names by label.
        lengthened_after: the earlier lengths of a run that was made longer, in epochs; up to each of them the rate
            followed the cosine of that length.
        init: the weights that it was initialised from; `None` for random ones.
    """

    preset: str
    model: FocalNetConfig
    recipe: TrainConfig
    dataset: str
    labels: tuple[str, ...]
    lengthened_after: tuple[int, ...] = ()
    init: WeightsId | None = None

    def __post_init__(self) -> None:
        """Check the recipe against the network, and the labels.

        Raises:
            ConfigError: the recipe does not fit the network, or a label is not a class name.
        """
        check_recipe(self.model, self.recipe)
        check_labels(self.labels)

    @property
    def image_size(self) -> int:
        """Side of the stored training images, in pixels: the input's, with room for random crops."""
        return stored_image_size(self.model, self.recipe)

    @property
    def deployed(self) -> FocalNetConfig:
        """The network of the run's weights file: the trained one, its norms folded."""
        return folded(self.model)


def run_to_dict(run: Run) -> dict[str, Any]:
    """Return the JSON form of a run, without its schema version."""
    return dataclasses.asdict(run) | {"labels": list(run.labels), "lengthened_after": list(run.lengthened_after)}


def write_run(folder: Path, run: Run) -> None:
    """Write a run's description to its folder."""
    write_json(folder / CONFIG_FILE, {"schema_version": SCHEMA_VERSION} | run_to_dict(run))


def read_run(folder: Path) -> Run:
    """Read the description of a run folder or of a bundle.

    Raises:
        ArtifactError: it is missing, not JSON, not a run's description, or describes a network or recipe that
            cannot be built.
    """
    return read_as(Run, folder / CONFIG_FILE, "python -m train", version=SCHEMA_VERSION)


def resumed_run(found: Run, requested: Run, folder: Path) -> Run:
    """Check that a resumed run has its former settings. Only its epochs may grow.

    Args:
        found: the run in the folder.
        requested: the run to resume.
        folder: the run's.

    Returns:
        The requested run, with its earlier lengths.

    Raises:
        ConfigError: settings differ; the message lists them with both values.
    """
    before, now = _flat(run_to_dict(found)), _flat(run_to_dict(requested))
    now["lengthened_after"] = before["lengthened_after"]
    longer = requested.recipe.epochs > found.recipe.epochs
    changed = [
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in {**before, **now}
        if before.get(name) != now.get(name) and not (longer and name == "recipe.epochs")
    ]
    if changed:
        raise ConfigError(
            f"{folder} holds another run: {'; '.join(changed)}; resume it with its own settings (epochs may grow) or "
            "name another --run"
        )
    lengths = (*found.lengthened_after, found.recipe.epochs) if longer else found.lengthened_after
    return dataclasses.replace(requested, lengthened_after=lengths)


def begin_run(folder: Path, run: Run, resume: bool) -> None:
    """Write a run's description, after a check against the run that the folder holds.

    Args:
        folder: the run's, made if missing.
        run: the run to begin or resume.
        resume: continue from the folder's checkpoint, if it has one.

    Raises:
        TrainingError: the folder holds a run, and `resume` is false.
        ConfigError: the folder holds another run.
    """
    if (folder / CONFIG_FILE).exists() and (folder / CHECKPOINT_FILE).exists():
        if not resume:
            raise TrainingError(f"{folder} already holds a run; continue it with --resume, or name another --run")
        run = resumed_run(read_run(folder), run, folder)
    write_run(folder, run)


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested objects to dotted names."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat
