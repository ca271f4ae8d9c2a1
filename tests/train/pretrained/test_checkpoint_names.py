"""Names and shapes of checkpoint tensors, against timm's code and its converter from the original naming."""

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
from train.pretrained.checkpoint_names import NAMINGS, Naming, checkpoint_tensors, to_variables

# Of timm 1.0.31: `FocalNet(...).state_dict()`, and the input of its `checkpoint_filter_fn`.
RECORDED = json.loads((ROOT / "tests/support/published_names.json").read_text())
PUBLISHED = [name for name in PRESETS if name.startswith("focalnet_")]


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if shape[2:] == (1, 1) else shape


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("naming", [each for each in NAMINGS if each.name in RECORDED["plain"]], ids=lambda s: s.name)
def test_names_and_shapes_are_those_of_the_published_code(naming: Naming, network: str) -> None:
    expected = {name: squeezed(tuple(shape)) for name, shape in RECORDED[network][naming.name].items()}
    found = {name: each.shape for name, each in checkpoint_tensors(NETWORKS[network], naming).items()}
    assert found == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_checkpoint_has_all_variables_of_a_preset(name: str) -> None:
    config = PRESETS[name].model
    with without_values():
        variables = {key: tuple(v.shape) for key, v in model_weights(build_focalnet(config, keras)).items()}
    for naming in NAMINGS:
        published = checkpoint_tensors(config, naming)
        made = [variable for each in published.values() for variable in each.variables]
        assert sorted(made) == sorted(variables)
        assert sum(math.prod(each.shape) for each in published.values()) == sum(map(math.prod, variables.values()))


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS.keys())
def test_every_value_of_a_checkpoint_is_in_one_variable(config: FocalNetConfig) -> None:
    with without_values():
        shapes = {key: tuple(v.shape) for key, v in model_weights(build_focalnet(config, keras)).items()}
    for naming in NAMINGS:
        published = checkpoint_tensors(config, naming)
        for name, tensor in drawn_checkpoint(config, naming).items():
            variables = to_variables(tensor, published[name])
            assert {key: value.shape for key, value in variables.items()} == {key: shapes[key] for key in variables}
            values = np.concatenate([value.ravel() for value in variables.values()])
            np.testing.assert_array_equal(np.sort(values), np.sort(tensor.ravel()))


def test_the_joint_projection_is_query_then_context_then_gates() -> None:
    (name,) = [
        each for each in checkpoint_tensors(PLAIN, NAMINGS[0]) if each == "layers.0.blocks.0.modulation.f.weight"
    ]
    published = checkpoint_tensors(PLAIN, NAMINGS[0])[name]
    tensor = np.arange(math.prod(published.shape), dtype=np.float32).reshape(published.shape)  # [2C + L + 1, C]
    variables = to_variables(tensor, published)
    np.testing.assert_array_equal(variables["stage0.block0.query/kernel"][0, 0], tensor[:8].T)
    np.testing.assert_array_equal(variables["stage0.block0.context/kernel"][0, 0], tensor[8:16].T)
    for level in range(3):
        np.testing.assert_array_equal(variables[f"stage0.block0.gate{level}/kernel"][0, 0, :, 0], tensor[16 + level])
