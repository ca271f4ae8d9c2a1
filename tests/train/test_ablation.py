"""An ablation: one change a variant, one training each, compared on the validation split."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from runtime.core.errors import ConfigError
from tests.support.tiny_training import NETWORK, RECIPE, easy_dataset
from train.ablation import (
    ABLATIONS,
    BASELINE,
    SETTINGS_FILE,
    Row,
    Settings,
    balanced_sample,
    begin_ablation,
    changed,
    main,
    table,
)
from train.data.dataset import Split
from train.model.presets import PRESETS, Preset
from train.model.weights import read_tensors
from train.run import read_run

RUN_FILES = {"config.json", "checkpoint.safetensors", "float.safetensors", "history.csv", "curves.png"}


@pytest.mark.parametrize("of", list(ABLATIONS))
def test_every_variant_changes_its_fields_and_no_other(of: str) -> None:
    preset = PRESETS["edge-pico"]
    before = dataclasses.asdict(preset.model) | dataclasses.asdict(preset.train)
    for variant, changes in ABLATIONS[of].items():
        after = changed(preset, changes)
        now = dataclasses.asdict(after.model) | dataclasses.asdict(after.train)
        assert {name: now[name] for name in now if now[name] != before[name]} == dict(changes), variant
    assert ABLATIONS[of][BASELINE] == {}


def test_an_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"received changes of \['dim'\]"):
        changed(PRESETS["edge-pico"], {"dim": 3, "pad": 0})


def test_a_sample_has_as_many_images_of_each_class() -> None:
    whole = easy_dataset().train
    part = balanced_sample(whole, 30)
    assert np.bincount(part.labels).tolist() == [10, 10, 10]
    places = [whole.ids.index(each) for each in part.ids]
    np.testing.assert_array_equal(part.images, whole.images[places])
    assert balanced_sample(whole, 1000) is whole


def test_a_table_gives_differences_from_its_first_row() -> None:
    rows = [Row(variant=name, parameters=1234, macs=10**6, train_top1=0.5, val_top1=top1, training_time_s=90.0)
            for name, top1 in (("a", 0.8), ("b", 0.815), ("c", 0.79))]  # fmt: skip
    lines = table(rows).splitlines()[2:]
    assert lines[1] == "| b | 1,234 | 1.0 M | 50.0% | 81.50% | +1.50 pp | 1.5 min |"
    assert [line.split("|")[6].strip() for line in lines] == ["+0.00 pp", "+1.50 pp", "-1.00 pp"]


@pytest.mark.slow
def test_variants_are_trained_once_and_not_measured_on_the_test_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = Split(np.zeros((0, 12, 12, 3), np.uint8), np.zeros(0, np.int64), ())

    def run(*more: str) -> int:
        return main([*given, *more], load=lambda *_, **__: dataclasses.replace(easy_dataset(), test=nothing))

    monkeypatch.setitem(PRESETS, "tiny", Preset(NETWORK, 0, RECIPE))
    given = ["--preset", "tiny", "--out", str(tmp_path), "--epochs", "2", "--only", "no mirroring", "--images", "48"]
    assert run("--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["images"], printed["epochs"]) == (48, 2)
    assert [row["variant"] for row in printed["rows"]] == [BASELINE, "no mirroring"]
    for folder in ("as-it-is", "no-mirroring"):
        assert {path.name for path in (tmp_path / folder).iterdir()} == RUN_FILES
        assert read_run(tmp_path / folder).recipe.flip == (folder == "as-it-is")
        deployed = read_tensors(tmp_path / folder / "float.safetensors")
        assert sum(tensor.size for tensor in deployed.values()) == printed["rows"][0]["parameters"]
    assert run() == 0
    assert capsys.readouterr().out.strip() == table([Row(**row) for row in printed["rows"]])
    kept = (tmp_path / "as-it-is" / "float.safetensors").read_bytes()
    for other in (["--pictures", "24"], ["--epochs", "3"]):
        with pytest.raises(ConfigError, match=r"'images': 48.* name another folder with --out"):
            run(*other)
    assert (tmp_path / "as-it-is" / "float.safetensors").read_bytes() == kept


def test_settings_of_older_folders_are_read(tmp_path: Path) -> None:
    settings = Settings(preset="tiny", dataset="folder", epochs=2, images=48)
    content = {"preset": "tiny", "dataset": "folder", "epochs": 2, "pictures": 48}
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(content))
    begin_ablation(tmp_path, settings)
    assert json.loads((tmp_path / SETTINGS_FILE).read_text()) == dataclasses.asdict(settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--only", "no luck"], r"received --only \['no luck'\]; expected some of as it is"),
        (["--epochs", "0"], "received epochs=0"),
        (["--images", "0"], "received --images 0; expected 1 or more"),
        (["--preset", "edge"], "received preset 'edge'"),
    ],
)
def test_wrong_options_are_refused_before_images_are_loaded(given: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        main([*given, "--out", str(tmp_path / "out"), "--data-dir", str(tmp_path / "missing")])
    assert not (tmp_path / "out").exists()
