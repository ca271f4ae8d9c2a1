"""`python -m train`: the files of a run, refused options, and resuming a killed run."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest

from runtime.core.cli import run_cli
from runtime.evaluation.split_file import read_split
from tests.support.paths import ROOT
from tests.support.tiny_training import FULL_RECIPE, LABELS, NETWORK, TRAIN_IMAGES, write_easy_images
from train.__main__ import main
from train.distributed.placement import device_name
from train.model.focalnet import build_focalnet
from train.model.presets import PRESETS, Preset
from train.model.weights import load_weights, read_tensors
from train.run import read_run

FILES = {
    "config.json",
    "checkpoint.safetensors",
    "float.safetensors",
    "history.csv",
    "curves.png",
    "test_panel.png",
    "test.npz",
    "split.npz",
    "train.json",
    "confusion.png",
    "monitor/training.webp",
    "monitor/epoch_000.png",
    "monitor/epoch_002.png",
    "monitor/epoch_004.png",
}
# `python -m train` with the tiny preset, which kills itself after the step that the first argument says.
KILLED = """
import os, signal, sys
from tests.support.tiny_training import FULL_RECIPE, NETWORK
from train.loop import fit
from train.model.presets import PRESETS, Preset
from train.__main__ import main

PRESETS["tiny"] = Preset(NETWORK, 0, FULL_RECIPE)
last, count = int(sys.argv.pop(1)), fit.Progress.on_train_batch_end

def counted(self, batch, logs=None):
    count(self, batch, logs)
    if int(self.model.optimizer.iterations) == last:
        os.kill(os.getpid(), signal.SIGKILL)

fit.Progress.on_train_batch_end = counted
sys.exit(main())
"""


@dataclass(frozen=True)
class Trained:
    """A run from the command line, with `--json`, and what it printed."""

    folder: Path
    images: Path
    stdout: str
    stderr: str


def arguments(images: Path, folder: Path, *more: str) -> list[str]:
    given = ["--preset", "tiny", "--dataset", "folder", "--data-dir", str(images), "--run", str(folder)]
    return [*given, *more]


@pytest.fixture(scope="module", autouse=True)
def _tiny_preset() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", Preset(NETWORK, 0, FULL_RECIPE))
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_easy_images(folder)
    return folder


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("runs") / "first"
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        assert run_cli(main, arguments(images, folder, "--json")) == 0
    return Trained(folder, images, out.getvalue(), err.getvalue())


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.folder, tmp_path / "copy"))


def test_a_run_folder_is_complete(trained: Trained) -> None:
    found = {path.relative_to(trained.folder).as_posix() for path in trained.folder.rglob("*") if path.is_file()}
    assert found == FILES
    run = read_run(trained.folder)
    assert (run.preset, run.dataset, run.labels) == ("tiny", "folder", tuple(sorted(LABELS)))
    assert (run.model, run.recipe) == (NETWORK, FULL_RECIPE)
    with (trained.folder / "history.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == FULL_RECIPE.epochs


def test_the_account_of_files_is_in_the_log_and_the_summary(trained: Trained) -> None:
    files = json.loads(trained.stdout)["files"]
    assert files.pop("seen") == sum(files.values()) == files["used"] == TRAIN_IMAGES
    assert f"files: {TRAIN_IMAGES} seen = {TRAIN_IMAGES} used" in trained.stderr


@pytest.fixture
def grown(trained: Trained, tmp_path: Path) -> Path:
    """The images, and as many new ones whose names come first."""
    folder = Path(shutil.copytree(trained.images, tmp_path / "grown"))
    for index, path in enumerate(sorted(folder.rglob("*.png"))):
        image = np.random.default_rng(index).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(path.with_name(f"-new{path.name}")), image)
    return folder


@pytest.mark.parametrize("resume", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_keeps_its_test_images_when_its_folder_grows(
    trained: Trained, copied: Path, grown: Path, capsys: pytest.CaptureFixture[str], resume: bool
) -> None:
    if not resume:
        (copied / "checkpoint.safetensors").unlink()
    before = read_split(copied / "test.npz").ids
    assert run_cli(main, arguments(grown, copied, *(["--resume"] if resume else []))) == 0
    after = read_split(copied / "test.npz").ids
    assert after == before
    assert f"{TRAIN_IMAGES} image(s) are new since the run began" in capsys.readouterr().out


def test_a_run_without_a_record_does_not_get_test_images_that_it_may_have_learnt_from(
    trained: Trained, copied: Path, grown: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "split.npz").unlink()
    test = (copied / "test.npz").read_bytes()
    assert run_cli(main, arguments(grown, copied, "--resume")) == 2
    assert "test images are not in its test.npz" in capsys.readouterr().err
    assert (copied / "test.npz").read_bytes() == test
    assert run_cli(main, arguments(trained.images, copied, "--resume")) == 0
    assert (copied / "split.npz").exists()


def test_an_image_in_two_classes_is_an_error_unless_it_is_allowed(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(images, tmp_path / "images"))
    first, *_, last = sorted(folder.rglob("*.png"))
    shutil.copy(first, last.with_name("zz.png"))
    assert run_cli(main, arguments(folder, tmp_path / "run")) == 2
    assert "1 image(s) are in two classes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert run_cli(main, arguments(folder, tmp_path / "run", "--allow-conflicts", "--epochs", "1")) == 0
    assert "1 image(s) are in two classes, and keep the first" in capsys.readouterr().out


def test_json_stands_alone_on_standard_output(trained: Trained) -> None:
    summary = json.loads(trained.stdout)
    assert summary == json.loads((trained.folder / "train.json").read_text())
    assert (summary["preset"], summary["dataset"], summary["epochs"]) == ("tiny", "folder", FULL_RECIPE.epochs)
    assert (summary["backend"], summary["device"]) == (keras.backend.backend(), device_name())
    assert summary["parameters"] == sum(
        value.size for value in read_tensors(trained.folder / "float.safetensors").values()
    )


def test_the_log_names_backend_device_and_sizes(trained: Trained) -> None:
    assert f"Keras {keras.__version__} on {keras.backend.backend()}, device {device_name()}" in trained.stderr
    assert "images: train 48, val 12, test 12; 4 epochs of batch 16" in trained.stderr
    assert all(f"epoch {epoch}/4 " in trained.stderr for epoch in (1, 2, 3, 4))


def test_the_reported_accuracy_is_that_of_the_files(trained: Trained) -> None:
    run = read_run(trained.folder)
    model = build_focalnet(run.deployed, keras)
    load_weights(model, trained.folder / "float.safetensors")
    test = read_split(trained.folder / "test.npz")
    assert (test.dataset, test.split, test.class_names) == (trained.images.name, "test", run.labels)
    small = [cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA) for image in test.images]
    predictions = np.asarray(model(np.stack(small).astype(np.float32), training=False)).argmax(axis=-1)
    assert json.loads(trained.stdout)["test_top1"] == pytest.approx((predictions == test.labels).mean())


def test_a_second_start_is_refused(trained: Trained, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (copied / "checkpoint.safetensors").read_bytes()
    assert run_cli(main, arguments(trained.images, copied)) == 2
    assert one_error(capsys) == (
        f"error: {copied} already holds a run; continue it with --resume, or name another --run"
    )
    assert (copied / "checkpoint.safetensors").read_bytes() == before


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_resuming_a_complete_run_changes_nothing(
    trained: Trained, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ("config.json", "checkpoint.safetensors", "float.safetensors", "history.csv", "test.npz", "test_panel.png")
    before = {name: (copied / name).read_bytes() for name in kept}
    assert run_cli(main, arguments(trained.images, copied, "--resume")) == 0
    out = capsys.readouterr().out
    assert "test top-1 " in out
    assert f"weights in {copied / 'float.safetensors'}" in out
    assert "epoch " not in out
    assert {name: (copied / name).read_bytes() for name in kept} == before


def test_a_run_is_not_resumed_with_other_settings(
    trained: Trained, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["--resume", "--learning-rate", "0.5", "--flip", "false"]
    assert run_cli(main, arguments(trained.images, copied, *changes)) == 2
    line = one_error(capsys)
    assert "recipe.learning_rate was 0.02, is 0.5; recipe.flip was True, is False;" in line
    assert line.count(" was ") == 2
    assert read_run(copied).recipe == FULL_RECIPE


def test_a_damaged_checkpoint_is_not_resumed(
    trained: Trained, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "checkpoint.safetensors").write_bytes(b"\0" * 100)
    assert run_cli(main, arguments(trained.images, copied, "--resume")) == 2
    assert "checkpoint.safetensors is not a whole safetensors file" in one_error(capsys)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--epochs", "0"), "received epochs=0; expected 1 or more"),
        (("--learning-rate", "inf"), "received learning_rate=inf"),
        (("--learning-rate", "nan"), "received learning_rate=nan"),
        (("--warmup-learning-rate", "1"), "a base rate at or above the warm-up rate"),
        (("--warmup-fraction", "1"), "received warmup_fraction=1.0; expected 0 or more, below 1"),
        (("--seed", "-1"), "received seed=-1"),
        (("--flip", "maybe"), "received 'maybe'; expected true or false"),
        (("--preset", "edge-huge"), "expected one of seed-cifar10, edge-pico, edge-nano"),
        (("--dataset", "imagenet"), "the known ones are cifar10, folder, shapes"),
        (("--data-dir", "/nowhere/at/all"), "/nowhere/at/all is not a folder"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    assert run_cli(main, arguments(images, tmp_path / "run", *more)) == 2
    assert message in one_error(capsys)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_one_class_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], images: Path) -> None:
    shutil.copytree(images / "red", tmp_path / "one" / "red")
    assert run_cli(main, arguments(tmp_path / "one", tmp_path / "run")) == 2
    assert "has 1 class folder(s); expected at least 2" in one_error(capsys)


def test_a_run_folder_that_cannot_be_made_is_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept")
    assert run_cli(main, arguments(images, tmp_path / "file" / "run")) == 2
    assert "choose a folder that is writable" in one_error(capsys)
    assert (tmp_path / "file").read_text() == "kept"


def test_the_module_is_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "train", "--run", str(tmp_path / "run"), "--preset", "edge-huge"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (finished.returncode, finished.stdout) == (2, "")
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: received preset 'edge-huge'; expected one of seed-cifar10,")


def test_help_lists_every_field_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    fields: dict[str, Any] = FULL_RECIPE.__dataclass_fields__
    assert all(f"--{name.replace('_', '-')}" in shown for name in fields)


@pytest.mark.slow  # test_fit resumes runs in less time; this one kills a process
def test_a_killed_run_resumes_to_the_same_weights(trained: Trained, tmp_path: Path) -> None:
    folder, steps = tmp_path / "killed", 48 // FULL_RECIPE.batch_size
    # In the middle of an epoch, the first included.
    last = int(np.random.default_rng().choice([s for s in range(1, steps * FULL_RECIPE.epochs) if s % steps]))
    command = [sys.executable, "-c", KILLED, str(last), *arguments(trained.images, folder)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert finished.returncode == -signal.SIGKILL, finished.stderr
    assert not (folder / "float.safetensors").exists()
    assert (folder / "checkpoint.safetensors").exists() == (last > steps)
    assert run_cli(main, arguments(trained.images, folder, "--resume", "--json")) == 0
    resumed, expected = (read_tensors(each / "float.safetensors") for each in (folder, trained.folder))
    assert set(resumed) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(resumed[name], value, rtol=0, atol=1e-5, err_msg=f"{name}, killed after {last}")
