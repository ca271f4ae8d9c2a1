"""The default bundle: the only one, or `edge-nano-cifar10`."""

from pathlib import Path

from runtime.bundle.default import default_bundle


def test_the_only_bundle_or_the_usual_one(tmp_path: Path) -> None:
    assert default_bundle(tmp_path) == tmp_path / "edge-nano-cifar10"
    (tmp_path / "mine").mkdir()
    assert default_bundle(tmp_path) == tmp_path / "edge-nano-cifar10"
    (tmp_path / "mine" / "manifest.json").touch()
    assert default_bundle(tmp_path) == tmp_path / "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").touch()
    assert default_bundle(tmp_path) == tmp_path / "edge-nano-cifar10"
