"""Classify: any image in, classes and maps out; an unreadable file is reported and does not stop the others."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from runtime.classify import Classification, Classifier, find_images, main
from runtime.core.cli import run_cli
from runtime.core.errors import ArtifactError, ConfigError, DataError
from runtime.images.preprocess import preprocess
from tests.support.paths import ROOT
from tests.support.tiny_bundle import LABELS, expected_outputs

RED, GREEN, BLUE = (250, 10, 20), (10, 250, 20), (10, 20, 250)


def write_image(path: Path, rgb: tuple[int, int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((20, 30, 3), rgb[::-1], np.uint8))
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    write_image(folder / "red.png", RED)
    write_image(folder / "deep" / "green.JPG", GREEN)
    write_image(folder / "blue.png", BLUE)
    (folder / "broken.png").write_bytes(b"\x89PNG but no more")
    (folder / "notes.txt").write_text("no image")
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    code = run_cli(main, [str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def classifier(tiny_bundle: Path) -> Classifier:
    return Classifier(str(tiny_bundle))


def test_an_array_gives_the_networks_outputs(classifier: Classifier) -> None:
    image = np.random.default_rng(1).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    result = classifier(image)
    expected = expected_outputs(preprocess(image, classifier.engine.input_spec))
    exponentials = np.exp(expected["logits"])
    np.testing.assert_allclose(result.probabilities, exponentials / exponentials.sum(), atol=1e-5)
    np.testing.assert_allclose(result.gates, expected["gates"], atol=1e-5)
    np.testing.assert_allclose(result.modulator, expected["modulator"], atol=1e-5)
    assert result.labels == LABELS


@pytest.mark.parametrize(("name", "rgb"), [("red", RED), ("green", GREEN), ("blue", BLUE)])
def test_a_file_is_classified_by_its_colour(
    classifier: Classifier, tmp_path: Path, name: str, rgb: tuple[int, int, int]
) -> None:
    path = write_image(tmp_path / "image.png", rgb)
    ((label, probability),) = classifier(path).top(1)
    assert label == name
    assert classifier(str(path)).top(1) == classifier(path).top(1)
    assert 0.5 < probability <= 1.0


def test_grey_and_transparent_files(classifier: Classifier, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((8, 8), 130, np.uint8))
    cv2.imwrite(str(tmp_path / "clear.png"), np.full((8, 8, 4), (20, 10, 250, 0), np.uint8))
    np.testing.assert_allclose(classifier(tmp_path / "grey.png").probabilities, 1 / 3, atol=1e-5)
    assert classifier(tmp_path / "clear.png").top(1)[0][0] == "red"


def result_with(*probabilities: float) -> Classification:
    maps = np.zeros((1, 1, 2), np.float32)
    return Classification(("a", "b", "c"), np.array(probabilities), maps, maps[..., 0])


def test_top_is_sorted_and_ties_keep_their_order() -> None:
    assert result_with(0.1, 0.7, 0.2).top(2) == [("b", 0.7), ("c", 0.2)]
    assert [label for label, _ in result_with(0.4, 0.2, 0.4).top()] == ["a", "c", "b"]
    with pytest.raises(ConfigError, match="top of 0"):
        result_with(1, 0, 0).top(0)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        [[1, 2, 3]],
    ],
)
def test_other_arrays_are_refused(classifier: Classifier, image: Any) -> None:
    with pytest.raises(DataError, match="received an image of"):
        classifier(image)


def test_a_header_that_claims_too_many_pixels_is_refused(classifier: Classifier, tmp_path: Path) -> None:
    whole = write_image(tmp_path / "red.png", RED).read_bytes()
    header = b"IHDR" + struct.pack(">II", 200_000, 200_000) + whole[24:29]
    claims = whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]
    (tmp_path / "huge.png").write_bytes(claims)
    with pytest.raises(DataError, match=r"huge\.png: 200000x200000 pixels; expected at most 64,000,000"):
        classifier(tmp_path / "huge.png")


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere"):
        Classifier(tmp_path / "nowhere")


def test_files_folders_and_patterns_are_found(images: Path, tmp_path: Path) -> None:
    folder = [images / name for name in ("blue.png", "broken.png", "deep/green.JPG", "red.png")]
    assert list(find_images([str(images)])) == folder
    assert list(find_images([f"{images}/**/*e*.[pJ]*"])) == [folder[0], folder[1], folder[2], folder[3]]
    assert list(find_images([f"{images}/r*", f"{images}/b*e.png"])) == [folder[3], folder[0]]
    assert list(find_images([f"{images}/z*"])) == [Path(f"{images}/z*")]
    odd = write_image(tmp_path / "a[b].png", RED)
    assert list(find_images([str(odd)])) == [odd]


def test_text_names_each_image_and_skips_unreadable_ones(
    tiny_bundle: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, images, images / "missing.png", "--bundle", tiny_bundle, "--top", 1)
    assert code == 0
    lines = out.splitlines()
    assert lines[0::2] == [str(images / name) for name in ("blue.png", "deep/green.JPG", "red.png")]
    assert [line.split()[0] for line in lines[1::2]] == ["blue", "green", "red"]
    assert [line for line in err.splitlines() if "broken.png" in line and line.startswith("warning: skipped")]
    assert "missing.png" in err
    # OpenCV's own message about the missing file is silenced.
    assert "imread" not in err


def test_json_names_the_unreadable_images(tiny_bundle: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, images, "--bundle", tiny_bundle, "--precision", "float32", "--json")
    content = json.loads(out)
    assert code == 0
    assert content["precision"] == "float32"
    assert content["unreadable"] == [str(images / "broken.png")]
    blue = content["images"][0]
    assert blue["top"][0]["label"] == "blue"
    assert len(blue["top"]) == len(LABELS)
    assert sum(entry["probability"] for entry in blue["top"]) == pytest.approx(1.0, abs=1e-5)
    assert blue["gate_means"] == pytest.approx([side / 127.5 - 1 for side in BLUE], abs=1e-4)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_no_readable_image_is_an_error(
    tiny_bundle: Path, images: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    code, _, err = run(capsys, images / "broken.png", images / "no*", "--bundle", tiny_bundle, *options)
    assert code == 2
    assert "error: none of 2 images could be read" in err.splitlines()[-1]


@pytest.mark.parametrize("option", [("--top", "0"), ("--threads", "0")])
def test_bad_options_are_one_line(
    tiny_bundle: Path, images: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, str]
) -> None:
    code, out, err = run(capsys, images / "red.png", "--bundle", tiny_bundle, *option)
    assert (code, out) == (2, "")
    assert err.startswith("error: received")


def test_one_image_imports_no_camera_window_or_progress_bar(tiny_bundle: Path, images: Path) -> None:
    program = (
        "import sys\n"
        "from runtime.classify import main\n"
        f"main([{str(images / 'red.png')!r}, '--bundle', {str(tiny_bundle)!r}])\n"
        "heavy = {'runtime.video.camera', 'runtime.demo.window', 'runtime.engine_choice', "
        "'tqdm', 'onnxruntime', 'tensorflow'}\n"
        "print('heavy', sorted(heavy & set(sys.modules)))\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT, env=os.environ
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == "heavy []"
