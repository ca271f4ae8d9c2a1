"""Training recipes: the fields, their command-line options and their table in the docs."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from runtime.core.errors import ConfigError
from runtime.images.input_spec import InputSpec
from train.model.config import FocalNetConfig, require

SMALL_DATA_IMAGES = 10_000
SMALL_DATA_BATCH_SIZE = 32
FINETUNING_RATE = 0.5


@dataclass(frozen=True)
class Range:
    """An interval of numbers; the ends belong to it unless they are open. Infinity and NaN never do."""

    low: float = 0
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        """Tell whether a value lies in the interval."""
        if not self.low <= value <= self.high or math.isinf(value):
            return False
        return not (self.open_low and value == self.low) and not (self.open_high and value == self.high)

    def __str__(self) -> str:
        """Return the interval in words, such as "0 or more"."""
        low = f"above {self.low:g}" if self.open_low else f"{self.low:g} or more"
        if math.isinf(self.high):
            return low
        if self.open_low or self.open_high:
            return f"{low}, {'below' if self.open_high else 'at most'} {self.high:.10g}"
        return f"{self.low:g} to {self.high:.10g}"


SHARE = Range(0, 1)
SHARE_BELOW_1 = Range(0, 1, open_high=True)
POSITIVE = Range(open_low=True)


def option(default: Any, text: str, unit: str = "", within: Range | None = None) -> Any:
    """Return a dataclass field that describes itself.

    Args:
        default: its value unless given.
        text: what it sets, for `--help` and the docs.
        unit: of its value, if any.
        within: the numbers that it may be.
    """
    return dataclasses.field(default=default, metadata={"text": text, "unit": unit, "within": within})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training recipe. `recipe_table` renders its fields for the docs."""

    epochs: int = option(25, "passes over the training split", "epochs", Range(1))
    batch_size: int = option(128, "images per training step", "images", Range(1))
    learning_rate: float = option(1e-3, "AdamW's peak rate, after the warm-up", within=POSITIVE)
    warmup_learning_rate: float = option(0.0, "rate of the first step, at most learning_rate", within=Range())
    warmup_fraction: float = option(
        0.15, "share of the steps with a linear warm-up, before a cosine to 0", within=SHARE_BELOW_1
    )
    weight_decay: float = option(0.05, "AdamW's decoupled decay per step, as a multiple of the rate", within=Range())
    decay_kernels_only: bool = option(True, "no weight decay of biases and norms")
    layer_decay: float = option(
        1.0,
        "factor of the rate from each block to the one before it, from the head to the embedding (Clark et al., 2020);"
        " 1 for one rate",
        within=Range(0, 1, open_low=True),
    )
    frozen_stages: int = option(
        0,
        "first stages that stay frozen, with the embedding and their BatchNorm statistics; 0 for none, all for a"
        " linear probe",
        "stages",
        Range(),
    )
    clip_norm: float = option(1.0, "largest global norm of the gradients; 0 for no clipping", within=Range())
    label_smoothing: float = option(0.1, "share of the target spread over all classes", within=SHARE_BELOW_1)
    precision: Literal["float32", "mixed_bfloat16"] = option(
        "float32", "mixed_bfloat16 for bfloat16 activations and products, with float32 weights"
    )
    ema_momentum: float = option(
        0.0, "momentum per step of the averaged weights that are validated and saved; 0 for no average",
        within=SHARE_BELOW_1,
    )  # fmt: skip
    resize_margin: int = option(4, "images are resized to the input size plus this, then cropped", "px", Range())
    pad: int = option(0, "mirrored border on each side before the crop", "px", Range())
    flip: bool = option(True, "mirror half of the images horizontally")
    rand_augment_ops: int = option(
        0, "RandAugment operations per batch (Cubuk et al., 2019); 0 for none", "operations", Range()
    )
    rand_augment_magnitude: float = option(0.3, "strength of RandAugment", within=SHARE)
    erase_rate: float = option(0.0, "share of images with an erased rectangle (Zhong et al., 2017)", within=SHARE)
    erase_area: float = option(0.25, "largest erased share of an image's area", within=SHARE)
    mixup_alpha: float = option(
        0.0, "both parameters of mixup's beta distribution (Zhang et al., 2017); 0 for none", within=Range()
    )
    cutmix_alpha: float = option(
        0.0, "the same for CutMix (Yun et al., 2019); with both, each batch takes one at random", within=Range()
    )
    mix_rate: float = option(1.0, "share of batches with mixup or CutMix", within=SHARE)
    monitor_every: int = option(5, "interval of the gate panels; 0 for none", "epochs", Range())
    seed: int = option(0, "seed of initialisation, order, augmentation and dropout", within=Range(0, 2**32 - 1))

    def __post_init__(self) -> None:
        """Reject recipes that cannot run.

        Raises:
            ConfigError: naming the field, its value and its range.
        """
        for field in dataclasses.fields(self):
            value, within = getattr(self, field.name), field.metadata["within"]
            if within is not None:
                require(value in within, f"{field.name}={value}", str(within))
        precisions = get_args(get_type_hints(TrainConfig)["precision"])
        require(self.precision in precisions, f"precision={self.precision!r}", " or ".join(precisions))
        require(
            self.warmup_learning_rate <= self.learning_rate,
            f"learning_rate={self.learning_rate} below warmup_learning_rate={self.warmup_learning_rate}",
            "a base rate at or above the warm-up rate",
        )


def _options() -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Yield the option, type and field of each setting."""
    kinds = get_type_hints(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        yield f"--{field.name.replace('_', '-')}", kinds[field.name], field


def _type_name(kind: Any) -> str:
    return "true or false" if kind is bool else " or ".join(get_args(kind)) or str(kind.__name__)


def _bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ConfigError(f"received {text!r}; expected true or false")
    return text == "true"


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of `TrainConfig`, such as `--batch-size`; `None` where it is not given."""
    group = parser.add_argument_group("recipe", "changes to the preset's recipe")
    parsers: dict[Any, Any] = {int: int, float: float, bool: _bool}
    for name, kind, field in _options():
        bounds = ", ".join(str(field.metadata[key]) for key in ("unit", "within") if field.metadata[key])
        group.add_argument(
            name,
            dest=field.name,
            type=parsers.get(kind, str),
            metavar=kind.__name__.upper() if kind in (int, float) else f"{{{_type_name(kind).replace(' or ', ',')}}}",
            help=f"{field.metadata['text']}{f' [{bounds}]' if bounds else ''} (default: the preset's)",
        )


def with_recipe_options(recipe: TrainConfig, args: argparse.Namespace) -> TrainConfig:
    """Return a recipe with the fields changed that were given as options.

    Args:
        recipe: the recipe.
        args: parsed by a parser with `add_recipe_options`.

    Raises:
        ConfigError: a value is not in its field's range.
    """
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(TrainConfig)}
    return dataclasses.replace(recipe, **{name: value for name, value in given.items() if value is not None})


def recipe_table() -> str:
    """Return the Markdown table of the recipe's options."""
    lines = ["| option | type | unit | range | default | meaning |", "|---|---|---|---|---|---|"]
    for name, kind, field in _options():
        default = str(field.default).lower() if kind is bool else field.default
        unit, within = field.metadata["unit"], field.metadata["within"] or ""
        lines.append(f"| `{name}` | {_type_name(kind)} | {unit} | {within} | {default} | {field.metadata['text']} |")
    return "\n".join(lines)


def recipe_for(recipe: TrainConfig, images: int) -> TrainConfig:
    """Reduce the batch size for a small training split, so that an epoch has enough steps.

    Args:
        recipe: a preset's recipe.
        images: size of the training split.

    Returns:
        The recipe itself from 10,000 images on; below, batches of at most 32, with the rates scaled by the square root
        of the batch size (Malladi et al., 2022, arXiv 2205.10287).
    """
    if images >= SMALL_DATA_IMAGES or recipe.batch_size <= SMALL_DATA_BATCH_SIZE:
        return recipe
    scale = (SMALL_DATA_BATCH_SIZE / recipe.batch_size) ** 0.5
    return dataclasses.replace(
        recipe,
        batch_size=SMALL_DATA_BATCH_SIZE,
        learning_rate=recipe.learning_rate * scale,
        warmup_learning_rate=recipe.warmup_learning_rate * scale,
    )


def finetuning(recipe: TrainConfig) -> TrainConfig:
    """Return a recipe at half its rates, for pretrained weights (docs/guides/train.md, "Fine-tuning")."""
    return dataclasses.replace(
        recipe,
        learning_rate=recipe.learning_rate * FINETUNING_RATE,
        warmup_learning_rate=recipe.warmup_learning_rate * FINETUNING_RATE,
    )


def check_recipe(model: FocalNetConfig, recipe: TrainConfig) -> None:
    """Check a recipe against its network.

    Raises:
        ConfigError: it freezes more stages than the network has.
    """
    stages = len(model.dims)
    require(
        recipe.frozen_stages <= stages,
        f"frozen_stages={recipe.frozen_stages} for a network of {stages} stages",
        f"0 to {stages}; {stages} trains the head alone",
    )


def stored_image_size(model: FocalNetConfig, recipe: TrainConfig) -> int:
    """Return the side of the stored training images, in pixels: the input's, with room for random crops.

    They hold the whole centred square. Validation makes the network's input from them by `FocalNetConfig.input_spec`,
    as the runtime does: of 256 stored pixels, a crop fraction of 0.875 at input size 224 takes the centre unchanged.

    Raises:
        ConfigError: the recipe's mirrored padding is wider than the images.
    """
    size = model.input_size + recipe.resize_margin
    require(recipe.pad < size, f"pad={recipe.pad} for images of {size} pixels", "less than their side")
    return size


def image_spec(model: FocalNetConfig, recipe: TrainConfig) -> InputSpec:
    """Return the input spec of stored training images: the whole centred square at `stored_image_size`.

    Raises:
        ConfigError: as `stored_image_size`.
    """
    return InputSpec(stored_image_size(model, recipe), interpolation=model.interpolation)
