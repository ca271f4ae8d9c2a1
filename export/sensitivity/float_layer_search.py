"""Search of the fewest products to leave in float for a limited drop of top-1."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from export.sensitivity.ranking import Effect
from runtime.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A network that the search tried: these products in float, all others int8."""

    float_layers: tuple[str, ...]
    effect: Effect


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """All trials of a search, in order, and the chosen one."""

    tried: tuple[Trial, ...]
    chosen: Trial


def check_max_drop(max_drop_pp: float) -> None:
    """Check a largest drop.

    Raises:
        ConfigError: it is negative, infinite or NaN.
    """
    if not 0.0 <= max_drop_pp < math.inf:
        raise ConfigError(f"received a largest drop of {max_drop_pp} percentage points; expected 0 or more, finite")


def search_float_layers(
    evaluate: Callable[[Collection[str]], Effect], ranked: Sequence[str], max_drop_pp: float
) -> SearchResult:
    """Search the fewest products to leave in float that keep the drop of top-1 to `max_drop_pp`.

    1. Leave more products in float, the most sensitive first and one at a time, until the drop is small enough.
    2. Return products to int8, the least sensitive first, while the drop stays small enough, until none can.
    3. If more than one is left, try every product alone.

    The result is minimal if it has no product or one. Beyond that no single product can return to int8, but a smaller
    set among the 2^N may exist. All of this holds on the images of `evaluate`.

    Args:
        evaluate: returns the effect of making these products int8.
        ranked: all products, the most sensitive first.
        max_drop_pp: largest drop, in percentage points, 0 or more.

    Returns:
        All trials. The chosen one keeps to the largest drop, if need be with all products in float.

    Raises:
        ConfigError: the largest drop is negative, infinite or NaN.
    """
    check_max_drop(max_drop_pp)
    tried: list[Trial] = []
    with tqdm(desc="search", unit="network", disable=None) as bar:

        def holds(float_layers: Sequence[str]) -> bool:
            effect = evaluate([name for name in ranked if name not in float_layers])
            tried.append(Trial(float_layers=tuple(float_layers), effect=effect))
            bar.update()
            return effect.accuracy.drop_pp <= max_drop_pp

        found = next(tuple(ranked[:count]) for count in range(len(ranked) + 1) if holds(ranked[:count]))
        while (fewer := _without_unneeded(found, holds)) != found:
            found = fewer
        if len(found) > 1:
            found = next(((name,) for name in ranked if holds((name,))), found)
    return SearchResult(tried=tuple(tried), chosen=next(trial for trial in tried if trial.float_layers == found))


def _without_unneeded(found: tuple[str, ...], holds: Callable[[Sequence[str]], bool]) -> tuple[str, ...]:
    """Go once through a selection from the end, and remove each product without which it still holds."""
    for name in reversed(found):
        fewer = tuple(each for each in found if each != name)
        found = fewer if holds(fewer) else found
    return found
