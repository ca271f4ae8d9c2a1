"""TensorFlow's import: harmless messages are dropped, others are shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

FAKE = """
import os
os.write(2, b"I0000 port.cc:153] oneDNN custom operations are on.\\n")
os.write(2, b"the disk is on fire\\n")
VERSION = "fake"
"""


def test_harmless_messages_are_dropped_and_others_shown(tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text(FAKE)
    program = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "import train, tensorflow\n"
        "print(tensorflow.VERSION); print('after', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fake\n", "the disk is on fire\nafter\n")


def test_the_last_message_before_an_abort_is_shown(tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("import os\nos.write(2, b'no AVX here\\n')\nos.abort()\n")
    program = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\nimport train, tensorflow"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode < 0
    assert done.stderr == "no AVX here\n"
