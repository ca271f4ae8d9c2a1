"""The Makefile: a variable is one word of the shell, whatever it holds."""

from __future__ import annotations

import os
import shlex
import subprocess

import pytest

from tests.support.paths import ROOT

# For make, `$$` is a dollar sign.
ODD = """my 'run' "x" $$HOME `id` $$(id) ; & | < > \\ * ~ US$$_$$1"""
# Defaults of the variables that are not set here.
NUMBERS = ("1", "0.5")


@pytest.mark.parametrize("target", ["train", "calibrate", "sensitivity", "export", "report", "latency", "bundle"])
def test_a_variable_is_one_word_whatever_it_holds(target: str) -> None:
    names = ("RUN", "BUNDLE", "DATA_DIR", "PRESET", "INIT", "DATASET", "ENGINE", "SCHEME", "OBSERVER")
    # Under `make test`, make would print the folders that it enters and leaves.
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    printed = subprocess.run(
        ["make", "--dry-run", target, *(f"{name}={ODD}" for name in names)],
        capture_output=True, text=True, check=True, cwd=ROOT, env=outside,
    ).stdout  # fmt: skip
    command = shlex.split(printed.splitlines()[-1])
    assert command[1] == "-m"
    odd = [word.removesuffix("/artifacts").removesuffix("/test.npz").removesuffix("/report") for word in command[3:]]
    odd = [word for word in odd if not word.startswith("--")]
    assert odd and set(odd) <= {ODD.replace("$$", "$"), *NUMBERS}
