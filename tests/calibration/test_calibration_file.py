"""calibration.json: round trip, older files, and refusal of damaged ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from calibration.calibration_file import (
    CALIBRATION_FILE,
    SCHEMA_VERSION,
    Calibration,
    describe_observer,
    read_calibration,
    write_calibration,
)
from calibration.observers import OBSERVERS
from runtime.core.errors import ArtifactError
from tests.support.paths import MODELS

CALIBRATION = Calibration(
    dataset="blobs",
    observer="percentile",
    percentile=99.9,
    seed=4,
    sha256="ab" * 32,
    ids=("ant/1.png", "bée/2.png"),
    ranges={"normalise": (0.0, 1.0), "stage0.block0.norm1": (-2.25, 3.1), "dead": (0.0, 0.0)},
)


@pytest.mark.parametrize("observer", OBSERVERS)
def test_round_trip(tmp_path: Path, observer: str) -> None:
    percentile = 99.9 if observer == "percentile" else None
    calibration = dataclasses.replace(CALIBRATION, observer=observer, percentile=percentile)
    write_calibration(tmp_path, calibration)
    assert read_calibration(tmp_path) == calibration
    content = json.loads((tmp_path / CALIBRATION_FILE).read_text())
    assert content["schema_version"] == SCHEMA_VERSION == 1
    assert (content["observer"], content["percentile"]) == (observer, percentile)


@pytest.mark.parametrize("bundle", sorted(MODELS.glob("*/calibration.json")), ids=lambda path: path.parent.name)
def test_a_shipped_calibration_is_read(bundle: Path) -> None:
    calibration = read_calibration(bundle.parent)
    assert calibration.observer in OBSERVERS
    assert len(calibration.ids) > 0 and len(calibration.ranges) > 0


def test_the_percentile_of_an_old_minmax_file_is_dropped(tmp_path: Path) -> None:
    rewrite(tmp_path, observer="minmax", percentile=99.99)
    assert read_calibration(tmp_path).percentile is None


@pytest.mark.parametrize(
    ("observer", "percentile", "complaint"),
    [
        ("median", 99.0, "received observer 'median'; expected one of minmax, percentile, mse, entropy"),
        (["mse"], 99.0, r"field `observer` is \['mse'\]; expected a string"),
        ("percentile", 12.0, "received percentile 12.0"),
        ("percentile", "99", "field `percentile` is '99'"),
        ("mse", 99.0, "received percentile 99.0 for observer mse"),
    ],
)
def test_refuses_an_invalid_observer(tmp_path: Path, observer: Any, percentile: Any, complaint: str) -> None:
    rewrite(tmp_path, observer=observer, percentile=percentile)
    with pytest.raises(ArtifactError, match=rf"{complaint}.*rebuild it with `python -m calibration`"):
        read_calibration(tmp_path)


@pytest.mark.parametrize(
    ("observer", "percentile", "words"), [("mse", None, "mse"), ("percentile", 99.9, "percentile 99.9")]
)
def test_an_observer_is_described_with_its_parameter(observer: str, percentile: float | None, words: str) -> None:
    assert describe_observer(dataclasses.replace(CALIBRATION, observer=observer, percentile=percentile)) == words


def rewrite(folder: Path, **changes: Any) -> None:
    """Write the calibration with fields changed, or removed if the new value is `None`."""
    write_calibration(folder, CALIBRATION)
    content = json.loads((folder / CALIBRATION_FILE).read_text()) | changes
    content = {field: value for field, value in content.items() if value is not None}
    (folder / CALIBRATION_FILE).write_text(json.dumps(content))


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_refuses_another_schema(tmp_path: Path, version: Any) -> None:
    rewrite(tmp_path, schema_version=version)
    with pytest.raises(ArtifactError, match=r"schema.version.*rebuild it with `python -m calibration`"):
        read_calibration(tmp_path)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Calibration)])
def test_refuses_a_missing_field(tmp_path: Path, field: str) -> None:
    rewrite(tmp_path, **{field: None})
    with pytest.raises(ArtifactError, match=field):
        read_calibration(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"surplus": 1},
        {"ranges": [["a", 0, 1]]},
        {"ranges": {"a": [0.0]}},
        {"ranges": {"a": [0.0, 1.0, 2.0]}},
        {"ranges": {"a": ["low", "high"]}},
        {"ranges": {"a": [float("nan"), 1.0]}},
        {"ranges": {"a": [0.0, float("inf")]}},
        {"ranges": {"a": 1.0}},
        {"ids": 7},
    ],
)
def test_refuses_a_field_of_another_type(tmp_path: Path, changes: dict[str, Any]) -> None:
    rewrite(tmp_path, **changes)
    with pytest.raises(ArtifactError, match=r"field `.*rebuild it with `python -m calibration`"):
        read_calibration(tmp_path)


@pytest.mark.parametrize("ends", [(1.0, -1.0), (0.5, 1.0), (-1.0, -0.5)])
def test_refuses_a_range_without_zero(tmp_path: Path, ends: tuple[float, float]) -> None:
    rewrite(tmp_path, ranges={"stage0": list(ends)})
    with pytest.raises(ArtifactError, match=r"layer stage0 has the range .*expected one that includes 0"):
        read_calibration(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\xff"])
def test_refuses_other_content(tmp_path: Path, content: str) -> None:
    (tmp_path / CALIBRATION_FILE).write_bytes(content.encode("latin-1"))
    with pytest.raises(ArtifactError, match=r"calibration\.json"):
        read_calibration(tmp_path)


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"does not exist; make it with `python -m calibration`"):
        read_calibration(tmp_path)
