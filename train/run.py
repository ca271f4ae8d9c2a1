"""A run folder: what each stage finds there, and the description that ties its files together.

config.json             this description
checkpoint.safetensors  everything needed to go on after the last whole epoch
float.safetensors       the trained weights
history.csv curves.png confusion.png test_panel.png
monitor/                panels of the gates while they were learnt, and training.webp of them all
test.npz                the test split, or a sample of one on disk, for the device side
import.json             of a published checkpoint: what became of it
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.core.errors import ArtifactError, ConfigError, TrainingError
from runtime.core.files import read_json, write_json
from train.loop.checkpoint import CHECKPOINT_FILE
from train.model.config import FocalNetConfig, config_from_dict
from train.model.fold_norms import folded
from train.model.recipe import TrainConfig, check_recipe, stored_image_size

SCHEMA_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "float.safetensors"
TEST_FILE = "test.npz"


@dataclass(frozen=True, kw_only=True)
class Init:
    """The weights that a run started from.

    Attributes:
        preset: name of the preset that they are of.
        sha256: of their float.safetensors, hexadecimal.
    """

    preset: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run trains, on what and how.

    Attributes:
        preset: name of the preset that it started from.
        model: the network, with the data set's number of classes.
        recipe: the training recipe.
        dataset: name of the data set, as `train.data.registry.load_dataset` takes it.
        labels: class names; the index is the label.
        lengthened_after: epochs that it was planned for before, if it was made longer: up to each of them its rate
            followed the cosine of that length.
        init: the weights that it started from; `None` for drawn ones.
    """

    preset: str
    model: FocalNetConfig
    recipe: TrainConfig
    dataset: str
    labels: tuple[str, ...]
    lengthened_after: tuple[int, ...] = ()
    init: Init | None = None

    def __post_init__(self) -> None:
        """Hold the recipe to the network.

        Raises:
            ConfigError: they do not go together.
        """
        check_recipe(self.model, self.recipe)

    @property
    def image_size(self) -> int:
        """Side that a folder's images are loaded at, in pixels: the input's, with room for random crops."""
        return stored_image_size(self.model, self.recipe)

    @property
    def deployed(self) -> FocalNetConfig:
        """The network that the run's weights file holds: the trained one, its norms folded."""
        return folded(self.model)


def run_to_dict(run: Run) -> dict[str, Any]:
    """Return a run's JSON form."""
    content = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(run)}
    content["labels"] = list(run.labels)
    content["lengthened_after"] = list(run.lengthened_after)
    return content


def write_run(folder: Path, run: Run) -> None:
    """Write a run's description to its folder."""
    write_json(folder / CONFIG_FILE, run_to_dict(run))


def read_run(folder: Path) -> Run:
    """Read the description of a run folder or of a bundle made from one.

    Raises:
        ArtifactError: it is missing, not JSON, or not a run's description.
        ConfigError: it describes a network or recipe that cannot be built.
    """
    path = folder / CONFIG_FILE
    content = read_json(path, made_by="python -m train")
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        version = content.get("schema_version") if isinstance(content, dict) else None
        raise ArtifactError(f"{path} has schema version {version}; expected {SCHEMA_VERSION}; train the run anew")
    try:
        return Run(
            preset=str(content["preset"]),
            model=config_from_dict(content["model"]),
            recipe=TrainConfig(**content["recipe"]),
            dataset=str(content["dataset"]),
            labels=tuple(content["labels"]),
            lengthened_after=tuple(content.get("lengthened_after", ())),
            init=Init(**content["init"]) if content.get("init") else None,
        )
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is no complete run description ({error}); train the run anew") from error


def resumed_run(found: Run, asked: Run, folder: Path) -> Run:
    """Hold a run that is resumed to what it was begun as; it may be made longer, and keeps what it was planned for.

    Returns:
        The run as it goes on.

    Raises:
        ConfigError: listing each field that differs, with both values.
    """
    before, now = _flat(run_to_dict(found)), _flat(run_to_dict(asked))
    now["lengthened_after"] = before["lengthened_after"]
    longer = asked.recipe.epochs > found.recipe.epochs
    changed = [
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in {**before, **now}
        if before.get(name) != now.get(name) and not (longer and name == "recipe.epochs")
    ]
    if changed:
        raise ConfigError(
            f"{folder} holds another run: {'; '.join(changed)}; resume it with its own settings (more epochs it may "
            "get) or name another --run"
        )
    ends = (*found.lengthened_after, found.recipe.epochs) if longer else found.lengthened_after
    return dataclasses.replace(asked, lengthened_after=ends)


def begin_run(folder: Path, run: Run, resume: bool) -> None:
    """Write the description of a run that begins, or hold one that goes on from a checkpoint to its own.

    Args:
        folder: the run's, made if missing.
        run: what is asked for.
        resume: go on with what is there.

    Raises:
        TrainingError: the folder holds a run, and `resume` is not asked for.
        ConfigError: the folder's run is another one.
    """
    if (folder / CONFIG_FILE).exists() and (folder / CHECKPOINT_FILE).exists():
        if not resume:
            raise TrainingError(
                f"{folder} already holds a run; go on with it by --resume, or name another folder with --run"
            )
        run = resumed_run(read_run(folder), run, folder)
    write_run(folder, run)


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat
