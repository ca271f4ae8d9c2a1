"""Make a run of a published checkpoint, as if it had been trained here.

    python -m train.import_pretrained focalnet_tiny_srf.pth --preset focalnet_tiny_srf --out runs/tiny

Checkpoints of the authors' code, of transformers and of timm are told apart by their tensors' names. A safetensors file
is read without PyTorch; any other through `torch.load(weights_only=True)`, which runs none of what the file may hold.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from runtime.core.cli import run_cli
from runtime.core.errors import ArtifactError, ConfigError
from runtime.core.files import read_json, sha256_of, write_json
from train.data.imagenet import imagenet_labels
from train.data.registry import DATASETS
from train.model.config import FocalNetConfig
from train.model.fold_norms import fold_weights
from train.model.presets import PRESETS, find_preset
from train.model.weights import Tensors, listed, write_tensors
from train.pretrained.checkpoint_names import SPELLINGS, Published, Shape, Spelling, as_variables, published_tensors
from train.run import CONFIG_FILE, WEIGHTS_FILE, Run, write_run

IMPORT_FILE = "import.json"
SAFETENSORS = ".safetensors"
# Where a checkpoint may keep its network among other things.
NESTED = ("model", "state_dict")


@dataclass(frozen=True)
class Imported:
    """A network made of a checkpoint.

    Attributes:
        weights: its variables, as they are trained, by `layer/variable`.
        spelling: whose checkpoint it was.
        tensors: how many of its tensors became the network's.
        unused: names of those that are no part of it.
    """

    weights: Tensors
    spelling: str
    tensors: int
    unused: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Read a checkpoint, hold it to its preset, and write the run."""
    args = _parser().parse_args(argv)
    preset = find_preset(args.preset)
    _check_target(args.out)
    tensors = read_checkpoint(args.checkpoint)
    config = _settings_of(args.checkpoint, preset.model)
    config = dataclasses.replace(config, classes=count_classes(tensors, str(args.checkpoint)))
    imported = import_tensors(tensors, config, str(args.checkpoint))
    labels = _labels(args.checkpoint, config.classes, args.labels)
    run = Run(preset=args.preset, model=config, recipe=preset.train, dataset=args.dataset, labels=labels)
    facts = {
        "checkpoint": args.checkpoint.name,
        "sha256": sha256_of(args.checkpoint),
        "spelling": imported.spelling,
        "preset": args.preset,
        "tensors": imported.tensors,
        "unused": list(imported.unused),
        "variables": len(imported.weights),
        "parameters": sum(int(value.size) for value in imported.weights.values()),
        "classes": config.classes,
    }
    write_tensors(args.out / WEIGHTS_FILE, fold_weights(imported.weights, config))
    write_json(args.out / IMPORT_FILE, facts)
    write_run(args.out, run)  # last: it makes the folder a run
    print(json.dumps(facts, indent=2) if args.json else _described(facts, args.out))
    return 0


def _described(facts: Mapping[str, Any], out: Path) -> str:
    unused = f"; not used: {', '.join(facts['unused'])}" if facts["unused"] else "; all of them used"
    return (
        f"{facts['preset']}, {facts['parameters'] / 1e6:.1f} M parameters, {facts['classes']} classes: "
        f"{facts['tensors']} tensors in {facts['spelling']} spelling{unused}; run in {out}"
    )


def read_checkpoint(path: Path) -> Tensors:
    """Read the tensors of a checkpoint, as float32.

    Args:
        path: a safetensors file, or one that `torch.save` wrote; its network may be under "model" or "state_dict".

    Returns:
        Arrays by name.

    Raises:
        ArtifactError: the file is missing, damaged, holds objects other than tensors, or no tensors at all.
        ConfigError: it takes PyTorch to read it, which is not installed.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; expected a checkpoint file, such as model{SAFETENSORS}")
    tensors = _read_safetensors(path) if path.suffix == SAFETENSORS else _read_torch(path)
    if not tensors:
        raise ArtifactError(f"{path} holds no tensors; expected a FocalNet's")
    return tensors


def _read_safetensors(path: Path) -> Tensors:
    try:
        return {name: np.asarray(value, dtype=np.float32) for name, value in load_file(path).items()}
    except TypeError as error:  # bfloat16, which NumPy has not
        try:
            from safetensors.torch import load_file as load_torch_file
        except ImportError:
            raise ConfigError(
                f"{path} takes PyTorch to read ({error}); install torch, or save it as float32"
            ) from error
        return {name: value.float().numpy() for name, value in load_torch_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is not a whole safetensors file ({error}); download it anew") from error


def _read_torch(path: Path) -> Tensors:
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            f"{path} takes PyTorch to read; install torch (its CPU build will do), or give a {SAFETENSORS} file"
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, zip's and torch's own have no common base
        reason = str(error).strip().splitlines()
        raise ArtifactError(
            f"{path} is damaged, or holds objects that are no tensors and might run code "
            f"({reason[-1] if reason else type(error).__name__}); download it anew, or save its state dict alone"
        ) from error
    for key in NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} holds a {type(content).__name__}; expected a dictionary of tensors")
    return {str(name): value.float().numpy() for name, value in content.items() if isinstance(value, torch.Tensor)}


def recognise(tensors: Mapping[str, Any], source: str) -> Spelling:
    """Tell whose checkpoint it is, by its first embedding's name.

    Raises:
        ArtifactError: it is no FocalNet's in a known spelling.
    """
    for spelling in SPELLINGS:
        if any(name.startswith(f"{spelling.stem}.") for name in tensors):
            return spelling
    expected = ", ".join(f"{each.stem}.* ({each.name})" for each in SPELLINGS)
    raise ArtifactError(
        f"{source} is no FocalNet in a known spelling: received {listed(sorted(tensors), ', ')}; expected one of "
        f"{expected}"
    )


def count_classes(tensors: Tensors, source: str) -> int:
    """Return how many classes a checkpoint's head has: a fine-tuned network's are its own, not its preset's.

    Raises:
        ArtifactError: it has no head, or is no FocalNet's.
    """
    name = f"{recognise(tensors, source).head}.bias"
    if name not in tensors or tensors[name].ndim != 1 or len(tensors[name]) < 2:
        found = f"{name} {list(tensors[name].shape)}" if name in tensors else f"no {name}"
        raise ArtifactError(
            f"{source} has {found}; expected a classifier's, of 2 classes or more: give one with its head"
        )
    return len(tensors[name])


def import_tensors(tensors: Tensors, config: FocalNetConfig, source: str) -> Imported:
    """Make a network's variables of a checkpoint's tensors, all or none.

    Args:
        tensors: float32 arrays by name.
        config: the network, as it is trained.
        source: where the tensors come from, for errors.

    Returns:
        The variables, and what became of the tensors.

    Raises:
        ArtifactError: listing the tensors that are missing, of another shape, not finite, or of layers that the
            network does not have; and naming the preset that they fit, if there is one.
    """
    spelling = recognise(tensors, source)
    expected = published_tensors(config, spelling)
    unused = tuple(sorted(set(tensors) - set(expected)))
    if faults := _faults(tensors, expected, [name for name in unused if name not in spelling.ignored]):
        advice = _advice(tensors, spelling, config.classes)
        raise ArtifactError(f"{source} does not fit: {listed(faults)}; {advice}")
    weights: Tensors = {}
    for name, published in expected.items():
        weights |= as_variables(tensors[name], published)
    return Imported(weights, spelling.name, len(expected), unused)


def _faults(tensors: Tensors, expected: Mapping[str, Published], unknown: Sequence[str]) -> list[str]:
    faults = [f"missing {name} {list(each.shape)}" for name, each in expected.items() if name not in tensors]
    faults += [
        f"{name} has shape {list(tensors[name].shape)}, not {list(each.shape)}"
        for name, each in expected.items()
        if name in tensors and not _fits(tensors[name].shape, each.shape)
    ]
    faults += [f"unknown {name} {list(tensors[name].shape)}" for name in unknown]
    faults += [f"{name} is not finite" for name in expected if name in tensors and not np.isfinite(tensors[name]).all()]
    return faults


def _fits(found: Shape, expected: Shape) -> bool:
    """Say whether shapes are the same, a linear layer's as a 1x1 convolution's too."""
    return found == expected or (len(expected) == 2 and found == (*expected, 1, 1))


def _advice(tensors: Tensors, spelling: Spelling, classes: int) -> str:
    shapes = {name: value.shape for name, value in tensors.items() if name not in spelling.ignored}
    for name, preset in PRESETS.items():
        if preset.model.stem == "conv" or preset.model.norm != "layer":
            continue
        expected = published_tensors(dataclasses.replace(preset.model, classes=classes), spelling)
        if set(expected) == set(shapes) and all(_fits(shapes[each], expected[each].shape) for each in expected):
            return f"its tensors are those of --preset {name}"
    return "download it anew, or give the preset that it was trained as"


def _settings_of(checkpoint: Path, config: FocalNetConfig) -> FocalNetConfig:
    """Take from the config.json of transformers beside a checkpoint what no tensor shows.

    Raises:
        ArtifactError: it describes another network than the preset's.
    """
    described = _description(checkpoint)
    if described.get("model_type") != "focalnet":
        return config
    expected = {
        "embed_dim": config.dims[0],
        "depths": list(config.depths),
        "focal_levels": list(config.focal_levels),
        "focal_windows": list(config.focal_windows),
        "patch_size": config.patch_size,
        "hidden_act": config.activation,
        "mlp_ratio": config.mlp_ratio,
        "layer_norm_eps": config.block_norm_epsilon,
        "use_conv_embed": config.stem == "overlap",
        "use_post_layernorm": config.post_norm,
        "use_post_layernorm_in_modulation": config.norm_in_modulation,
        "use_layerscale": config.layer_scale > 0,
    }
    faults = [
        f"{name} is {described[name]}, not {value}"
        for name, value in expected.items()
        if name in described and described[name] != value
    ]
    if faults:
        raise ArtifactError(
            f"{_description_file(checkpoint)} describes another network: {'; '.join(faults)}; give the preset that "
            "it was trained as"
        )
    return dataclasses.replace(
        config, normalise_modulator=bool(described.get("normalize_modulator", config.normalise_modulator))
    )


def _description_file(checkpoint: Path) -> Path:
    return checkpoint.with_name("config.json")


def _description(checkpoint: Path) -> dict[str, Any]:
    path = _description_file(checkpoint)
    content = read_json(path, made_by="transformers") if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _labels(checkpoint: Path, classes: int, given: Path | None) -> tuple[str, ...]:
    """Return the class names: those given, those beside the checkpoint, those of ImageNet-1k, or numbers."""
    if given is not None:
        return _read_labels(given, classes)
    names = _description(checkpoint).get("id2label")
    names = names if isinstance(names, dict) else {}
    first = str(names.get("0", "LABEL_0"))  # transformers' own, where nobody gave any
    if classes == len(imagenet_labels()) and first.startswith(("LABEL_", imagenet_labels()[0])):
        return imagenet_labels()
    labels = tuple(str(names.get(str(index), f"class {index}")) for index in range(classes))
    # Of two classes with one name neither could be told; 22,000 nouns have many such.
    times = Counter(labels)
    return tuple(f"{label} ({index})" if times[label] > 1 else label for index, label in enumerate(labels))


def _read_labels(path: Path, classes: int) -> tuple[str, ...]:
    try:
        labels = tuple(path.read_text(encoding="utf-8").split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); expected one class name a line") from error
    labels = labels[:-1] if labels and not labels[-1] else labels
    if len(labels) != classes or len(set(labels)) != classes or not all(label.strip() for label in labels):
        raise ConfigError(
            f"{path} has {len(labels)} lines, {len(set(labels))} of them different; expected {classes} different "
            "class names, one a line"
        )
    return labels


def _check_target(out: Path) -> None:
    if (out / CONFIG_FILE).exists():
        raise ConfigError(f"{out} already holds a run; name another folder with --out")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.import_pretrained", description="Make a run of a published FocalNet checkpoint."
    )
    parser.add_argument("checkpoint", type=Path, help="a safetensors file, or a .pth or .bin of PyTorch")
    published = [name for name in PRESETS if name.startswith("focalnet_")]
    parser.add_argument("--preset", required=True, help=f"what it was trained as: {', '.join(published)}")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run, made if missing")
    parser.add_argument(
        "--labels", type=Path, help="class names, one a line (ImageNet's for 1,000 classes, else those beside it)"
    )
    parser.add_argument(
        "--dataset", choices=DATASETS, default="folder", help="what it is calibrated and tuned on (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print what became of its tensors as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
