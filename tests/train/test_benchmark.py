"""The training benchmark: two constructions of one network, measured in turns."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from functools import partial
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from runtime.core.cli import run_cli
from runtime.core.errors import ConfigError, FocalEdgeError
from tests.support.tiny_run import draw_weights
from train.benchmark import (
    DEFAULT_DIMS,
    OURS,
    TARGET_SPEEDUP,
    TUTORIAL,
    Comparison,
    Speed,
    compare,
    main,
    random_split,
    speed,
)
from train.data.dataset import Split
from train.model.config import FocalNetConfig
from train.model.cost import Cost, model_cost
from train.model.focalnet import build_focalnet
from train.model.presets import PRESETS
from train.model.weights import assign_weights, model_weights
from train.studies.keras_tutorial import build_tutorial, tutorial_batches

SEED = PRESETS["seed-cifar10"]
TINY = dataclasses.replace(
    SEED.model,
    input_size=16,
    classes=3,
    dims=(6, 10),
    depths=(1, 2),
    focal_levels=(2, 1),
    focal_windows=(3, 5),
    drop_path_rate=0.2,
)
RECIPE = dataclasses.replace(SEED.train, batch_size=8)


def as_the_tutorial(weights: dict[str, np.ndarray], config: FocalNetConfig) -> dict[str, np.ndarray]:
    """Convert weights of `build_focalnet` to the tutorial's layers."""
    found = dict(weights)
    for stage, depth in enumerate(config.depths):
        levels = config.focal_levels[stage]
        for block in (f"stage{stage}.block{index}" for index in range(depth)):
            parts = [f"{block}.query", f"{block}.context", *(f"{block}.gate{level}" for level in range(levels + 1))]
            for variable in ("kernel", "bias"):
                found[f"{block}.joint/{variable}"] = np.concatenate(
                    [found.pop(f"{part}/{variable}") for part in parts], axis=-1
                )
            for level in range(levels):  # [k, k, C, 1] to [k, k, 1, C]
                found[f"{block}.focal{level}/kernel"] = found[f"{block}.focal{level}/kernel"].swapaxes(2, 3)
    for name in found:
        if name.endswith((".joint/kernel", ".proj/kernel", ".expand/kernel", ".contract/kernel", "logits/kernel")):
            found[name] = found[name][0, 0] if "embed" not in name else found[name]
    return found


@pytest.fixture(scope="module")
def both() -> tuple[Any, Any]:
    """The network in both constructions, with the same random weights."""
    ours, tutorial = build_focalnet(TINY, keras), build_tutorial(TINY)
    drawn = draw_weights({name: tuple(v.shape) for name, v in model_weights(ours).items()}, seed=0)
    assign_weights(model_weights(ours), drawn, "drawn")
    # `.proj` is a Dense after a modulation, and a convolution in an embedding.
    assign_weights(model_weights(tutorial), as_the_tutorial(drawn, TINY), "drawn")
    return ours, tutorial


def test_both_constructions_cost_the_same(both: tuple[Any, Any]) -> None:
    ours, tutorial = both
    assert model_cost(ours) == model_cost(tutorial)
    assert len(ours.trainable_weights) > len(tutorial.trainable_weights)  # one projection in place of several


def test_both_constructions_cost_the_same_at_the_size_that_is_measured() -> None:
    config = dataclasses.replace(SEED.model, dims=DEFAULT_DIMS)
    assert model_cost(build_tutorial(config)) == model_cost(build_focalnet(config, keras))


def test_both_constructions_give_the_same_logits(both: tuple[Any, Any]) -> None:
    ours, tutorial = both
    shape = (4, TINY.input_size, TINY.input_size, 3)
    images = np.random.default_rng(1).integers(0, 256, shape).astype(np.float32)
    logits = keras.Model(tutorial.input, tutorial.get_layer("logits").output)
    expected = np.asarray(logits(images / 255.0, training=False))
    assert expected.std() > 0.05
    found = np.asarray(ours(images, training=False))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    odds = np.exp(found) / np.exp(found).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(tutorial(images / 255.0, training=False), odds, rtol=0, atol=1e-4)


def test_the_tutorial_is_built_as_it_was_written(both: tuple[Any, Any]) -> None:
    layers = both[1].operations
    kinds = [type(layer).__name__ for layer in layers]
    blocks, levels = sum(TINY.depths), 2 * 1 + 1 * 2
    assert "DepthwiseConv2D" not in kinds
    assert kinds.count("ZeroPadding2D") == sum(getattr(layer, "groups", 1) > 1 for layer in layers) == levels
    assert kinds.count("Split") == blocks
    # Around every block, after both embeddings, and before the second.
    assert kinds.count("Reshape") == 2 * blocks + 2 + 1
    assert kinds.count("LayerNormalization") == blocks + 2


@pytest.mark.parametrize(
    ("change", "named"),
    [({"norm_before_modulation": True}, "norm_before_modulation=True"), ({"activation": "relu"}, "activation='relu'")],
)
def test_a_network_that_the_tutorial_cannot_build_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        build_tutorial(dataclasses.replace(TINY, **change))


def test_the_tutorial_s_pipeline_crops_the_images_it_resized() -> None:
    images = np.repeat(np.arange(0, 250, 25, dtype=np.uint8), 32 * 32 * 3).reshape(10, 32, 32, 3)
    split = Split(images, np.arange(10, dtype=np.int64), tuple("abcdefghij"))
    resized, labels = next(iter(tutorial_batches(split, 48, RECIPE)))
    assert resized.shape == (8, 48, 48, 3)
    assert resized.dtype == "float32"
    assert labels.dtype == "int64"
    # A plain image stays plain, in 0..1, with its label.
    np.testing.assert_allclose(resized, np.ones((1, 48, 48, 3)) * labels[:, None, None, None] * 25 / 255, atol=1e-5)


def test_the_tutorial_s_pipeline_draws_each_image_s_place_and_mirrors_half() -> None:
    ramp = np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8)[None, :, None], (32, 32, 3))
    split = Split(np.stack([ramp] * 64), np.zeros(64, np.int64), tuple(map(str, range(64))))
    recipe = dataclasses.replace(RECIPE, batch_size=64)
    rows = np.asarray(next(iter(tutorial_batches(split, 24, dataclasses.replace(recipe, resize_margin=8))))[0])[
        :, 0, :, 0
    ]
    mirrored = rows[:, 0] > rows[:, -1]
    assert 16 < mirrored.sum() < 48
    upright = rows[~mirrored]
    starts = np.unique(upright[:, 0].round(4))
    assert 3 < len(starts) <= 9
    np.testing.assert_allclose(np.diff(upright), 8 / 255, atol=1e-5)


def test_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ConfigError, match=r"'jax'.*KERAS_BACKEND=tensorflow"):
        compare(TINY, RECIPE, rounds=1, steps=1)


def test_speed_is_that_of_the_median_step() -> None:
    found = speed("x", [40.0, 10.0, 20.0, 30.0, 50.0], batch_size=60, macs=1_000_000, peak_flops_per_s=48e9)
    assert found.images_per_s == pytest.approx(2000)
    assert (found.step_time_p50_ms, found.step_time_p90_ms) == (30.0, pytest.approx(46.0))
    assert found.fraction_of_peak == pytest.approx(2000 * 6e6 / 48e9)


@pytest.mark.parametrize("times_ms", [[], [0.0, 0.0], [math.nan]])
def test_steps_that_took_no_time_have_no_speed(times_ms: list[float]) -> None:
    with pytest.raises(FocalEdgeError):
        speed("x", times_ms, 1, 1, 1.0)


def test_random_images_are_of_cifar10_s_size_and_always_the_same() -> None:
    first, again = random_split(20, 3), random_split(20, 3)
    assert first.images.shape == (20, 32, 32, 3)
    assert first.images.dtype == np.uint8
    assert set(first.labels.tolist()) == {0, 1, 2}
    assert np.array_equal(first.images, again.images)


@pytest.mark.slow
def test_both_constructions_train() -> None:
    one_stage = dataclasses.replace(TINY, dims=(6,), depths=(1,), focal_levels=(1,), focal_windows=(3,))
    result = compare(one_stage, RECIPE, rounds=2, steps=1, images=16, peak_flops_per_s=1e12)
    assert [each.construction for each in result.speeds] == [OURS, TUTORIAL]
    assert all(each.images_per_s > 0 for each in result.speeds)
    assert result.speedup == pytest.approx(result.speeds[0].images_per_s / result.speeds[1].images_per_s)
    assert (result.backend, result.rounds, result.steps, result.batch_size) == ("tensorflow", 2, 1, 8)
    if result.device == "cpu":
        assert result.xla is False


class Compared:
    """A measurement with fixed results, which keeps its arguments."""

    def __init__(self) -> None:
        self.arguments: list[Any] = []

    def __call__(self, config: FocalNetConfig, recipe: Any, rounds: int, steps: int) -> Comparison:
        self.arguments.append((config.dims, recipe.batch_size, rounds, steps))
        return Comparison(
            backend="tensorflow",
            device="cpu",
            xla=False,
            network=config,
            batch_size=recipe.batch_size,
            rounds=rounds,
            steps=steps,
            cost=Cost(macs=12_340_000, parameters=1_234_567),
            peak_flops_per_s=150e9,
            speeds=(Speed(OURS, 400.0, 80.0, 90.0, 0.25), Speed(TUTORIAL, 200.0, 160.0, 170.0, 0.125)),
            speedup=2.0,
        )


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    compared = Compared()
    assert main([], compare=compared) == 0
    assert compared.arguments == [((48, 96, 192), 128, 5, 2)]
    text = capsys.readouterr().out
    assert [OURS, "400.0", "80.0", "90.0", "25.0%"] in [line.split() for line in text.splitlines()]
    assert [TUTORIAL, "200.0", "160.0", "170.0", "12.5%"] in [line.split() for line in text.splitlines()]
    for part in ("neither compiled by XLA", "12.3 M", "1,234,567", "random images", "150 GFLOP/s"):
        assert part in text
    assert "2.00 times" in text.splitlines()[-1]
    assert text.splitlines()[-1].endswith(f"at least {TARGET_SPEEDUP}")


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    compared = Compared()
    argv = ["--json", "--dims", "8", "16", "32", "--batch-size", "4", "--rounds", "3", "--steps", "2"]
    assert main(argv, compare=compared) == 0
    assert compared.arguments == [((8, 16, 32), 4, 3, 2)]
    figures = json.loads(capsys.readouterr().out)
    assert figures["speeds"][1] == {
        "construction": TUTORIAL,
        "images_per_s": 200.0,
        "step_time_p50_ms": 160.0,
        "step_time_p90_ms": 170.0,
        "fraction_of_peak": 0.125,
    }
    assert (figures["speedup"], figures["target_speedup"], figures["xla"]) == (2.0, TARGET_SPEEDUP, False)
    assert figures["network"]["dims"] == [8, 16, 32]
    assert figures["data"] == "random uint8 images"


@pytest.mark.parametrize("wrong", [["--dims", "8", "16"], ["--batch-size", "0"]])
def test_the_command_refuses_an_impossible_network_or_recipe(
    capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    compared = Compared()
    assert run_cli(partial(main, compare=compared), wrong) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.out == ""
    assert compared.arguments == []
