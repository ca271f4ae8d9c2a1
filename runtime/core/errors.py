"""The errors a user can cause or mend, and how a command line shows them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

EXIT_BAD_INPUT = 2


class FocalEdgeError(Exception):
    """Base of every error a user can mend; its message says received, expected and what to do."""


class ConfigError(FocalEdgeError):
    """A configuration or argument that no run can honour."""


class DataError(FocalEdgeError):
    """A data set, picture or split file that cannot be used."""


class ArtifactError(FocalEdgeError):
    """A bundle, manifest, artifact or weight file that is missing, damaged or of another kind."""


class SourceError(FocalEdgeError):
    """A camera, video or picture source that gives no frames, or an output that takes none."""


class TrainingError(FocalEdgeError):
    """A training run that cannot start, resume or go on."""


def run_cli(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run a command line so that an expected error is one line on stderr and exit code 2.

    Args:
        main: the command, from its arguments to its exit code.
        argv: the arguments without the program name; `None` takes those of the process.

    Returns:
        The exit code: `main`'s own, 2 after a `FocalEdgeError`, 130 after Ctrl-C.
    """
    try:
        return main(argv)
    except FocalEdgeError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
