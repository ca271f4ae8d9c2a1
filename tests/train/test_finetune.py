"""`python -m train --init`: initial weights from another run, and what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from runtime.core.cli import run_cli
from runtime.images.preprocess import Image
from tests.support.tiny_training import LABELS, NETWORK, RECIPE, easy_dataset, write_easy_images
from tests.train.model.test_focalnet import with_drawn_weights
from train.__main__ import main
from train.data.dataset import resize_all
from train.loop.checkpoint import Checkpoint, save_checkpoint
from train.loop.fit import fit
from train.model.fold_norms import fold_weights
from train.model.presets import IMAGENET_MEAN, IMAGENET_STD, PRESETS, Preset
from train.model.weights import model_weights, read_tensors, write_tensors
from train.pretrained.init_weights import initial_weights, read_pretrained, statistics_indices
from train.run import CHECKPOINT_FILE, CONFIG_FILE, WEIGHTS_FILE, Run, WeightsId, read_run, write_run

# Two stages without BatchNorm: weights at a rate near 0 do not change.
LAYERED = dataclasses.replace(
    NETWORK,
    patch_size=2,
    dims=(4, 8),
    depths=(1, 1),
    focal_levels=(1, 1),
    focal_windows=(3, 3),
    norm="layer",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
BATCHED = dataclasses.replace(LAYERED, norm="batch", stem="conv", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
SHORT = dataclasses.replace(RECIPE, epochs=1, monitor_every=0, ema_momentum=0.0)


@dataclass(frozen=True)
class Tuned:
    """A run started from a source's weights, and its output."""

    folder: Path
    source: Path
    stdout: str


def write_source(folder: Path, network: Any = LAYERED, labels: tuple[str, ...] = ("ant", "bee", "cat")) -> Path:
    """Write a run with random, folded weights."""
    _, weights = with_drawn_weights(network)
    tensors = {name: np.float32(value) for name, value in fold_weights(weights, network).items()}
    folder.mkdir(parents=True)
    write_run(folder, Run(preset="tiny", model=network, recipe=SHORT, dataset="folder", labels=labels))
    write_tensors(folder / WEIGHTS_FILE, tensors)
    return folder


def seen_images(run: Run) -> Image:
    images = easy_dataset().train.images
    return resize_all(images[statistics_indices(len(images), run.recipe.seed)], run.model.input_spec)


@pytest.fixture(scope="module", autouse=True)
def _tiny_preset() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", Preset(NETWORK, 0, SHORT))
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_easy_images(folder)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source")


def arguments(images: Path, folder: Path, *more: str) -> list[str]:
    return ["--dataset", "folder", "--data-dir", str(images), "--run", str(folder), *more]


def start(images: Path, folder: Path, source: Path, *more: str) -> str:
    """Start a run from a source at a rate near 0, and return its output."""
    options = ["--init", str(source), "--learning-rate", "1e-12", "--weight-decay", "0", *more]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        assert run_cli(main, arguments(images, folder, *options)) == 0, err.getvalue()
    return out.getvalue()


@pytest.fixture(scope="module")
def tuned(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    folder = tmp_path_factory.mktemp("tuned")
    source = write_source(folder / "source")
    return Tuned(folder / "run", source, start(images, folder / "run", source))


def test_all_weights_but_the_head_s_are_the_source_s(tuned: Tuned) -> None:
    before, after = (read_tensors(folder / WEIGHTS_FILE) for folder in (tuned.source, tuned.folder))
    assert before.keys() == after.keys()
    for name, values in before.items():
        if name.startswith("logits/"):
            assert np.abs(after[name] - values).max() > 0.1
        else:
            np.testing.assert_allclose(after[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_network_is_the_source_s_and_the_classes_the_folder_s(tuned: Tuned) -> None:
    run = read_run(tuned.folder)
    assert (run.preset, run.model, run.labels) == ("tiny", LAYERED, tuple(sorted(LABELS)))
    digest = hashlib.sha256((tuned.source / WEIGHTS_FILE).read_bytes()).hexdigest()
    assert run.init == WeightsId(preset="tiny", sha256=digest)
    assert json.loads((tuned.folder / CONFIG_FILE).read_text())["init"] == {"preset": "tiny", "sha256": digest}


def test_one_line_gives_the_origin_of_the_weights(tuned: Tuned) -> None:
    tensors = read_tensors(tuned.source / WEIGHTS_FILE)
    # Scale and offset of norm1 and norm2 of two blocks, and of head.norm.
    assert (
        f"{len(tensors) - 2} tensors are from {tuned.source / WEIGHTS_FILE} (tiny); 10 of norms that were folded into "
        "them are set to change nothing; logits/kernel and logits/bias are new\n"
    ) in tuned.stdout


def test_the_same_classes_keep_the_head(images: Path, tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", labels=tuple(sorted(LABELS)))
    line = start(images, tmp_path / "run", source, "--frozen-stages", "2")
    before, after = (read_tensors(folder / WEIGHTS_FILE) for folder in (source, tmp_path / "run"))
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
    assert f"{len(before)} tensors are from " in line
    assert "the head is kept, as the classes are the same" in line


def test_classes_in_another_order_are_other_classes(source: Path) -> None:
    found = read_pretrained(source)
    for labels, kept in ((("ant", "bee", "cat"), True), (("bee", "ant", "cat"), False)):
        run = dataclasses.replace(found.run, labels=labels)
        assert ("logits/kernel" in initial_weights(found, run, seen_images(run)).tensors) == kept


def test_a_folded_source_gets_its_norms_back(tmp_path: Path) -> None:
    """Such as one that was imported in its deployed form."""
    folder = write_source(tmp_path / "source", BATCHED)
    run = read_run(folder)
    write_run(folder, dataclasses.replace(run, model=run.deployed))
    begun = initial_weights(read_pretrained(folder), run, seen_images(run))
    assert "head.norm/moving_mean" in begun.tensors
    assert "set to change nothing by 72 training images" in begun.summary


@pytest.mark.parametrize("again", [(), ("--init",)])
def test_a_run_resumes_with_or_without_its_weights_named(
    tuned: Tuned, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], again: tuple[str, ...]
) -> None:
    folder = Path(shutil.copytree(tuned.folder, tmp_path / "copy"))
    kept = ("config.json", CHECKPOINT_FILE, WEIGHTS_FILE)
    before = {name: (folder / name).read_bytes() for name in kept}
    named = [*again, str(tuned.source)] if again else []
    same = ["--resume", "--learning-rate", "1e-12", "--weight-decay", "0"]
    assert run_cli(main, arguments(images, folder, *named, *same)) == 0
    assert "tensors are from" not in capsys.readouterr().out
    assert {name: (folder / name).read_bytes() for name in kept} == before


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the only line on standard error."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_run_does_not_resume_from_other_weights(
    tuned: Tuned, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(tuned.source, tmp_path / "other"))
    tensors = read_tensors(other / WEIGHTS_FILE)
    write_tensors(other / WEIGHTS_FILE, tensors | {"logits/bias": tensors["logits/bias"] + 1})
    folder = Path(shutil.copytree(tuned.folder, tmp_path / "copy"))
    same = ["--resume", "--learning-rate", "1e-12", "--weight-decay", "0"]
    assert run_cli(main, arguments(images, folder, "--init", str(other), *same)) == 2
    line = one_error(capsys)
    assert f"init.sha256 was {read_run(tuned.folder).init.sha256}, is " in line  # type: ignore[union-attr]
    assert line.count(" was ") == 1


def test_a_run_stopped_in_its_first_epoch_needs_its_weights_named(
    tuned: Tuned, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else it would silently start from random ones."""
    folder = Path(shutil.copytree(tuned.folder, tmp_path / "copy"))
    (folder / CHECKPOINT_FILE).unlink()
    before = (folder / CONFIG_FILE).read_bytes()
    assert run_cli(main, arguments(images, folder, "--resume")) == 2
    assert "began from weights of tiny (SHA-256 " in (line := one_error(capsys))
    assert "name the weights again with --init" in line
    assert (folder / CONFIG_FILE).read_bytes() == before


def test_an_older_description_without_init_is_read(tuned: Tuned, tmp_path: Path) -> None:
    content = json.loads((tuned.folder / CONFIG_FILE).read_text())
    del content["init"], content["recipe"]["layer_decay"], content["recipe"]["frozen_stages"]
    (tmp_path / CONFIG_FILE).write_text(json.dumps(content))
    run = read_run(tmp_path)
    assert (run.init, run.recipe.layer_decay, run.recipe.frozen_stages) == (None, 1.0, 0)


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def changed(name: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: tensors | {name: np.asarray(value, np.float32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("stage0.block0.proj/bias"), "does not fit the model: missing stage0.block0.proj/bias;"),
        (without("logits/bias"), "missing logits/bias;"),
        (changed("extra/kernel", [1]), "unknown extra/kernel;"),
        (changed("embed.proj/bias", [1]), "embed.proj/bias has shape (1,), not (4,);"),
        (changed("embed.proj/bias", [1, np.nan, 0, 0]), "has values that are not finite in embed.proj/bias;"),
        (changed("logits/bias", [1, np.inf, 0]), "has values that are not finite in logits/bias;"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    source: Path, images: Path, capsys: pytest.CaptureFixture[str], change: Any, message: str
) -> None:
    write_tensors(source / WEIGHTS_FILE, change(read_tensors(source / WEIGHTS_FILE)))
    folder = source.parent / "run"
    assert run_cli(main, arguments(images, folder, "--init", str(source))) == 2
    line = one_error(capsys)
    assert message in line
    assert str(source / WEIGHTS_FILE) in line
    assert not folder.exists()


def test_a_folder_without_a_run_is_refused(source: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = source.parent / "run"

    def refused(*options: str, data: Path = images) -> str:
        assert run_cli(main, arguments(data, folder, *options)) == 2
        assert not folder.exists()
        return one_error(capsys)

    assert "--init /nowhere is not a folder; give that of a run" in refused("--init", "/nowhere")
    assert "config.json does not exist; make it with" in refused("--init", str(images))
    line = refused("--init", str(source), "--preset", "edge-pico")
    assert "received --preset edge-pico for weights of tiny in " in line
    assert line.endswith("the network is that of the weights: leave --preset out")
    line = refused("--init", str(source), "--frozen-stages", "3")
    assert "frozen_stages=3 for a network of 2 stages; expected 0 to 2" in line
    (empty := source.parent / "empty").mkdir()
    assert "has 0 class folder(s); expected at least 2" in refused("--init", str(source), data=empty)
    (source / WEIGHTS_FILE).write_bytes((source / WEIGHTS_FILE).read_bytes()[:-1])
    assert "is not a whole safetensors file" in refused("--init", str(source))
    (source / WEIGHTS_FILE).unlink()
    assert "float.safetensors does not exist" in refused("--init", str(source))


def test_a_run_does_not_start_from_itself(source: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    around = source / ".." / source.name
    assert run_cli(main, arguments(images, around, "--init", str(source))) == 2
    assert "--init and --run are both" in one_error(capsys)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


def test_frozen_stages_stay_bit_for_bit_and_a_resumed_run_ends_the_same(
    tmp_path: Path,
) -> None:
    pretrained = read_pretrained(write_source(tmp_path / "source", BATCHED))
    recipe = dataclasses.replace(RECIPE, epochs=2, monitor_every=0, frozen_stages=1, layer_decay=0.5)
    run = dataclasses.replace(pretrained.run, recipe=recipe, labels=LABELS, init=pretrained.id)
    weights = initial_weights(pretrained, run, seen_images(run)).tensors
    saved: list[bytes] = []

    def save_and_keep(path: Path, model: Any, checkpoint: Checkpoint) -> None:
        save_checkpoint(path, model, checkpoint)
        saved.append(path.read_bytes())

    whole, history = fit(run, easy_dataset(), tmp_path / "whole", resume=False, start=weights, save=save_and_keep)
    trained = {name: np.array(v) for name, v in model_weights(whole).items()}
    same = {name for name, values in weights.items() if np.array_equal(trained[name], values)}
    assert same == {name for name in weights if name.startswith(("embed.", "stage0."))}
    assert {"embed.norm0/moving_mean", "stage0.block0.norm2/moving_variance", "stage0.block0.query/kernel"} < same
    assert {"stage1.embed.norm/moving_mean", "head.norm/gamma"} < weights.keys() - same

    (tmp_path / "resumed").mkdir()
    (tmp_path / "resumed" / CHECKPOINT_FILE).write_bytes(saved[0])
    keras.utils.set_random_seed(99)
    resumed, again = fit(run, easy_dataset(), tmp_path / "resumed", resume=True)
    assert [row["loss"] for row in again] == pytest.approx([row["loss"] for row in history], abs=1e-5)
    for name, variable in model_weights(resumed).items():
        np.testing.assert_allclose(np.array(variable), trained[name], rtol=0, atol=1e-5, err_msg=name)
