"""scheme.json: which scheme a run's int8 artifact is made by, and the products that it leaves in float."""

from __future__ import annotations

from pathlib import Path

from export.quantize.schemes import SELECTIVE, Scheme, find_scheme
from runtime.core.errors import ArtifactError, ConfigError
from runtime.core.files import read_json, write_json

SCHEME_FILE = "scheme.json"
MADE_BY = "python -m export"


def write_scheme(folder: Path, scheme: Scheme) -> None:
    """Write which scheme a folder's int8 artifact is made by."""
    write_json(folder / SCHEME_FILE, {"scheme": scheme.name, "float_layers": list(scheme.float_layers)})


def read_scheme(folder: Path) -> Scheme:
    """Read which scheme a folder's int8 artifact is made by.

    Args:
        folder: a run or a bundle.

    Returns:
        The scheme; `SELECTIVE` without products in float where the folder says nothing.

    Raises:
        ArtifactError: the file is damaged, or names a scheme that there is not.
    """
    path = folder / SCHEME_FILE
    if not path.exists():
        return SELECTIVE
    content = read_json(path, MADE_BY)
    expected = '{"scheme": NAME, "float_layers": [LAYER, ...]}'
    if not isinstance(content, dict) or content.keys() != {"scheme", "float_layers"}:
        raise ArtifactError(f"{path} is not {expected}; make it anew with `{MADE_BY}`")
    name, layers = content["scheme"], content["float_layers"]
    if not isinstance(name, str) or not isinstance(layers, list) or not all(isinstance(each, str) for each in layers):
        raise ArtifactError(f"{path} is not {expected}; make it anew with `{MADE_BY}`")
    try:
        return find_scheme(name).leaving_float(layers)
    except ConfigError as error:
        raise ArtifactError(f"{path}: {error}") from None
