"""Training recipes: ranges, options, the table in the docs, and fitting a recipe to its data."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from runtime.core.errors import ConfigError
from runtime.images.input_spec import InputSpec
from train.model.config import FocalNetConfig
from train.model.presets import find_preset
from train.model.recipe import (
    TrainConfig,
    add_recipe_options,
    finetuning,
    image_spec,
    recipe_for,
    recipe_table,
    stored_image_size,
    with_recipe_options,
)

DOCS = Path(__file__).parents[3] / "docs" / "guides" / "train.md"
NOT_FINITE = (math.nan, math.inf, -math.inf)


def network(**changes: float | str) -> FocalNetConfig:
    return dataclasses.replace(find_preset("seed-cifar10").model, **changes)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", -1),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", -1e-3),
        ("warmup_learning_rate", -1e-3),
        ("warmup_learning_rate", math.nan),
        ("warmup_fraction", -0.1),
        ("warmup_fraction", 1.0),  # no step left for the cosine
        ("warmup_fraction", 1.5),
        ("warmup_fraction", math.nan),
        ("label_smoothing", -0.1),
        ("label_smoothing", 1.0),
        ("ema_momentum", -0.1),
        ("ema_momentum", 1.0),
        *((name, -1) for name in ("pad", "rand_augment_ops", "mixup_alpha", "cutmix_alpha")),
        *(
            (name, value)
            for name in ("rand_augment_magnitude", "erase_rate", "erase_area", "mix_rate")
            for value in (-0.1, 1.1, math.nan)
        ),
        ("seed", -1),
        ("seed", 2**32),
        *((name, -1) for name in ("resize_margin", "monitor_every", "weight_decay", "clip_norm")),
        *((name, value) for name in ("learning_rate", "weight_decay", "clip_norm") for value in NOT_FINITE),
    ],
)
def test_a_recipe_that_cannot_run_is_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"received .*{field}={value}"):
        TrainConfig(**{field: value})


@given(base=st.floats(1e-6, 1.0), warmup=st.floats(0.0, 1.0))
def test_a_base_rate_below_the_warm_up_rate_is_refused(base: float, warmup: float) -> None:
    assume(base < warmup)
    with pytest.raises(ConfigError, match="a base rate at or above the warm-up rate"):
        TrainConfig(learning_rate=base, warmup_learning_rate=warmup)


@given(steps=st.integers(1, 10**7), fraction=st.floats(0.0, 1.0, exclude_max=True))
def test_an_accepted_warm_up_leaves_steps_for_the_cosine(steps: int, fraction: float) -> None:
    assert int(steps * TrainConfig(warmup_fraction=fraction).warmup_fraction) < steps


def test_few_images_take_small_batches_at_a_rate_scaled_by_the_square_root() -> None:
    recipe = TrainConfig(batch_size=128, learning_rate=2e-3, warmup_learning_rate=4e-4)
    fitted = recipe_for(recipe, 4_000)
    assert (fitted.batch_size, fitted.learning_rate, fitted.warmup_learning_rate) == (32, 1e-3, 2e-4)
    assert dataclasses.replace(fitted, batch_size=128, learning_rate=2e-3, warmup_learning_rate=4e-4) == recipe


@pytest.mark.parametrize(("batch_size", "images"), [(128, 10_000), (1024, 40_000), (32, 50), (8, 50)])
def test_enough_images_or_small_batches_leave_a_recipe_alone(batch_size: int, images: int) -> None:
    recipe = TrainConfig(batch_size=batch_size)
    assert recipe_for(recipe, images) is recipe


def test_fine_tuning_halves_the_rates_and_nothing_else() -> None:
    recipe = TrainConfig(learning_rate=2e-3, warmup_learning_rate=4e-4, epochs=7, weight_decay=0.1)
    tuning = finetuning(recipe)
    assert (tuning.learning_rate, tuning.warmup_learning_rate) == (1e-3, 2e-4)
    assert dataclasses.replace(tuning, learning_rate=2e-3, warmup_learning_rate=4e-4) == recipe


def test_training_images_have_room_for_the_crop_and_for_what_is_mirrored() -> None:
    model = network(input_size=48)
    assert stored_image_size(model, TrainConfig(resize_margin=4, pad=51)) == 52
    seen = network(input_size=48, crop_fraction=0.875, interpolation="bicubic")
    assert image_spec(seen, TrainConfig(resize_margin=4)) == InputSpec(52, 1.0, "bicubic")
    with pytest.raises(ConfigError, match="received pad=52 for images of 52 pixels; expected less"):
        stored_image_size(model, TrainConfig(resize_margin=4, pad=52))


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_recipe_options(parser)
    return parser.parse_args(argv)


def test_options_change_the_fields_that_are_given() -> None:
    recipe = TrainConfig(epochs=7, pad=2)
    changed = with_recipe_options(recipe, parsed("--batch-size", "64", "--flip", "false", "--clip-norm", "0"))
    assert changed == dataclasses.replace(recipe, batch_size=64, flip=False, clip_norm=0.0)
    assert with_recipe_options(recipe, parsed()) == recipe


@pytest.mark.parametrize("field", dataclasses.fields(TrainConfig), ids=lambda field: field.name)
def test_every_field_is_an_option_with_type_range_and_default(field: dataclasses.Field[object]) -> None:
    parser = argparse.ArgumentParser()
    add_recipe_options(parser)
    (action,) = (each for each in parser._actions if each.dest == field.name)
    assert action.metavar
    assert str(field.metadata["within"] or "") in str(action.help)
    assert str(action.help).startswith(field.metadata["text"])
    assert str(action.help).endswith("(default: the preset's)")


def test_the_docs_have_the_table_of_the_recipe() -> None:
    text = DOCS.read_text()
    inserted = text.split("<!-- recipe: begin -->")[1].split("<!-- recipe: end -->")[0].strip()
    assert inserted == recipe_table(), "put the output of train.model.recipe.recipe_table() into docs/guides/train.md"
