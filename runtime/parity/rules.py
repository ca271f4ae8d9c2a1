"""Rules of the verdict, and their limits, read from a TOML file such as runtime/parity.toml."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.core.errors import ArtifactError, ConfigError
from runtime.core.schema import check_version, parse
from runtime.engines.registry import ENGINES

DEFAULT_LIMITS = Path(__file__).resolve().parents[1] / "parity.toml"
SCHEMA_VERSION = 1
TABLES = ("quantization", "release")
FORMER_NAMES = {"max_leaked_pictures": "max_leaked_images"}


@dataclass(frozen=True)
class Rule:
    """A figure that may be limited.

    Attributes:
        figure: its path in report.json.
        title: its name in the reports.
        form: its format, e.g. `"{:.2f} pp"`.
        is_maximum: whether larger is worse.
        images: path of the number of images that it rests on; `None` if it rests on none.
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
    "min_gate_cosine": Rule("map_similarity.lowest_mean_cosine", "cosine of the least similar map", "{:.4f}", False),
    "min_gate_cosine_p5": Rule("map_similarity.lowest_p5_cosine", "5th percentile of that cosine", "{:.4f}", False),
    "min_gate_ssim": Rule("map_similarity.lowest_mean_ssim", "SSIM of the least similar map", "{:.4f}", False),
    "min_gate_rank_correlation": Rule(
        "map_similarity.lowest_mean_rank_correlation", "rank correlation of the least similar map", "{:.4f}", False
    ),
    "max_extra_drop_pp": Rule(
        "corruptions.extra_drop_pp", "growth of the drop under corruptions", "{:.2f} pp", True, "corruptions.images"
    ),
    "min_layer_sqnr_db": Rule(
        "layer_error.lowest_sqnr_db", "SQNR of the worst layer", "{:.1f} dB", False, "layer_error.images"
    ),
    "min_channel_sqnr_db": Rule(
        "layer_error.lowest_channel_sqnr_db", "SQNR of the worst channel", "{:.1f} dB", False, "layer_error.images"
    ),
    "min_speedup": Rule("cost.speedup", "speed-up", "{:.2f}x", False, None),
    "min_size_ratio": Rule("cost.size_ratio", "size ratio", "{:.2f}x", False, None),
    "max_leaked_images": Rule(
        "calibration_leak.leaked_images", "compared images in the calibration set", "{:.0f}", True, None
    ),
}


@dataclass(frozen=True)
class Limit:
    """The limits of a rule.

    Attributes:
        fail: the worst figure that does not fail.
        warn: the worst figure that does not warn; `None` for no warning.
        engines: the rule is for candidates of these engines.
    """

    fail: float
    warn: float | None = None
    engines: tuple[str, ...] = tuple(ENGINES)

    def __post_init__(self) -> None:
        """Check the engines."""
        if not self.engines or set(self.engines) - set(ENGINES):
            raise ConfigError(f"received the engines {list(self.engines)}; expected some of {', '.join(ENGINES)}")


Limits = dict[str, Limit]


def read_limits(path: Path, table: str) -> Limits:
    """Read one table of a file such as runtime/parity.toml.

    Args:
        path: the file.
        table: `"quantization"` or `"release"`.

    Returns:
        The limits by rule, in the order of the file.

    Raises:
        ConfigError: the file is missing, or does not have this form.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        check_version(content, SCHEMA_VERSION)
        if unknown := sorted(set(content) - {"schema_version", *TABLES}):
            raise ConfigError(f"received {', '.join(unknown)}; expected the tables {' and '.join(TABLES)}")
        limits: Limits = parse(dict[str, Limit], content.get(table, {}), table)
        if not limits:
            raise ConfigError(f"table [{table}] has no rule; expected one or more, as without rules all would pass")
        return {FORMER_NAMES.get(name, name): _checked(name, limit) for name, limit in limits.items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ArtifactError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}; copy {DEFAULT_LIMITS} and change it") from error


def _checked(name: str, limit: Limit) -> Limit:
    rule = RULES.get(FORMER_NAMES.get(name, name))
    if rule is None:
        raise ConfigError(f"received a rule {name!r}; expected one of {', '.join(RULES)}")
    if limit.warn is not None and (limit.warn > limit.fail if rule.is_maximum else limit.warn < limit.fail):
        raise ConfigError(f"{name} warns at {limit.warn} but fails at {limit.fail}; expected it to warn first")
    return limit


def with_largest_drop(limits: Limits, max_drop_pp: float) -> Limits:
    """Return limits with another largest drop of top-1.

    Args:
        limits: the limits by rule.
        max_drop_pp: percentage points, 0 or more.

    Raises:
        ConfigError: `max_drop_pp` is out of range.
    """
    if not (math.isfinite(max_drop_pp) and max_drop_pp >= 0):
        raise ConfigError(f"received a largest drop of {max_drop_pp} percentage points; expected a number, 0 or more")
    limit = limits.get("max_drop_pp", Limit(max_drop_pp))
    return limits | {"max_drop_pp": replace(limit, fail=max_drop_pp, warn=None)}
