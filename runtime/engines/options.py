"""Options that choose a bundle, one of its artifacts and how it is run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from runtime.bundle.default import default_bundle
from runtime.bundle.manifest import PRECISIONS
from runtime.core.cli import SHARED_OPTIONS
from runtime.engines.registry import ENGINES

REQUIRED: dict[str, Any] = {"required": True, "default": None}


def engine_options(*names: str, **changes: dict[str, Any]) -> argparse.ArgumentParser:
    """Return a parent parser with some of `--bundle`, `--precision`, `--engine` and `--threads`.

    Args:
        names: the options, in the order of the help page.
        changes: settings of `add_argument` that replace the usual ones, by destination, e.g. `bundle=REQUIRED`.
    """
    options: dict[str, dict[str, Any]] = {
        "--bundle": {
            "type": Path,
            "metavar": "FOLDER",
            "default": default_bundle(),
            "help": "folder with manifest.json and artifacts",
        },
        "--precision": {"choices": PRECISIONS, "default": "int8", "help": "precision of the artifact"},
        "--engine": {
            "choices": tuple(ENGINES),
            "help": f"{' or '.join(kind.title for kind in ENGINES.values())} (default: the manifest's first)",
        },
        "--threads": SHARED_OPTIONS["--threads"],
    }
    parser = argparse.ArgumentParser(add_help=False)
    for name in names:
        parser.add_argument(name, **options[name] | changes.get(name.removeprefix("--"), {}))
    return parser
