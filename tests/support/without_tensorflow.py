"""pytest plugin of `make test-unit`: skip what imports a training framework."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest

FRAMEWORKS = frozenset({"jax", "keras", "tensorflow", "tensorflow_model_optimization", "tf_keras", "torch"})


class SkipFrameworks:
    """Import finder that skips the importing test, or the whole module while it is collected."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> None:
        if name.partition(".")[0] in FRAMEWORKS:
            pytest.skip(f"imports {name}", allow_module_level=True)


sys.meta_path.insert(0, SkipFrameworks())  # type: ignore[arg-type]
