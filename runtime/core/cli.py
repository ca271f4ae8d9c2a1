"""Command lines: parsers, the options that commands share, and how a command ends."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from runtime.core.errors import ConfigError, FocalEdgeError
from runtime.core.text import printable

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
# Work that takes less time shows no progress bar.
BAR_DELAY_S = 5.0

SHARED_OPTIONS: dict[str, dict[str, Any]] = {
    "--data-dir": {"type": Path, "metavar": "FOLDER", "help": "folder of the images (default: $DATA_DIR)"},
    "--run": {"type": Path, "metavar": "FOLDER", "required": True, "help": "folder of the run"},
    "--seed": {"type": int, "default": 0, "metavar": "N", "help": "seed of the random draw, 0 or more"},
    "--threads": {"type": int, "default": 1, "metavar": "N", "help": "CPU threads of the interpreter, 1 or more"},
    "--json": {"action": "store_true", "help": "print the result as JSON"},
}


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Append an option's default to its help text, unless there is none or the text has it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action.default, bool) or "default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """Refuse arguments on one line, whatever characters they have."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def command_parser(
    prog: str, description: str, *, parents: Sequence[argparse.ArgumentParser] = ()
) -> argparse.ArgumentParser:
    """Return the parser of a command.

    Args:
        prog: how the command starts, e.g. `"python -m train"`.
        description: what the command does, one sentence.
        parents: parsers of shared options, as `shared_options` returns them.
    """
    return _Parser(prog=prog, description=description, parents=list(parents), formatter_class=_HelpFormatter)


def shared_options(*names: str, **texts: str) -> argparse.ArgumentParser:
    """Return a parent parser with some of the options that commands share.

    Args:
        names: keys of `SHARED_OPTIONS`, in the order of the help page.
        texts: a command's own help texts, by destination, e.g. `json="print the manifest as JSON"`.
    """
    parser = argparse.ArgumentParser(add_help=False)
    for name in names:
        destination = name.removeprefix("--").replace("-", "_")
        settings = SHARED_OPTIONS[name]
        parser.add_argument(name, **settings | {"help": texts.get(destination, settings["help"])})
    return parser


def run_cli(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run a command so that an expected error is one line on stderr and exit code 2.

    Args:
        main: the command, from its arguments to its exit code.
        argv: the arguments without the program name; `None` takes those of the process.

    Returns:
        The exit code: `main`'s own, 2 after a `FocalEdgeError`, 130 after Ctrl-C.
    """
    _print_any_text()
    try:
        if any("\0" in argument for argument in argv or ()):
            raise ConfigError("received an argument with a NUL character; expected text without one")
        return main(argv)
    except FocalEdgeError as error:
        say(f"error: {' '.join(str(error).split())}", sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return EXIT_INTERRUPTED


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line, with escapes for control characters and for what is not Unicode in names, labels and messages.

    Args:
        line: the text; `printable` keeps it on one line.
        stream: where to; stdout by default.
    """
    print(printable(line), file=stream, flush=True)


def _print_any_text() -> None:
    """Let stdout and stderr take text that their encoding lacks, as escapes: in the C locale they take ASCII alone."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
