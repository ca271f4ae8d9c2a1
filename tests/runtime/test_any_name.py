"""Whatever a file is called: a command ends with one line and exit code 2, never in a traceback or by a signal."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import benchmark, camera_demo, classify, cold_start, compare, engine_choice, soak
from runtime.core.cli import run_cli
from runtime.core.text import printable

Main = Callable[[Sequence[str] | None], int]

# Of one file or folder, so that no text leads to another one.
NAMES = st.text(st.characters(codec=None, exclude_categories=()), min_size=1, max_size=300).map(
    lambda text: f"x{text.replace('/', '_')}"
)
COMMANDS: dict[str, tuple[Main, tuple[str, ...]]] = {
    "classify an image": (classify.main, ("--bundle", "{bundle}", "{odd}")),
    "classify by a bundle": (classify.main, ("--bundle", "{odd}", "image.png")),
    "compare a bundle": (compare.main, ("--bundle", "{odd}", "--data", "{odd}")),
    "compare on data": (compare.main, ("--bundle", "{bundle}", "--data", "{odd}", "--out", "{odd}")),
    "compare by rules": (compare.main, ("--bundle", "{bundle}", "--data", "{odd}", "--rules", "{odd}")),
    "benchmark": (benchmark.main, ("--bundle", "{odd}")),
    "cold start": (cold_start.main, ("--bundle", "{odd}", "--image", "{odd}")),
    "soak": (soak.main, ("--bundle", "{odd}")),
    "choose an engine": (engine_choice.main, ("--bundle", "{odd}")),
    "demo of a source": (camera_demo.main, ("--bundle", "{bundle}", "--headless", "--source", "{odd}")),
    "demo of a URL": (camera_demo.main, ("--bundle", "{bundle}", "--headless", "--source", "http:/{odd}")),
    "demo of a pipeline": (camera_demo.main, ("--bundle", "{bundle}", "--headless", "--source", "{odd} ! appsink")),
    "demo of a device": (camera_demo.main, ("--bundle", "{bundle}", "--headless", "--source", "/dev/{name}")),
    "demo served": (camera_demo.main, ("--bundle", "{bundle}", "--source", "{odd}", "--serve", "{name}")),
    "demo written": (
        camera_demo.main,
        ("--bundle", "{bundle}", "--headless", "--source", "{odd}", "--output", "{odd}"),
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES)
def test_a_missing_file_of_any_name_is_one_line(command: str, name: str, tiny_bundle: Path, tmp_path: Path) -> None:
    main, template = COMMANDS[command]
    argv = [part.format(bundle=tiny_bundle, odd=tmp_path / name, name=name) for part in template]
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code: object = run_cli(main, argv)
        except SystemExit as end:
            code = end.code
    assert code == 2
    lines = [line for line in err.getvalue().split("\n") if line]
    assert "error: " in lines[-1]
    assert all(printable(line) == line for line in lines)
