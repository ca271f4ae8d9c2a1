"""Files of published checkpoints: one file, a folder of a hub, or shards with an index; read as arrays by name.

Training loops wrap a network in other modules and dictionaries, and keep a moving average (EMA) of its weights.
`read_checkpoint` finds the network in them, and takes the average if there is one. Nothing in a file is executed.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from runtime.core.errors import ArtifactError, ConfigError
from runtime.core.schema import parse
from train.model.weights import Tensors, listed
from train.pretrained.checkpoint_names import NAMINGS, Naming
from train.pretrained.preprocessing import read_object

SAFETENSORS = ".safetensors"
INDEX = ".index.json"
# Names that hubs give a checkpoint in a folder, the best first, and endings of the others.
FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
FOLDER_SUFFIXES = (SAFETENSORS, ".pth", ".pt", ".bin", ".ckpt", ".tar")
# Keys under which training loops keep a network, the best first; "" is the top.
AVERAGED_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "model_state_dict_ema", "ema")
PLAIN_KEYS = ("state_dict", "model", "model_state_dict", "model_state", "network", "net", "weights", "params", "")
_AVERAGED = re.compile(r"(^|[._])(ema|averaged)([._]|$)", re.IGNORECASE)
# Modules that contain another one unchanged, whose names torch puts before or into its tensors' names.
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
MAX_NESTING = 4
# Types of a safetensors file that NumPy has, without complex ones.
NUMPY_KINDS = frozenset(["F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"])
# Before it, `torch.load(weights_only=True)` could be made to run code.
OLDEST_TORCH = (2, 6)
# Weights hardly shrink when compressed: a file with more content than this multiple of its size holds no weights.
MAX_INFLATION = 4
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A FocalNet's tensors in a checkpoint.

    Attributes:
        path: the file, or the index of its shards.
        files: the files that hold tensors.
        tensors: arrays by name in the checkpoint's naming; floating-point ones are float32.
        naming: of the tensors.
        key: where the file keeps the network, such as "state_dict_ema"; "" for the top.
        prefix: what stood before each tensor's name, such as "module.", and was removed.
        averaged: the tensors are a moving average of the weights.
        others: names of tensors outside the network.
    """

    path: Path
    files: tuple[Path, ...]
    tensors: Tensors
    naming: Naming
    key: str
    prefix: str
    averaged: bool
    others: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Found:
    """A network in a file: its key, and its values (arrays or torch's tensors) by name."""

    key: str
    prefix: str
    naming: Naming
    values: Mapping[str, Any]
    others: tuple[str, ...]

    @property
    def averaged(self) -> bool:
        return _AVERAGED.search(f"{self.key}.{self.prefix}") is not None

    @property
    def rank(self) -> tuple[bool, int]:
        """Smaller for what is preferred: averages, then by the order of the known keys."""
        keys = AVERAGED_KEYS if self.averaged else PLAIN_KEYS
        known = next((place for place, key in enumerate(keys) if self.key == key), len(keys))
        return not self.averaged, known

    def __str__(self) -> str:
        return ".".join(part for part in (self.key, self.prefix.rstrip(".")) if part) or "the top"


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the FocalNet in a checkpoint.

    Args:
        path: a safetensors file, a file of `torch.save`, the index of shards of either, or a folder with one of them.

    Raises:
        ArtifactError: there is no such file; it is damaged, holds objects other than tensors, or values that are no
            numbers; it has no network in a known naming, or several of which none is preferred.
        ConfigError: the file needs PyTorch, which is missing or too old.
    """
    path = find_file(path)
    files, content = _read_shards(path) if path.name.endswith(INDEX) else ((path,), _read(path))
    found = _choose(content, path)
    tensors = {name: _array(value, name, path) for name, value in found.values.items()}
    return Checkpoint(path, files, tensors, found.naming, found.key, found.prefix, found.averaged, found.others)


def find_file(path: Path) -> Path:
    """Return the checkpoint file itself, or the one in a folder.

    Raises:
        ArtifactError: there is none, or a folder has several without a usual name.
    """
    try:
        if path.is_dir():
            return _in_folder(path)
        exists, plain = path.exists(), path.is_file()
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); give a checkpoint file or folder") from error
    if not exists:
        raise ArtifactError(f"{path} does not exist; expected a checkpoint file, such as model{SAFETENSORS}")
    if not plain:
        raise ArtifactError(f"{path} is not a plain file; expected a checkpoint file, such as model{SAFETENSORS}")
    return path


def _in_folder(folder: Path) -> Path:
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(each for each in folder.iterdir() if each.suffix in FOLDER_SUFFIXES and each.is_file())
    if len(found) == 1:
        return found[0]
    received = f"{len(found)} ({listed([each.name for each in found], ', ')})" if found else "none"
    raise ArtifactError(
        f"{folder} is a folder with {', '.join(FOLDER_FILES)} expected; found {received} of other names: name the "
        "checkpoint file itself"
    )


def _read(path: Path) -> Mapping[str, Any]:
    """Return the content of one file: arrays, or what torch loads."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if start.startswith(_LFS_POINTER):
        raise ArtifactError(f"{path} is a pointer of Git LFS, not the file itself; get it with `git lfs pull`")
    if path.suffix == SAFETENSORS or start[8:9] == b"{":
        content: Mapping[str, Any] = _read_safetensors(path)
    else:
        content = _read_torch(path)
    if not content:
        raise ArtifactError(f"{path} holds no tensors; expected a FocalNet's")
    return content


# --- safetensors ------------------------------------------------------------------------------------


def _read_safetensors(path: Path) -> Tensors:
    tensors: Tensors = {}
    try:
        with safe_open(path, framework="numpy") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            halves = _Bfloat16(path) if "BF16" in kinds.values() else None
            for name, kind in kinds.items():
                if kind == "BF16" and halves:
                    tensors[name] = halves.read(name)
                elif kind in NUMPY_KINDS:
                    tensors[name] = file.get_tensor(name)
                else:
                    raise ArtifactError(
                        f"{path}: {name} is of type {kind}; expected floating-point values of 16 bits or more: give "
                        "the checkpoint that it was made from, or save it as float32"
                    )
    except (SafetensorError, OSError, TypeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(f"{path} is not a whole safetensors file ({reason}); download it again") from error
    return tensors


class _Bfloat16:
    """Tensors of a checked safetensors file in bfloat16, which NumPy does not have."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self._header = json.loads(file.read(length))
        self._data = np.memmap(path, np.uint8, "r", offset=8 + length)

    def read(self, name: str) -> NDArray[np.float32]:
        """Return a tensor as float32, whose upper half bfloat16 is."""
        start, stop = self._header[name]["data_offsets"]
        bits = self._data[start:stop].view("<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(self._header[name]["shape"])


# --- torch ------------------------------------------------------------------------------------------


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            f"{path} needs PyTorch; install torch (its CPU build will do), or give a {SAFETENSORS} file"
        ) from error
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < OLDEST_TORCH:
        raise ConfigError(
            f"torch {torch.__version__} can be made to run code by a checkpoint; install torch "
            f"{'.'.join(map(str, OLDEST_TORCH))} or newer, or give a {SAFETENSORS} file"
        )
    _check_inflation(path)
    try:
        # A namespace of options lies in most training checkpoints, and holds values alone.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, zip's and torch's own have no common base
        raise ArtifactError(
            f"{path} is damaged, or holds objects other than tensors, which might run code "
            f"({_reason(error)}); download it again, or save only its state dict"
        ) from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} holds a {type(content).__name__}; expected a dictionary of tensors")
    return content


def _reason(error: Exception) -> str:
    """Return what torch says is wrong, without its advice to trust the file."""
    text = " ".join(str(error).split())
    named = re.search(r"Unsupported (?:global|class|operand)[^.]*?[\w.]+(?: was not| [\w.]+)?", text)
    return (named.group() if named else text.split(". ")[0])[:160] or type(error).__name__


def _check_inflation(path: Path) -> None:
    """Refuse an archive whose content is much larger than its file."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            content = sum(each.file_size for each in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # not an archive, or a damaged one, which torch refuses
    if content > MAX_INFLATION * size:
        raise ArtifactError(
            f"{path} has {size:,} bytes and would unpack to {content:,}; expected weights, which hardly shrink: "
            "download it again"
        )


def _array(value: Any, name: str, path: Path) -> NDArray[Any]:
    """Return a value as an array, floating-point ones as float32."""
    if not isinstance(value, np.ndarray):
        value = _torch_array(value, name, path)
    if np.issubdtype(value.dtype, np.floating):
        return np.asarray(value, np.float32)
    return np.asarray(value)


def _torch_array(value: Any, name: str, path: Path) -> NDArray[Any]:
    import torch

    value = value.detach()
    kind = str(value.dtype).removeprefix("torch.")
    fault = ""
    if value.is_quantized:
        fault = f"is quantized ({kind})"
    elif value.device.type != "cpu":
        fault = f"is on the device {value.device.type!r}, without values"
    elif value.layout != torch.strided or value.is_nested:
        fault = "is sparse or nested"
    elif value.is_complex() or kind.startswith(("float8", "float4", "bits", "uint1", "uint2", "uint3", "uint4")):
        fault = f"is of type {kind}"
    elif value.nelement() * value.element_size() > value.untyped_storage().nbytes():
        fault = f"has shape {list(value.shape)} but fewer values"
    if not fault:
        try:
            return np.asarray((value.float() if value.is_floating_point() else value).numpy())
        except (RuntimeError, TypeError, ValueError) as error:
            fault = f"cannot be read ({_reason(error)})"
    raise ArtifactError(
        f"{path}: {name} {fault}; expected dense floating-point values of 16 bits or more: give the checkpoint that it "
        "was made from, or save it as float32"
    )


# --- shards -----------------------------------------------------------------------------------------


def _read_shards(index: Path) -> tuple[tuple[Path, ...], Mapping[str, Any]]:
    """Return the files and the tensors that an index names."""
    listing = read_object(index)
    if "weight_map" not in listing:
        raise ArtifactError(f"{index} has no `weight_map`; expected the file of each tensor: download it again")
    try:
        places: dict[str, str] = parse(dict[str, str], listing["weight_map"], "weight_map")
    except ArtifactError as error:
        raise ArtifactError(f"{index}: {error}; download it again") from error
    names = sorted(set(places.values()))
    for name in names:
        if name in ("", "..") or name != Path(name).name or "\\" in name or "\0" in name or name.endswith(INDEX):
            raise ArtifactError(f"{index} names the file {name!r}; expected files in its own folder: download it again")
    if missing := [name for name in names if not index.with_name(name).is_file()]:
        raise ArtifactError(
            f"{index} names {len(names)} files, of which {len(missing)} are missing: {listed(missing, ', ')}; download "
            "them to the same folder"
        )
    tensors: dict[str, Any] = {}
    for name in names:
        held = _read(index.with_name(name))
        expected = {tensor for tensor, place in places.items() if place == name}
        if differing := sorted(expected.symmetric_difference(map(str, held))):
            raise ArtifactError(
                f"{index.with_name(name)} does not hold the tensors that {index.name} names: "
                f"{listed(differing, ', ')}; download both again"
            )
        tensors |= held
    return tuple(index.with_name(name) for name in names), tensors


# --- the network in the content ---------------------------------------------------------------------


def _choose(content: Mapping[str, Any], path: Path) -> _Found:
    """Return the preferred network of a file."""
    found = sorted(_networks(content, path), key=lambda each: each.rank)
    if not found:
        expected = ", ".join(f"{each.stem}.* ({each.name})" for each in NAMINGS)
        names = sorted(_tensor_names(content)) or sorted(str(name) for name in content)
        raise ArtifactError(
            f"{path} is not a FocalNet in a known naming: received {listed(names, ', ')}; expected one of {expected}"
        )
    best = [each for each in found if each.rank == found[0].rank]
    if len(best) > 1:
        raise ArtifactError(
            f"{path} holds {len(best)} networks: {listed([str(each) for each in best], ', ')}; save the state dict of "
            "one of them"
        )
    return best[0]


def _tensor_names(content: Mapping[Any, Any], depth: int = 0) -> Iterator[str]:
    for name, value in content.items():
        if _is_tensor(value):
            yield str(name)
        elif isinstance(value, Mapping) and depth < MAX_NESTING:
            yield from _tensor_names(value, depth + 1)


def _networks(content: Mapping[Any, Any], path: Path, key: str = "", depth: int = 0) -> Iterator[_Found]:
    """Yield the networks in nested dictionaries."""
    values = {str(name): value for name, value in content.items() if _is_tensor(value)}
    yield from _networks_of(values, path, key)
    if depth < MAX_NESTING:
        for name, value in content.items():
            if isinstance(value, Mapping):
                yield from _networks(value, path, f"{key}.{name}" if key else str(name), depth + 1)


def _networks_of(values: Mapping[str, Any], path: Path, key: str) -> Iterator[_Found]:
    """Yield the networks among the tensors of one dictionary, told apart by what stands before their names."""
    plain: dict[str, str] = {}
    for name in values:
        short = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if short in plain:
            raise ArtifactError(
                f"{path} holds {plain[short]} and {name}, two names of one tensor; save the state dict of one network"
            )
        plain[short] = name
    for prefix, naming in _prefixes(plain):
        own = {short.removeprefix(prefix): name for short, name in plain.items() if short.startswith(prefix)}
        others = tuple(sorted(set(values) - set(own.values())))
        first = next(name for short, name in own.items() if short.startswith(f"{naming.stem}."))
        at = first.rfind(f"{naming.stem}.")
        removed = first[:at] if at >= 0 else prefix
        yield _Found(key, removed, naming, {short: values[name] for short, name in own.items()}, others)


def _prefixes(names: Sequence[str] | Mapping[str, str]) -> list[tuple[str, Naming]]:
    """Return what stands before the first embedding's name, and its naming, for each network."""
    found = {}
    for naming in NAMINGS:
        pattern = re.compile(rf"((?:.*\.)?){re.escape(naming.stem)}\.")
        for name in names:
            if match := pattern.match(name):
                found[match[1], naming.name] = naming
    return [(prefix, naming) for (prefix, _), naming in found.items()]


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "reshape")
