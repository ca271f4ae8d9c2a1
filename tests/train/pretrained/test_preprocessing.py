"""Preprocessing beside a checkpoint: the run's network sees the images that the file asks for, or it is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from runtime.core.cli import run_cli
from runtime.core.errors import ArtifactError
from runtime.images.input_spec import InputSpec
from tests.support.published_networks import PLAIN, drawn_checkpoint
from train.import_pretrained import main
from train.model import presets
from train.model.config import FocalNetConfig
from train.model.presets import Preset
from train.pretrained.checkpoint_names import NAMINGS
from train.pretrained.preprocessing import read_preprocessing
from train.run import read_run

ORIGINAL, TRANSFORMERS, TIMM = NAMINGS
PRESET = dataclasses.replace(PLAIN, crop_fraction=0.875, interpolation="bicubic")
HALF = [0.5, 0.5, 0.5]
BIT = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 73},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 64, "width": 64},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": HALF,
    "image_std": [0.25, 0.5, 0.75],
    "do_convert_rgb": True,
}
TIMM_CFG = {"input_size": [3, 64, 64], "crop_pct": 0.9, "interpolation": "bicubic", "mean": HALF, "std": HALF}


def transformers(folder: Path, settings: Any) -> FocalNetConfig:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return read_preprocessing(folder, PRESET).apply(PRESET)


def timm(folder: Path, settings: Any, **others: Any) -> FocalNetConfig:
    described = {"architecture": "focalnet_tiny_srf", "pretrained_cfg": settings} | others
    (folder / "config.json").write_text(json.dumps(described))
    return read_preprocessing(folder, PRESET).apply(PRESET)


def test_without_a_file_the_preset_s_values_count(tmp_path: Path) -> None:
    assert read_preprocessing(tmp_path, PRESET).apply(PRESET) == PRESET
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "focalnet", "depths": [1, 2]}))
    assert read_preprocessing(tmp_path, PRESET).apply(PRESET) == PRESET


def test_transformers_settings_are_the_network_s(tmp_path: Path) -> None:
    config = transformers(tmp_path, BIT)
    assert (config.mean, config.std) == ((0.5, 0.5, 0.5), (0.25, 0.5, 0.75))
    assert (config.input_size, config.interpolation) == (64, "bicubic")
    assert config.input_spec.resized_short_side == 73


@pytest.mark.parametrize("size", range(32, 513, 32))
def test_the_short_side_is_exactly_the_file_s(size: int, tmp_path: Path) -> None:
    for edge in range(size, size + 90, 7):
        spec = transformers(tmp_path, {"crop_size": size, "size": edge}).input_spec
        assert (spec.size, spec.resized_short_side) == (size, edge)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"do_normalize": False}, {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}),
        ({"image_mean": None, "image_std": None}, {"mean": PLAIN.mean, "std": PLAIN.std}),
        ({"size": 73, "crop_size": 64}, {"input_size": 64}),
        ({"size": None, "crop_size": None}, {"input_size": 32, "crop_fraction": 0.875}),
        ({"size": {"shortest_edge": 64}}, {"crop_fraction": 1.0}),
        ({"resample": 2}, {"interpolation": "bilinear"}),
        ({"do_resize": None, "resample": None}, {"interpolation": "bicubic"}),
        ({"crop_pct": 0.9, "size": {"shortest_edge": 96}, "crop_size": None}, {"input_size": 96, "crop_fraction": 0.9}),
    ],
)
def test_other_forms_of_transformers_settings(changes: Any, expected: Any, tmp_path: Path) -> None:
    config = transformers(tmp_path, {name: value for name, value in (BIT | changes).items() if value is not None})
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"resample": 1}, "`resample` is 'lanczos'; expected bicubic or bilinear"),
        ({"resample": 0}, "`resample` is 'nearest'"),
        ({"resample": 99}, "`resample` is '99'"),
        ({"resample": "bicubic"}, "`resample` is 'bicubic'"),
        ({"do_center_crop": False}, "`do_center_crop` is False; expected true"),
        ({"do_resize": False}, "`do_resize` is False"),
        ({"do_rescale": False}, "`do_rescale` is False"),
        ({"do_pad": True}, "`do_pad` is True"),
        ({"do_flip_channel_order": True}, "`do_flip_channel_order` is True"),
        ({"do_normalize": "yes"}, "`do_normalize` is 'yes'"),
        ({"rescale_factor": 1 / 127.5}, "`rescale_factor` is 0.0078"),
        ({"size": {"height": 64, "width": 64}}, "`size` is"),
        ({"size": {"shortest_edge": 63}}, "`size` is 63; expected 64 pixels or more"),
        ({"size": {"shortest_edge": 10**12}}, "1 to 4096"),
        ({"size": -1}, "1 to 4096"),
        ({"size": "large"}, "`size` is 'large'"),
        ({"crop_size": {"height": 64, "width": 32}}, "equal height and width"),
        ({"crop_size": 50}, "divisible by 8"),
        ({"crop_pct": 1.5}, "`crop_pct` is 1.5"),
        ({"crop_pct": 0.9, "size": 384, "crop_size": None}, "below 384"),
        ({"image_mean": [0.5]}, "`image_mean`"),
        ({"image_mean": [0.5, "a", 0.5]}, "`image_mean"),
        ({"image_std": [0.5, 0, 0.5]}, "positive standard deviations"),
        ({"image_std": [0.5, float("nan"), 0.5]}, "`image_std"),
    ],
)
def test_what_cannot_be_honoured_says_what_to_do(changes: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        transformers(tmp_path, BIT | changes)
    assert reason in str(caught.value)
    assert "preprocessor_config.json" in str(caught.value) and "--ignore-preprocessing" in str(caught.value)


def test_timm_s_settings_are_the_network_s(tmp_path: Path) -> None:
    config = timm(tmp_path, TIMM_CFG)
    assert config.input_spec == InputSpec(64, 0.9, "bicubic")
    assert (config.mean, config.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_timm_s_older_files_have_them_at_the_top(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "focalnet_tiny_srf"} | TIMM_CFG))
    assert read_preprocessing(tmp_path, PRESET).apply(PRESET).crop_fraction == 0.9


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"input_size": [3, 64, 32]}, "a square"),
        ({"input_size": [1, 64, 64]}, "3 channels"),
        ({"input_size": 64}, "`input_size` is 64"),
        ({"interpolation": "random"}, "`interpolation` is 'random'"),
        ({"interpolation": "area"}, "`interpolation` is 'area'"),
        ({"crop_mode": "squash"}, "`crop_mode` is 'squash'"),
        ({"crop_pct": 0}, "`crop_pct` is 0"),
        ({"std": [0, 1, 1]}, "positive standard deviations"),
    ],
)
def test_timm_s_settings_that_cannot_be_honoured(changes: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        timm(tmp_path, TIMM_CFG | changes)
    assert reason in str(caught.value) and "--ignore-preprocessing" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000, "\udcff"])
def test_a_damaged_file_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ArtifactError, match=r"preprocessor_config\.json"):
        read_preprocessing(tmp_path, PRESET)


# --- the command ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a hub, for a preset `focalnet_plain`."""
    monkeypatch.setitem(presets.PRESETS, "focalnet_plain", Preset(PRESET, 1))
    path = tmp_path / "hub"
    path.mkdir()
    save_file(drawn_checkpoint(PLAIN, TRANSFORMERS), path / "model.safetensors")
    (path / "preprocessor_config.json").write_text(json.dumps(BIT))
    return path


def imported(folder: Path, *options: str) -> Path:
    out = folder.parent / "run"
    assert run_cli(main, [str(folder), "--preset", "focalnet_plain", "--out", str(out), *options]) == 0
    return out


def test_the_run_has_the_preprocessing_and_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = imported(folder)
    run = read_run(out)
    assert (run.model.mean, run.model.std) == ((0.5, 0.5, 0.5), (0.25, 0.5, 0.75))
    assert run.model.input_spec.size == 64 and run.model.input_spec.resized_short_side == 73
    assert run.image_size == 73  # the stored images' centre crop is what the network sees
    text = capsys.readouterr().out
    assert "preprocessing of preprocessor_config.json: 64 px, crop fraction 0.8767, bicubic, mean [0.5" in text
    recorded = json.loads((out / "import.json").read_text())["preprocessing"]
    assert recorded["source"] == "preprocessor_config.json"
    assert (recorded["input_size"], recorded["mean"], recorded["interpolation"]) == (64, HALF, "bicubic")


def test_the_preprocessing_may_be_ignored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(BIT | {"resample": 1}))
    options = ["--preset", "focalnet_plain", "--out", str(folder.parent / "run")]
    assert run_cli(main, [str(folder), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--ignore-preprocessing" in error
    assert not (folder.parent / "run").exists()
    run = read_run(imported(folder, "--ignore-preprocessing"))
    assert run.model == PRESET
    assert "preprocessing of the preset: 32 px" in capsys.readouterr().out
