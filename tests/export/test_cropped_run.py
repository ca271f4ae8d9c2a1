"""A network that sees only the centre of an image: each stage crops the same way."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import calibration.__main__
import export.__main__
import export.quantize.qat
import runtime.compare
import train.loop.fit
from export.quantize.qat import LazyBatches
from runtime.bundle.manifest import read_manifest
from runtime.classify import Classifier
from runtime.engines.registry import ENGINES
from runtime.evaluation.split_file import read_split
from runtime.images.input_spec import InputSpec
from tests.support.tiny_run import CONFIG, RUN, soft_images, write_tiny_run
from tests.support.tiny_training import NETWORK, RECIPE, easy_dataset
from tests.support.tiny_training import RUN as TRAINED_RUN
from train.loop.training_model import TrainingModel

SEEN = InputSpec(CONFIG.input_size, 0.5, "bicubic")
CROPPED = dataclasses.replace(RUN, model=dataclasses.replace(CONFIG, crop_fraction=0.5, interpolation="bicubic"))


@pytest.fixture(scope="module")
def run(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cropped run, calibrated and exported."""
    folder = tmp_path_factory.mktemp("cropped")
    write_tiny_run(folder, CROPPED)
    arguments = ["--run", str(folder)]
    assert calibration.__main__.main([*arguments, "--data-dir", str(image_folder), "--images", "36"]) == 0
    assert export.__main__.main([*arguments, "--qat-epochs", "0"]) == 0
    return folder


def test_the_manifest_describes_the_crop(run: Path) -> None:
    assert read_manifest(run / "artifacts").input_spec == SEEN
    written = json.loads((run / "artifacts" / "manifest.json").read_text())["input"]
    assert (written["crop_fraction"], written["interpolation"]) == (0.5, "bicubic")


def test_the_export_measures_on_the_crop(run: Path) -> None:
    """The labels are the network's predictions of the centres; predictions of whole images differ."""
    manifest = read_manifest(run / "artifacts")
    for engine in ENGINES:
        assert manifest.artifact("float32", engine).accuracy.top1 == 1.0  # type: ignore[union-attr]
        assert manifest.artifact("int8", engine).accuracy.top1 > 0.9  # type: ignore[union-attr]
        assert manifest.artifact("int8", engine).accuracy.fake_quant_agreement > 0.9  # type: ignore[union-attr,operator]


def test_onnx_artifacts_describe_the_crop(run: Path) -> None:
    import onnx

    said = {each.key: each.value for each in onnx.load(run / "artifacts" / "float.onnx").metadata_props}
    assert "resized to 32 pixels, antialiased bicubic" in said["preprocessing"]
    assert "centre of 16 pixels a side" in said["preprocessing"]


def compared(run: Path, out: Path, *subjects: str, layer_images: int = 0) -> dict[str, Any]:
    """Compare on the run's test images, and return the report."""
    effort = ["--quick", "--rounds", "3", "--corrupted-images", "0", "--layer-images", str(layer_images)]
    runtime.compare.main([*subjects, "--data", str(run / "test.npz"), "--out", str(out), *effort, "--no-html"])
    return dict(json.loads((out / "report.json").read_text()))


def test_the_report_compares_on_the_crop(run: Path, tmp_path: Path) -> None:
    report = compared(run, tmp_path, "--bundle", str(run / "artifacts"))
    assert report["accuracy"]["reference"]["top1"] == 1.0
    assert report["accuracy"]["candidate"]["top1"] > 0.9


@pytest.mark.parametrize(("field", "comparable"), [("crop_fraction", True), ("dims", False)])
def test_an_older_bundle_without_a_field_is_the_same_network(
    run: Path, tmp_path: Path, field: str, comparable: bool
) -> None:
    older = tmp_path / "older"
    shutil.copytree(run / "artifacts", older)
    content = json.loads((older / "manifest.json").read_text())
    if comparable:
        del content["config"][field]
    else:
        content["config"][field] = [4, 8]
    (older / "manifest.json").write_text(json.dumps(content))
    report = compared(run, tmp_path / "out", str(older), str(run / "artifacts"), layer_images=8)
    assert (report["layer_error"] is not None) == comparable
    assert ("different networks" in report["missing"].get("layer_error", "")) != comparable


def test_an_image_is_classified_by_its_crop(run: Path) -> None:
    images, classifier = read_split(run / "test.npz"), Classifier(run / "artifacts", precision="float32")
    for image, label in zip(images.images[:20], images.labels, strict=False):
        assert classifier(image).top(1)[0][0] == images.class_names[label]
        # The border has no effect.
        surrounded = np.full_like(image, 255)
        surrounded[8:-8, 8:-8] = image[8:-8, 8:-8]
        np.testing.assert_array_equal(classifier(surrounded).probabilities, classifier(image).probabilities)


def stored_by_pillow(images: np.ndarray, size: int) -> np.ndarray:
    stored = [PIL.Image.fromarray(image).resize((size, size), PIL.Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(original) for original in stored])


def test_training_crops_from_whole_images() -> None:
    dataset = easy_dataset()
    config = dataclasses.replace(NETWORK, crop_fraction=0.5, interpolation="bicubic")
    whole = stored_by_pillow(dataset.train.images, NETWORK.input_size + RECIPE.resize_margin)
    np.testing.assert_array_equal(np.asarray(TrainingModel(config, RECIPE, dataset.train)._images), whole)
    np.testing.assert_array_equal(LazyBatches(dataset.train, config, RECIPE)._batches._images, whole)


def test_validation_is_on_the_crop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shown(Exception):  # noqa: N818
        pass

    def show(images: np.ndarray, *others: Any) -> None:
        raise Shown(images)

    monkeypatch.setattr(train.loop.fit, "EvalBatches", show)
    dataset = easy_dataset()
    model = dataclasses.replace(NETWORK, crop_fraction=8 / 12, interpolation="bicubic")
    with pytest.raises(Shown) as caught:
        train.loop.fit.fit(dataclasses.replace(TRAINED_RUN, model=model), dataset, tmp_path, resume=False)
    np.testing.assert_array_equal(caught.value.args[0], dataset.val.images[:, 2:-2, 2:-2])


def test_keras_classifies_the_crop() -> None:
    class Echo:
        def predict(self, images: np.ndarray, **_: Any) -> np.ndarray:
            self.images = images
            return np.zeros((len(images), 2))

    echo, stored = Echo(), soft_images(3, seed=0, size=32)
    train.loop.fit.predict(echo, stored, SEEN)
    np.testing.assert_array_equal(echo.images, stored[:, 8:-8, 8:-8])
