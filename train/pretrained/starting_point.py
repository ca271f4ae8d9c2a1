"""What options and data set make a run of: a preset, or the network and weights of another run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.core.errors import ConfigError
from train.loop.checkpoint import CHECKPOINT_FILE
from train.model.config import FocalNetConfig
from train.model.presets import PRESETS, find_preset
from train.model.recipe import TrainConfig, finetuning
from train.run import CONFIG_FILE, Init, Run, read_run

if TYPE_CHECKING:  # a run from a preset need not wait for Keras to see its options refused
    from train.pretrained.init_weights import Source

DEFAULT_PRESET = "edge-nano"


@dataclass(frozen=True, kw_only=True)
class Basis:
    """A network and a recipe, before the data set has its say.

    Attributes:
        preset: its name.
        model: the network, with a number of classes that is not the run's yet.
        recipe: the recipe that options change.
        init: the weights that the run starts, or started, from; `None` for drawn ones.
        source: those weights, if they were named.
    """

    preset: str
    model: FocalNetConfig
    recipe: TrainConfig
    init: Init | None = None
    source: Source | None = None


def basis_of(preset: str | None, init: Path | None, folder: Path, resume: bool) -> Basis:
    """Find what a run is made from.

    Args:
        preset: a preset's name, if given.
        init: folder of the weights to start from, if given; a run that goes on knows its own.
        folder: the run's.
        resume: go on with what the folder holds.

    Returns:
        The basis: that of the weights, if there are any, else the preset, else `edge-nano`.

    Raises:
        ConfigError: there is no such preset, or it is not that of the weights; or they are in the run's own folder;
            or the run to go on with began from weights, has no checkpoint yet, and they were not named.
        ArtifactError: the weights cannot be started from.
    """
    if init:
        if init.resolve() == folder.resolve():
            raise ConfigError(f"--init and --run are both {folder}; name another folder with --run")
        # Imports Keras.
        from train.pretrained.init_weights import read_source, trainable

        source = read_source(init)
        basis = Basis(
            preset=source.run.preset,
            model=trainable(source.run.model),
            recipe=_recipe_of(source.run.preset),
            init=source.init,
            source=source,
        )
    elif resume and (begun := _begun_from_weights(folder)):
        basis = Basis(preset=begun.preset, model=begun.model, recipe=_recipe_of(begun.preset), init=begun.init)
    else:
        found = find_preset(preset or DEFAULT_PRESET)
        return Basis(preset=preset or DEFAULT_PRESET, model=found.model, recipe=found.train)
    if preset not in (None, basis.preset):
        raise ConfigError(
            f"received --preset {preset} for weights of {basis.preset} in {init or folder}; the network is that of the "
            "weights: leave --preset out"
        )
    return basis


def _recipe_of(preset: str) -> TrainConfig:
    return finetuning(PRESETS[preset].train if preset in PRESETS else TrainConfig())


def _begun_from_weights(folder: Path) -> Run | None:
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
