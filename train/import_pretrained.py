"""Import a published checkpoint as a run.

    python -m train.import_pretrained focalnet_tiny_srf.pth --preset focalnet_tiny_srf --out runs/tiny

Checkpoints of the original code, of transformers and of timm are told apart by their tensors' names. A safetensors file
is read without PyTorch. Any other goes through `torch.load(weights_only=True)`, which runs no code of the file. The
preprocessing of its training is read from the files beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.core.cli import command_parser, run_cli, shared_options
from runtime.core.errors import ArtifactError, ConfigError, DataError
from runtime.core.files import json_text, sha256_of, write_json
from runtime.core.text import check_labels, printable_lines
from runtime.images.decode import read_content
from train.data.imagenet import imagenet_labels
from train.data.registry import DATASETS
from train.model.config import FocalNetConfig
from train.model.fold_norms import fold_weights
from train.model.presets import PRESETS, Preset, find_preset
from train.model.recipe import TrainConfig
from train.model.weights import Tensors, listed, write_tensors
from train.pretrained.checkpoint_file import Checkpoint, find_file, read_checkpoint
from train.pretrained.checkpoint_names import NAMINGS, CheckpointTensor, Naming, Shape, checkpoint_tensors, to_variables
from train.pretrained.preprocessing import (
    DESCRIPTION_FILE,
    IGNORE_OPTION,
    Preprocessing,
    read_object,
    read_preprocessing,
)
from train.run import CONFIG_FILE, WEIGHTS_FILE, Run, write_run

IMPORT_FILE = "import.json"


@dataclass(frozen=True)
class Imported:
    """A network from a checkpoint.

    Attributes:
        weights: variables of the trainable network, by `layer/variable`.
        naming: of the checkpoint.
        tensors: number of its tensors that are used.
        unused: names of the others.
    """

    weights: Tensors
    naming: str
    tensors: int
    unused: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Read a checkpoint, check it against its preset, and write the run."""
    args = _parser().parse_args(argv)
    preset = find_preset(args.preset)
    if (args.out / CONFIG_FILE).exists():
        raise ConfigError(f"{args.out} already holds a run; name another folder with --out")
    path = find_file(args.checkpoint)
    config = _settings_of(path, preset.model)
    preprocessing = Preprocessing("", {}) if args.ignore_preprocessing else read_preprocessing(path.parent, config)
    checkpoint = read_checkpoint(path)
    config = dataclasses.replace(config, classes=count_classes(checkpoint.tensors, str(path)))
    config = preprocessing.apply(config)
    imported = import_tensors(checkpoint.tensors, config, str(path))
    labels = _labels(path, config.classes, args.labels)
    recipe = _recipe_for(preset, config)
    run = Run(preset=args.preset, model=config, recipe=recipe, dataset=args.dataset, labels=labels)
    facts = _facts(checkpoint, imported, run, preprocessing)
    write_tensors(args.out / WEIGHTS_FILE, fold_weights(imported.weights, config))
    write_json(args.out / IMPORT_FILE, facts)
    write_run(args.out, run)  # last: it makes the folder a run
    print(json_text(facts) if args.json else printable_lines(_summary(facts, args.out)))
    return 0


def _recipe_for(preset: Preset, config: FocalNetConfig) -> TrainConfig:
    """Return the preset's recipe, which stores images at the size whose centre crop the network sees."""
    if config.input_spec == preset.model.input_spec:
        return preset.train
    margin = config.input_spec.resized_short_side - config.input_size
    return dataclasses.replace(preset.train, resize_margin=margin)


def _facts(checkpoint: Checkpoint, imported: Imported, run: Run, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return what import.json records."""
    model = run.model
    return {
        "checkpoint": checkpoint.path.name,
        "sha256": sha256_of(checkpoint.path),
        "files": {each.name: sha256_of(each) for each in checkpoint.files},
        "key": checkpoint.key,
        "prefix": checkpoint.prefix,
        "averaged": checkpoint.averaged,
        "naming": imported.naming,
        "preset": run.preset,
        "tensors": imported.tensors,
        "unused": [*imported.unused, *checkpoint.others],
        "variables": len(imported.weights),
        "parameters": sum(int(value.size) for value in imported.weights.values()),
        "classes": model.classes,
        "preprocessing": {
            "source": preprocessing.source or "preset",
            "input_size": model.input_size,
            "crop_fraction": model.crop_fraction,
            "interpolation": model.interpolation,
            "mean": list(model.mean),
            "std": list(model.std),
        },
    }


def _summary(facts: Mapping[str, Any], out: Path) -> str:
    unused = f"; not used: {listed(facts['unused'], ', ')}" if facts["unused"] else "; all used"
    place = f" under {facts['key']}" if facts["key"] else ""
    place += f", without the prefix {facts['prefix']}" if facts["prefix"] else ""
    average = ", the moving average (EMA) of the weights" if facts["averaged"] else ""
    seen = facts["preprocessing"]
    return (
        f"{facts['preset']}, {facts['parameters'] / 1e6:.1f} M parameters, {facts['classes']} classes: "
        f"{facts['tensors']} tensors in {facts['naming']} naming{place}{average}{unused}; run in {out}\n"
        f"preprocessing of {'the preset' if seen['source'] == 'preset' else seen['source']}: {seen['input_size']} px, "
        f"crop fraction {seen['crop_fraction']:.4g}, {seen['interpolation']}, mean {seen['mean']}, std {seen['std']}"
    )


def find_naming(tensors: Mapping[str, Any], source: str) -> Naming:
    """Find the naming of a checkpoint by its first embedding.

    Raises:
        ArtifactError: the naming is unknown.
    """
    for naming in NAMINGS:
        if any(name.startswith(f"{naming.stem}.") for name in tensors):
            return naming
    expected = ", ".join(f"{each.stem}.* ({each.name})" for each in NAMINGS)
    raise ArtifactError(
        f"{source} is not a FocalNet in a known naming: received {listed(sorted(tensors), ', ')}; expected one of "
        f"{expected}"
    )


def count_classes(tensors: Tensors, source: str) -> int:
    """Return the number of classes of a checkpoint's head, which may differ from its preset's.

    Raises:
        ArtifactError: it has no head, or its naming is unknown.
    """
    name = f"{find_naming(tensors, source).head}.bias"
    if name not in tensors or tensors[name].ndim != 1 or len(tensors[name]) < 2:
        found = f"{name} {list(tensors[name].shape)}" if name in tensors else f"no {name}"
        raise ArtifactError(
            f"{source} has {found}; expected a classifier of 2 classes or more: give a checkpoint with its head"
        )
    return len(tensors[name])


def import_tensors(tensors: Tensors, config: FocalNetConfig, source: str) -> Imported:
    """Convert a checkpoint's tensors to a network's variables.

    Args:
        tensors: float32 arrays by name.
        config: the trainable network.
        source: origin of the tensors, for errors.

    Raises:
        ArtifactError: tensors are missing, unknown, of another shape or not finite; the message lists them, and names
            the preset that they fit, if any.
    """
    naming = find_naming(tensors, source)
    expected = checkpoint_tensors(config, naming)
    unused = tuple(sorted(set(tensors) - set(expected)))
    if faults := _faults(tensors, expected, [name for name in unused if name not in naming.ignored]):
        advice = _advice(tensors, naming, config.classes)
        raise ArtifactError(f"{source} does not fit: {listed(faults)}; {advice}")
    weights: Tensors = {}
    for name, published in expected.items():
        weights |= to_variables(tensors[name], published)
    return Imported(weights, naming.name, len(expected), unused)


def _faults(tensors: Tensors, expected: Mapping[str, CheckpointTensor], unknown: Sequence[str]) -> list[str]:
    faults = [f"missing {name} {list(each.shape)}" for name, each in expected.items() if name not in tensors]
    faults += [
        f"{name} has shape {list(tensors[name].shape)}, not {list(each.shape)}"
        for name, each in expected.items()
        if name in tensors and not _fits(tensors[name].shape, each.shape)
    ]
    # A tensor without dimensions is a counter of the training.
    faults += [f"unknown {name} {list(tensors[name].shape)}" for name in unknown if tensors[name].ndim]
    fitting = [name for name, each in expected.items() if name in tensors and _fits(tensors[name].shape, each.shape)]
    for name in fitting:
        if tensors[name].dtype != np.float32:
            faults.append(f"{name} holds {tensors[name].dtype} values, not floating-point ones")
        elif not np.isfinite(tensors[name]).all():
            faults.append(f"{name} is not finite")
    return faults


def _fits(found: Shape, expected: Shape) -> bool:
    """Compare shapes; a linear layer may have that of a 1x1 convolution."""
    return found == expected or (len(expected) == 2 and found == (*expected, 1, 1))


def _advice(tensors: Tensors, naming: Naming, classes: int) -> str:
    shapes = {name: value.shape for name, value in tensors.items() if name not in naming.ignored}
    for name, preset in PRESETS.items():
        if preset.model.stem == "conv" or preset.model.norm != "layer":
            continue
        expected = checkpoint_tensors(dataclasses.replace(preset.model, classes=classes), naming)
        if set(expected) == set(shapes) and all(_fits(shapes[each], expected[each].shape) for each in expected):
            return f"its tensors are those of --preset {name}"
    return "download it again, or give the preset of its training"


def _settings_of(checkpoint: Path, config: FocalNetConfig) -> FocalNetConfig:
    """Take the settings that no tensor shows from transformers' config.json beside the checkpoint.

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
            f"{checkpoint.with_name(DESCRIPTION_FILE)} describes another network: {'; '.join(faults)}; give the preset "
            "of its training"
        )
    return dataclasses.replace(
        config, normalise_modulator=bool(described.get("normalize_modulator", config.normalise_modulator))
    )


def _description(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint.with_name(DESCRIPTION_FILE)
    return read_object(path) if path.is_file() else {}


def _labels(checkpoint: Path, classes: int, given: Path | None) -> tuple[str, ...]:
    """Return the given class names, those beside the checkpoint, those of ImageNet-1k, or numbers.

    Raises:
        ArtifactError: they are not one name a class, as `check_labels` accepts them.
    """
    source = given or checkpoint.with_name(DESCRIPTION_FILE)
    labels = _read_labels(given) if given else _described_labels(_description(checkpoint), classes, source)
    if len(labels) != classes:
        raise ArtifactError(
            f"{source} has {len(labels)} class names for the {classes} classes of the checkpoint; "
            "give one a class, one a line, with --labels"
        )
    try:
        check_labels(labels)
    except ConfigError as error:
        raise ArtifactError(f"{source}: {error}; give {classes} class names, one a line, with --labels") from error
    return labels


def _described_labels(described: Mapping[str, Any], classes: int, source: Path) -> tuple[str, ...]:
    """Return the class names in a config.json: transformers' `id2label`, or timm's `label_names`."""
    timm = described.get("pretrained_cfg")
    listing = described.get("label_names", timm.get("label_names") if isinstance(timm, dict) else None)
    names = described.get("id2label", listing)
    if isinstance(names, dict):
        if wrong_ids := sorted(set(names) - {str(index) for index in range(len(names))}):
            raise ArtifactError(
                f"{source}: `id2label` has the number {wrong_ids[0]!r}; expected 0 to {len(names) - 1}: correct it, or "
                "give the class names with --labels"
            )
        names = [names[str(index)] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        return imagenet_labels() if classes == len(imagenet_labels()) else _numbers(classes)
    labels = tuple(str(each).removeprefix("\ufeff") for each in names)
    if labels == tuple(f"LABEL_{index}" for index in range(len(labels))) and len(labels) == classes:
        # transformers' default
        return imagenet_labels() if classes == len(imagenet_labels()) else labels
    if classes == len(labels) == len(imagenet_labels()) and labels[0].startswith(imagenet_labels()[0]):
        return imagenet_labels()
    # Equal names get their number: ImageNet-22k has many.
    times = Counter(labels)
    return tuple(
        f"{label} ({index})" if times[label] > 1 and label.strip() else label for index, label in enumerate(labels)
    )


def _numbers(classes: int) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(classes))


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        # Without a byte order mark.
        text = read_content(path).decode("utf-8-sig")
    except (DataError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); expected one class name a line, in UTF-8") from error
    labels = text.replace("\r\n", "\n").split("\n")
    return tuple(labels[:-1] if not labels[-1] else labels)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "python -m train.import_pretrained",
        "Import a published FocalNet checkpoint as a run.",
        parents=[shared_options("--json")],
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="PATH",
        help="safetensors file, PyTorch's .pth or .bin, index of shards (.index.json), or a folder with one of them",
    )
    published = ", ".join(name for name in PRESETS if name.startswith("focalnet_"))
    parser.add_argument("--preset", required=True, metavar="NAME", help=f"network of the checkpoint: {published}")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the run, made if missing")
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="class names, one a line (default: ImageNet's for 1,000 classes, else those beside the checkpoint)",
    )
    parser.add_argument(
        IGNORE_OPTION,
        action="store_true",
        help="use the preset's size, crop, interpolation, mean and deviation, not those beside the checkpoint",
    )
    parser.add_argument("--dataset", choices=tuple(DATASETS), default="folder", help="dataset of the later stages")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
