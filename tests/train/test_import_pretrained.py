"""Import of published checkpoints: the run that is written, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from runtime.core.cli import run_cli
from tests.support.published_networks import LARGE, NETWORKS, PLAIN, drawn_checkpoint
from train.data.imagenet import imagenet_labels
from train.import_pretrained import find_naming, import_tensors, main
from train.model import presets
from train.model.config import FocalNetConfig
from train.model.fold_norms import fold_weights
from train.model.presets import Preset
from train.model.weights import Tensors, read_tensors
from train.pretrained.checkpoint_file import read_checkpoint
from train.pretrained.checkpoint_names import NAMINGS, Naming
from train.run import read_run

ORIGINAL, TRANSFORMERS, TIMM = NAMINGS
JOINT = "layers.0.blocks.0.modulation.f.weight"
EXTRA = "layers.1.blocks.2.norm1.weight"  # the last block of the network is its second


@pytest.fixture
def small_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Presets of small networks."""
    for name, config in NETWORKS.items():
        monkeypatch.setitem(presets.PRESETS, f"focalnet_{name}", Preset(config, 1))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "given" / "model.safetensors"
    path.parent.mkdir()
    save_file(drawn_checkpoint(PLAIN, ORIGINAL), path)
    return path


def refused(checkpoint: Path, capsys: pytest.CaptureFixture[str], *options: str, preset: str = "focalnet_plain") -> str:
    """Run the command, which must fail in one line and write nothing; return the line."""
    out = checkpoint.parent.parent / "run"
    assert run_cli(main, [str(checkpoint), "--preset", preset, "--out", str(out), *options]) == 2
    assert not out.exists() or not any(out.iterdir())
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.usefixtures("small_preset")
def test_a_checkpoint_becomes_a_run(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [str(checkpoint), "--preset", "focalnet_plain", "--out", str(tmp_path / "run"), "--json"]
    assert run_cli(main, options) == 0
    facts = json.loads(capsys.readouterr().out)
    tensors = drawn_checkpoint(PLAIN, ORIGINAL)
    assert (facts["naming"], facts["tensors"], facts["unused"]) == ("original", len(tensors), [])
    assert facts["parameters"] == sum(value.size for value in tensors.values())
    run = read_run(tmp_path / "run")
    assert (run.preset, run.model, run.dataset) == ("focalnet_plain", PLAIN, "folder")
    assert run.labels == ("class 0", "class 1", "class 2")
    expected = fold_weights(import_tensors(tensors, PLAIN, "test").weights, PLAIN)
    written = read_tensors(tmp_path / "run" / "float.safetensors")
    assert set(written) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(written[name], value)


@pytest.mark.usefixtures("small_preset")
def test_a_fine_tuned_network_keeps_its_own_classes(tmp_path: Path) -> None:
    config = dataclasses.replace(PLAIN, classes=5)
    save_file(drawn_checkpoint(config, TRANSFORMERS), tmp_path / "model.safetensors")
    options = [str(tmp_path / "model.safetensors"), "--preset", "focalnet_plain", "--out", str(tmp_path / "run")]
    assert run_cli(main, options) == 0
    run = read_run(tmp_path / "run")
    assert run.model == config and len(run.labels) == 5


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS.keys())
def test_the_three_namings_give_one_network(config: FocalNetConfig) -> None:
    """Also with timm's shape of linear layers."""
    drawn = list(drawn_checkpoint(config, ORIGINAL).values())
    weights = []
    for naming in NAMINGS:
        tensors = dict(zip(drawn_checkpoint(config, naming), drawn, strict=True))
        if naming is TIMM:
            tensors = {n: v[..., None, None] if v.ndim == 2 and "head" not in n else v for n, v in tensors.items()}
        assert find_naming(tensors, "test") is naming
        weights.append(import_tensors(tensors, config, "test").weights)
    for name, value in weights[0].items():
        assert all(np.array_equal(other[name], value) for other in weights[1:])


def test_thousand_classes_are_imagenet_s() -> None:
    published = [name for name, preset in presets.PRESETS.items() if preset.model.classes == 1000]
    assert len(published) == 9
    for name in published:
        model = presets.PRESETS[name].model
        assert (model.mean, model.std) == (presets.IMAGENET_MEAN, presets.IMAGENET_STD)
        assert (model.input_size, model.crop_fraction, model.interpolation) == (224, 0.875, "bicubic")


@pytest.mark.usefixtures("small_preset")
def test_labels_may_be_given_or_lie_beside_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("tench\nshark, the great white\nhen\n")
    options = [str(checkpoint), "--preset", "focalnet_plain"]
    assert run_cli(main, [*options, "--out", str(tmp_path / "a"), "--labels", str(names)]) == 0
    assert read_run(tmp_path / "a").labels == ("tench", "shark, the great white", "hen")
    described = {"model_type": "focalnet", "id2label": {"0": "crane", "1": "hen", "2": "crane"}}
    checkpoint.with_name("config.json").write_text(json.dumps(described))
    assert run_cli(main, [*options, "--out", str(tmp_path / "b")]) == 0
    assert read_run(tmp_path / "b").labels == ("crane (0)", "hen", "crane (2)")


@pytest.mark.usefixtures("small_preset")
def test_a_run_of_1000_classes_has_imagenet_s_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(PLAIN, classes=1000)
    monkeypatch.setitem(presets.PRESETS, "focalnet_plain", Preset(config, 1))
    save_file(drawn_checkpoint(config, TIMM), tmp_path / "model.safetensors")
    options = [str(tmp_path / "model.safetensors"), "--preset", "focalnet_plain", "--out", str(tmp_path / "run")]
    assert run_cli(main, options) == 0
    assert read_run(tmp_path / "run").labels == imagenet_labels()


def without(name: str) -> Any:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def renamed(tensors: Tensors) -> Tensors:
    return {key.replace("mlp.fc1", "mlp.dense1"): value for key, value in tensors.items()}


def poisoned(tensors: Tensors) -> Tensors:
    values = tensors[JOINT].copy()
    values[3, 2] = np.nan
    return tensors | {JOINT: values}


@pytest.mark.usefixtures("small_preset")
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        pytest.param(without("head.bias"), ["has no head.bias"], id="no head"),
        pytest.param(without("norm.bias"), ["missing norm.bias [16]"], id="missing"),
        pytest.param(lambda t: t | {"head.bias": t["head.bias"][:2]}, ["head.weight has shape [3, 16]"], id="head"),
        pytest.param(lambda t: t | {"head.bias": t["head.bias"][:1]}, ["has head.bias [1]"], id="one class"),
        pytest.param(renamed, ["missing layers.0.blocks.0.mlp.fc1.weight [32, 8]", "unknown layers"], id="renamed"),
        pytest.param(lambda t: t | {JOINT: t[JOINT][:-1]}, [f"{JOINT} has shape [18, 8], not [19, 8]"], id="short"),
        pytest.param(lambda t: t | {JOINT: t[JOINT].T.copy()}, [f"{JOINT} has shape [8, 19], not"], id="transposed"),
        pytest.param(lambda t: t | {EXTRA: np.ones(16, np.float32)}, [f"unknown {EXTRA}"], id="a block too many"),
        pytest.param(poisoned, [f"{JOINT} is not finite"], id="NaN"),
        pytest.param(lambda t: t | {JOINT: t[JOINT].astype(np.int8)}, [f"{JOINT} holds int8 values"], id="integers"),
        pytest.param(lambda t: {"conv1.weight": t["head.bias"]}, ["known naming", "conv1"], id="another network"),
        pytest.param(lambda t: {}, ["holds no tensors"], id="empty"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    damage: Any, expected: list[str], checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(damage(drawn_checkpoint(PLAIN, ORIGINAL)), checkpoint)
    error = refused(checkpoint, capsys)
    for part in expected:
        assert part in error


@pytest.mark.usefixtures("small_preset")
def test_the_wrong_preset_is_refused_and_the_right_one_named(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(checkpoint, capsys, preset="focalnet_large")
    assert "its tensors are those of --preset focalnet_plain" in error
    assert "missing layers.0.blocks.0.modulation.ln.weight [8]" in error
    assert re.search(r"; and \d+ more; ", error)


@pytest.mark.usefixtures("small_preset")
@pytest.mark.parametrize("keep", [0, 7, 500, -1])
def test_a_truncated_file_is_refused(keep: int, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    assert "not a whole safetensors file" in refused(checkpoint, capsys)


@pytest.mark.usefixtures("small_preset")
def test_a_missing_file_and_a_folder_with_a_run_are_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "does not exist" in refused(checkpoint.with_name("other.safetensors"), capsys)
    options = [str(checkpoint), "--preset", "focalnet_plain", "--out", str(tmp_path / "run")]
    assert run_cli(main, options) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert run_cli(main, options) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.usefixtures("small_preset")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"a\nb\n", "has 2 class names for the 3 classes"),
        (b"a\nb\nc\nd", "has 4 class names for the 3 classes"),
        (b"a\nb\nb\n", "labels[2]='b'; expected a name of its own"),
        (b"a\n\nb\n", "labels[1]=''; expected a class name that is not empty"),
        (b"a\n \nb\n", "labels[1]=' '; expected a class name that is not empty"),
        (b"a\n\x1b[31m\nb\n", "without control characters"),
        (b"a\n\xff\nb\n", "cannot be read"),
        (b"", "has 0 class names"),
    ],
)
def test_labels_that_are_not_one_different_name_a_class_are_refused(
    text: bytes, reason: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.txt").write_bytes(text)
    error = refused(checkpoint, capsys, "--labels", str(tmp_path / "names.txt"))
    assert reason in error and ("--labels" in error or "one class name a line" in error)


@pytest.mark.usefixtures("small_preset")
def test_a_byte_order_mark_and_other_line_ends_are_no_part_of_a_label(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("\ufeffcat\r\ndog\r\nfish\r\n".encode())
    options = ["--preset", "focalnet_plain", "--out", str(tmp_path / "run"), "--labels", str(tmp_path / "names.txt")]
    assert run_cli(main, [str(checkpoint), *options]) == 0
    assert read_run(tmp_path / "run").labels == ("cat", "dog", "fish")


@pytest.mark.usefixtures("small_preset")
@pytest.mark.parametrize(
    ("described", "reason"),
    [
        ({"id2label": {"0": "cat", "1": "a\nb", "2": "dog"}}, "labels[1]="),
        ({"id2label": {"0": "cat", "1": "", "2": ""}}, "labels[1]=''; expected a class name that is not empty"),
        ({"id2label": {"0": "cat", "1": "dog"}}, "has 2 class names for the 3 classes"),
        ({"id2label": {"0": "cat", "1": "dog", "5": "fish"}}, "`id2label` has the number '5'; expected 0 to 2"),
        ({"label_names": ["cat", "dog", "fish", "bird"]}, "has 4 class names for the 3 classes"),
        ({"pretrained_cfg": {"label_names": ["cat", "\ud800", "x"]}}, "labels[1]="),
    ],
)
def test_labels_beside_the_checkpoint_follow_the_same_rules(
    described: Any, reason: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.with_name("config.json").write_text(json.dumps(described))
    error = refused(checkpoint, capsys)
    assert reason in error and "--labels" in error


@pytest.mark.usefixtures("small_preset")
@pytest.mark.parametrize("nest", [lambda names: names, lambda names: {"pretrained_cfg": names}])
def test_timm_s_label_names_are_the_labels(nest: Any, checkpoint: Path, tmp_path: Path) -> None:
    described = {"architecture": "focalnet", **nest({"label_names": ["cat", "dog", "fish"]})}
    checkpoint.with_name("config.json").write_text(json.dumps(described))
    assert run_cli(main, [str(checkpoint), "--preset", "focalnet_plain", "--out", str(tmp_path / "run")]) == 0
    assert read_run(tmp_path / "run").labels == ("cat", "dog", "fish")


@pytest.mark.usefixtures("small_preset")
def test_a_description_of_another_network_beside_the_checkpoint_is_refused(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = {"model_type": "focalnet", "use_post_layernorm": True, "depths": [1, 2], "focal_windows": [3, 3]}
    checkpoint.with_name("config.json").write_text(json.dumps(described))
    error = refused(checkpoint, capsys)
    assert "use_post_layernorm is True, not False; focal_windows" not in error  # in the order of the fields
    assert "focal_windows is [3, 3], not [3, 5]" in error and "use_post_layernorm is True, not False" in error


@pytest.mark.usefixtures("small_preset")
def test_settings_without_a_tensor_are_taken_from_the_description(checkpoint: Path, tmp_path: Path) -> None:
    described = {"model_type": "focalnet", "normalize_modulator": True}
    checkpoint.with_name("config.json").write_text(json.dumps(described))
    assert run_cli(main, [str(checkpoint), "--preset", "focalnet_plain", "--out", str(tmp_path / "run")]) == 0
    assert read_run(tmp_path / "run").model == dataclasses.replace(PLAIN, normalise_modulator=True)


@pytest.mark.usefixtures("small_preset")
def test_a_tensor_outside_the_classifier_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = {"focalnet.embeddings.mask_token": np.zeros((1, 1, 8), np.float32)}
    save_file(drawn_checkpoint(LARGE, TRANSFORMERS) | mask, tmp_path / "model.safetensors")
    options = [str(tmp_path / "model.safetensors"), "--preset", "focalnet_large", "--out", str(tmp_path / "run")]
    assert run_cli(main, options) == 0
    assert "not used: focalnet.embeddings.mask_token" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "import.json").read_text())["unused"] == list(mask)


# --- with PyTorch -----------------------------------------------------------------------------------


def as_torch(tensors: Tensors) -> dict[str, Any]:
    torch = pytest.importorskip("torch", reason=".pth needs torch")
    return {name: torch.tensor(value) for name, value in tensors.items()}


@pytest.mark.usefixtures("small_preset")
@pytest.mark.parametrize("naming", NAMINGS, ids=lambda each: each.name)
@pytest.mark.parametrize("nest", [lambda t: {"model": t, "epoch": 299}, lambda t: {"state_dict": t}, lambda t: t])
def test_a_torch_file_is_read_as_tensors_alone(naming: Naming, nest: Any, tmp_path: Path) -> None:
    tensors = drawn_checkpoint(PLAIN, naming)
    content = nest(as_torch(tensors))
    import torch

    torch.save(content, tmp_path / "model.pth")
    found = read_checkpoint(tmp_path / "model.pth").tensors
    assert set(found) == set(tensors)
    assert all(np.array_equal(found[name], value) for name, value in tensors.items())


class Trap:
    """An object that runs code when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.mark.usefixtures("small_preset")
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_a_file_is_not_run(
    how: str, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"model": as_torch(drawn_checkpoint(PLAIN, ORIGINAL)), "config": Trap(tmp_path / "sprung")}
    import torch

    path = checkpoint.with_name("model.pth")
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    assert "objects other than tensors" in refused(path, capsys)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.usefixtures("small_preset")
@pytest.mark.parametrize("keep", [0, 100, -40])
def test_a_truncated_torch_file_is_refused(keep: int, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = as_torch(drawn_checkpoint(PLAIN, ORIGINAL))
    import torch

    path = checkpoint.with_name("model.pth")
    torch.save(content, path)
    path.write_bytes(path.read_bytes()[:keep])
    assert "is damaged" in refused(path, capsys)


@pytest.mark.usefixtures("small_preset")
def test_without_torch_a_torch_file_says_what_to_install(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    path = checkpoint.with_name("model.pth")
    path.write_bytes(b"PK")
    assert "install torch" in refused(path, capsys)
    assert run_cli(main, [str(checkpoint), "--preset", "focalnet_plain", "--out", str(checkpoint.parent / "out")]) == 0
