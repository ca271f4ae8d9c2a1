"""The engine registry: each row opens an engine of its kind, and reading it imports no interpreter."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version

import pytest

from runtime.bundle.manifest import PRECISIONS
from runtime.engines.registry import ENGINES, INTERPRETERS, interpreter_versions
from tests.support.paths import ROOT


@pytest.mark.parametrize("name", ENGINES)
def test_each_row_is_complete(name: str) -> None:
    kind = ENGINES[name]
    module, _, opener = kind.opener.partition(":")
    assert getattr(import_module(module), opener).kind == name
    assert tuple(kind.files) == PRECISIONS
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert any(line.startswith(kind.install) for line in extras[kind.extra])


def test_versions_are_found_without_an_import() -> None:
    assert interpreter_versions()["ai_edge_litert"] == version("ai-edge-litert")
    packages = {each.package for each in INTERPRETERS}
    program = (
        "import sys; from runtime.engines.registry import interpreter_versions; interpreter_versions()\n"
        f"print(sorted(({packages!r} | {{'numpy'}}) & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert finished.stdout == "[]\n", finished.stderr
