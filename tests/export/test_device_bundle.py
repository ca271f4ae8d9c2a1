"""The device bundle: complete, reproducible, and able to classify an image without the checkout."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from pathlib import Path

import cv2
import numpy as np
import pytest

from export.device_bundle import (
    ROOT,
    SERVICE,
    archive,
    bundle_name,
    device_files,
    main,
    requirements,
    runtime_files,
    write_device_bundle,
)
from runtime.bundle.manifest import read_manifest, verified_file
from runtime.core.cli import run_cli
from runtime.core.errors import ArtifactError, ConfigError, FocalEdgeError
from runtime.core.files import sha256_of
from tests.support.tiny_bundle import write_bundle

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BLOCKED = ("tensorflow", "keras", "tf_keras", "jax", "onnxruntime", "safetensors", "train", "calibration", "export")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle", b"a model", b"another")
    return tmp_path / "bundle"


def unpack(path: Path, folder: Path) -> Path:
    """Unpack the archive, and return its one folder."""
    with tarfile.open(path) as tar:
        tar.extractall(folder, filter="data")
    (made,) = folder.iterdir()
    return made


def red_image(path: Path) -> Path:
    assert cv2.imwrite(str(path), np.full((20, 30, 3), (20, 10, 250), np.uint8))
    return path


def test_it_contains_all_files(bundle: Path, tmp_path: Path) -> None:
    names = write_device_bundle(bundle, tmp_path / "device.tar.gz")
    folder = unpack(tmp_path / "device.tar.gz", tmp_path / "device")
    assert folder.name == "focaledge-tiny-colours"
    assert sorted(str(path.relative_to(folder.parent)) for path in folder.rglob("*") if path.is_file()) == names
    there = {path.name for path in folder.iterdir()}
    assert there == {"LICENSE", "README.md", SERVICE, "requirements.txt", "models", "runtime"}
    python = {path.relative_to(folder) for path in folder.rglob("*.py")}
    assert python == {path.relative_to(ROOT) for path in (ROOT / "runtime").rglob("*.py")}
    assert (folder / "runtime" / "parity" / "report" / "report.html.template").is_file()
    assert not list(folder.rglob("__pycache__"))


def test_its_manifest_lists_only_its_files(bundle: Path, tmp_path: Path) -> None:
    write_device_bundle(bundle, tmp_path / "device.tar.gz")
    folder = unpack(tmp_path / "device.tar.gz", tmp_path / "device") / "models" / "tiny-colours"
    manifest = read_manifest(folder)
    assert {artifact.file for artifact in manifest.artifacts} == {"float.tflite", "int8.tflite"}
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "float.tflite", "int8.tflite"}
    for artifact in manifest.artifacts:
        verified_file(folder, artifact)
    whole = read_manifest(bundle)
    assert manifest.labels == whole.labels
    assert manifest.artifacts == whole.artifacts[:2]


def test_the_same_input_gives_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    write_device_bundle(bundle, tmp_path / "one.tar.gz")
    for path in bundle.iterdir():
        os.utime(path, (1, 1))
    write_device_bundle(bundle, tmp_path / "elsewhere" / "two.tar.gz")
    assert sha256_of(tmp_path / "one.tar.gz") == sha256_of(tmp_path / "elsewhere" / "two.tar.gz")
    assert archive({"a": b"1", "b": b"2"}) == archive({"b": b"2", "a": b"1"})
    with tarfile.open(fileobj=io.BytesIO(archive({"a": b"1"}))) as tar:
        (entry,) = tar.getmembers()
    assert (entry.uid, entry.gid, entry.uname, entry.gname, entry.mode) == (0, 0, "", "", 0o644)
    assert entry.mtime == 315_532_800


def test_artifacts_can_be_chosen(bundle: Path) -> None:
    files = device_files(bundle, ["int8.onnx"])
    assert [name for name in files if "/models/" in name and name.endswith((".onnx", ".tflite"))] == [
        "focaledge-tiny-colours/models/tiny-colours/int8.onnx"
    ]
    lines = files["focaledge-tiny-colours/requirements.txt"].decode()
    assert "onnxruntime>=" in lines and "litert" not in lines
    with pytest.raises(ArtifactError, match=r"no artifact int4\.tflite; choose among float\.tflite, int8\.tflite"):
        device_files(bundle, ["int8.tflite", "int4.tflite"])


def test_requirements_have_version_bounds() -> None:
    headless = requirements(PROJECT, {"tflite"}, windows=False)
    assert all(re.fullmatch(r"[a-z-]+>=[\d.]+,<\d+", line) for line in headless)
    names = [line.partition(">=")[0] for line in headless]
    assert {"numpy", "opencv-python-headless", "tqdm", "ai-edge-litert"} <= set(names)
    assert "opencv-python" not in names
    windows = requirements(PROJECT, {"tflite"}, windows=True)
    assert set(windows) - set(headless) == {
        line for line in PROJECT["project"]["dependencies"] if line.startswith("opencv-python>")
    }


def test_the_web_extra_is_required() -> None:
    project = {
        "project": {"dependencies": [], "optional-dependencies": {"runtime": ["b>=1,<2"], "web": ["aiohttp>=3.9,<4"]}}
    }
    assert requirements(project, {"tflite"}, windows=False) == ["aiohttp>=3.9,<4", "b>=1,<2"]


def test_rooms_of_the_runtime_are_included(tmp_path: Path) -> None:
    (tmp_path / "runtime" / "web" / "page").mkdir(parents=True)
    for name in ("a.py", "a.txt", "web/b.py", "web/page/c.html", "web/d.md"):
        (tmp_path / "runtime" / name).touch()
    project = {"tool": {"setuptools": {"package-data": {"*": ["page/*"]}}}}
    found = [str(path.relative_to(tmp_path)) for path in runtime_files(project, tmp_path)]
    assert found == ["runtime/a.py", "runtime/web/b.py", "runtime/web/page/c.html"]


def test_the_service_is_hardened_and_starts_this_bundle(bundle: Path) -> None:
    service = device_files(bundle)[f"focaledge-tiny-colours/{SERVICE}"].decode()
    settings = dict(line.split("=", 1) for line in service.splitlines() if re.match(r"[A-Z]\w+=", line))
    for name, value in {
        "DynamicUser": "yes",
        "NoNewPrivileges": "yes",
        "ProtectHome": "yes",
        "ProtectSystem": "strict",
        "Restart": "on-failure",
        "SupplementaryGroups": "video",
    }.items():
        assert settings[name] == value
    command = settings["ExecStart"].split()
    assert command[:3] == ["/opt/focaledge/.venv/bin/python", "-m", "runtime.camera_demo"]
    assert command[command.index("--bundle") + 1] == "/opt/focaledge/models/tiny-colours"
    assert command[command.index("--serve") + 1].startswith("127.0.0.1:")
    # All placeholders are filled.
    assert "$" not in service


def test_names_are_plain(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert bundle_name(manifest) == "tiny-colours"
    odd = bundle / "odd"
    assert bundle_name(write_bundle(odd, b"a model", dataset="../my images/")) == "tiny-..-my-images"


def test_a_damaged_artifact_is_refused(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "int8.tflite").write_bytes(b"damaged")
    out = tmp_path / "device.tar.gz"
    out.write_bytes(b"the old one")
    assert run_cli(main, ["--bundle", str(bundle), "--out", str(out)]) == 2
    assert "int8.tflite" in capsys.readouterr().err
    assert out.read_bytes() == b"the old one"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_another_suffix_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.tar\.gz"):
        write_device_bundle(bundle, tmp_path / "device.zip")


def test_an_incomplete_checkout_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(FocalEdgeError, match=r"pyproject\.toml cannot be read .* whole checkout"):
        device_files(bundle, root=tmp_path)


def test_a_bundle_without_tflite_asks_for_a_choice(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    write_bundle(bundle, b"a model", b"another", artifacts=manifest.artifacts[2:])
    with pytest.raises(ArtifactError, match=r"no TFLite artifact; .* float\.onnx, int8\.onnx"):
        device_files(bundle)


def test_it_classifies_without_the_checkout_and_tensorflow(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "device.tar.gz"
    assert main(["--bundle", str(tiny_bundle), "--out", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["sha256"], facts["size_bytes"]) == (sha256_of(out), out.stat().st_size)
    folder = unpack(out, tmp_path / "device")
    image = red_image(tmp_path / "red.png")
    # -S and -I leave only the standard library on the path: no checkout, no editable install.
    program = (
        "import sys\n"
        f"sys.path += [{str(folder)!r}, {sysconfig.get_paths()['purelib']!r}]\n"
        f"sys.modules.update(dict.fromkeys({BLOCKED!r}))\n"
        "from runtime.classify import main\n"
        f"sys.exit(main([{str(image)!r}, '--json']))\n"
    )
    finished = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert finished.returncode == 0, finished.stderr
    # Without --bundle the only one is taken.
    assert json.loads(finished.stdout)["images"][0]["top"][0]["label"] == "red"


@pytest.mark.slow
def test_it_runs_in_an_empty_environment(tmp_path: Path) -> None:
    out = tmp_path / "device.tar.gz"
    write_device_bundle(ROOT / "models" / "edge-pico-cifar10", out)
    folder = unpack(out, tmp_path / "device")
    venv.create(folder / ".venv", with_pip=True)
    python = str(folder / ".venv" / "bin" / "python")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")

    def run(*arguments: str) -> str:
        finished = subprocess.run(
            [python, "-m", *arguments], capture_output=True, text=True, cwd=folder, env=environment, timeout=600
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    run("pip", "install", "--quiet", "--requirement", "requirements.txt")
    assert json.loads(run("runtime.doctor", "--measure", "--json"))["auto"]
    image = red_image(tmp_path / "red.png")
    assert json.loads(run("runtime.classify", str(image), "--json"))["images"][0]["top"]
    run("runtime.camera_demo", "--bundle", "models/edge-pico-cifar10", "--source", "sample", "--headless", "--output",
        str(tmp_path / "demo.mp4"), "--max-frames", "5")  # fmt: skip
    assert (tmp_path / "demo.mp4").stat().st_size > 0
    assert json.loads(run("runtime.cold_start", "--starts", "2", "--json"))["peak_rss_mb"] <= 100
