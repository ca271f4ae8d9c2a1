"""The former name of `python -m calibration.images`."""

import sys

from calibration.images import main
from runtime.core.cli import run_cli

if __name__ == "__main__":
    sys.exit(run_cli(main))
