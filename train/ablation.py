"""Ablation of the recipe or the network: train each variant once, and compare validation accuracies.

    python -m train.ablation --dataset cifar10 --out runs/ablation

Each variant changes one choice of a preset. It is a run folder, which a stopped ablation resumes and which calibration
and export take. The test split is not used.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from runtime.core.cli import command_parser, run_cli, shared_options
from runtime.core.errors import ConfigError
from runtime.core.files import json_text, read_json, write_json
from runtime.core.schema import parse, renamed
from runtime.evaluation.sampling import class_balanced_indices
from runtime.images.input_spec import InputSpec
from train.data.dataset import Dataset, Split
from train.data.registry import DATASETS, add_conflicts_argument, add_stream_argument, load_dataset
from train.model.fold_norms import fold_weights
from train.model.presets import PRESETS, Preset, find_preset
from train.model.recipe import TrainConfig, image_spec, recipe_for
from train.model.weights import weight_arrays, write_tensors
from train.run import WEIGHTS_FILE, Run, begin_run

SETTINGS_FILE = "ablation.json"
BASELINE = "as it is"
Changes = Mapping[str, Any]
RECIPES: Mapping[str, Changes] = {
    BASELINE: {},
    "another seed": {"seed": 1},
    "no random crop": {"pad": 0},
    "no mirroring": {"flip": False},
    "no label smoothing": {"label_smoothing": 0.0},
    "no clipping": {"clip_norm": 0.0},
    "norms and biases decay too": {"decay_kernels_only": False},
    "RandAugment, 1 operation": {"rand_augment_ops": 1},
    "random erasing of a quarter": {"erase_rate": 0.25},
    "mixup 0.2": {"mixup_alpha": 0.2},
    "CutMix 1.0, every second batch": {"cutmix_alpha": 1.0, "mix_rate": 0.5},
    "stochastic depth 0.1": {"drop_path_rate": 0.1},
    "averaged weights 0.998": {"ema_momentum": 0.998},
    "bfloat16": {"precision": "mixed_bfloat16"},
}
NETWORKS: Mapping[str, Changes] = {
    BASELINE: {},
    "patch stem": {"stem": "patch"},
    "GELU": {"activation": "gelu"},
    "LayerNorm everywhere": {"norm": "layer"},
    "paper's initialisation": {"initializer": "paper"},
    "1 focal level": {"focal_levels": (1, 1)},
    "3 focal levels": {"focal_levels": (3, 3)},
    "48 px": {"input_size": 48},
    "stride 2, 32/64/96 channels": {
        "patch_size": 2,
        "dims": (32, 64, 96),
        "depths": (1, 2, 2),
        "focal_levels": (2, 2, 2),
        "focal_windows": (3, 3, 3),
    },
    "1 stage, 64 channels, 4 blocks": {"dims": (64,), "depths": (4,), "focal_levels": (2,), "focal_windows": (3,)},
    "hidden layers of 4 times the width": {"mlp_ratio": 4.0},
}
ABLATIONS: Mapping[str, Mapping[str, Changes]] = {"recipe": RECIPES, "network": NETWORKS}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all variants of a folder share.

    Attributes:
        preset: name of the preset that they change.
        dataset: name of the dataset.
        epochs: of each training.
        images: size of the class-balanced training sample; `None` for all images.
    """

    preset: str
    dataset: str
    epochs: int
    images: int | None = renamed("pictures", default=None)

    def __post_init__(self) -> None:
        """Reject an empty sample.

        Raises:
            ConfigError: `images` is below 1.
        """
        if self.images is not None and self.images < 1:
            raise ConfigError(f"received --images {self.images}; expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class Row:
    """Result of one variant.

    Attributes:
        variant: its name.
        parameters: of the deployed network.
        macs: multiply-accumulates per image.
        train_top1: 0..1, on the augmented training images of the last epoch.
        val_top1: 0..1, after the last epoch.
        training_time_s: of all epochs.
    """

    variant: str
    parameters: int
    macs: int
    train_top1: float
    val_top1: float
    training_time_s: float


def changed(preset: Preset, changes: Changes) -> Preset:
    """Change fields of a preset's network or recipe.

    Args:
        preset: the preset.
        changes: values by field of `FocalNetConfig` or `TrainConfig`.

    Raises:
        ConfigError: a field is unknown, or cannot have its value.
    """
    of_recipe = {each.name for each in dataclasses.fields(TrainConfig)}
    of_network = {each.name for each in dataclasses.fields(preset.model)}
    if unknown := sorted(set(changes) - of_recipe - of_network):
        raise ConfigError(f"received changes of {unknown}; expected fields of FocalNetConfig or TrainConfig")
    model = dataclasses.replace(preset.model, **{n: v for n, v in changes.items() if n in of_network})
    recipe = dataclasses.replace(preset.train, **{n: v for n, v in changes.items() if n in of_recipe})
    return dataclasses.replace(preset, model=model, train=recipe)


def train_variant(variant: str, run: Run, dataset: Dataset, folder: Path) -> Row:
    """Train a variant, or resume its training.

    Args:
        variant: its name in the table.
        run: the run.
        dataset: its images; the test split is not used.
        folder: the run's.

    Raises:
        ConfigError: the folder holds another run.
        TrainingError: a loss or gradient is not finite, or a file cannot be written.
    """
    from train.loop.fit import fit
    from train.model.cost import network_cost

    begin_run(folder, run, resume=True)
    model, history = fit(run, dataset, folder, resume=True)
    write_tensors(folder / WEIGHTS_FILE, fold_weights(weight_arrays(model), run.model))
    cost = network_cost(run.model)
    return Row(
        variant=variant,
        parameters=cost.parameters,
        macs=cost.macs,
        train_top1=history[-1]["accuracy"],
        val_top1=history[-1]["val_accuracy"],
        training_time_s=round(sum(row["time_s"] for row in history), 1),
    )


def balanced_sample(split: Split, images: int | None) -> Split:
    """Return a class-balanced sample of a split, always the same; the split itself if it is no larger."""
    if images is None or images >= len(split.labels):
        return split
    return split.part(class_balanced_indices(split.labels, images, seed=0))


def begin_ablation(folder: Path, settings: Settings) -> None:
    """Write the settings of an ablation to its folder, after a check against those it has.

    Args:
        folder: the ablation's, made if missing.
        settings: of all its variants.

    Raises:
        ConfigError: the folder has other settings.
    """
    path = folder / SETTINGS_FILE
    if path.exists():
        found = parse(Settings, read_json(path, made_by="python -m train.ablation"))
        if found != settings:
            raise ConfigError(
                f"{folder} has variants of {asdict(found)}; received {asdict(settings)}; name another folder with --out"
            )
    write_json(path, asdict(settings))


def table(rows: Sequence[Row]) -> str:
    """Render rows as a Markdown table, with differences from the first row in percentage points."""
    lines = [
        "| change | parameters | MACs | training top-1 | validation top-1 | difference | time |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.variant} | {row.parameters:,} | {row.macs / 1e6:.1f} M | {row.train_top1:.1%} | {row.val_top1:.2%} "
        f"| {100 * (row.val_top1 - rows[0].val_top1):+.2f} pp | {row.training_time_s / 60:.1f} min |"
        for row in rows
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None, *, load: Callable[..., Dataset] = load_dataset) -> int:
    """Run the command line; see `--help`.

    Args:
        argv: the arguments.
        load: loads the dataset.
    """
    args = _parser().parse_args(argv)
    variants = ABLATIONS[args.of]
    chosen = [BASELINE, *(name for name in args.only or variants if name != BASELINE)]
    if unknown := sorted(set(chosen) - set(variants)):
        raise ConfigError(f"received --only {unknown}; expected some of {', '.join(variants)}")
    settings = Settings(preset=args.preset, dataset=args.dataset, epochs=args.epochs, images=args.images)
    preset = changed(find_preset(args.preset), {"epochs": args.epochs, "monitor_every": 0})
    presets = {name: changed(preset, variants[name]) for name in chosen}
    # By size, as folders are read at the size that a network sees.
    datasets: dict[InputSpec, Dataset] = {}
    rows: list[Row] = []
    for name, each in presets.items():
        print(f"{len(rows) + 1} of {len(presets)}: {name}", file=sys.stderr, flush=True)
        stored = image_spec(each.model, each.train)
        if stored not in datasets:
            whole = load(
                args.dataset,
                data_dir=args.data_dir,
                image_size=stored.size,
                interpolation=stored.interpolation,
                stream=args.stream,
                allow_conflicts=args.allow_conflicts,
            )
            datasets[stored] = dataclasses.replace(whole, train=balanced_sample(whole.train, args.images))
            begin_ablation(args.out, settings)
        dataset = datasets[stored]
        model = dataclasses.replace(each.model, classes=len(dataset.labels))
        recipe = recipe_for(each.train, len(dataset.train.labels))
        run = Run(preset=args.preset, model=model, recipe=recipe, dataset=args.dataset, labels=dataset.labels)
        rows.append(train_variant(name, run, dataset, args.out / _folder_name(name)))
    content = asdict(settings) | {"rows": [asdict(row) for row in rows]}
    print(json_text(content) if args.json else table(rows))
    return 0


def _folder_name(variant: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", variant.lower()).strip("-")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "python -m train.ablation",
        "Train variants of a preset, each with one choice changed, and compare their validation accuracies.",
        parents=[shared_options("--data-dir", "--json")],
    )
    parser.add_argument("--of", choices=tuple(ABLATIONS), default="recipe", help="what the variants change")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="train these and the baseline (default: all)")
    parser.add_argument(
        "--preset", default="edge-pico", metavar="NAME", help=f"preset to change, one of {', '.join(PRESETS)}"
    )
    parser.add_argument("--dataset", default="cifar10", metavar="NAME", help=f"one of {', '.join(DATASETS)}")
    add_stream_argument(parser)
    add_conflicts_argument(parser)
    parser.add_argument("--epochs", type=int, default=6, metavar="N", help="epochs of each training, 1 or more")
    parser.add_argument(
        "--images",
        "--pictures",
        type=int,
        metavar="N",
        help="size of the class-balanced training sample, in images (default: all)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the variants' runs")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
