"""Calibrate, quantize and compare a trained run, then read the report.

python -m train --preset edge-pico --dataset shapes --run runs/shapes
python examples/quantize_run.py runs/shapes
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from calibration.__main__ import main as calibrate
from export.__main__ import main as export
from runtime.compare import main as compare


def main(run: str, *options: str) -> int:
    """Write RUN/artifacts and RUN/report, and print the figures that decide; `options` go to the comparison."""
    folder = Path(run)
    calibrate(["--run", run])
    export(["--run", run, "--qat-epochs", "0"])
    report_folder = folder / "report"
    files = ["--bundle", str(folder / "artifacts"), "--data", str(folder / "test.npz"), "--out", str(report_folder)]
    verdict = compare([*files, *options])
    report = json.loads((report_folder / "report.json").read_text())
    accuracy, cost = report["accuracy"], report["cost"]
    print(f"drop {accuracy['drop_pp']:.2f} pp, agreement {accuracy['agreement']:.2%}, {cost['speedup']:.2f}x as fast")
    return verdict


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
