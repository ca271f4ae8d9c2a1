"""How a command ends, and what it prints where names are no text and stdout takes ASCII alone."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from runtime.core.cli import command_parser, run_cli, say
from runtime.core.errors import DataError
from tests.support.paths import ROOT

NAME = os.fsdecode(b"Stra\xdfe \x1b[31m\nred.jpg")
# A child without UTF-8: `main` prints a name, and what no escape is for.
PROGRAM = """
import os, sys
from runtime.core.cli import run_cli, say
from runtime.core.errors import DataError
def main(argv):
    name = os.fsdecode(b"Stra\\xdfe \\xe7\\x8c\\xab")
    print("a \\u732b and", name)
    say(name)
    raise DataError(f"{name} is a \\u732b")
sys.exit(run_cli(main))
"""
STRICT = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "ascii:strict"},
    {"PYTHONIOENCODING": "utf-8:strict"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


def failing(argv: Sequence[str] | None) -> int:
    raise DataError(f"{NAME} is no image;\n expected one")


def test_an_error_is_one_line_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(failing, []) == 2
    assert capsys.readouterr().err == r"error: Stra\xdfe \x1b[31m red.jpg is no image; expected one" + "\n"


def test_a_line_is_printed_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"wrote {NAME}")
    assert capsys.readouterr().out == r"wrote Stra\xdfe \x1b[31m\nred.jpg" + "\n"


@pytest.mark.parametrize("environment", STRICT, ids=str)
def test_a_strict_or_ascii_stdout_takes_any_text(environment: dict[str, str]) -> None:
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, cwd=ROOT, env=os.environ | environment, check=False
    )
    assert child.returncode == 2
    assert child.stderr.startswith(b"error: Stra\\xdfe ") and child.stderr.count(b"\n") == 1
    assert child.stdout.count(b"\n") == 2
    assert child.stdout.isascii() or "utf-8" in str(environment)


def test_stdout_that_is_no_file_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    assert run_cli(lambda _: print("猫") or 0, []) == 0
    assert stream.getvalue() == "猫\n"


def test_a_nul_in_an_argument_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(lambda _: 0, ["--data", "a\0b"]) == 2
    assert "NUL character; expected text without one" in capsys.readouterr().err


def test_a_refused_argument_does_not_reach_the_terminal_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command_parser("python -m some", "Do.").parse_args([NAME])
    assert r"unrecognized arguments: Stra\xdfe \x1b[31m\nred.jpg" in capsys.readouterr().err
