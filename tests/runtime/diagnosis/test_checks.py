"""Checks: each missing or broken part has its remedy, and blocks only if the demo needs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.diagnosis.checks import find_problems
from runtime.diagnosis.found import Found, examine_bundle, find_display
from runtime.diagnosis.probes import CameraDevice, OpenCv, Package
from tests.support.machines import ALL, DEVICE, complete_machine, without
from tests.support.tiny_bundle import write_bundle

NO_LIBGL = Package("opencv-python", "4.10", False, "ImportError: libGL.so.1: cannot open shared object file")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle", b"a model", b"another")
    return tmp_path / "bundle"


@pytest.fixture
def found(bundle: Path) -> Found:
    return complete_machine(bundle)


def problems(found: Found) -> list[tuple[str, str, bool]]:
    return [(problem.what, problem.remedy, problem.blocking) for problem in find_problems(found)]


def test_a_complete_machine_has_no_problem(found: Found) -> None:
    assert problems(found) == []


@pytest.mark.parametrize(
    ("module", "remedy"),
    [
        ("numpy", "pip install numpy"),
        ("cv2", "pip install opencv-python-headless"),
        ("tqdm", "pip install tqdm"),
        ("ai_edge_litert", "pip install ai-edge-litert"),
    ],
)
def test_a_missing_needed_package_blocks(found: Found, module: str, remedy: str) -> None:
    (what, first, blocking), *_ = problems(without(found, module))
    assert blocking
    assert first == remedy
    assert "not installed" in what or "no interpreter" in what


def test_a_broken_opencv_names_the_libraries(found: Found) -> None:
    broken = replace(found, packages=found.packages | {"cv2": NO_LIBGL}, opencv=None)
    ((what, remedy, blocking),) = problems(broken)
    assert blocking
    assert "libGL.so.1" in what
    assert "apt-get install libgl1" in remedy


def test_another_interpreter_is_enough(found: Found, bundle: Path) -> None:
    packages = DEVICE | {"ai_edge_litert": replace(ALL["ai_edge_litert"], works=False, reason="SIGILL")}
    packages |= {"tensorflow": ALL["tensorflow"]}
    state = examine_bundle(bundle, packages)
    assert [each.runs_on for each in state.artifacts] == ["tensorflow 1.2.3", "tensorflow 1.2.3", None, None]
    assert problems(replace(found, packages=packages, bundle=state)) == [
        (
            "ai-edge-litert: SIGILL",
            "pip install --force-reinstall ai-edge-litert",
            False,
        )
    ]


def test_an_interpreter_for_the_other_artifacts_needs_an_option(found: Found, bundle: Path) -> None:
    packages = without(found, "ai_edge_litert").packages | {"onnxruntime": ALL["onnxruntime"]}
    ((what, remedy, blocking),) = problems(replace(found, packages=packages, bundle=examine_bundle(bundle, packages)))
    assert (what, blocking) == ("the demo's default artifact cannot be run", False)
    assert remedy == "start the demo with --precision int8 --engine ort"


def test_an_interpreter_for_none_of_the_artifacts_blocks(found: Found, tmp_path: Path) -> None:
    write_bundle(tmp_path / "tflite", b"a model")
    packages = without(found, "ai_edge_litert").packages | {"onnxruntime": ALL["onnxruntime"]}
    state = examine_bundle(tmp_path / "tflite", packages)
    ((_, remedy, blocking),) = problems(replace(found, packages=packages, bundle=state))
    assert (remedy, blocking) == ("pip install ai-edge-litert", True)


def test_damaged_artifacts_are_named(found: Found, bundle: Path) -> None:
    (bundle / "float.tflite").write_bytes(b"damaged")
    ((what, _, blocking),) = problems(replace(found, bundle=examine_bundle(bundle, DEVICE)))
    assert "float.tflite" in what and "damaged" in what
    assert not blocking
    for path in bundle.glob("*.tflite"):
        path.unlink()
    left = problems(replace(found, bundle=examine_bundle(bundle, DEVICE)))
    assert left[0] == (f"no artifact of {bundle} can be run", "pip install onnxruntime", True)
    for path in bundle.glob("*.onnx"):
        path.unlink()
    left = problems(replace(found, bundle=examine_bundle(bundle, DEVICE)))
    assert left[0][1] == "copy the whole bundle again"


def test_no_bundle_blocks(found: Found, tmp_path: Path) -> None:
    ((what, _, blocking),) = problems(replace(found, bundle=examine_bundle(tmp_path / "nowhere", DEVICE)))
    assert blocking
    assert "nowhere" in what


@pytest.mark.parametrize(
    ("changes", "part", "remedy"),
    [
        ({"display": ""}, "no display", "--headless"),
        ({"cameras": ()}, "no camera", "--source sample"),
        ({"cameras": (CameraDevice("/dev/video0", "", accessible=False),)}, "/dev/video0", "usermod -aG video"),
        ({"opencv": OpenCv("4", "", ffmpeg=True, gstreamer=False, v4l=True)}, "no window", "opencv-python"),
        ({"opencv": OpenCv("4", "QT", ffmpeg=False, gstreamer=False, v4l=True)}, "no videos", "opencv"),
    ],
)
def test_notes_do_not_block(found: Found, changes: Any, part: str, remedy: str) -> None:
    ((what, how, blocking),) = problems(replace(found, **changes))
    assert part in what
    assert remedy in how
    assert not blocking


def test_an_old_python_blocks(found: Found) -> None:
    assert problems(replace(found, python="3.9.2"))[0] == ("Python is 3.9.2", "install Python 3.11", True)


def test_displays() -> None:
    assert find_display("linux", {"DISPLAY": ":1"}) == ":1"
    assert find_display("linux", {"DISPLAY": ":1", "WAYLAND_DISPLAY": "wayland-0"}) == "wayland-0"
    assert find_display("linux", {"DISPLAY": ""}) == ""
    assert find_display("darwin", {}) == "darwin"
