"""The doctor reports what is there, what is missing and what to do, even in an empty environment."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.diagnosis.checks import Problem
from runtime.diagnosis.found import Found, examine_bundle
from runtime.doctor import Diagnosis, describe, diagnose, main
from tests.support.machines import DEVICE, complete_machine, without
from tests.support.paths import ROOT
from tests.support.tiny_bundle import write_bundle


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache of choices."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle", b"a model", b"another")
    return tmp_path / "bundle"


@pytest.fixture
def found(bundle: Path) -> Found:
    return complete_machine(bundle)


def test_text_is_aligned_and_ends_in_the_verdict(found: Found) -> None:
    problems = (Problem("it is broken", "fix it", blocking=True), Problem("a trifle", "live with it", blocking=False))
    text = describe(Diagnosis(found, "int8 tflite, 1 thread", None, ()))
    rows = [line for line in text.splitlines()[:-1] if line]
    # Names in 16 columns, then the values.
    assert all(line[16] == " " and line[17] != " " for line in rows)
    assert "CPU              A CPU, aarch64, 4 cores; NEON dotprod" in rows
    assert "/dev/video0 A camera" in text
    assert text.endswith("the demo can run")
    text = describe(Diagnosis(replace(found, memory=None, cameras=None), None, None, problems))
    assert "PROBLEM: it is broken\n    -> fix it\nnote: a trifle\n    -> live with it" in text
    assert text.endswith("the demo cannot run")


def test_the_demos_defaults_are_reported(tiny_bundle: Path, found: Found) -> None:
    here = replace(found, bundle=examine_bundle(tiny_bundle, DEVICE))

    def diagnosed(found: Found, measure: bool) -> Diagnosis:
        return diagnose(tiny_bundle, measure=measure, log=pytest.fail, examine=lambda _: found)

    before = diagnosed(here, measure=False)
    assert before.default == "int8 tflite, 1 thread (ai-edge-litert 1.2.3)"
    assert before.auto is None
    measured = diagnosed(here, measure=True).auto
    assert measured is not None
    assert diagnosed(here, measure=False).auto == measured
    # Without NumPy there is nothing to measure with.
    blocked = diagnosed(without(here, "numpy"), measure=True)
    assert (blocked.default, blocked.auto, blocked.can_run) == (None, None, False)


def test_a_bundle_that_cannot_run_is_logged(bundle: Path, found: Found) -> None:
    logged: list[str] = []
    assert diagnose(bundle, measure=True, log=logged.append, examine=lambda _: found).auto is None
    assert logged[0].startswith("no choice is possible: nothing in ")


def test_the_command_on_this_machine(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
