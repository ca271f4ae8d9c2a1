"""The network, recipe and weights that a run starts from: those of a preset, or of another run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.core.errors import ConfigError
from train.model.config import FocalNetConfig
from train.model.fold_norms import unfolded
from train.model.presets import DEFAULT_PRESET, PRESETS, find_preset
from train.model.recipe import TrainConfig, finetuning
from train.run import CHECKPOINT_FILE, CONFIG_FILE, Run, WeightsId, read_run

if TYPE_CHECKING:  # Keras is slow to import, and a preset needs none
    from train.pretrained.init_weights import PretrainedWeights


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """A network and recipe, before options and dataset change them.

    Attributes:
        preset: name of the preset.
        model: the network; the dataset sets its number of classes.
        recipe: the recipe.
        init: the weights that the run was or will be initialised from; `None` for random ones.
        pretrained: those weights, if --init names them.
    """

    preset: str
    model: FocalNetConfig
    recipe: TrainConfig
    init: WeightsId | None = None
    pretrained: PretrainedWeights | None = None


def find_starting_point(preset: str | None, init: Path | None, folder: Path, resume: bool) -> StartingPoint:
    """Find the starting point of a run.

    Args:
        preset: a preset's name, if given.
        init: run or bundle with the weights to start from, if given.
        folder: the run's.
        resume: continue the folder's run, which knows its own `init`.

    Returns:
        The starting point of the weights, if there are any; else of the preset; else of `edge-nano`.

    Raises:
        ConfigError: the preset is unknown or not that of the weights; the weights are in the run's own folder; or
            they are not named, and the run to resume has no checkpoint yet.
        ArtifactError: the weights cannot be used.
    """
    if init:
        if init.resolve() == folder.resolve():
            raise ConfigError(f"--init and --run are both {folder}; name another folder with --run")
        from train.pretrained.init_weights import read_pretrained

        pretrained = read_pretrained(init)
        run = pretrained.run
        start = StartingPoint(
            preset=run.preset,
            model=unfolded(run.model),
            recipe=_finetuning_recipe(run.preset),
            init=pretrained.id,
            pretrained=pretrained,
        )
    elif resume and (begun := _initialised_run(folder)):
        start = StartingPoint(
            preset=begun.preset, model=begun.model, recipe=_finetuning_recipe(begun.preset), init=begun.init
        )
    else:
        found = find_preset(preset or DEFAULT_PRESET)
        return StartingPoint(preset=preset or DEFAULT_PRESET, model=found.model, recipe=found.train)
    if preset not in (None, start.preset):
        raise ConfigError(
            f"received --preset {preset} for weights of {start.preset} in {init or folder}; the network is that of the "
            "weights: leave --preset out"
        )
    return start


def _finetuning_recipe(preset: str) -> TrainConfig:
    return finetuning(PRESETS[preset].train if preset in PRESETS else TrainConfig())


def _initialised_run(folder: Path) -> Run | None:
    """Return a folder's run, if it was initialised from weights."""
    if not (folder / CONFIG_FILE).exists():
        return None
    run = read_run(folder)
    if run.init is None:
        return None
    if not (folder / CHECKPOINT_FILE).exists():
        raise ConfigError(
            f"{folder} began from weights of {run.init.preset} (SHA-256 {run.init.sha256[:12]}) and was stopped in its "
            "first epoch; name the weights again with --init"
        )
    return run
