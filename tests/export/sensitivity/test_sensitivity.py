"""`python -m export.sensitivity`: from a calibrated run to a ranking, a choice of float products, and its curve."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.text import Text

import export.__main__
from calibration.calibration_file import read_calibration, write_calibration
from export.sensitivity.__main__ import main, write_reports
from export.sensitivity.float_layer_search import Trial
from export.sensitivity.plot import draw_curve, draw_ranking
from export.sensitivity.ranking import Effect, Sensitivity
from export.sensitivity.report import Report, SearchReport, export_command, to_dict, to_markdown
from export.sensitivity.tradeoff import LayerCost, Point
from runtime.core.cli import run_cli
from runtime.evaluation.metrics import RelativeAccuracy
from runtime.evaluation.timing import Latency
from tests.support.tiny_run import CLASSES, CONFIG, RUN, clearest, run_artifact, soft_images
from train.data.dataset import resize_all
from train.data.registry import load_dataset

PRODUCTS = 20
DAMAGED = "stage1.block0.contract"


def accuracy(drop_pp: float) -> RelativeAccuracy:
    return RelativeAccuracy(top1=0.9 - drop_pp / 100, drop_pp=drop_pp, drop_standard_error_pp=0.2, agreement=0.95)


def sample_report(count: int) -> Report:
    """Return a report of `count` products, the first two of them chosen."""
    names = [f"stage0.block{index}.contract" for index in range(count)]
    layers = tuple(
        Sensitivity(
            layer=name,
            sqnr_db=None if index == 3 else 15.0 + index,
            effect=Effect(accuracy=accuracy(1.0 / (index + 1)), divergence_nats=10.0 ** -(3 + index / 20)),
        )
        for index, name in enumerate(names)
    )
    points = tuple(
        Point(
            float_layers=tuple(names[:few]),
            accuracy=accuracy(1.0 - few / count),
            size_bytes=1_000_000 + 10_000 * few,
            latency=Latency(0.5 + 0.01 * few, 0.6 + 0.01 * few, 0.4),
        )
        for few in (0, 1, 2, count)
    )
    search = SearchReport(
        max_drop_pp=0.9,
        tried=(),
        simulated=Trial(float_layers=tuple(names[:1]), effect=layers[0].effect),
        float_layers=tuple(names[:2]),
        costs=tuple(LayerCost(layer=name, latency_p50_ms=0.01, size_bytes=10_000) for name in names[:2]),
        points=points,
        rounds=100,
        machine={"cpu": "a processor", "cores": 2, "interpreter": "one", "load_before": 0.0, "load_after": 0.0},
        command=export_command(Path("runs/my run"), names[:2]),
    )
    data = {"dataset": "blobs", "split": "val", "images": 100, "float_top1": 0.9}
    return Report(created_utc="now", run="runs/my run", scheme="selective", data=data, layers=layers, search=search)


@pytest.fixture(scope="module")
def damaged_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run with a far too narrow range of one product's output."""
    run = Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("damaged") / "run"))
    calibration = read_calibration(run)
    low, high = calibration.ranges[DAMAGED]
    ranges = calibration.ranges | {DAMAGED: (low / 50, high / 50)}
    write_calibration(run, dataclasses.replace(calibration, ranges=ranges))
    return run


@pytest.fixture(scope="module")
def labelled(tiny_float: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset labelled with the float network's clearest predictions; 60 validation images."""
    folder = tmp_path_factory.mktemp("labelled")
    images = soft_images(600, seed=21, size=RUN.image_size)
    logits = tiny_float.predict_on_batch(resize_all(images, CONFIG.input_spec).astype(np.float32))
    for index in clearest(logits, 66):
        split = ("train", "test", *["val"] * 9)[index % 11]
        path = folder / split / CLASSES[logits[index].argmax()] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), images[index][..., ::-1])
    return folder


@pytest.mark.slow
def test_the_printed_command_leaves_the_damaged_product_in_float(
    damaged_run: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--run", str(damaged_run), "--data-dir", str(labelled)]
    assert run_cli(main, [*options, "--max-drop", "2", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content == json.loads((damaged_run / "sensitivity" / "sensitivity.json").read_text())
    assert (content["data"]["split"], content["data"]["float_top1"]) == ("val", 1.0)
    assert len(content["layers"]) == PRODUCTS
    assert content["layers"][0]["layer"] == DAMAGED
    search = content["search"]
    assert search["simulated"]["float_layers"] == search["float_layers"] == [DAMAGED]
    none, chosen, *_, everything = search["points"]
    assert [len(point["float_layers"]) for point in search["points"]] == [0, 1, 5, 10, 15, 20]
    assert none["accuracy"]["drop_pp"] > 2.0 >= chosen["accuracy"]["drop_pp"]
    assert (everything["accuracy"]["drop_pp"], everything["accuracy"]["top1"]) == (0.0, 1.0)
    assert all(0 < point["latency"]["p50_ms"] <= point["latency"]["p90_ms"] for point in search["points"])
    assert [each["size_bytes"] for each in search["costs"]] == [chosen["size_bytes"] - none["size_bytes"]]
    for name in ("sensitivity.png", "curve.png"):
        assert cv2.imread(str(damaged_run / "sensitivity" / name)).std() > 5

    program, *arguments = shlex.split(search["command"])[2:]
    assert (program, arguments[:2]) == ("export", ["--run", str(damaged_run)])
    assert run_cli(export.__main__.main, arguments) == 0
    artifact = (damaged_run / "artifacts" / "int8.tflite").read_bytes()
    assert len(artifact) == chosen["size_bytes"]
    val = load_dataset("folder", data_dir=labelled, image_size=RUN.image_size).val
    predicted = run_artifact(artifact, resize_all(val.images, CONFIG.input_spec))["logits"].argmax(axis=-1)
    assert content["data"]["images"] == len(val.labels) > 30
    assert chosen["accuracy"]["top1"] == np.mean(predicted == val.labels)


def test_without_a_search_an_older_curve_is_deleted(
    tiny_run: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    (run / "sensitivity").mkdir()
    (run / "sensitivity" / "curve.png").write_text("an older one")
    assert run_cli(main, ["--run", str(run), "--data-dir", str(image_folder), "--images", "5"]) == 0
    content = json.loads((run / "sensitivity" / "sensitivity.json").read_text())
    assert content["search"] is None
    assert content["data"]["images"] == 5
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("|")[2].strip() for line in printed[4:]] == [each["layer"] for each in content["layers"]]
    assert {path.name for path in (run / "sensitivity").iterdir()} == {"sensitivity.json", "sensitivity.png"}


def test_names_of_runs_and_datasets_are_text(tmp_path: Path) -> None:
    report = sample_report(4)
    named = dataclasses.replace(report, run="US$_$1 | run", data=report.data | {"dataset": "<b>$^$\udcdf"})
    write_reports(tmp_path, named)
    assert r"products of US\$\_\$1 \| run, " in to_markdown(named)
    assert r"images of \<b\>\$^\$\\xdf, " in to_markdown(named)


@pytest.mark.parametrize("count", [4, 60])
def test_the_plots_are_legible(count: int, tmp_path: Path) -> None:
    report = sample_report(count)
    assert report.search is not None
    for figure in (draw_ranking(report), draw_curve(report, report.search)):
        figure.draw_without_rendering()
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert drawn.x0 >= 0 and drawn.y0 >= 0 and drawn.x1 <= width and drawn.y1 <= height
    ranking = draw_ranking(report)
    ranking.draw_without_rendering()
    labels = ranking.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == [each.layer for each in report.layers]
    rows = [label.get_window_extent() for label in labels]
    assert all(below.y1 <= above.y0 for above, below in pairwise(rows))
    assert [bar.get_width() for bar in ranking.axes[0].patches] == [each.sqnr_db or 0.0 for each in report.layers]
    first, second, *others = [bar.get_facecolor() for bar in ranking.axes[0].patches]
    assert first == second
    assert first not in others
    curve = draw_curve(report, report.search)
    curve.draw_without_rendering()
    # Without the lines to their points, which may cross.
    notes = [Text.get_window_extent(text) for text in curve.axes[0].texts]
    assert len(notes) == len(report.search.points)
    assert all(below.y1 <= above.y0 for below, above in pairwise(notes))
    markers = [each for each in curve.axes[0].collections if isinstance(each, PathCollection)]
    places = sorted(tuple(each.get_offsets()[0]) for each in markers)
    assert places == [(point.latency.p50_ms, point.accuracy.drop_pp) for point in report.search.points]
    areas = [float(each.get_sizes()[0]) for each in markers]
    assert max(areas) / min(areas) == pytest.approx(1 + count / 100)
    write_reports(tmp_path, report)
    assert {path.name for path in tmp_path.iterdir()} == {"sensitivity.json", "sensitivity.png", "curve.png"}


def test_the_tables_end_with_the_choice_and_its_command() -> None:
    report = sample_report(5)
    text = to_markdown(report)
    assert "2 of 5 products in float: a drop of 0.60 pp" in text
    command = text.splitlines()[-1].removeprefix("Export it with: ")
    assert shlex.split(command)[:7] == ["python", "-m", "export", "--run", "runs/my run", "--qat-epochs", "0"]
    assert shlex.split(command)[-2:] == ["stage0.block0.contract", "stage0.block1.contract"]
    assert json.loads(json.dumps(to_dict(report)))["search"]["machine"]["cores"] == 2
    assert report.search is not None
    alone = dataclasses.replace(report.search, command=None, costs=())
    assert "No int8 artifact is within 0.9 pp" in to_markdown(dataclasses.replace(report, search=alone))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--max-drop", "-0.1"), "received a largest drop of -0.1 percentage points; expected 0 or more"),
        (("--max-drop", "nan"), "received a largest drop of nan percentage points"),
        (("--images", "0"), "received --images 0; expected 1 or more"),
        (("--run", "/nowhere"), "/nowhere/config.json does not exist; make it with `python -m train`"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(
    tiny_run: Path, options: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(main, ["--run", str(tiny_run), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert complaint in line
    assert not (tiny_run / "sensitivity").exists()
