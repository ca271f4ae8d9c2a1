"""Presets: found by name, and the seed preset as the tutorial has it."""

from __future__ import annotations

import pytest

from runtime.core.errors import ConfigError
from train.model.presets import PRESETS, find_preset


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        find_preset("edge-huge")
    assert "'edge-huge'" in str(caught.value)
    assert all(name in str(caught.value) for name in PRESETS)


def test_presets_are_found_by_name() -> None:
    assert {name: find_preset(name) for name in PRESETS} == PRESETS
    assert {"seed-cifar10", "edge-pico", "edge-nano", "edge-small", "focalnet_tiny_srf", "focalnet_tiny_lrf"} <= set(
        PRESETS
    )


def test_the_seed_preset_is_the_tutorial_s_recipe() -> None:
    preset = find_preset("seed-cifar10")
    model, recipe = preset.model, preset.train
    assert (model.input_size, model.patch_size, model.dims, model.depths) == (48, 4, (256, 512, 1024), (2, 3, 2))
    assert (model.focal_levels, model.focal_windows, model.focal_factor) == ((2, 2, 2), (3, 3, 3), 2)
    assert (model.mlp_ratio, model.drop_rate, model.norm_before_modulation) == (4.0, 0.1, False)
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.weight_decay) == (25, 1024, 1e-4, 1e-4)
    assert (recipe.warmup_fraction, recipe.warmup_learning_rate, recipe.resize_margin) == (0.15, 0.0, 4)
    # What the tutorial does not have.
    assert (recipe.clip_norm, recipe.label_smoothing, recipe.decay_kernels_only) == (0.0, 0.0, False)
