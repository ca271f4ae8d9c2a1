"""The training stage: datasets, the FocalNet and its training run.

Importing it silences TensorFlow's harmless start-up messages, for every command that trains, calibrates or exports.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow 2.21 logs these while it is imported, whatever TF_CPP_MIN_LOG_LEVEL says.
HARMLESS = r"before absl::InitializeLog|oneDNN custom operations are on|Could not find cuda drivers"


class _QuietTensorFlow(MetaPathFinder):
    """Imports TensorFlow without its harmless messages."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_quietly(module: Any) -> None:
                with _filtered_stderr():
                    load(module)

            spec.loader.exec_module = load_quietly  # type: ignore[method-assign]
        return spec


@contextmanager
def _filtered_stderr() -> Iterator[None]:
    """Pass standard error through grep: another process, which outlives an abort and shows its message."""
    grep = shutil.which("grep")
    if grep is None:
        yield
        return
    stderr = os.dup(2)
    try:
        with subprocess.Popen([grep, "-vE", HARMLESS], stdin=subprocess.PIPE, stdout=stderr) as process:
            assert process.stdin is not None, "given"
            os.dup2(process.stdin.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(stderr, 2)
    finally:
        os.close(stderr)


sys.meta_path.insert(0, _QuietTensorFlow())
