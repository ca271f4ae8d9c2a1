"""Alias of the command `runtime.engine_choice`, its former name."""

from __future__ import annotations

import sys

from runtime.core.cli import run_cli
from runtime.engine_choice import main

if __name__ == "__main__":
    sys.exit(run_cli(main))
