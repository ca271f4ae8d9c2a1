"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_bundle import tiny_tflite, write_bundle


@pytest.fixture(scope="session")
def tiny_model() -> bytes:
    """The tiny model as a .tflite file's content; convert it once, it takes seconds."""
    return tiny_tflite()


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle to read only; tests that damage one write their own with `write_bundle`."""
    folder = tmp_path_factory.mktemp("bundle")
    write_bundle(folder, tiny_model)
    return folder
