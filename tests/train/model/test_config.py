"""Network configurations: impossible ones are refused by field, and JSON keeps the others."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.errors import ArtifactError, ConfigError
from runtime.core.schema import parse
from runtime.images.input_spec import InputSpec
from train.model.config import FocalNetConfig
from train.model.recipe import TrainConfig

NETWORK: dict[str, Any] = {
    "input_size": 48,
    "classes": 10,
    "patch_size": 4,
    "dims": (8, 16, 32),
    "depths": (1, 2, 1),
    "focal_levels": (2, 2, 1),
    "focal_windows": (3, 5, 3),
}
NOT_FINITE = (math.nan, math.inf, -math.inf)


def network(**changes: Any) -> FocalNetConfig:
    return FocalNetConfig(**(NETWORK | changes))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dims", ()),
        ("dims", (8, 16)),
        ("dims", (8, 16, 0)),
        ("dims", (8, 16, -32)),
        ("depths", (1, 2)),
        ("depths", (1, 0, 1)),
        ("focal_levels", (2, 2, 2, 2)),
        ("focal_levels", (2, 0, 2)),
        ("focal_windows", (3,)),
        ("focal_windows", (3, 4, 3)),
        ("focal_windows", (3, -1, 3)),
        ("focal_factor", 1),
        ("focal_factor", -2),
        ("classes", 1),
        ("input_size", 0),
        ("input_size", -48),
        ("input_size", 50),
        ("patch_size", 0),
        ("patch_size", -4),
        ("patch_size", 5),
        ("mlp_ratio", 0.0),
        ("mlp_ratio", -4.0),
        ("mlp_ratio", 0.1),
        ("crop_fraction", 0.0),
        ("crop_fraction", -0.5),
        ("crop_fraction", 1.5),
        *(("crop_fraction", value) for value in NOT_FINITE),
        ("interpolation", "nearest"),
        ("initializer", "he"),
        ("stem", "mlp"),
        ("norm", "group"),
        ("activation", "swish"),
        ("mean", (0.5, 0.5)),
        ("std", (1.0,)),
        ("std", (1.0, 0.0, 1.0)),
        ("std", (1.0, -1.0, 1.0)),
        *((name, value) for name in ("drop_rate", "drop_path_rate") for value in (-0.1, 1.0, math.nan)),
        *((f"{place}_norm_epsilon", value) for place in ("embed", "block") for value in (0.0, -1e-5)),
        *((name, v) for name in ("mlp_ratio", "embed_norm_epsilon", "block_norm_epsilon") for v in NOT_FINITE),
        *((name, (0.5, value, 0.5)) for name in ("mean", "std") for value in NOT_FINITE),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^received .*; expected ") as caught:
        network(**{field: value})
    assert field in str(caught.value)
    if isinstance(value, float | str):
        assert str(value) in str(caught.value)


@pytest.mark.parametrize(("patch", "width"), [(3, 9), (6, 12), (4, 6)])
def test_a_conv_stem_halves_the_grid_and_doubles_the_channels_or_is_refused(patch: int, width: int) -> None:
    with pytest.raises(ConfigError, match="power of 2 and divides the first stage's channels"):
        network(stem="conv", patch_size=patch, input_size=4 * patch, dims=(width, 16, 32))
    assert network(stem="conv", patch_size=4, dims=(8, 16, 32)).stem == "conv"


@given(patch=st.integers(1, 8), stages=st.integers(1, 4), size=st.integers(1, 256))
def test_the_input_size_is_divisible_by_the_last_stride_or_refused(patch: int, stages: int, size: int) -> None:
    fields = dict.fromkeys(("dims", "depths"), (8,) * stages) | {"focal_levels": (1,) * stages}
    fields |= {"focal_windows": (3,) * stages, "patch_size": patch, "input_size": size}
    # Each stage must halve a whole number of tokens.
    tokens = size / patch
    if all((tokens / 2**stage).is_integer() for stage in range(stages)):
        assert network(**fields).overlay_stride_px == patch * 2 ** ((stages - 1) // 2)
    else:
        with pytest.raises(ConfigError, match=f"divisible by {patch * 2 ** (stages - 1)}$"):
            network(**fields)


@given(window=st.integers(-3, 9), factor=st.integers(-3, 6), levels=st.integers(1, 4))
def test_every_kernel_of_an_accepted_network_is_odd(window: int, factor: int, levels: int) -> None:
    fields = {"focal_windows": (window, 3, 3), "focal_factor": factor, "focal_levels": (levels, 1, 1)}
    try:
        config = network(**fields)
    except ConfigError:
        assert window < 1 or window % 2 == 0 or factor < 0 or factor % 2 == 1
        return
    kernels = [config.kernel_size(0, level) for level in range(levels)]
    assert kernels == [window + factor * level for level in range(levels)]
    assert all(kernel >= 1 and kernel % 2 == 1 for kernel in kernels)


@pytest.mark.parametrize(
    ("depths", "layer", "stride_px"),
    [((2,), "stage0.block1", 4), ((2, 3), "stage0.block1", 4), ((2, 3, 2), "stage1.block2", 8)],
)
def test_the_overlay_shows_the_last_block_of_the_middle_stage(
    depths: tuple[int, ...], layer: str, stride_px: int
) -> None:
    stages = len(depths)
    config = network(
        depths=depths, **{name: NETWORK[name][:stages] for name in NETWORK if name[:5] in ("dims", "focal")}
    )
    assert (config.overlay_layer, config.overlay_stride_px) == (layer, stride_px)


@given(
    depths=st.lists(st.integers(1, 6), min_size=3, max_size=3).map(tuple),
    rate=st.floats(0.0, 0.9, allow_nan=False),
)
def test_stochastic_depth_rises_linearly_to_its_rate(depths: tuple[int, ...], rate: float) -> None:
    config = network(depths=depths, drop_path_rate=rate)
    rates = [config.drop_path(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    steps = [after - before for before, after in itertools.pairwise(rates)]
    assert rates[0] == 0.0
    assert rates[-1] == pytest.approx(rate)
    assert steps == pytest.approx([rate / len(steps)] * len(steps))


def test_a_single_block_is_never_dropped() -> None:
    fields = dict.fromkeys(("dims", "focal_levels"), (2,)) | {"depths": (1,), "focal_windows": (3,)}
    assert network(**fields, drop_path_rate=0.5).drop_path(0, 0) == 0.0


@pytest.mark.parametrize(("config", "field"), [(network(), "classes"), (TrainConfig(), "epochs")])
def test_a_configuration_is_frozen(config: Any, field: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, 7)


def as_json(config: FocalNetConfig) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return content


@given(
    drop=st.floats(0.0, 0.99),
    mean=st.tuples(*[st.floats(0.0, 1.0)] * 3),
    initializer=st.sampled_from(["glorot", "paper"]),
    interpolation=st.sampled_from(["area", "bicubic", "bilinear"]),
)
def test_any_network_survives_json(
    drop: float, mean: tuple[float, float, float], initializer: Any, interpolation: Any
) -> None:
    config = network(
        drop_rate=drop, mean=mean, initializer=initializer, norm_before_modulation=drop > 0.5,
        interpolation=interpolation, crop_fraction=0.875,
    )  # fmt: skip
    assert parse(FocalNetConfig, as_json(config)) == config
    assert config.input_spec == InputSpec(48, 0.875, interpolation)


def test_a_network_without_crop_fields_sees_the_whole_square() -> None:
    content = as_json(network())
    del content["crop_fraction"], content["interpolation"]
    config = parse(FocalNetConfig, content)
    assert (config.crop_fraction, config.interpolation) == (1.0, "area")


@pytest.mark.parametrize("field", ["input_size", "classes", "dims", "depths", "focal_levels", "focal_windows"])
def test_a_missing_field_is_refused_by_name(field: str) -> None:
    content = as_json(network())
    del content[field]
    with pytest.raises(ArtifactError, match=f"field `{field}` is missing"):
        parse(FocalNetConfig, content)


@pytest.mark.parametrize(
    ("field", "value"),
    [("classes", "10"), ("dims", 8), ("depths", None), ("input_size", "48"), ("crop_fraction", "1"), ("gate", 1)],
)
def test_a_field_of_another_type_or_an_unknown_one_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ArtifactError, match=f"field `{field}` is "):
        parse(FocalNetConfig, as_json(network()) | {field: value})
