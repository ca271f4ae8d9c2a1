"""The budget: what the candidate may cost, read from a TOML file such as runtime/parity.toml."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.core.errors import ConfigError
from runtime.engines.registry import ENGINES

DEFAULT_BUDGET = Path(__file__).resolve().parents[1] / "parity.toml"
SCHEMA_VERSION = 1
TABLES = ("quantization", "release")


@dataclass(frozen=True)
class Rule:
    """Something that may be required.

    Attributes:
        figure: where it is in report.json.
        title: what it is, in words.
        form: how a figure is written, e.g. `"{:.2f} pp"`.
        is_maximum: whether larger is worse.
        images: where the report says on how many images; `None` where it rests on none.
    """

    figure: str
    title: str
    form: str
    is_maximum: bool
    images: str | None = "data.images"


RULES: dict[str, Rule] = {
    "max_drop_pp": Rule("accuracy.drop_pp", "drop of top-1", "{:.2f} pp", True),
    "max_drop_upper_pp": Rule(
        "accuracy.drop_interval_pp.high", "upper end of the drop's 95% interval", "{:.2f} pp", True
    ),
    "min_accuracy_ratio": Rule("accuracy.top1_ratio", "share of the reference's top-1", "{:.2%}", False),
    "min_agreement": Rule("accuracy.agreement", "agreement", "{:.2%}", False),
    "max_worse_classes": Rule("classes.worse_classes", "classes that lose beyond chance", "{:.0f}", True),
    "max_class_drop_pp": Rule("classes.largest_drop_pp", "drop of the worst class", "{:.2f} pp", True),
    "max_ece_increase": Rule("accuracy.ece_increase", "growth of the calibration error", "{:+.4f}", True),
    "max_non_finite": Rule("accuracy.non_finite_images", "images with NaN or infinity", "{:.0f}", True),
    "min_reference_skill": Rule("accuracy.reference_skill", "the reference's skill over guessing", "{:.2f}", False),
    "max_reference_shift_pp": Rule(
        "accuracy.reference_shift_pp", "distance of the reference's top-1 from the manifest's", "{:.2f} pp", True
    ),
    "min_gate_cosine": Rule("sight.lowest_mean_cosine", "cosine of the least similar map", "{:.4f}", False),
    "min_gate_cosine_p5": Rule("sight.lowest_p5_cosine", "5th percentile of that cosine", "{:.4f}", False),
    "min_gate_ssim": Rule("sight.lowest_mean_ssim", "SSIM of the least similar map", "{:.4f}", False),
    "min_gate_rank_correlation": Rule(
        "sight.lowest_mean_rank_correlation", "rank correlation of the least similar map", "{:.4f}", False
    ),
    "max_extra_drop_pp": Rule(
        "corruptions.extra_drop_pp", "growth of the drop in bad light", "{:.2f} pp", True, "corruptions.images"
    ),
    "min_layer_sqnr_db": Rule("blame.lowest_sqnr_db", "SQNR of the worst layer", "{:.1f} dB", False, "blame.images"),
    "min_channel_sqnr_db": Rule(
        "blame.lowest_channel_sqnr_db", "SQNR of the worst channel", "{:.1f} dB", False, "blame.images"
    ),
    "min_speedup": Rule("cost.speedup", "speed-up", "{:.2f}x", False, None),
    "min_size_ratio": Rule("cost.size_ratio", "size ratio", "{:.2f}x", False, None),
    "max_leaked_images": Rule("calibration.leaked_images", "images of the calibration set", "{:.0f}", True, None),
}


@dataclass(frozen=True)
class Limit:
    """What a rule requires.

    Attributes:
        fail: the worst figure that does not fail.
        warn: the worst figure that does not warn; `None` for no warning.
        engines: the candidate's engines that the rule is for.
    """

    fail: float
    warn: float | None = None
    engines: tuple[str, ...] = tuple(ENGINES)


Budget = dict[str, Limit]


def read_budget(path: Path, table: str) -> Budget:
    """Read one table of a budget file.

    Args:
        path: the file.
        table: `"quantization"` or `"release"`.

    Returns:
        The limits by rule, in the order of the file.

    Raises:
        ConfigError: the file is missing or no budget, or names a rule or a field that there is not.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not a readable budget ({error}); copy {DEFAULT_BUDGET} and change it") from error
    if content.get("schema_version") != SCHEMA_VERSION:
        raise ConfigError(
            f"{path} has schema_version {content.get('schema_version')!r}; expected {SCHEMA_VERSION}, as in "
            f"{DEFAULT_BUDGET}"
        )
    if unknown := sorted(set(content) - {"schema_version", *TABLES}):
        raise ConfigError(f"{path} has {', '.join(unknown)}; expected the tables {' and '.join(TABLES)}")
    entries = content.get(table)
    if not isinstance(entries, dict) or not entries:
        raise ConfigError(f"{path} has no table [{table}] with a rule; a comparison that requires nothing would pass")
    return {name: _limit(path, name, entry) for name, entry in entries.items()}


def _limit(path: Path, name: str, entry: Any) -> Limit:
    if name not in RULES:
        raise ConfigError(f"{path} has a rule {name!r}; expected one of {', '.join(RULES)}")
    if not isinstance(entry, Mapping) or "fail" not in entry or set(entry) - {"fail", "warn", "engines"}:
        raise ConfigError(f"{path}: {name} is {entry!r}; expected e.g. {name} = {{ fail = 0.5, warn = 0.3 }}")
    numbers = [entry[key] for key in ("fail", "warn") if key in entry]
    if any(isinstance(n, bool) or not isinstance(n, (int, float)) or not math.isfinite(n) for n in numbers):
        raise ConfigError(f"{path}: {name} has the limits {numbers}; expected finite numbers")
    fail, warn, engines = numbers[0], numbers[1] if len(numbers) > 1 else None, entry.get("engines", list(ENGINES))
    if warn is not None and (warn > fail if RULES[name].is_maximum else warn < fail):
        raise ConfigError(f"{path}: {name} warns at {warn} but fails at {fail}; a warning comes before a failure")
    if not isinstance(engines, list) or not engines or set(engines) - set(ENGINES):
        raise ConfigError(f"{path}: {name} is for the engines {engines!r}; expected some of {', '.join(ENGINES)}")
    return Limit(float(fail), None if warn is None else float(warn), tuple(engines))


def with_largest_drop(budget: Budget, max_drop_pp: float) -> Budget:
    """Return a budget with another largest drop.

    Args:
        budget: the one to change.
        max_drop_pp: percentage points, 0 or more.

    Raises:
        ConfigError: it is negative or no number.
    """
    if not (math.isfinite(max_drop_pp) and max_drop_pp >= 0):
        raise ConfigError(f"received a largest drop of {max_drop_pp} percentage points; expected a number, 0 or more")
    limit = budget.get("max_drop_pp", Limit(max_drop_pp))
    return budget | {"max_drop_pp": replace(limit, fail=max_drop_pp, warn=None)}
