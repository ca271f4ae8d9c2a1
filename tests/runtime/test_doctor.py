"""The doctor: says what is there, what is missing and what to do, above all where next to nothing is there."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import runtime.doctor as doctor
from runtime.core.machine import Cpu, Memory
from runtime.doctor import (
    Diagnosis,
    Found,
    Problem,
    describe,
    diagnose,
    examine_bundle,
    find_display,
    find_problems,
    main,
)
from runtime.probes import CameraDevice, OpenCv, Package
from tests.support.paths import ROOT
from tests.support.tiny_bundle import write_bundle

ALL = {
    module: Package(names[0], "1.2.3", works=None if program is None else True)
    for module, (names, program) in doctor.PACKAGES.items()
}
DEVICE = {module: replace(package, version=None, works=None) for module, package in ALL.items()} | {
    module: ALL[module] for module in ("numpy", "cv2", "tqdm", "ai_edge_litert", "aiohttp")
}
NO_LIBGL = Package("opencv-python", "4.10", False, "ImportError: libGL.so.1: cannot open shared object file")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle", b"a model", b"another")
    return tmp_path / "bundle"


@pytest.fixture
def found(bundle: Path) -> Found:
    """A machine that lacks nothing."""
    return Found(
        python="3.11.9",
        system="Linux 6.1",
        cpu=Cpu("A CPU", "aarch64", 4, ("NEON", "dotprod")),
        memory=Memory(4_000_000_000, 3_000_000_000),
        packages=DEVICE,
        opencv=OpenCv("4.10.0", "QT5", ffmpeg=True, gstreamer=False, v4l=True),
        cameras=(CameraDevice("/dev/video0", "A camera", accessible=True),),
        display=":0",
        bundle=examine_bundle(bundle, DEVICE),
    )


def without(found: Found, *modules: str) -> Found:
    packages = found.packages | {module: replace(ALL[module], version=None, works=None) for module in modules}
    return replace(found, packages=packages, bundle=examine_bundle(Path(found.bundle.folder), packages))


def told(found: Found) -> list[tuple[str, str, bool]]:
    return [(problem.what, problem.remedy, problem.blocking) for problem in find_problems(found)]


def test_a_whole_machine_has_no_problem(found: Found) -> None:
    assert told(found) == []


@pytest.mark.parametrize(
    ("module", "remedy"),
    [
        ("numpy", "pip install numpy"),
        ("cv2", "pip install opencv-python-headless"),
        ("tqdm", "pip install tqdm"),
        ("ai_edge_litert", "pip install ai-edge-litert"),
    ],
)
def test_without_what_is_needed_the_demo_cannot_run(found: Found, module: str, remedy: str) -> None:
    (what, first, blocking), *_ = told(without(found, module))
    assert blocking
    assert first == remedy
    assert "not installed" in what or "no interpreter" in what


def test_a_broken_opencv_names_the_libraries(found: Found) -> None:
    broken = replace(found, packages=found.packages | {"cv2": NO_LIBGL}, opencv=None)
    ((what, remedy, blocking),) = told(broken)
    assert blocking
    assert "libGL.so.1" in what
    assert "apt-get install libgl1" in remedy


def test_another_interpreter_will_do(found: Found, bundle: Path) -> None:
    packages = DEVICE | {"ai_edge_litert": replace(ALL["ai_edge_litert"], works=False, reason="SIGILL")}
    packages |= {"tensorflow": ALL["tensorflow"]}
    state = examine_bundle(bundle, packages)
    assert [each.runs_on for each in state.artifacts] == ["tensorflow 1.2.3", "tensorflow 1.2.3", None, None]
    assert told(replace(found, packages=packages, bundle=state)) == [
        (
            "ai-edge-litert: SIGILL",
            "pip install --force-reinstall ai-edge-litert",
            False,
        )
    ]


def test_an_interpreter_for_the_other_artifacts_needs_an_option(found: Found, bundle: Path) -> None:
    packages = without(found, "ai_edge_litert").packages | {"onnxruntime": ALL["onnxruntime"]}
    ((what, remedy, blocking),) = told(replace(found, packages=packages, bundle=examine_bundle(bundle, packages)))
    assert (what, blocking) == ("the demo's default artifact cannot be run", False)
    assert remedy == "start the demo with --precision int8 --engine ort"


def test_an_interpreter_for_none_of_the_artifacts_blocks(found: Found, tmp_path: Path) -> None:
    write_bundle(tmp_path / "tflite", b"a model")
    packages = without(found, "ai_edge_litert").packages | {"onnxruntime": ALL["onnxruntime"]}
    state = examine_bundle(tmp_path / "tflite", packages)
    ((_, remedy, blocking),) = told(replace(found, packages=packages, bundle=state))
    assert (remedy, blocking) == ("pip install ai-edge-litert", True)


def test_damaged_artifacts_are_named(found: Found, bundle: Path) -> None:
    (bundle / "float.tflite").write_bytes(b"damaged")
    ((what, _, blocking),) = told(replace(found, bundle=examine_bundle(bundle, DEVICE)))
    assert "float.tflite" in what and "damaged" in what
    assert not blocking
    for path in bundle.glob("*.tflite"):
        path.unlink()
    problems = told(replace(found, bundle=examine_bundle(bundle, DEVICE)))
    assert problems[0] == (f"no artifact of {bundle} can be run", "pip install onnxruntime", True)
    for path in bundle.glob("*.onnx"):
        path.unlink()
    problems = told(replace(found, bundle=examine_bundle(bundle, DEVICE)))
    assert problems[0][1] == "copy the whole bundle again"


def test_no_bundle_blocks(found: Found, tmp_path: Path) -> None:
    ((what, _, blocking),) = told(replace(found, bundle=examine_bundle(tmp_path / "nowhere", DEVICE)))
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
def test_what_only_narrows_the_demo_does_not_block(found: Found, changes: Any, part: str, remedy: str) -> None:
    ((what, how, blocking),) = told(replace(found, **changes))
    assert part in what
    assert remedy in how
    assert not blocking


def test_an_old_python_blocks(found: Found) -> None:
    assert told(replace(found, python="3.9.2"))[0] == ("Python is 3.9.2", "install Python 3.11", True)


def test_displays() -> None:
    assert find_display("linux", {"DISPLAY": ":1"}) == ":1"
    assert find_display("linux", {"DISPLAY": ":1", "WAYLAND_DISPLAY": "wayland-0"}) == "wayland-0"
    assert find_display("linux", {"DISPLAY": ""}) == ""
    assert find_display("darwin", {}) == "darwin"


def test_text_is_aligned_and_ends_in_the_verdict(found: Found) -> None:
    problems = (Problem("it is broken", "mend it", blocking=True), Problem("a trifle", "live with it", blocking=False))
    text = describe(Diagnosis(found, "int8 tflite, 1 thread", None, ()))
    rows = [line for line in text.splitlines()[:-1] if line]
    # Names in 16 columns, then the values.
    assert all(line[16] == " " and line[17] != " " for line in rows)
    assert "CPU              A CPU, aarch64, 4 cores; NEON dotprod" in rows
    assert "/dev/video0 A camera" in text
    assert text.endswith("the demo can run")
    text = describe(Diagnosis(replace(found, memory=None, cameras=None), None, None, problems))
    assert "PROBLEM: it is broken\n    -> mend it\nnote: a trifle\n    -> live with it" in text
    assert text.endswith("the demo cannot run")


def test_what_would_be_run(tiny_bundle: Path, found: Found, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here = replace(found, bundle=examine_bundle(tiny_bundle, DEVICE))
    monkeypatch.setattr(doctor, "examine", lambda _: here)
    before = diagnose(tiny_bundle, measure=False, log=pytest.fail)
    assert before.default == "int8 tflite, 1 thread (ai-edge-litert 1.2.3)"
    assert before.auto is None
    measured = diagnose(tiny_bundle, measure=True, log=pytest.fail).auto
    assert measured is not None
    assert diagnose(tiny_bundle, measure=False, log=pytest.fail).auto == measured
    # Without NumPy there is nothing to measure with.
    here = without(here, "numpy")
    blocked = diagnose(tiny_bundle, measure=True, log=pytest.fail)
    assert (blocked.default, blocked.auto, blocked.can_run) == (None, None, False)


def test_a_bundle_that_nothing_runs_is_told(
    bundle: Path, found: Found, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "examine", lambda _: found)
    told: list[str] = []
    assert diagnose(bundle, measure=True, log=told.append).auto is None
    assert told[0].startswith("nothing can be chosen: nothing in ")


def test_the_command_on_this_machine(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["--bundle", str(tiny_bundle), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["can_run"] is True
    assert content["auto"] is None
    assert content["found"]["packages"]["numpy"]["works"] is True
    assert content["found"]["packages"]["tensorflow"]["works"] is None
    assert content["found"]["opencv"]["version"]
    assert main(["--bundle", str(tiny_bundle), "--measure"]) == 0
    (auto,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("auto ")]
    assert " tflite, " in auto and " ms (" in auto


def test_an_empty_environment_is_described(tmp_path: Path) -> None:
    program = f"import sys; sys.path[:0] = [{str(ROOT)!r}]; from runtime.doctor import main; sys.exit(main())"
    finished = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert finished.returncode == 1, finished.stderr
    assert finished.stderr == ""
    assert "numpy            -" in finished.stdout
    assert "PROBLEM: numpy is not installed\n    -> pip install numpy" in finished.stdout
    assert finished.stdout.endswith("the demo cannot run\n")
