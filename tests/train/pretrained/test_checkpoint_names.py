"""Names and shapes of published tensors, held to those of timm's own code and of its converter from the authors'."""

from __future__ import annotations

import json
import math

import keras
import numpy as np
import pytest

from tests.support.paths import ROOT
from tests.support.published_networks import NETWORKS, PLAIN, drawn_checkpoint
from tests.support.without_values import without_values
from train.model.config import FocalNetConfig
from train.model.focalnet import build_focalnet
from train.model.presets import PRESETS
from train.model.weights import model_weights
from train.pretrained.checkpoint_names import SPELLINGS, Spelling, as_variables, published_tensors

# Of timm 1.0.31: `FocalNet(...).state_dict()`, and what its `checkpoint_filter_fn` makes that of.
RECORDED = json.loads((ROOT / "tests/support/published_names.json").read_text())
PUBLISHED = [name for name in PRESETS if name.startswith("focalnet_")]


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if shape[2:] == (1, 1) else shape


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    "spelling", [each for each in SPELLINGS if each.name in RECORDED["plain"]], ids=lambda s: s.name
)
def test_names_and_shapes_are_those_of_the_published_code(spelling: Spelling, network: str) -> None:
    expected = {name: squeezed(tuple(shape)) for name, shape in RECORDED[network][spelling.name].items()}
    found = {name: each.shape for name, each in published_tensors(NETWORKS[network], spelling).items()}
    assert found == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_s_variables_are_all_made_of_a_checkpoint_s_tensors(name: str) -> None:
    config = PRESETS[name].model
    with without_values():
        variables = {key: tuple(v.shape) for key, v in model_weights(build_focalnet(config, keras)).items()}
    for spelling in SPELLINGS:
        published = published_tensors(config, spelling)
        made = [variable for each in published.values() for variable in each.variables]
        assert sorted(made) == sorted(variables)
        assert sum(math.prod(each.shape) for each in published.values()) == sum(map(math.prod, variables.values()))


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS.keys())
def test_every_value_of_a_checkpoint_is_in_one_variable(config: FocalNetConfig) -> None:
    with without_values():
        shapes = {key: tuple(v.shape) for key, v in model_weights(build_focalnet(config, keras)).items()}
    for spelling in SPELLINGS:
        published = published_tensors(config, spelling)
        for name, tensor in drawn_checkpoint(config, spelling).items():
            variables = as_variables(tensor, published[name])
            assert {key: value.shape for key, value in variables.items()} == {key: shapes[key] for key in variables}
            values = np.concatenate([value.ravel() for value in variables.values()])
            np.testing.assert_array_equal(np.sort(values), np.sort(tensor.ravel()))


def test_the_joint_projection_is_query_then_context_then_gates() -> None:
    (name,) = [
        each for each in published_tensors(PLAIN, SPELLINGS[0]) if each == "layers.0.blocks.0.modulation.f.weight"
    ]
    published = published_tensors(PLAIN, SPELLINGS[0])[name]
    tensor = np.arange(math.prod(published.shape), dtype=np.float32).reshape(published.shape)  # [2C + L + 1, C]
    variables = as_variables(tensor, published)
    np.testing.assert_array_equal(variables["stage0.block0.query/kernel"][0, 0], tensor[:8].T)
    np.testing.assert_array_equal(variables["stage0.block0.context/kernel"][0, 0], tensor[8:16].T)
    for level in range(3):
        np.testing.assert_array_equal(variables[f"stage0.block0.gate{level}/kernel"][0, 0, :, 0], tensor[16 + level])
