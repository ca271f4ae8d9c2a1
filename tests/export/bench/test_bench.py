"""The benchmark: its figures, its reports, and peers whose packages are missing or fail."""

from __future__ import annotations

import dataclasses
import json
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.text import Text

import export.bench.__main__ as bench
from calibration.calibration_file import Calibration
from calibration.representative_set import draw_representative_set, hash_of
from export.bench.contender import LOWER_BOUND, OURS, Contender, FloatNetwork, NotMeasured
from export.bench.peers.family import Family, package_version
from export.bench.peers.registry import FAMILIES, make_peers
from export.bench.report import Benchmark, Row, draw, times_ours, to_dict, to_markdown, write_reports
from export.bench.setup import find_or_draw
from runtime.core.cli import run_cli
from runtime.core.errors import ConfigError
from runtime.evaluation.metrics import RelativeAccuracy
from runtime.evaluation.timing import Latency
from tests.support.tiny_run import TEST_IMAGES
from train.data.dataset import Split


def latency(p50_ms: float) -> Latency:
    return Latency(p50_ms, 1.5 * p50_ms, 0.5 * p50_ms)


def row(name: str, p50_ms: float, top1: float = 0.9) -> Row:
    accuracy = RelativeAccuracy(top1, 100 * (0.9 - top1), 0.25, 0.97)
    return Row(name, f"how {name} is made", 1234567, accuracy, {1: latency(p50_ms), 2: latency(p50_ms / 2 + 0.1)})


# Runtimes of the bundle's ONNX files, and their distributions.
RUNTIMES = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}
ROWS = (
    row(OURS, 0.5),
    row("peer one", 1.0),
    row("peer two", 0.4, 0.85),
    Row(LOWER_BOUND, "the products", None, None, {1: latency(0.2), 2: latency(0.1)}),
)
RESULT = Benchmark(
    created_utc="2026-01-02T03:04:05+00:00",
    bundle="tiny",
    data={
        "dataset": "blobs",
        "split": "test",
        "images": 2000,
        "float_top1": 0.9,
        "representative": 512,
        "representative_is_the_bundles": True,
    },
    machine={"cpu": "a CPU", "cores": 2, "load_before": 0.1, "load_after": 0.9},
    versions={"someone": "1.2"},
    rounds=7,
    threads=(1, 2),
    rows=ROWS,
    not_measured=(NotMeasured("peer three", "three not installed; run `pip install '.[bench]'`", False),),
)


def test_the_bundles_images_are_found_by_name_or_as_many_are_drawn() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    train = Split(images, np.arange(40, dtype=np.int64) % 4, tuple(f"p{index}" for index in range(40)))
    # As if one could not be read: no draw of eleven would give the rest.
    ids = draw_representative_set(train, 12, seed=3).ids[1:]
    sha256 = hash_of(ids, images[[train.ids.index(name) for name in ids]])
    calibration = Calibration(
        dataset="toys", observer="minmax", percentile=None, seed=3, sha256=sha256, ids=ids, ranges={}
    )
    found = find_or_draw(calibration, train)
    assert (found.ids, found.sha256) == (ids, sha256)
    np.testing.assert_array_equal(found.images, images[[int(name[1:]) for name in ids]])

    absent = dataclasses.replace(calibration, ids=(*ids[:-1], "stranger of another disk"))
    drawn = find_or_draw(absent, train)
    assert drawn.ids == draw_representative_set(train, 11, seed=3).ids
    assert drawn.sha256 != sha256


def test_ratios_are_of_medians() -> None:
    assert times_ours(ROWS, 1) == {OURS: 1.0, "peer one": 2.0, "peer two": pytest.approx(0.8), LOWER_BOUND: 0.4}
    assert times_ours(ROWS, 2)["peer one"] == pytest.approx(0.6 / 0.35)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_every_row_and_names_those_not_measured() -> None:
    text = to_markdown(RESULT)
    table = [cells(line) for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in table}) == 1
    found = {line[0]: line[1:] for line in table[2:]}
    assert list(found) == [f"**{OURS}**", "peer one", "peer two", LOWER_BOUND]
    assert found["peer two"] == [
        *("85.00%", "5.00 ± 0.25", "97.00%"),
        *("0.400", "0.600", "0.80", "0.300", "0.450", "0.86"),
        "1,234,567",
    ]
    assert found[LOWER_BOUND] == ["", "", "", "0.200", "0.300", "0.40", "0.100", "0.150", "0.29", ""]
    for word in ("peer three", "pip install '.[bench]'", "2,000 images", "load average 0.10 before", "someone 1.2"):
        assert word in text
    assert "the bundle's own" in text


def test_json_has_the_same_figures() -> None:
    content = json.loads(json.dumps(to_dict(RESULT), allow_nan=False))
    rows = {each["name"]: each for each in content["rows"]}
    assert rows["peer one"]["latency"]["1"] == {"p50_ms": 1.0, "p90_ms": 1.5, "min_ms": 0.5, "times_ours": 2.0}
    assert rows["peer two"]["accuracy"]["top1"] == 0.85
    assert (rows[LOWER_BOUND]["accuracy"], rows[LOWER_BOUND]["size_bytes"]) == (None, None)
    assert content["not_measured"][0] == {
        "name": "peer three",
        "reason": "three not installed; run `pip install '.[bench]'`",
        "failed": False,
    }
    assert content["threads"] == [1, 2]


def test_the_plot_labels_every_row_and_no_two_names_overlap(tmp_path: Path) -> None:
    many = tuple(row(f"peer {index}", 1.0 + 0.01 * index, 0.9 - 0.0005 * (index % 3)) for index in range(16))
    result = dataclasses.replace(RESULT, rows=(*ROWS, *many))
    figure = draw(result)
    figure.savefig(tmp_path / "plot.png")
    (axes,) = figure.axes
    names = [text.get_text().split("  ")[0] for text in axes.texts]
    assert sorted(names) == sorted(each.name for each in result.rows if each.name != LOWER_BOUND)
    # An annotation's extent would include the line to its point.
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert axes.get_xscale() == "log"


def test_names_of_bundles_and_datasets_are_text(tmp_path: Path) -> None:
    named = dataclasses.replace(RESULT, bundle="US$_$1 | `run`", data=RESULT.data | {"dataset": "<b>\udcdf"})
    write_reports(tmp_path, named)
    assert to_markdown(named).startswith(r"# US\$\_\$1 \| \`run\` and ")
    assert r"images of \<b\>\\xdf, " in to_markdown(named)


def test_reports_are_three_files(tmp_path: Path) -> None:
    paths = write_reports(tmp_path / "new", RESULT)
    assert [path.name for path in paths] == ["bench.md", "bench.json", "bench.png"]
    assert paths[0].read_text() == to_markdown(RESULT)
    assert json.loads(paths[1].read_text())["bundle"] == "tiny"
    assert cv2.imread(str(paths[2])).std() > 0


class Fixed:
    """A classifier whose logits are selected by an image's first pixel."""

    def __init__(self, logits: list[list[float]]) -> None:
        self._logits = np.asarray(logits, np.float32)

    def run(self, image: np.ndarray, /) -> np.ndarray:
        assert image.shape == (1, 2, 2, 3)
        return self._logits[image[0, 0, 0, 0]]


def network() -> FloatNetwork:
    class Model:
        input_shape = (None, 2, 2, 3)

    return FloatNetwork(Model(), np.zeros((1, 2, 2, 3), np.uint8))


def contender(name: str) -> Contender:
    return Contender(name, "planted", (), lambda threads: Fixed([[1, 2]]))


def sound(network: FloatNetwork, folder: Path) -> Any:
    yield contender("sound")


def test_missing_packages_are_named_and_one_failure_does_not_lose_the_rest(tmp_path: Path) -> None:
    def half(network: FloatNetwork, folder: Path) -> Any:
        yield contender("first half")
        raise RuntimeError("operator Frob\n is not supported")

    def broken(network: FloatNetwork, folder: Path) -> Any:
        def refuse(threads: int) -> Any:
            raise OSError("cannot be opened")

        yield Contender("never opens", "planted", (), refuse)

    families = {
        "absent": Family(("no-such-distribution", "numpy"), ("absent one", "absent two"), sound),
        "half": Family(("numpy",), ("first half", "second half"), half),
        "broken": Family((), ("never opens",), broken),
        "sound": Family((), ("sound",), sound),
    }
    made, not_measured = make_peers(families, network(), tmp_path)
    assert [each.name for each in made] == ["first half", "sound"]
    reason = "no-such-distribution not installed; run `pip install '.[bench]'`"
    assert not_measured == [
        NotMeasured("absent one", reason, failed=False),
        NotMeasured("absent two", reason, failed=False),
        NotMeasured("second half", "RuntimeError: operator Frob is not supported", failed=True),
        NotMeasured("never opens", "OSError: cannot be opened", failed=True),
    ]


@pytest.mark.parametrize("shape", [(0, 2, 2, 3), (4, 3, 3, 3)])
def test_invalid_calibration_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"expected uint8 \[N, 2, 2, 3\], N at least 1"):
        FloatNetwork(network().model, np.zeros(shape, np.uint8))
    with pytest.raises(ConfigError, match="float32"):
        FloatNetwork(network().model, np.zeros((1, 2, 2, 3), np.float32))


def test_no_two_rows_share_a_name() -> None:
    names = [name for family in FAMILIES.values() for name in family.peers]
    assert len({*names, OURS, LOWER_BOUND}) == len(names) + 2


@pytest.mark.parametrize("wrong", [["--images", "0"], ["--rounds", "0"], ["--threads", "0"], ["--threads", "1", "1"]])
def test_the_command_refuses_bad_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str]) -> None:
    assert run_cli(bench.main, ["--bundle", str(tmp_path), *wrong]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: received")
    assert captured.err.count("\n") == 1


def test_the_command_names_a_missing_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(bench.main, ["--bundle", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_the_command_measures_a_bundle_with_the_installed_packages(
    tiny_export: Path,
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = tmp_path / "mine"
    shutil.copytree(tiny_export, bundle)
    for path in (bundle / "artifacts").iterdir():
        path.rename(bundle / path.name)
    shutil.copyfile(bundle / "float.safetensors", bundle / "qat.safetensors")
    stock = FAMILIES["TensorFlow Lite"]
    families = {"TensorFlow Lite": stock, "absent": Family(("no-such-distribution",), ("absent",), sound)}
    options = ["--data-dir", str(image_folder), "--images", "6", "--rounds", "3", "--threads", "1", "--json"]
    assert bench.main(["--bundle", str(bundle), "--out", str(tmp_path / "out"), *options], families) == 0
    content = json.loads(capsys.readouterr().out)
    assert content == json.loads((tmp_path / "out" / "bench.json").read_text())
    assert content["bundle"] == "mine"
    assert content["data"]["images"] == 6 < TEST_IMAGES
    assert content["data"]["representative_is_the_bundles"] is True
    rows = {each["name"]: each for each in content["rows"]}
    made = [f"{OURS}, {name}" for name in ("calibrated alone", "integer-only", "dynamic")]
    runtimes = [name for name, package in RUNTIMES.items() if package_version(package) is not None]
    elsewhere = [f"FocalEdge {precision}, {runtime}" for precision in ("float32", "int8") for runtime in runtimes]
    assert list(rows) == ["FocalEdge float32", OURS, *made, *elsewhere, *stock.peers, LOWER_BOUND]
    assert [each["name"] for each in content["not_measured"]] == ["absent"]
    for exact in ("FocalEdge float32", "TFLite float"):
        assert rows[exact]["accuracy"]["agreement"] == 1.0
        assert rows[exact]["accuracy"]["drop_pp"] == 0.0
    # The fine-tuned weights are the float ones here, so both int8 artifacts are the same.
    alone = tmp_path / "out" / "artifacts" / "calibrated_alone" / "int8.tflite"
    assert rows[f"{OURS}, calibrated alone"]["size_bytes"] == alone.stat().st_size
    assert alone.read_bytes() == (bundle / "int8.tflite").read_bytes()
    assert rows[OURS]["latency"]["1"]["times_ours"] == 1.0
    assert all(each["latency"]["1"]["p50_ms"] > 0 for each in rows.values())
