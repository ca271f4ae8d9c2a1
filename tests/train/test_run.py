"""The description of a run: reading, writing and resuming."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from runtime.core.errors import ArtifactError, ConfigError
from tests.support.tiny_training import NETWORK, RECIPE, RUN
from train.model.presets import PRESETS
from train.run import CHECKPOINT_FILE, CONFIG_FILE, Run, begin_run, read_run, resumed_run, write_run


@pytest.mark.parametrize("name", PRESETS)
def test_a_run_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    preset = PRESETS[name]
    run = Run(preset=name, model=preset.model, recipe=preset.train, dataset="cifar10", labels=("cat", "dög"))
    write_run(tmp_path, run)
    assert read_run(tmp_path) == run


def changed(folder: Path, **changes: Any) -> Path:
    """Write the run's description with fields replaced, or removed by `None`."""
    write_run(folder, RUN)
    content = json.loads((folder / CONFIG_FILE).read_text()) | changes
    (folder / CONFIG_FILE).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return folder


def test_a_missing_description_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"config\.json does not exist; make it with `python -m train`"):
        read_run(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", "{}"])
def test_malformed_content_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(content)
    with pytest.raises(ArtifactError, match=r"config\.json"):
        read_run(tmp_path)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_schema_version_is_refused(tmp_path: Path, version: Any) -> None:
    with pytest.raises(ArtifactError, match=rf"(schema version {version} is|schema_version` is {version!r})"):
        read_run(changed(tmp_path, schema_version=version))


@pytest.mark.parametrize("field", ["preset", "model", "recipe", "dataset", "labels"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    with pytest.raises(ArtifactError, match=f"field `{field}` is missing; rebuild it with `python -m train`"):
        read_run(changed(tmp_path, **{field: None}))


def test_an_unknown_field_of_the_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="momentum"):
        read_run(changed(tmp_path, recipe=dataclasses.asdict(RECIPE) | {"momentum": 0.9}))


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("model", dataclasses.asdict(NETWORK) | {"classes": 1}),
        ("recipe", dataclasses.asdict(RECIPE) | {"epochs": 0}),
    ],
)
def test_a_description_that_cannot_be_built_is_refused(tmp_path: Path, part: str, content: Any) -> None:
    with pytest.raises(ArtifactError, match=rf"field `{part}`: received (classes=1|epochs=0)"):
        read_run(changed(tmp_path, **{part: content}))


def test_the_same_run_may_be_resumed(tmp_path: Path) -> None:
    write_run(tmp_path, RUN)
    assert resumed_run(read_run(tmp_path), RUN, tmp_path) == RUN
    with pytest.raises(ConfigError):
        resumed_run(read_run(tmp_path), dataclasses.replace(RUN, preset="other"), tmp_path)


def test_every_difference_is_listed_with_both_values(tmp_path: Path) -> None:
    requested = dataclasses.replace(
        RUN,
        model=dataclasses.replace(NETWORK, dims=(16,)),
        recipe=dataclasses.replace(RECIPE, learning_rate=0.5, seed=9),
        labels=("red", "green", "black"),
    )
    with pytest.raises(ConfigError) as caught:
        resumed_run(RUN, requested, tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    for part in ("model.dims was [8], is [16]", "recipe.learning_rate was 0.02, is 0.5", "recipe.seed was 5, is 9"):
        assert part in message
    assert "labels was ['red', 'green', 'blue'], is ['red', 'green', 'black']" in message
    # And nothing else.
    assert message.count(" was ") == 4


def planned(epochs: int) -> Run:
    return dataclasses.replace(RUN, recipe=dataclasses.replace(RECIPE, epochs=epochs))


def test_a_longer_run_keeps_its_earlier_lengths(tmp_path: Path) -> None:
    begin_run(tmp_path, planned(4), resume=False)
    (tmp_path / CHECKPOINT_FILE).touch()
    for epochs in (6, 6, 9):
        begin_run(tmp_path, planned(epochs), resume=True)
    found = read_run(tmp_path)
    assert (found.recipe.epochs, found.lengthened_after) == (9, (4, 6))


def test_a_run_is_not_made_shorter(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe.epochs was 4, is 3; .*epochs may grow"):
        resumed_run(planned(4), planned(3), tmp_path)
