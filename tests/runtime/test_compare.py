"""The comparison, its command and its reports, with fake engines."""

import base64
import json
import math
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from html.parser import HTMLParser
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from runtime.bundle.manifest import Accuracy, Artifact, Manifest, Overlay, write_manifest
from runtime.compare import main
from runtime.core.cli import run_cli
from runtime.core.errors import ArtifactError, ConfigError, DataError
from runtime.core.text import printable_lines
from runtime.engines.outputs import Outputs
from runtime.evaluation.split_file import LabelledImages, read_split, write_split
from runtime.images.input_spec import InputSpec
from runtime.parity.comparison import SCHEMA_VERSION, Effort, write_reports
from runtime.parity.comparison import compare as compare_pair
from runtime.parity.pair import ComparedArtifact, Pair
from runtime.parity.report.html import render_report
from runtime.parity.report.markdown import to_screen
from runtime.parity.report.svg_charts import BarPair, Estimate, estimates, histogram, paired_bars
from runtime.parity.rules import DEFAULT_LIMITS, Limit, read_limits
from tests.support import tiny_bundle
from tests.support.parity import quick_measures

CLASSES = ("ant", "bee", "<cat> & co")
SIZE = 8
IMAGES = 210
# Images that the fake float network gets wrong, one of each class.
FLOAT_MISTAKES = (0, 70, 140)


def drawn_image(index: int) -> np.ndarray:
    """Return a noise image whose first pixel holds its label (red) and its index (green)."""
    image = np.random.default_rng(index).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    image[0, 0] = (index % len(CLASSES), index, 0)
    return image


@pytest.fixture
def images() -> LabelledImages:
    return LabelledImages(
        images=np.stack([drawn_image(index) for index in range(IMAGES)]),
        labels=np.arange(IMAGES, dtype=np.int64) % len(CLASSES),
        ids=tuple(f"image/{index}" for index in range(IMAGES)),
        class_names=CLASSES,
        dataset="toys",
        split="test",
    )


@dataclass
class FakeEngine:
    """Engine that reads the label from the first pixel and the gates from the others."""

    precision: str
    damage: Callable[[Outputs, int], Outputs] = lambda outputs, index: outputs
    kind: str = "tflite"
    name: str = "fake 1.0"
    threads: int = 1
    input_spec: InputSpec = field(default_factory=lambda: InputSpec(SIZE))

    def run(self, image: np.ndarray) -> Outputs:
        label, index = int(image[0, 0, 0, 0]), int(image[0, 0, 0, 1])
        logits = np.full(len(CLASSES), 2.0, np.float32)
        logits[(label + (index in FLOAT_MISTAKES)) % len(CLASSES)] = 3.0
        cells = image[0, 1::2, ::2].astype(np.float32) / 128 - 1
        return self.damage(Outputs(logits, cells, np.abs(cells).sum(axis=-1)), index)


def engines(damage=lambda outputs, index: outputs) -> dict[str, FakeEngine]:
    return {"float32": FakeEngine("float32"), "int8": FakeEngine("int8", damage)}


def rounded(outputs, index):
    """Make a small error everywhere, like sound quantization."""
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
        input_spec=InputSpec(SIZE),
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


LIMITS = read_limits(DEFAULT_LIMITS, "quantization")
ACCURACY = {name: LIMITS[name] for name in ("max_drop_pp", "min_agreement", "max_non_finite", "min_gate_cosine")}
LITTLE = Effort(corrupted_images=0, layer_images=0, rounds=3)


def pair_of(engines: dict[str, FakeEngine], manifest: Manifest) -> Pair:
    return Pair(
        *(
            ComparedArtifact(precision, engines[precision], manifest, manifest.artifact(precision), None)  # type: ignore[arg-type]
            for precision in ("float32", "int8")
        )
    )


def compare(engines: dict[str, FakeEngine], manifest: Manifest, images: LabelledImages, **changes) -> dict:
    """Compare two fake engines on little more than predictions, and return the report."""
    limits = changes.pop("limits", ACCURACY)
    effort = replace(LITTLE, images=changes.pop("limit", None), **changes)
    return compare_pair(pair_of(engines, manifest), images, limits, effort, measures=quick_measures()).report


def outcomes(report: dict) -> dict[str, str]:
    return {rule["rule"]: rule["outcome"] for rule in report["verdict"]["rules"]}


@pytest.fixture
def command(tmp_path, manifest, images):
    """Return a function that runs the command line with a damaged int8 engine."""
    bundle, data, limits = tmp_path / "bundle", tmp_path / "test.npz", tmp_path / "limits.toml"
    bundle.mkdir()
    write_manifest(bundle, manifest)
    write_split(data, images)
    rules = "\n".join(f"{name} = {{ fail = {limit.fail} }}" for name, limit in ACCURACY.items())
    limits.write_text(f"schema_version = 1\n[quantization]\n{rules}\n[release]\n{rules}\n")

    def run(*arguments: str, damage=rounded, subject: tuple[str, ...] = ("--bundle", str(bundle))) -> int:
        pair = engines(damage)

        def open_fake(folder, *, precision, engine, threads):
            return replace(pair[precision], threads=threads)

        base = [*subject, "--data", str(data), "--out", str(tmp_path / "report"), "--rules", str(limits)]
        options = [*base, "--corrupted-images", "0", "--layer-images", "0", "--rounds", "3", *arguments]
        return run_cli(partial(main, open_engine=open_fake, measures=quick_measures()), options)

    return run


# --- the figures -------------------------------------------------------------------------------


def test_sound_quantization_passes_with_the_figures_counted_by_hand(manifest, images):
    report = compare(engines(rounded), manifest, images)
    accuracy = report["accuracy"]
    assert report["verdict"]["outcome"] == "pass"
    assert set(outcomes(report)) == set(ACCURACY)
    assert accuracy["reference"]["top1"] == accuracy["candidate"]["top1"] == 207 / 210
    assert accuracy["reference"]["top5"] is None, "of 3 classes"
    assert (accuracy["drop_pp"], accuracy["agreement"], accuracy["non_finite_images"]) == (0, 1, 0)
    assert (accuracy["mcnemar_p_value"], accuracy["top1_ratio"], accuracy["ece_increase"]) == (1, 1, 0)
    assert accuracy["reference_skill"] == pytest.approx((207 / 210 - 1 / 3) / (2 / 3))
    classes = report["classes"]["list"]
    assert [entry["images"] for entry in classes] == [70, 70, 70]
    # Images 0, 70 and 140 are one of each class.
    assert [entry["top1_candidate"] for entry in classes] == [69 / 70] * 3
    assert (report["cost"]["reference"]["size_bytes"], report["cost"]["size_ratio"]) == (400, 4.0)
    maps = report["map_similarity"]["maps"]
    assert [entry["map"] for entry in maps] == ["focal level 1", "focal level 2", "global gate", "modulator"]
    assert all(0.99 < entry["cosine"]["min"] <= entry["cosine"]["p5"] <= entry["cosine"]["mean"] < 1 for entry in maps)
    json.dumps(report, allow_nan=False)


def test_similarity_belongs_to_its_own_map(manifest, images):
    def second_level_zeroed_global_gate_negated(outputs, index):
        return replace(outputs, gates=outputs.gates * np.float32([1, 0, -1]))

    report = compare(engines(second_level_zeroed_global_gate_negated), manifest, images)
    maps = report["map_similarity"]["maps"]
    assert [entry["cosine"]["mean"] for entry in maps] == pytest.approx([1, 0, -1, 1], abs=1e-6)
    assert [entry["rank_correlation"]["mean"] for entry in maps] == pytest.approx([1, 0, -1, 1], abs=1e-6)
    assert report["map_similarity"]["lowest_mean_cosine"] == pytest.approx(-1, abs=1e-6)
    assert outcomes(report)["min_gate_cosine"] == "fail"


def test_a_drop_has_the_sign_of_a_loss(manifest, images):
    worse = compare(engines(labels_permuted), manifest, images)["accuracy"]
    assert worse["drop_pp"] == pytest.approx(100 * 207 / 210)
    assert (worse["only_reference_correct"], worse["only_candidate_correct"]) == (207, 0)
    assert worse["drop_interval_pp"]["low"] > 90
    assert worse["mcnemar_p_value"] < 1e-50

    def fixes_one(outputs, index):
        return with_logits(outputs, [3, 2, 2]) if index == 0 else outputs

    better = compare(engines(fixes_one), manifest, images)
    assert better["accuracy"]["drop_pp"] == pytest.approx(-100 / 210)
    assert better["accuracy"]["only_candidate_correct"] == 1
    assert better["verdict"]["passed"] is True


def test_a_class_that_loses_is_named_and_the_others_are_not(manifest, images):
    def bees_lost(outputs, index):
        return with_logits(outputs, [3, 2, 2]) if index % 3 == 1 and index < 60 else outputs

    report = compare(engines(bees_lost), manifest, images, limits={"max_worse_classes": Limit(0)})
    ant, bee, cat = report["classes"]["list"]
    assert (ant["worse"], bee["worse"], cat["worse"]) == (False, True, False)
    assert bee["drop_pp"] == pytest.approx(100 * 20 / 70)
    assert bee["drop_interval_pp"]["low"] < bee["drop_pp"] < bee["drop_interval_pp"]["high"]
    assert (report["classes"]["worse_classes"], report["verdict"]["passed"]) == (1, False)
    (cell,) = report["confusion"]["list"]
    assert (cell["label"], cell["predicted"], cell["change_images"]) == ("bee", "ant", 20)
    assert {entry["label"] for entry in report["disagreements"]} == {"bee"}
    assert report["disagreements"][0]["candidate"]["prediction"] == "ant"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_int8_engine_fails(manifest, images, damage):
    report = compare(engines(damage), manifest, images)
    assert report["verdict"]["passed"] is False
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize(("damage", "count"), [(nan_logits, 210), (one_nan_gate, 1), (one_infinite_modulator, 1)])
def test_non_finite_outputs_fail_by_their_own_rule(manifest, images, damage, count):
    limits = {"max_drop_pp": Limit(100.0), "max_non_finite": Limit(0)}
    report = compare(engines(damage), manifest, images, limits=limits)
    assert outcomes(report) == {"max_drop_pp": "pass", "max_non_finite": "fail"}
    assert report["accuracy"]["non_finite_images"] == count
    assert report["accuracy"]["agreement"] == pytest.approx(1 - count / 210)
    assert report["accuracy"]["candidate"]["cross_entropy_nats"] is None
    assert all(entry["cosine"]["min"] == 0 for entry in report["map_similarity"]["maps"])
    assert report["disagreements"][0]["candidate"]["prediction"] is None


def test_a_drop_of_exactly_the_allowed_one_passes_and_one_image_more_fails(manifest, images):
    def wrong_for(last):
        def damage(outputs, index):
            return with_logits(outputs, np.roll(outputs.logits, 1)) if index in range(1, last) else outputs

        return damage

    # 21 of 210 images are 10 percentage points.
    for last, passed in ((22, True), (23, False)):
        report = compare(engines(wrong_for(last)), manifest, images, limits={"max_drop_pp": Limit(10)})
        assert report["verdict"]["passed"] is passed


def test_the_reference_shift_is_known_on_the_manifests_split_only(manifest, images):
    float32 = replace(manifest.artifact("float32"), accuracy=Accuracy("toys", "test", 210, 0.9))
    known = replace(manifest, artifacts=(float32, manifest.artifact("int8")))
    limits = {"max_reference_shift_pp": Limit(1.0)}
    report = compare(engines(), known, images, limits=limits)
    assert report["accuracy"]["reference_shift_pp"] == pytest.approx(100 * (207 / 210 - 0.9))
    assert report["verdict"]["passed"] is False
    other = compare(engines(), known, replace(images, split="val"), limits=limits)
    assert other["accuracy"]["reference_shift_pp"] is None


def test_corruptions_are_counted_on_the_same_images(manifest, images):
    report = compare(engines(labels_permuted), manifest, images, corrupted_images=6)["corruptions"]
    assert (report["images"], len(report["list"])) == (6, 27)
    assert report["clean"]["top1_reference"] == pytest.approx(5 / 6, abs=1 / 6)
    for cell in report["list"]:
        assert cell["drop_pp"] == pytest.approx(100 * (cell["top1_reference"] - cell["top1_candidate"]))
    clean = report["clean"]["drop_pp"]
    grown = np.mean([cell["drop_pp"] - clean for cell in report["list"]])
    assert report["extra_drop_pp"] == pytest.approx(grown)


# --- bad input ----------------------------------------------------------------------------


def test_a_damaged_float_reference_is_bad_input(manifest, images):
    damaged = {"float32": FakeEngine("float32", nan_logits), "int8": FakeEngine("int8")}
    with pytest.raises(ArtifactError, match="float32 artifact gives non-finite"):
        compare(damaged, manifest, images)


def test_logits_of_another_shape_are_refused(manifest, images):
    def too_few_logits(outputs, index):
        return with_logits(outputs, outputs.logits[:2])

    with pytest.raises(ArtifactError, match=r"int8 artifact gives logits of shape \(2,\)"):
        compare(engines(too_few_logits), manifest, images)


def test_maps_of_another_number_are_missing_and_of_another_size_are_resized(manifest, images):
    def too_few_gates(outputs, index):
        return replace(outputs, gates=outputs.gates[..., :2])

    report = compare(engines(too_few_gates), manifest, images)
    assert report["map_similarity"] is None
    assert outcomes(report)["min_gate_cosine"] == "fail"
    assert "different numbers of maps" in next(iter(report["verdict"]["rules"][-1:]))["text"]

    def twice_the_cells(outputs, index):
        return replace(
            outputs,
            gates=outputs.gates.repeat(2, 0).repeat(2, 1),
            modulator=outputs.modulator.repeat(2, 0).repeat(2, 1),
        )

    report = compare(engines(twice_the_cells), manifest, images)
    assert report["map_similarity"]["lowest_mean_cosine"] == pytest.approx(1)


def test_data_of_other_classes_is_refused(manifest, images):
    with pytest.raises(DataError, match="4 classes and the bundle 3"):
        compare(engines(), manifest, replace(images, class_names=(*CLASSES, "dog")))
    with pytest.raises(DataError, match="class 0 is 'bee' in the data and 'ant'"):
        compare(engines(), manifest, replace(images, class_names=("bee", "ant", CLASSES[2])))


@pytest.mark.parametrize("change", [{"images": 0}, {"rounds": 0}, {"threads": (1, 0)}, {"layer_images": -1}])
def test_effort_out_of_range_is_refused(change):
    with pytest.raises(ConfigError, match="received"):
        Effort(**change)


def test_the_report_names_a_sample(manifest, images):
    whole = compare(engines(), manifest, images)["data"]
    report = compare(engines(), manifest, images, limit=6)
    sample = report["data"]
    assert (whole["images"], whole["sampling"]) == (210, "every image of the split")
    assert (sample["images"], sample["images_in_split"]) == (6, 210)
    assert "6 of 210" in sample["sampling"]
    assert set(outcomes(report).values()) == {"warn"}, "6 images are too few for any rule to pass"


# --- the command line ---------------------------------------------------------------------------


def test_the_command_passes_and_prints_what_it_writes(command, tmp_path, capsys):
    assert command("--json") == 0
    printed = json.loads(capsys.readouterr().out)
    folder = tmp_path / "report"
    assert printed == json.loads((folder / "report.json").read_text())
    assert (printed["schema_version"], printed["kind"]) == (SCHEMA_VERSION, "quantization")
    assert printed["verdict"]["outcome"] == "pass"
    artifacts = [printed["artifacts"][role] for role in ("reference", "candidate")]
    assert [(each["name"], each["interpreter"]) for each in artifacts] == [
        ("float32", "fake 1.0"),
        ("int8", "fake 1.0"),
    ]
    assert [each["sha256"] for each in artifacts] == [sha256(b"f" * 400).hexdigest(), sha256(b"i" * 100).hexdigest()]
    assert {path.name for path in folder.iterdir()} == {"report.json", "report.html", "report.md", "junit.xml"}
    assert ElementTree.parse(folder / "junit.xml").getroot().get("failures") == "0"
    markdown = (folder / "report.md").read_text()
    assert markdown.startswith("### ✅ pass: int8 against float32")
    assert markdown.count("| ✅ pass |") == len(ACCURACY)


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_command_exits_1_and_still_writes_every_form(command, tmp_path, capsys, damage):
    assert command(damage=damage) == 1
    assert capsys.readouterr().out.startswith("FAIL: int8 against float32")
    folder = tmp_path / "report"
    assert json.loads((folder / "report.json").read_text())["verdict"]["passed"] is False
    assert "Fail: do not ship int8" in (folder / "report.html").read_text()
    assert ElementTree.parse(folder / "junit.xml").getroot().get("failures") != "0"
    assert "❌ fail" in (folder / "report.md").read_text()


def test_the_summary_fits_one_screen_and_no_html_is_written_if_unwanted(command, tmp_path, capsys):
    assert command("--no-html") == 0
    out = capsys.readouterr().out
    assert out.startswith("PASS: ")
    assert re.search(r"top-1, % +98\.57 +98\.57 ", out)
    assert "not required" not in out
    assert len(out.splitlines()) <= 36
    assert not (tmp_path / "report" / "report.html").exists()


def test_a_warning_passes_unless_strict(command):
    assert command("--limit", "150") == 0
    assert command("--limit", "150", "--strict") == 1
    assert command("--strict") == 0


def test_max_drop_replaces_the_rule(command, tmp_path, capsys):
    lenient = tmp_path / "lenient.toml"
    lenient.write_text("schema_version = 1\n[quantization]\nmax_drop_pp = { fail = 0.5 }\n")
    assert command("--budget", str(lenient), "--max-drop", "98.5", damage=labels_permuted) == 1
    assert command("--budget", str(lenient), "--max-drop", "98.6", damage=labels_permuted) == 0
    assert "required at most 98.60 pp" in capsys.readouterr().out


def test_any_two_artifacts_are_compared_by_the_rules_for_releases(command, tmp_path, capsys):
    bundle = tmp_path / "bundle"
    for artifact in ("float.tflite", "int8.tflite"):
        (bundle / artifact).touch()
    new, old = str(bundle / "float.tflite"), str(bundle)
    assert command("--json", subject=(old, new)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "release"
    assert [report["artifacts"][role]["name"] for role in ("reference", "candidate")] == ["int8.tflite", "float.tflite"]
    assert [report["artifacts"][role]["precision"] for role in ("reference", "candidate")] == ["int8", "float32"]


def test_anything_but_two_artifacts_is_bad_input(command, tmp_path, capsys):
    bundle = str(tmp_path / "bundle")
    stray = tmp_path / "stray.tflite"
    stray.touch()
    (tmp_path / "bundle" / "other.tflite").touch()
    for subject, complaint in (
        ((), "nothing to compare"),
        ((bundle,), "give either --bundle B, or A and B"),
        ((bundle, bundle, "--bundle", bundle), "give either"),
        ((bundle, bundle), "twice"),
        ((bundle, str(stray)), "no manifest.json in its folder"),
        ((bundle, str(tmp_path / "none.tflite")), "does not exist"),
        ((bundle, f"{bundle}/other.tflite"), "not in its bundle's manifest"),
    ):
        assert command(subject=subject) == 2
        assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-drop", "-1"], "0 or more"),
        (["--max-drop", "nan"], "0 or more"),
        (["--limit", "0"], "1 or more"),
        (["--threads", "0"], "1 or more"),
        (["--corrupted-images", "-1"], "0 or more"),
        (["--data", "/none/test.npz"], "/none/test.npz"),
        (["--bundle", "/none"], "/none"),
        (["--rules", "/none/parity.toml"], "/none/parity.toml"),
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


def test_data_of_another_bundle_is_bad_input(command, tmp_path, images, capsys):
    write_split(tmp_path / "other.npz", replace(images, class_names=("a", "b", "c", "d")))
    assert command("--data", str(tmp_path / "other.npz")) == 2
    assert "4 classes" in capsys.readouterr().err


# --- the page -----------------------------------------------------------------------------------


class Page(HTMLParser):
    """Parser that collects figures, references and text, and checks that elements nest."""

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


@pytest.mark.parametrize("damage", [rounded, labels_permuted, nan_logits])
def test_the_page_shows_the_figures_of_the_json(command, tmp_path, damage):
    command("--corrupted-images", "3", damage=damage)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    page = Page((tmp_path / "report" / "report.html").read_text())
    for path, scale, shown in page.figures:
        value = scale * at(report, path)
        decimals = len(shown.partition(".")[2])
        tolerance = max(0.5 * 10**-decimals, 0.05 * abs(value) if "e" in shown else 0) + 1e-9
        assert float(shown.replace(",", "")) == pytest.approx(value, abs=tolerance), path
    shown_paths = {path for path, _, _ in page.figures}
    figures = ("drop_pp", "agreement", "mcnemar_p_value", "only_reference_correct", "drop_interval_pp.high")
    wanted = {f"accuracy.{key}" for key in figures}
    wanted |= {f"classes.list.{i}.{key}" for i in range(3) for key in ("images", "drop_pp", "p_value")}
    wanted |= {f"map_similarity.maps.{i}.ssim.{key}" for i in range(4) for key in ("mean", "p5", "min")}
    wanted |= {f"corruptions.list.{i}.drop_pp" for i in range(27)} | {"corruptions.extra_drop_pp"}
    wanted |= {"cost.threads.0.speedup", "cost.threads.0.candidate.p99_ms", "cost.reference.cold_start_ms"}
    assert wanted <= shown_paths
    words = " ".join(page.words)
    for text in (*CLASSES, "toys", "fake 1.0", report["created_utc"], "left out on request"):
        assert text in words
    for rule in report["verdict"]["rules"]:
        assert rule["text"] in words


def test_the_page_needs_no_other_file_and_is_well_formed(command, tmp_path):
    command("--corrupted-images", "2", damage=last_class_zeroed)
    text = (tmp_path / "report" / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert len(page.headings) >= 9
    assert "http://" not in text
    assert "https://" not in text
    assert "$" not in text
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert "url(" not in text.replace("url(#stripes)", "").replace("url(#hatch)", "")
    # Six images of disagreement and three with the least similar maps, by both.
    assert len(page.references) == 18
    assert all(reference.startswith("data:image/jpeg;base64,") for reference in page.references)
    for reference in page.references:
        jpeg = np.frombuffer(base64.b64decode(reference.partition(",")[2]), np.uint8)
        assert cv2.imdecode(jpeg, cv2.IMREAD_COLOR).std() > 0


def test_names_of_files_and_classes_cannot_write_into_the_page(manifest, images):
    hostile = replace(manifest, preset='<b onload="x">', labels=("<i>", "$x", "&"))
    ids = ("<script>alert(1)</script>", *images.ids[1:])
    named = replace(images, ids=ids, class_names=("<i>", "$x", "&"))
    pair = pair_of(engines(nan_logits), hostile)
    comparison = compare_pair(pair, named, ACCURACY, LITTLE, measures=quick_measures())
    page = Page(render_report(comparison.report, comparison.panels))
    assert not page.tags & {"script", "i", "b"}
    assert "$x" in " ".join(page.words)


def test_every_report_is_text_whatever_the_names_are(manifest, images, tmp_path):
    labels = ("a | b", "US$_$1 `x`", "]]>&lt;")
    ids = (os.fsdecode(b"Stra\xdfe\x1b[31m"), "line\nbreak", "\ufffe\u202e", *images.ids[3:])
    named = replace(images, ids=ids, class_names=labels, dataset="<b>\udcdf\x1b")
    write_split(tmp_path / "odd.npz", named)
    pair = pair_of(engines(last_class_zeroed), replace(manifest, labels=labels, preset="p\x1b[31m\udcff"))
    comparison = compare_pair(pair, read_split(tmp_path / "odd.npz"), ACCURACY, LITTLE, measures=quick_measures())
    write_reports(tmp_path / "report", comparison)
    texts = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "report").iterdir()}
    assert {"report.json", "junit.xml", "report.md", "report.html"} == set(texts)
    for text in (*texts.values(), to_screen(comparison.report)):
        assert printable_lines(text) == text
    ElementTree.fromstring(texts["junit.xml"])
    assert r"\<b\>\\xdf\\x1b" in texts["report.md"]
    worse = " ".join(line for line in texts["report.md"].splitlines() if "lose beyond chance" in line)
    assert "]]>" not in worse.replace(r"\]\]\>", "")


def test_a_class_without_images_has_no_figures_and_no_bar(images, command, tmp_path):
    some = np.flatnonzero(images.labels != 1)
    ids = tuple(images.ids[index] for index in some)
    part = replace(images, images=images.images[some], labels=images.labels[some], ids=ids)
    write_split(tmp_path / "part.npz", part)
    assert command("--data", str(tmp_path / "part.npz")) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    bee = report["classes"]["list"][1]
    assert (bee["label"], bee["images"]) == ("bee", 0)
    assert all(bee[key] is None for key in set(bee) - {"label", "images"})
    page = Page((tmp_path / "report" / "report.html").read_text())
    shown = {path for path, _, _ in page.figures}
    assert "classes.list.1.images" in shown
    assert "classes.list.1.drop_pp" not in shown


def test_bars_are_proportional_and_labelled():
    chart = paired_bars("Top-1", [BarPair("<a>", 80.0, 20.0), BarPair("b", 0.0, None)], ".1f", "%")
    # The reference is solid; the candidate is solid and, over it, striped; then the zero bar.
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


def test_estimates_lie_within_their_intervals_on_one_scale():
    chart = estimates("drops", [Estimate("a", 1.0, -1.0, 3.0), Estimate("<b>", 2.0, 1.5, 2.5, True)], "+.1f", "pp")
    (circle,) = (float(x) for x in re.findall(r'<circle [^>]*cx="([\d.]+)"', chart))
    (diamond,) = (float(x) for x in re.findall(r'<path [^>]*d="M([\d.]+) ', chart))
    whiskers = [
        tuple(map(float, pair)) for pair in re.findall(r'class="whisker" x1="([\d.]+)"[^>]*x2="([\d.]+)"', chart)
    ]
    (low, high), (low_b, high_b) = whiskers[0], whiskers[3]
    assert (circle - low) / (high - low) == pytest.approx(0.5, abs=0.01)
    assert (diamond - low) / (high - low) == pytest.approx(0.75, abs=0.01)
    assert low < low_b < diamond < high_b < high
    assert "&lt;b&gt;" in chart


# --- a real interpreter -------------------------------------------------------------------------


def colours(path):
    """Write images in which the colour of the label is the brightest."""
    generator = np.random.default_rng(3)
    labels = np.arange(201, dtype=np.int64) % 3
    images = generator.integers(0, 128, (201, 20, 24, 3), dtype=np.uint8)
    images[np.arange(201), :, :, labels] += 120
    ids = tuple(str(index) for index in range(201))
    write_split(path, LabelledImages(images, labels, ids, tiny_bundle.LABELS, "colours", "test"))


@pytest.mark.parametrize(("logit_scale", "code", "top1"), [(4, 0, 1.0), (-4, 1, 0.0), (math.nan, 1, 0.0)])
def test_a_bundle_end_to_end(tiny_model, tmp_path, logit_scale, code, top1):
    scale = struct.pack("<f", 4)
    assert tiny_model.count(scale) == 1
    manifest = tiny_bundle.write_bundle(tmp_path / "bundle", tiny_model)
    damaged = tiny_model.replace(scale, struct.pack("<f", logit_scale))
    (tmp_path / "bundle" / "int8.tflite").write_bytes(damaged)
    int8 = artifact("int8.tflite", "int8", damaged)
    write_manifest(tmp_path / "bundle", replace(manifest, artifacts=(manifest.artifact("float32"), int8)))
    colours(tmp_path / "test.npz")
    limits = tmp_path / "parity.toml"
    limits.write_text(
        "schema_version = 1\n[quantization]\nmax_drop_pp = { fail = 0.5 }\nmin_gate_cosine = { fail = 0.95 }\n"
        "max_extra_drop_pp = { fail = 0.5 }\nmin_layer_sqnr_db = { fail = 20 }\nmax_leaked_images = { fail = 0 }\n"
    )
    out = tmp_path / "report"
    options = ["--bundle", str(tmp_path / "bundle"), "--data", str(tmp_path / "test.npz"), "--out", str(out)]
    assert run_cli(main, [*options, "--budget", str(limits), "--quick"]) == code
    report = json.loads((out / "report.json").read_text())
    assert (report["accuracy"]["reference"]["top1"], report["accuracy"]["candidate"]["top1"]) == (1.0, top1)
    assert report["cost"]["threads"][0]["reference"]["p50_ms"] > 0
    assert report["cost"]["reference"]["delegate_partitions"] >= 1
    assert outcomes(report)["min_layer_sqnr_db"] == ("fail" if code else "pass")
    assert (out / "report.html").exists()
