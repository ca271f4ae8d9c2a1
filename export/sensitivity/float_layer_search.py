"""The products to leave in float so that int8 costs no more accuracy than a budget allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from export.sensitivity.ranking import Effect
from runtime.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Step:
    """A network that the search tried: these products in float, all others int8."""

    float_layers: tuple[str, ...]
    effect: Effect


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search tried, in order, and which of it it chose."""

    tried: tuple[Step, ...]
    chosen: Step


def check_max_drop(max_drop_pp: float) -> None:
    """Hold a budget to what a drop can be.

    Raises:
        ConfigError: it is negative, infinite or no number.
    """
    if not 0.0 <= max_drop_pp < math.inf:
        raise ConfigError(f"received a largest drop of {max_drop_pp} percentage points; expected 0 or more, finite")


def search_float_layers(
    judge: Callable[[Collection[str]], Effect], ranked: Sequence[str], max_drop_pp: float
) -> Search:
    """Search the fewest products to leave in float that keep the drop of top-1 within a budget.

    First ever more of them are left in float, the costliest first, until the drop is within the budget; one after the
    other, as the drop need not fall with every step, and between two that are within the budget there may be one that
    is not. Then each of them goes back to int8, the cheapest first, if the budget still holds, until none can. If more
    than one is left, every product is tried alone.

    That finds none where none is needed, and one where one is enough. Beyond, the number is the least of what was
    tried, not of all 2^N sets: of those found none can go back to int8 by itself, but another set may be smaller.
    All of that holds on the judge's images.

    Args:
        judge: tells what becomes of the effect with these products in int8.
        ranked: all products, the costliest first.
        max_drop_pp: the budget, in percentage points, 0 or more.

    Returns:
        Every network that was tried. The chosen one is within the budget; if need be, all of its products are float.

    Raises:
        ConfigError: the budget is negative, infinite or no number.
    """
    check_max_drop(max_drop_pp)
    tried: list[Step] = []
    with tqdm(desc="search", unit="network", disable=None) as bar:

        def attempt(float_layers: Sequence[str]) -> bool:
            chosen = frozenset(float_layers)
            effect = judge([name for name in ranked if name not in chosen])
            tried.append(Step(float_layers=tuple(float_layers), effect=effect))
            bar.update()
            return effect.accuracy.drop_pp <= max_drop_pp

        found = next(tuple(ranked[:count]) for count in range(len(ranked) + 1) if attempt(ranked[:count]))
        while (fewer := _put_back(found, attempt)) != found:
            found = fewer
        if len(found) > 1:
            found = next(((name,) for name in ranked if attempt((name,))), found)
    chosen = next(step for step in tried if step.float_layers == found)
    return Search(tried=tuple(tried), chosen=chosen)


def _put_back(found: tuple[str, ...], holds: Callable[[Sequence[str]], bool]) -> tuple[str, ...]:
    """Go once through a selection, the last of it first, and leave out what it holds without."""
    for name in reversed(found):
        fewer = tuple(each for each in found if each != name)
        found = fewer if holds(fewer) else found
    return found
