"""The shipped bundles: complete, in agreement with their reports, and reproduced by export."""

from __future__ import annotations

import json
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest

from runtime.bundle.manifest import PRECISIONS, read_manifest, verified_file
from runtime.engines.engine import open_engine
from runtime.engines.registry import ENGINES
from runtime.images.preprocess import preprocess
from runtime.parity.comparison import SCHEMA_VERSION
from runtime.video.sample_clip import sample_frames
from tests.support.paths import MODELS

BUNDLES = sorted(path.parent for path in MODELS.glob("*/manifest.json"))
QUICK = "edge-pico-cifar10"  # the others take longer to rebuild


def test_the_demo_has_its_default_bundle() -> None:
    assert {MODELS / "edge-nano-cifar10", MODELS / QUICK} <= set(BUNDLES)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_a_bundle_is_complete_and_its_report_is_about_these_bytes(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    report = json.loads((bundle / "report.json").read_text())
    assert report["schema_version"] == SCHEMA_VERSION and report["verdict"]["passed"]
    assert {(each.precision, each.engine) for each in manifest.artifacts} == set(product(PRECISIONS, ENGINES))
    for artifact in manifest.artifacts:
        assert verified_file(bundle, artifact).stat().st_size == artifact.size_bytes
        assert artifact.accuracy is not None
        assert artifact.accuracy.images == report["data"]["images"]
    for role, precision in zip(("reference", "candidate"), PRECISIONS, strict=True):
        artifact, reported = manifest.artifact(precision), report["artifacts"][role]
        assert (reported["precision"], reported["sha256"]) == (precision, artifact.sha256)
        assert artifact.accuracy.top1 == pytest.approx(report["accuracy"][role]["top1"])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "bundle",
    [pytest.param(path, id=path.name, marks=() if path.name == QUICK else pytest.mark.slow) for path in BUNDLES],
)
def test_export_reproduces_a_bundle(bundle: Path, tmp_path: Path) -> None:
    from export.artifacts import write_artifacts
    from export.run_files import read_run_files

    write_artifacts(read_run_files(bundle), tmp_path)
    for precision, engine in product(PRECISIONS, ENGINES):
        shipped, fresh = (open_engine(folder, precision=precision, engine=engine) for folder in (bundle, tmp_path))
        for frame in islice(sample_frames(), 0, 120, 10):
            image = preprocess(frame, shipped.input_spec)
            # Another machine's converter may fold constants in another order.
            np.testing.assert_allclose(shipped.run(image).logits, fresh.run(image).logits, atol=1e-4)
