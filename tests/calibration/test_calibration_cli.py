"""Calibration of a run: its ranges against the same network computed by other means, and its command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.__main__ import main
from calibration.calibrate import calibrate_run
from calibration.calibration_file import Calibration, read_calibration
from export.quantize.schemes import SELECTIVE, match_rules
from runtime.core.cli import run_cli
from tests.support.tiny_run import CLASSES, CONFIG, RUN
from train.data.registry import load_dataset
from train.model.focalnet import overlay_tensors
from train.model.weights import read_tensors


def calibrate(run: Path, folder: Path, observer: str, percentile: float | None = None, seed: int = 0) -> Calibration:
    return calibrate_run(run, data_dir=folder, images=36, observer=observer, percentile=percentile, seed=seed)


def run_command(run: Path, folder: Path, *options: str) -> int:
    return run_cli(main, ["--run", str(run), "--data-dir", str(folder), "--images", "36", *options])


@pytest.fixture
def own_run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def sampled_images(run: Path, folder: Path) -> NDArray[np.float64]:
    """Read the images of a calibration with OpenCV alone: `[N, S, S, 3]` RGB, 0..1."""
    size = CONFIG.input_size
    images = []
    for name in read_calibration(run).ids:
        image = cv2.imread(str(folder / name))
        for side in (size + RUN.recipe.resize_margin, size):
            image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        images.append(image[..., ::-1])
    return np.stack(images) / 255.0


def test_has_a_range_for_every_layer_of_the_scheme(tiny_run: Path) -> None:
    ranges = read_calibration(tiny_run).ranges
    matched = match_rules(SELECTIVE.rules, ranges)
    assert {"normalise", "embed.proj", "stage1.embed.input", "stage0.block0.gate2", "logits"} <= set(matched)
    assert all(low < high for low, high in ranges.values())


def test_images_are_of_the_training_split_and_balanced(tiny_run: Path, image_folder: Path) -> None:
    calibration = read_calibration(tiny_run)
    dataset = load_dataset("folder", data_dir=image_folder, image_size=20)
    assert set(calibration.ids) <= set(dataset.train.ids)
    counts = [sum(name.startswith(f"{label}/") for name in calibration.ids) for label in CLASSES]
    assert counts == [12, 12, 12]
    assert calibration.dataset == image_folder.name


def test_minmax_of_the_first_layers_is_numpys(own_run: Path, image_folder: Path) -> None:
    ranges = calibrate(own_run, image_folder, "minmax").ranges
    images = sampled_images(own_run, image_folder)
    assert ranges["normalise"] == pytest.approx((0.0, images.max()), abs=1e-6)

    weights = read_tensors(own_run / "float.safetensors")
    patch, cells = CONFIG.patch_size, CONFIG.input_size // CONFIG.patch_size
    patches = images.reshape(-1, cells, patch, cells, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    embedded = (
        patches.reshape(-1, patch * patch * 3) @ weights["embed.proj/kernel"].reshape(-1, CONFIG.dims[0])
        + weights["embed.proj/bias"]
    )
    assert ranges["embed.proj"] == pytest.approx((embedded.min(), embedded.max()), abs=1e-4)

    centred = embedded - embedded.mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + CONFIG.embed_norm_epsilon)
    assert ranges["embed.norm.normalised"] == pytest.approx((normed.min(), normed.max()), abs=1e-4)
    variance = (centred**2).mean(axis=-1)
    assert ranges["embed.norm.centred"] == pytest.approx((centred.min(), centred.max()), abs=1e-4)
    assert ranges["embed.norm.square"] == pytest.approx((0.0, (centred**2).max()), abs=1e-4)
    assert ranges["embed.norm.variance"] == pytest.approx((0.0, variance.max()), abs=1e-4)
    largest = 1 / np.sqrt(variance.min() + CONFIG.embed_norm_epsilon)
    assert ranges["embed.norm.rsqrt"] == pytest.approx((0.0, largest), rel=1e-3)
    normed = normed * weights["embed.norm/gamma"] + weights["embed.norm/beta"]
    assert ranges["embed.norm"] == pytest.approx((normed.min(), normed.max()), abs=1e-4)


def test_minmax_of_the_logits_is_that_of_the_other_keras(own_run: Path, image_folder: Path, tiny_float: Any) -> None:
    ranges = calibrate(own_run, image_folder, "minmax").ranges
    images = (255.0 * sampled_images(own_run, image_folder)).astype(np.float32)
    logits = tiny_float.predict_on_batch(images)
    assert ranges["logits"] == pytest.approx((logits.min(), logits.max()), abs=1e-3)


def test_minmax_of_the_modulators_norm_is_numpys(own_run: Path, image_folder: Path, tiny_float: Any) -> None:
    import tf_keras

    ranges = calibrate(own_run, image_folder, "minmax").ranges
    images = (255.0 * sampled_images(own_run, image_folder)).astype(np.float32)
    _, modulator = overlay_tensors(tiny_float, CONFIG)
    total = (tf_keras.Model(tiny_float.input, modulator).predict_on_batch(images) ** 2).sum(axis=-1)
    assert ranges["overlay.modulator.sum"] == pytest.approx((0.0, total.max()), rel=1e-4)
    assert ranges["overlay.modulator.norm"] == pytest.approx((0.0, np.sqrt(total.max())), rel=1e-4)


def test_minmax_covers_a_percentile(tiny_run: Path, own_run: Path, image_folder: Path) -> None:
    narrow = calibrate(own_run, image_folder, "percentile", 98)
    wide = calibrate(own_run, image_folder, "minmax")
    assert (narrow.observer, wide.observer) == ("percentile", "minmax")
    assert narrow.sha256 == wide.sha256 == read_calibration(tiny_run).sha256
    inside = [
        wide.ranges[layer][0] <= low and high <= wide.ranges[layer][1] for layer, (low, high) in narrow.ranges.items()
    ]
    assert all(inside)
    assert narrow.ranges["logits"] != wide.ranges["logits"]


def test_each_observer_chooses_its_own_ranges_and_is_recorded_and_drawn(own_run: Path, image_folder: Path) -> None:
    chosen = []
    for observer in ("minmax", "percentile", "mse", "entropy"):
        (own_run / "calibration.png").unlink()
        calibration = calibrate(own_run, image_folder, observer)
        assert calibration == read_calibration(own_run)
        assert (calibration.observer, calibration.percentile) == (observer, 99.99 if observer == "percentile" else None)
        # One row a layer.
        assert cv2.imread(str(own_run / "calibration.png")).shape[0] > 15 * len(calibration.ranges)
        chosen.append(calibration.ranges)
    widest, *others = chosen
    assert all(one != other for index, one in enumerate(chosen) for other in chosen[:index])
    for ranges in others:
        assert all(widest[layer][0] <= low < high <= widest[layer][1] for layer, (low, high) in ranges.items())


def test_a_split_smaller_than_the_default_is_taken_whole(own_run: Path, image_folder: Path) -> None:
    calibration = calibrate_run(own_run, data_dir=image_folder)
    dataset = load_dataset("folder", data_dir=image_folder, image_size=20)
    assert len(dataset.train.ids) < 512
    assert set(calibration.ids) == set(dataset.train.ids)


def test_the_seed_changes_the_images(own_run: Path, image_folder: Path) -> None:
    before = read_calibration(own_run)
    after = calibrate(own_run, image_folder, "minmax", seed=1)
    assert (before.seed, after.seed) == (0, 1)
    assert after.sha256 != before.sha256
    assert after.ids != before.ids


def test_json_is_the_only_output(own_run: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(own_run, image_folder, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    calibration = read_calibration(own_run)
    assert printed["images"] == 36
    assert (printed["observer"], printed["percentile"]) == ("percentile", 99.99)
    assert printed["sha256"] == calibration.sha256
    assert {layer: tuple(ends) for layer, ends in printed["ranges"].items()} == calibration.ranges


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--images", "0"), "received 0 calibration images"),
        (("--images", "5000"), "received 5000 calibration images"),
        (("--percentile", "120"), "received percentile 120"),
        (("--observer", "mse", "--percentile", "99"), "received percentile 99.0 for observer mse, which has none"),
        (("--data-dir", "/nowhere"), "/nowhere is not a folder"),
        (("--run", "/nowhere"), "/nowhere/config.json does not exist"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(
    own_run: Path,
    image_folder: Path,
    options: tuple[str, ...],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = (own_run / "calibration.json").read_bytes()
    assert run_command(own_run, image_folder, *options) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert complaint in line
    assert (own_run / "calibration.json").read_bytes() == before


def test_weights_that_are_not_finite_are_refused(
    own_run: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from train.model.weights import write_tensors

    weights = read_tensors(own_run / "float.safetensors")
    weights["stage1.block0.expand/bias"][3] = np.nan
    write_tensors(own_run / "float.safetensors", weights)
    assert run_command(own_run, image_folder) == 2
    assert "layer stage1.block0.expand outputs non-finite values" in capsys.readouterr().err
