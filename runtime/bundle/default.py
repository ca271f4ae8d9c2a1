"""The bundle that commands use by default."""

from __future__ import annotations

from pathlib import Path

from runtime.bundle.manifest import MANIFEST_NAME

MODELS_FOLDER = Path(__file__).resolve().parents[2] / "models"
DEFAULT_NAME = "edge-nano-cifar10"


def default_bundle(models: Path = MODELS_FOLDER) -> Path:
    """Return the bundle that comes with the code: `edge-nano-cifar10`, or the only one, as on a device.

    Args:
        models: the folder of bundles.

    Returns:
        The bundle's folder; without bundles, the folder that `edge-nano-cifar10` would have.
    """
    folders = [path.parent for path in models.glob(f"*/{MANIFEST_NAME}")]
    return folders[0] if len(folders) == 1 else models / DEFAULT_NAME
