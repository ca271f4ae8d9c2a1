"""Which bundle is meant where none is named."""

from __future__ import annotations

from pathlib import Path

from runtime.bundle.manifest import MANIFEST_NAME

MODELS_FOLDER = Path(__file__).resolve().parents[2] / "models"
FIRST_CHOICE = "edge-nano-cifar10"


def default_bundle(models: Path = MODELS_FOLDER) -> Path:
    """Return the bundle beside the code: `edge-nano-cifar10`, or the only one, as on a device.

    Args:
        models: the folder of bundles.

    Returns:
        The bundle's folder; where there is none, that of `edge-nano-cifar10`, for an error to name.
    """
    first = models / FIRST_CHOICE
    folders = [path.parent for path in models.glob(f"*/{MANIFEST_NAME}")]
    return folders[0] if len(folders) == 1 else first
