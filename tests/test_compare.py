import base64
import json
import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

import runtime.compare
from runtime.compare import PairedOutputs, compare, cpu_model, main, panel_indices, sample_indices, verdict
from runtime.errors import ArtifactError, ConfigError, DataError, FocalEdgeError, run_cli
from runtime.manifest import Artifact, Manifest, Overlay, write_manifest
from runtime.outputs import Outputs
from runtime.report_html import BarPair, histogram, paired_bars
from runtime.split_file import LabelledPictures, write_split
from tests import tiny_bundle

CLASSES = ("ant", "bee", "<cat> & co")
SIZE = 8
PICTURES = 30
# Pictures that the fake float network gets wrong, one of each class.
FLOAT_MISTAKES = (0, 10, 20)


def picture(index: int) -> np.ndarray:
    """A noise picture whose first pixel tells its label (red) and its index (green)."""
    image = np.random.default_rng(index).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    image[0, 0] = (index % len(CLASSES), index, 0)
    return image


@pytest.fixture
def pictures() -> LabelledPictures:
    return LabelledPictures(
        images=np.stack([picture(index) for index in range(PICTURES)]),
        labels=np.arange(PICTURES, dtype=np.int64) % len(CLASSES),
        ids=tuple(f"picture/{index}" for index in range(PICTURES)),
        class_names=CLASSES,
        dataset="toys",
        split="test",
    )


@dataclass
class FakeEngine:
    """Reads the label from the first pixel and the gates from the others."""

    precision: str
    damage: Callable[[Outputs, int], Outputs] = lambda outputs, index: outputs
    kind: str = "tflite"
    name: str = "fake 1.0"
    threads: int = 1
    input_size: int = SIZE

    def run(self, image: np.ndarray) -> Outputs:
        label, index = int(image[0, 0, 0, 0]), int(image[0, 0, 0, 1])
        logits = np.full(len(CLASSES), 2.0, np.float32)
        logits[(label + (index in FLOAT_MISTAKES)) % len(CLASSES)] = 3.0
        cells = image[0, 1::2, ::2].astype(np.float32) / 128 - 1
        return self.damage(Outputs(logits, cells, np.abs(cells).sum(axis=-1)), index)


def engines(damage=lambda outputs, index: outputs) -> dict[str, FakeEngine]:
    return {"float32": FakeEngine("float32"), "int8": FakeEngine("int8", damage)}


def rounded(outputs, index):
    """What sound quantization does: a small error everywhere."""
    return Outputs(outputs.logits, np.round(outputs.gates * 32) / 32, np.round(outputs.modulator * 32) / 32)


def with_logits(outputs, logits):
    return replace(outputs, logits=np.asarray(logits, np.float32))


def first_class_scale_doubled(outputs, index):
    return with_logits(outputs, outputs.logits * [2, 1, 1])


def last_class_zeroed(outputs, index):
    return with_logits(outputs, outputs.logits * [1, 1, 0])


def labels_permuted(outputs, index):
    return with_logits(outputs, np.roll(outputs.logits, 1))


def nan_logits(outputs, index):
    return with_logits(outputs, outputs.logits * math.nan)


def one_nan_gate(outputs, index):
    gates = outputs.gates.copy()
    gates[0, 0, 0] = math.nan if index == 7 else gates[0, 0, 0]
    return replace(outputs, gates=gates)


def one_infinite_modulator(outputs, index):
    return replace(outputs, modulator=outputs.modulator * (math.inf if index == 7 else 1))


DAMAGES = [
    first_class_scale_doubled,
    last_class_zeroed,
    labels_permuted,
    nan_logits,
    one_nan_gate,
    one_infinite_modulator,
]


def artifact(file: str, precision: str, content: bytes) -> Artifact:
    return Artifact(file, precision, "tflite", sha256(content).hexdigest(), len(content), None)


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        preset="edge-test",
        config={},
        input_shape=(1, SIZE, SIZE, 3),
        labels=CLASSES,
        outputs={"logits": (1, 3), "gates": (1, 4, 4, 3), "modulator": (1, 4, 4)},
        overlay=Overlay(layer="stage1.block2", stride_px=2, focal_levels=2),
        dataset="toys",
        calibration_sha256=None,
        artifacts=(
            artifact("float.tflite", "float32", b"f" * 400),
            artifact("int8.tflite", "int8", b"i" * 100),
        ),
        tools={},
    )


@pytest.fixture
def command(tmp_path, manifest, pictures, monkeypatch):
    """Gives a function that runs the command line with an int8 engine of our choice."""
    bundle, data = tmp_path / "bundle", tmp_path / "test.npz"
    bundle.mkdir()
    write_manifest(bundle, manifest)
    write_split(data, pictures)

    def run(*arguments: str, damage=rounded) -> int:
        pair = engines(damage)
        monkeypatch.setattr(runtime.compare, "open_engine", lambda folder, precision, engine, threads: pair[precision])
        base = ["--bundle", str(bundle), "--data", str(data), "--out", str(tmp_path / "report")]
        return run_cli(main, [*base, *arguments])

    return run


# --- the figures -------------------------------------------------------------------------------


def test_sound_quantization_passes_with_the_figures_counted_by_hand(manifest, pictures):
    report = compare(engines(rounded), manifest, pictures, rounds=3).report
    accuracy = report["accuracy"]
    assert report["verdict"]["passed"] is True
    assert accuracy["top1_float32"] == accuracy["top1_int8"] == 27 / 30
    assert (accuracy["drop_pp"], accuracy["agreement"], accuracy["non_finite_int8"]) == (0, 1, 0)
    assert [entry["pictures"] for entry in report["classes"]] == [10, 10, 10]
    assert [entry["top1_int8"] for entry in report["classes"]] == [0.9, 0.9, 0.9]
    assert report["size"] == {"float32_bytes": 400, "int8_bytes": 100, "ratio": 4.0}
    maps = report["gate_similarity"]["maps"]
    assert [entry["map"] for entry in maps] == ["focal level 1", "focal level 2", "global gate", "modulator"]
    assert all(0.99 < entry["min"] <= entry["p5"] <= entry["mean"] < 1 for entry in maps)
    assert all(sum(entry["histogram"]) == PICTURES for entry in maps)


def test_similarity_belongs_to_its_own_map(manifest, pictures):
    def second_level_zeroed_global_gate_negated(outputs, index):
        return replace(outputs, gates=outputs.gates * np.float32([1, 0, -1]))

    report = compare(engines(second_level_zeroed_global_gate_negated), manifest, pictures, rounds=3).report
    means = [entry["mean"] for entry in report["gate_similarity"]["maps"]]
    assert means == pytest.approx([1, 0, -1, 1], abs=1e-6)


def test_a_drop_has_the_sign_of_a_loss(manifest, pictures):
    worse = compare(engines(labels_permuted), manifest, pictures, rounds=3).report["accuracy"]
    assert worse["drop_pp"] == 90
    assert (worse["only_float32_correct"], worse["only_int8_correct"]) == (27, 0)

    def mends_one(outputs, index):
        return with_logits(outputs, [3, 2, 2]) if index == 0 else outputs

    better = compare(engines(mends_one), manifest, pictures, rounds=3).report
    assert better["accuracy"]["drop_pp"] == pytest.approx(-100 / 30)
    assert better["accuracy"]["only_int8_correct"] == 1
    assert "gains" in better["verdict"]["reasons"][0]
    assert better["verdict"]["passed"] is True


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_int8_engine_fails(manifest, pictures, damage):
    report = compare(engines(damage), manifest, pictures, max_drop_pp=0.5, rounds=3).report
    assert report["verdict"]["passed"] is False
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize(("damage", "count"), [(nan_logits, 30), (one_nan_gate, 1), (one_infinite_modulator, 1)])
def test_non_finite_outputs_fail_whatever_the_allowed_drop(manifest, pictures, damage, count):
    report = compare(engines(damage), manifest, pictures, max_drop_pp=100, rounds=3).report
    assert report["verdict"]["passed"] is False
    assert f"{count} of 30 pictures" in report["verdict"]["reasons"][1]
    assert report["accuracy"]["non_finite_int8"] == count
    assert report["accuracy"]["agreement"] == pytest.approx(1 - count / 30)
    assert all(entry["min"] == 0 for entry in report["gate_similarity"]["maps"])


@pytest.mark.parametrize(
    ("drop", "limit", "passed"),
    [(0.3, 0.3, True), (0.31, 0.3, False), (0.29, 0.3, True), (0, 0, True), (0.01, 0, False), (-2, 0, True)],
)
def test_the_verdict_at_its_limit(drop, limit, passed):
    assert verdict({"drop_pp": drop, "non_finite_int8": 0}, 1000, limit)["passed"] is passed


def test_a_drop_of_exactly_the_allowed_one_passes_and_one_picture_more_fails(manifest, pictures):
    def wrong_for(last):
        def damage(outputs, index):
            return with_logits(outputs, np.roll(outputs.logits, 1)) if index in range(1, last) else outputs

        return damage

    # 3 of 30 pictures are 10 percentage points.
    for last, passed in ((4, True), (5, False)):
        report = compare(engines(wrong_for(last)), manifest, pictures, max_drop_pp=10, rounds=3).report
        assert report["verdict"]["passed"] is passed


# --- what is refused ----------------------------------------------------------------------------


def test_a_damaged_float_reference_is_bad_input_not_a_verdict(manifest, pictures):
    damaged = {"float32": FakeEngine("float32", nan_logits), "int8": FakeEngine("int8")}
    with pytest.raises(ArtifactError, match="float32 artifact gives non-finite"):
        compare(damaged, manifest, pictures, rounds=3)


def test_outputs_of_another_shape_are_refused(manifest, pictures):
    def too_few_logits(outputs, index):
        return with_logits(outputs, outputs.logits[:2])

    def too_few_gates(outputs, index):
        return replace(outputs, gates=outputs.gates[..., :2])

    with pytest.raises(ArtifactError, match=r"int8 artifact gives logits of shape \(2,\)"):
        compare(engines(too_few_logits), manifest, pictures, rounds=3)
    with pytest.raises(FocalEdgeError, match="expected one shape"):
        compare(engines(too_few_gates), manifest, pictures, rounds=3)


def test_data_of_other_classes_is_refused(manifest, pictures):
    with pytest.raises(DataError, match="4 classes and the bundle 3"):
        compare(engines(), manifest, replace(pictures, class_names=(*CLASSES, "dog")), rounds=3)
    with pytest.raises(DataError, match="class 0 is 'bee' in the data and 'ant'"):
        compare(engines(), manifest, replace(pictures, class_names=("bee", "ant", CLASSES[2])), rounds=3)


@pytest.mark.parametrize("max_drop_pp", [-0.1, math.nan, math.inf])
def test_a_senseless_limit_is_refused(manifest, pictures, max_drop_pp):
    with pytest.raises(ConfigError, match="0 or more"):
        compare(engines(), manifest, pictures, max_drop_pp=max_drop_pp, rounds=3)


# --- the sample ---------------------------------------------------------------------------------


def test_a_sample_is_class_balanced_even_where_labels_repeat_with_its_stride():
    labels = np.arange(1000) % 10
    chosen = sample_indices(labels, 100)
    assert np.bincount(labels[chosen]).tolist() == [10] * 10
    assert len(set(chosen.tolist())) == 100
    assert np.all(np.diff(chosen) > 0)
    np.testing.assert_array_equal(chosen, sample_indices(labels, 100))


def test_a_sample_takes_what_a_rare_class_has():
    labels = np.array([0] * 50 + [1] * 2)
    assert np.bincount(labels[sample_indices(labels, 12)]).tolist() == [10, 2]


@pytest.mark.parametrize("limit", [None, 7, 99])
def test_no_limit_or_a_large_one_takes_every_picture(limit):
    assert sample_indices(np.arange(7), limit).tolist() == list(range(7))


def test_a_sample_is_named_as_such_in_the_report(manifest, pictures):
    whole = compare(engines(), manifest, pictures, rounds=3).report["data"]
    sample = compare(engines(), manifest, pictures, limit=6, rounds=3).report["data"]
    assert (whole["pictures"], whole["sampling"]) == (30, "every picture of the split")
    assert (sample["pictures"], sample["pictures_in_split"]) == (6, 30)
    assert "sample" in sample["sampling"]
    assert "6 of 30" in sample["sampling"]


# --- the pictures to show -----------------------------------------------------------------------


def test_the_worst_pictures_come_first_then_random_ones():
    similarity = np.ones((9, 3))
    similarity[4, 1] = 0.2
    paired = PairedOutputs(np.zeros(9, int), np.array([0, 0, 0, 0, 0, 0, 0, 1, 0]), similarity)
    chosen = panel_indices(paired)
    assert chosen[:2] == [(7, "predictions disagree"), (4, "least similar maps")]
    assert [reason for _, reason in chosen[2:]] == ["chosen at random"] * 2
    assert len({index for index, _ in chosen}) == 4


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_pictures_are_each_shown_once(count):
    paired = PairedOutputs(np.zeros(count, int), np.zeros(count, int), np.ones((count, 3)))
    assert sorted(index for index, _ in panel_indices(paired)) == list(range(count))


# --- the machine --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: Fast CPU @ 2GHz\nflags\t: a b\n", "Fast CPU @ 2GHz"),
        ("processor\t: 0\nBogoMIPS\t: 108\n\nModel\t\t: Some Board Rev 1.2\n", "Some Board Rev 1.2"),
    ],
)
def test_the_cpu_is_named_as_the_kernel_does(tmp_path, text, name):
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_model(tmp_path / "cpuinfo") == name
    assert cpu_model(tmp_path / "none") not in ("", name)


# --- the command line ---------------------------------------------------------------------------


def test_the_command_passes_and_prints_what_it_writes(command, tmp_path, capsys):
    assert command("--json") == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert printed == written
    assert written["schema_version"] == 1
    assert written["verdict"] == {
        "passed": True,
        "max_drop_pp": 0.5,
        "reasons": ["int8 loses 0 percentage points of top-1, within the limit of 0.5"],
    }
    assert written["machine"]["engine"] == "fake 1.0"
    assert [entry["sha256"] for entry in written["bundle"]["artifacts"]] == [
        sha256(b"f" * 400).hexdigest(),
        sha256(b"i" * 100).hexdigest(),
    ]


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_command_exits_1_and_still_writes_both_reports(command, tmp_path, capsys, damage):
    assert command(damage=damage) == 1
    assert capsys.readouterr().out.startswith("FAIL: ")
    assert json.loads((tmp_path / "report" / "report.json").read_text())["verdict"]["passed"] is False
    assert "Fail" in (tmp_path / "report" / "report.html").read_text()


def test_the_summary_fits_one_screen_and_no_html_is_written_if_unwanted(command, tmp_path, capsys):
    assert command("--no-html") == 0
    out = capsys.readouterr().out
    assert out.startswith("PASS: ")
    assert "90.00%" in out
    assert len(out.splitlines()) <= 24
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["report.json"]


def test_the_allowed_drop_is_the_users(command):
    assert command("--max-drop", "89.9", damage=labels_permuted) == 1
    assert command("--max-drop", "90", damage=labels_permuted) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-drop", "-1"], "0 or more"),
        (["--max-drop", "nan"], "0 or more"),
        (["--limit", "0"], "1 or more"),
        (["--data", "/none/test.npz"], "/none/test.npz"),
        (["--bundle", "/none"], "/none"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(command, tmp_path, capsys, arguments, message):
    assert command(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "report").exists()


def test_an_empty_split_is_bad_input(command, tmp_path, capsys):
    path = tmp_path / "empty.npz"
    names = np.array(CLASSES)
    images, labels = np.zeros((0, SIZE, SIZE, 3), np.uint8), np.zeros(0, np.int64)
    ids = np.zeros(0, dtype="<U4")
    np.savez(path, images=images, labels=labels, ids=ids, class_names=names, dataset="toys", split=np.array("test"))
    assert command("--data", str(path)) == 2
    assert "non-empty" in capsys.readouterr().err


def test_data_of_another_bundle_is_bad_input(command, tmp_path, pictures, capsys):
    write_split(tmp_path / "other.npz", replace(pictures, class_names=("a", "b", "c", "d")))
    assert command("--data", str(tmp_path / "other.npz")) == 2
    assert "4 classes" in capsys.readouterr().err


# --- the page -----------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects figures, references, pictures and text, and checks that elements nest."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.figures: list[tuple[str, float, str]] = []
        self.references: list[str] = []
        self.headings: list[str] = []
        self.words: list[str] = []
        self.tags: set[str] = set()
        self._figure: tuple[str, float] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name in ("src", "href", "xlink:href", "data", "action", "srcset"):
            if name in values:
                self.references.append(values[name])
        if "data-figure" in values:
            self._figure = (values["data-figure"], float(values["data-scale"]))

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self._figure:
            self.figures.append((*self._figure, data))
            self._figure = None
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


def at(report, path):
    for key in path.split("."):
        report = report[int(key)] if isinstance(report, list) else report[key]
    return report


@pytest.mark.parametrize("damage", [rounded, *DAMAGES])
def test_the_page_shows_the_figures_of_the_json(command, tmp_path, damage):
    command(damage=damage)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    page = Page((tmp_path / "report" / "report.html").read_text())
    for path, scale, shown in page.figures:
        decimals = len(shown.partition(".")[2])
        tolerance = 0.5 * 10**-decimals + 1e-9
        assert float(shown.replace(",", "")) == pytest.approx(scale * at(report, path), abs=tolerance), path
    shown_paths = {path for path, _, _ in page.figures}
    single = ["accuracy", "size", "latency.float32", "latency.int8"]
    wanted = {f"{block}.{key}" for block in single for key in at(report, block)}
    wanted |= {f"classes.{i}.{key}" for i in range(3) for key in report["classes"][0] if key != "label"}
    wanted |= {f"gate_similarity.maps.{i}.{key}" for i in range(4) for key in ("mean", "p5", "min")}
    wanted |= {"latency.speedup", "data.pictures", "machine.threads", "verdict.max_drop_pp"}
    assert wanted <= shown_paths
    words = " ".join(page.words)
    for text in (*report["verdict"]["reasons"], *CLASSES, "toys", "fake 1.0", report["created_utc"]):
        assert text in words


def test_the_page_needs_nothing_else_and_is_well_formed(command, tmp_path):
    command(damage=last_class_zeroed)
    text = (tmp_path / "report" / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert len(page.headings) >= 6
    assert "http://" not in text
    assert "https://" not in text
    assert "$" not in text
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert "url(" not in text.replace("url(#stripes)", "")
    assert len(page.references) == 8
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    for reference in page.references:
        png = np.frombuffer(base64.b64decode(reference.partition(",")[2]), np.uint8)
        assert cv2.imdecode(png, cv2.IMREAD_COLOR).std() > 0


def test_a_class_without_pictures_has_no_figures_and_no_bar(manifest, pictures, command, tmp_path):
    some = np.flatnonzero(pictures.labels != 1)
    ids = tuple(pictures.ids[index] for index in some)
    part = replace(pictures, images=pictures.images[some], labels=pictures.labels[some], ids=ids)
    write_split(tmp_path / "part.npz", part)
    assert command("--data", str(tmp_path / "part.npz")) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["classes"][1] == {
        "label": "bee",
        "pictures": 0,
        "top1_float32": None,
        "top1_int8": None,
        "drop_pp": None,
    }
    page = Page((tmp_path / "report" / "report.html").read_text())
    shown = {path for path, _, _ in page.figures}
    assert "classes.1.pictures" in shown
    assert "classes.1.drop_pp" not in shown


def test_bars_are_proportional_and_labelled():
    chart = paired_bars("Top-1", [BarPair("<a>", 80.0, 20.0), BarPair("b", 0.0, None)], ".1f", "%")
    # float32 solid; int8 solid and, over it, stripes; then the zero bar.
    float32, int8, stripes, zero = (float(width) for width in re.findall(r' width="([\d.]+)"', chart))
    assert (int8, stripes, zero) == pytest.approx((float32 / 4, float32 / 4, 0), abs=0.05)
    assert re.findall(r">([\d.]+|-)</text>", chart) == ["80.0", "20.0", "0.0", "-"]
    assert "&lt;a&gt;" in chart


def test_a_histogram_shows_the_share_of_each_interval():
    chart = histogram("gates", (-1, 0, 0.5, 1), (0, 1, 199))
    heights = [float(height) for height in re.findall(r'<rect [^>]* height="([\d.]+)"', chart)]
    assert heights[0] == 0
    assert heights[1] == pytest.approx(heights[2] / 199, abs=0.06)
    assert re.findall(r">([^<>]*)</text>", chart) == ["&lt;0", "&lt;1%", "≥0", "&gt;99%", "≥0.5"]


# --- a real interpreter -------------------------------------------------------------------------


def colours(path):
    """Pictures in which the colour of the label is brighter than the others."""
    generator = np.random.default_rng(3)
    labels = np.arange(12, dtype=np.int64) % 3
    images = generator.integers(0, 128, (12, 20, 24, 3), dtype=np.uint8)
    images[np.arange(12), :, :, labels] += 120
    ids = tuple(str(index) for index in range(12))
    write_split(path, LabelledPictures(images, labels, ids, tiny_bundle.LABELS, "colours", "test"))


@pytest.mark.parametrize(("logit_scale", "code", "top1_int8"), [(4, 0, 1.0), (-4, 1, 0.0), (math.nan, 1, 0.0)])
def test_a_bundle_end_to_end(tiny_model, tmp_path, logit_scale, code, top1_int8):
    scale = struct.pack("<f", 4)
    assert tiny_model.count(scale) == 1
    manifest = tiny_bundle.write_bundle(tmp_path / "bundle", tiny_model)
    damaged = tiny_model.replace(scale, struct.pack("<f", logit_scale))
    (tmp_path / "bundle" / "int8.tflite").write_bytes(damaged)
    int8 = artifact("int8.tflite", "int8", damaged)
    write_manifest(tmp_path / "bundle", replace(manifest, artifacts=(manifest.artifact("float32"), int8)))
    colours(tmp_path / "test.npz")
    out = tmp_path / "report"
    arguments = [
        "--bundle",
        str(tmp_path / "bundle"),
        "--data",
        str(tmp_path / "test.npz"),
        "--out",
        str(out),
    ]
    assert run_cli(main, arguments) == code
    report = json.loads((out / "report.json").read_text())
    assert (report["accuracy"]["top1_float32"], report["accuracy"]["top1_int8"]) == (1.0, top1_int8)
    assert report["latency"]["float32"]["p50_ms"] > 0
    assert (out / "report.html").exists()
