"""Every command explains itself: `--help` works, and every option has a help text."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import pytest

from tests.support.paths import ROOT

STAGES = ("runtime", "train", "calibration", "export")


def is_command(path: Path) -> bool:
    return " = command_parser(" in path.read_text(encoding="utf-8")


COMMANDS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for stage in STAGES
    for path in sorted((ROOT / stage).rglob("*.py"))
    if is_command(path)
]


def test_every_stage_has_commands() -> None:
    assert {command.partition(".")[0] for command in COMMANDS} == set(STAGES)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_help_text(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parsers: list[argparse.ArgumentParser] = []
    monkeypatch.setattr(argparse.ArgumentParser, "print_help", lambda self: parsers.append(self))
    with pytest.raises(SystemExit) as ended:
        import_module(command).main(["--help"])
    (parser,) = parsers
    assert ended.value.code == 0
    assert parser.description
    assert command.removesuffix(".__main__").rpartition(".")[2] in parser.prog
    assert parser.format_help().startswith("usage: ")
    silent = [action.option_strings or action.dest for action in parser._actions if not (action.help or "").strip()]
    assert not silent
