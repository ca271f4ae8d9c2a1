"""Layer errors of shipped artifacts, and the ranking of layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.core.errors import ArtifactError, FocalEdgeError
from runtime.parity.measures.layer_error import find_ranking, layer_error_figures, read_ranking
from runtime.parity.measures.peak_throughput import PRODUCT_FILES
from tests.support.paths import SHIPPED


def test_an_artifact_has_no_error_against_itself() -> None:
    batches = [np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)]
    path = SHIPPED / "int8.tflite"
    figures = layer_error_figures(path, path, batches, "noise", [])
    assert figures["lowest_sqnr_db"] == figures["lowest_channel_sqnr_db"] == 150
    assert figures["noisiest_layer"] is None


def test_layers_are_worst_first_with_their_rank_and_clipped_share() -> None:
    generator = np.random.default_rng(0)
    batches = [generator.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8) for _ in range(4)]
    paths = SHIPPED / "float.tflite", SHIPPED / "int8.tflite"
    figures = layer_error_figures(*paths, batches, "noise", ["stage1.block0.expand", "embed.conv0"])
    sqnr = [entry["sqnr_db"] for entry in figures["layers"] if entry["sqnr_db"] is not None]
    assert sqnr == sorted(sqnr)
    assert sqnr[0] == figures["lowest_sqnr_db"]
    ranks = {entry["layer"]: entry["sensitivity_rank"] for entry in figures["layers"]}
    assert (ranks["stage1.block0.expand"], ranks["embed.conv0"], ranks["embed.conv1"]) == (1, 2, None)
    shares = [entry["clipped_share"] for entry in figures["layers"] if entry["clipped_share"] is not None]
    assert len(shares) > 20
    assert all(0 <= share < 0.2 for share in shares)
    for drawn in figures["ranges"]:
        assert drawn["span"][0] < drawn["low"] < drawn["high"] < drawn["span"][1]
        assert sum(drawn["histogram"]) > 0


def test_artifacts_of_other_networks_have_no_common_layer() -> None:
    product = PRODUCT_FILES["int8"]
    with pytest.raises((ArtifactError, ValueError)):
        layer_error_figures(SHIPPED / "int8.tflite", product, [np.zeros((1, 32, 32, 3), np.uint8)], "zeros", [])


def test_a_ranking_is_found_in_the_bundle_or_its_run(tmp_path: Path) -> None:
    bundle = tmp_path / "run" / "artifacts"
    bundle.mkdir(parents=True)
    assert find_ranking(bundle, None) is None
    folder = tmp_path / "run" / "sensitivity"
    folder.mkdir()
    (folder / "sensitivity.json").write_text('{"layers": [{"layer": "b"}, {"layer": "a"}]}')
    assert find_ranking(bundle, None) == ["b", "a"]
    with pytest.raises(FocalEdgeError, match="python -m export"):
        find_ranking(bundle, tmp_path / "none.json")
    (folder / "sensitivity.json").write_text('{"layers": 3}')
    with pytest.raises(ArtifactError, match="`layers` is 3"):
        read_ranking(folder / "sensitivity.json")
