"""The preprocessing that lies with a published checkpoint: which images the network was trained to see.

Read from transformers' `preprocessor_config.json`, else from timm's `pretrained_cfg` in `config.json`. What the
network's configuration cannot express is an error: a network that sees other images than in its training is less
accurate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from runtime.core.errors import ArtifactError, ConfigError
from runtime.core.files import read_json
from runtime.core.schema import parse, wrong
from runtime.images.input_spec import Interpolation
from train.model.config import FocalNetConfig

PROCESSOR_FILE = "preprocessor_config.json"
DESCRIPTION_FILE = "config.json"
IGNORE_OPTION = "--ignore-preprocessing"
# Pillow's numbers of its filters.
_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
# Steps of transformers that no configuration of ours has, and the values that leave an image as it is.
_REQUIRED = {
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_pad": False,
    "do_flip_channel_order": False,
}
_TIMM_FIELDS = ("mean", "std", "input_size", "crop_pct", "crop_mode", "interpolation")
_MAX_SIDE = 4096

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """Fields of `FocalNetConfig` that a file beside a checkpoint sets.

    Attributes:
        source: name of the file; "" where there is none.
        fields: their values.
    """

    source: str
    fields: Mapping[str, Any]

    def apply(self, config: FocalNetConfig) -> FocalNetConfig:
        """Return a configuration with these fields.

        Raises:
            ArtifactError: the network cannot have them.
        """
        try:
            return dataclasses.replace(config, **self.fields)
        except ConfigError as error:
            raise ArtifactError(f"{self.source}: {error}; {_advice()}") from error


def read_preprocessing(folder: Path, config: FocalNetConfig) -> Preprocessing:
    """Read the preprocessing in the folder of a checkpoint.

    Args:
        folder: the checkpoint's.
        config: the preset's network, whose values count where the file is silent.

    Raises:
        ArtifactError: a file is damaged, or asks for what no configuration can express.
    """
    path = folder / PROCESSOR_FILE
    if path.is_file():
        return Preprocessing(PROCESSOR_FILE, _of(path, config, _from_transformers, read_object(path)))
    path = folder / DESCRIPTION_FILE
    described = read_object(path) if path.is_file() else {}
    settings = described.get("pretrained_cfg", described if "architecture" in described else {})
    if isinstance(settings, dict) and any(name in settings for name in _TIMM_FIELDS):
        return Preprocessing(f"{DESCRIPTION_FILE} (timm)", _of(path, config, _from_timm, settings))
    return Preprocessing("", {})


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ArtifactError: the file is damaged, or holds something else.
    """
    try:
        content = read_json(path, made_by="the checkpoint's authors")
    except RecursionError as error:
        raise ArtifactError(f"{path} is nested too deeply; download it again") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} holds a {type(content).__name__}; expected a JSON object: download it again")
    return content


def _of(path: Path, config: FocalNetConfig, read: Any, settings: dict[str, Any]) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = read(_Settings(settings), config)
        return fields
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}; {_advice()}") from error


def _advice() -> str:
    return f"correct the file, or take the preset's preprocessing with {IGNORE_OPTION}"


@dataclass(frozen=True)
class _Settings:
    """Settings of a file, by name; one that is null counts as missing."""

    values: Mapping[str, Any]

    def get(self, kind: Any, name: str, default: Any) -> Any:
        """Return a setting, which must be of a kind as `runtime.core.schema.parse` takes them."""
        value = self.values.get(name)
        return default if value is None else parse(kind, value, name)


def _from_transformers(settings: _Settings, config: FocalNetConfig) -> dict[str, Any]:
    for name, needed in _REQUIRED.items():
        if settings.get(bool, name, needed) is not needed:
            raise wrong(name, not needed, f"{str(needed).lower()}, as the centre of a resized image is seen")
    factor = settings.get(float, "rescale_factor", 1 / 255)
    if not math.isclose(factor, 1 / 255, rel_tol=1e-4):
        raise wrong("rescale_factor", factor, "1/255")
    size = _square(settings, "crop_size", config.input_size)
    crop_fraction = settings.get(float, "crop_pct", None)
    edge = _shortest_edge(settings, crop_fraction)
    if crop_fraction is not None and "crop_size" not in settings.values:  # as ConvNeXt's processor does it
        size, edge = edge or size, None
    fields: dict[str, Any] = {"input_size": size} | _crop(size, edge, crop_fraction, config)
    if settings.get(bool, "do_normalize", True):
        fields |= {
            "mean": _triple(settings, "image_mean", config.mean),
            "std": _triple(settings, "image_std", config.std),
        }
    else:
        fields |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    number = settings.get(int, "resample", None)
    if number is None:
        return fields
    name = _FILTERS[number] if 0 <= number < len(_FILTERS) else str(number)
    return fields | {"interpolation": _filter("resample", name)}


def _from_timm(settings: _Settings, config: FocalNetConfig) -> dict[str, Any]:
    shape = settings.get(tuple[int, int, int], "input_size", (3, config.input_size, config.input_size))
    if shape[0] != 3 or shape[1] != shape[2]:
        raise wrong("input_size", list(shape), "3 channels and a square")
    size = _side("input_size", shape[1])
    mode = settings.get(str, "crop_mode", "center")
    if mode != "center":
        raise wrong("crop_mode", mode, "center")
    fields: dict[str, Any] = {"input_size": size} | _crop(size, None, settings.get(float, "crop_pct", None), config)
    fields |= {"mean": _triple(settings, "mean", config.mean), "std": _triple(settings, "std", config.std)}
    name = settings.get(str, "interpolation", None)
    return fields if name is None else fields | {"interpolation": _filter("interpolation", name)}


def _crop(size: int, edge: int | None, crop_fraction: float | None, config: FocalNetConfig) -> dict[str, float]:
    """Return the crop fraction by which an image's short side becomes `edge` before the crop of `size` pixels."""
    if crop_fraction is not None:
        if not 0 < crop_fraction <= 1:
            raise wrong("crop_pct", crop_fraction, "a share above 0, at most 1")
        return {"crop_fraction": crop_fraction}
    if edge is None:
        return {"crop_fraction": config.crop_fraction}
    if edge < size:
        raise wrong("size", edge, f"{size} pixels or more, the side of the crop")
    fraction = size / edge
    while math.floor(size / fraction) < edge:  # the quotient is rounded
        fraction = math.nextafter(fraction, 0.0)
    return {"crop_fraction": fraction}


def _shortest_edge(settings: _Settings, crop_fraction: float | None) -> int | None:
    """Return the short side of the resized image, in pixels; `None` if the file does not say it."""
    size = settings.values.get("size")
    if size is None:
        return None
    if isinstance(size, dict):
        if set(size) != {"shortest_edge"}:
            raise wrong("size", size, '{"shortest_edge": pixels}, which keeps the shape of an image')
        size = size["shortest_edge"]
    edge = _side("size", parse(int, size, "size"))
    if crop_fraction is not None and edge >= 384:  # ConvNeXt's processor then squeezes the image
        raise wrong("size", edge, "below 384 pixels with a crop_pct, as larger ones change the shape of an image")
    return edge


def _square(settings: _Settings, name: str, default: int) -> int:
    """Return the side of a square, given as a number or as height and width, in pixels."""
    size = settings.values.get(name)
    if size is None:
        return default
    if isinstance(size, dict):
        sides = parse(dict[str, int], size, name)
        if set(sides) != {"height", "width"} or sides["height"] != sides["width"]:
            raise wrong(name, size, "a square: equal height and width")
        size = sides["height"]
    return _side(name, parse(int, size, name))


def _side(name: str, pixels: int) -> int:
    if not 1 <= pixels <= _MAX_SIDE:
        raise wrong(name, pixels, f"1 to {_MAX_SIDE} pixels")
    return pixels


def _triple(settings: _Settings, name: str, default: Triple) -> Triple:
    values: Triple = settings.get(tuple[float, float, float], name, default)
    return values


def _filter(field: str, name: str) -> str:
    if name not in get_args(Interpolation) or name == "area":
        known = [each for each in get_args(Interpolation) if each != "area"]
        raise wrong(field, name, " or ".join(known))
    return name
