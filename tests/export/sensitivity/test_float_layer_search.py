"""The search of products to leave in float, against all selections."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.sensitivity.float_layer_search import check_max_drop, search_float_layers
from export.sensitivity.ranking import Effect
from export.sensitivity.tradeoff import curve_selections, extend_to_max_drop
from runtime.core.errors import ConfigError
from runtime.evaluation.metrics import RelativeAccuracy


def names(count: int) -> list[str]:
    return [f"layer{index}" for index in range(count)]


def accuracy(drop_pp: float) -> RelativeAccuracy:
    return RelativeAccuracy(top1=0.5, drop_pp=drop_pp, drop_standard_error_pp=0.1, agreement=0.9)


def evaluate_by(drop_pp: Callable[[frozenset[str]], float]) -> Callable[[Collection[str]], Effect]:
    """Return an evaluator whose drop is a function of the int8 products."""
    return lambda int8: Effect(accuracy=accuracy(drop_pp(frozenset(int8))), divergence_nats=0.0)


def fewest(drop_pp: Callable[[frozenset[str]], float], products: list[str], limit: float) -> int:
    """Return the least number of float products, by trying all selections."""
    return next(
        count
        for count in range(len(products) + 1)
        for chosen in combinations(products, count)
        if drop_pp(frozenset(products) - set(chosen)) <= limit
    )


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 20))
def test_additive_drops_give_the_fewest(costs: list[int], limit: int) -> None:
    products = names(len(costs))
    by_name = dict(zip(products, costs, strict=True))

    def drop_pp(int8: frozenset[str]) -> float:
        return sum(by_name[name] for name in int8)

    ranked = sorted(products, key=lambda name: -by_name[name])
    chosen = search_float_layers(evaluate_by(drop_pp), ranked, limit).chosen
    assert chosen.effect.accuracy.drop_pp <= limit
    assert chosen.effect.accuracy.drop_pp == drop_pp(frozenset(products) - set(chosen.float_layers))
    assert len(chosen.float_layers) == fewest(drop_pp, products, limit)


@given(st.integers(1, 5), st.data())
def test_the_promise_holds_for_any_drops(count: int, data: st.DataObject) -> None:
    products = names(count)
    # Each set of int8 products has its own drop: more in float may be worse.
    sets = [frozenset(each) for size in range(1, count + 1) for each in combinations(products, size)]
    drops = dict(
        zip(sets, data.draw(st.lists(st.integers(-2, 5), min_size=len(sets), max_size=len(sets))), strict=True)
    )
    drops[frozenset()] = 0
    found = search_float_layers(evaluate_by(drops.__getitem__), products, 1)
    chosen = set(found.chosen.float_layers)
    assert drops[frozenset(products) - chosen] <= 1
    assert all(drops[frozenset(products) - (chosen - {name})] > 1 for name in chosen)
    best = fewest(drops.__getitem__, products, 1)
    assert len(chosen) == best if best <= 1 else len(chosen) >= best
    assert found.chosen in found.tried
    assert all(
        trial.effect.accuracy.drop_pp == drops[frozenset(products) - set(trial.float_layers)] for trial in found.tried
    )


def test_nothing_is_left_in_float_if_int8_keeps_to_the_largest_drop() -> None:
    found = search_float_layers(evaluate_by(len), names(4), 4)
    assert found.chosen.float_layers == ()
    assert len(found.tried) == 1


@pytest.mark.parametrize("limit", [-0.1, math.nan, math.inf])
def test_refuses_an_invalid_largest_drop(limit: float) -> None:
    with pytest.raises(ConfigError, match=r"expected 0 or more, finite"):
        check_max_drop(limit)
    with pytest.raises(ConfigError, match=r"expected 0 or more, finite"):
        search_float_layers(evaluate_by(len), names(2), limit)


def test_products_are_added_until_the_artifact_keeps_to_the_largest_drop() -> None:
    ranked = names(5)

    def evaluate(float_layers: Collection[str]) -> RelativeAccuracy:
        return accuracy(3.0 - len(float_layers))

    assert extend_to_max_drop(evaluate, ["layer3"], ranked, 2.0) == ("layer3",)
    assert extend_to_max_drop(evaluate, ["layer3"], ranked, 0.5) == ("layer3", "layer0", "layer1")
    assert extend_to_max_drop(lambda _: accuracy(9.0), [], ranked, 1.0) == tuple(ranked)


@given(st.integers(1, 60), st.data())
def test_the_curve_goes_from_none_over_the_chosen_to_all(count: int, data: st.DataObject) -> None:
    ranked = names(count)
    chosen = data.draw(st.lists(st.sampled_from(ranked), unique=True))
    points = curve_selections(chosen, ranked)
    assert points[0] == ()
    assert set(points[-1]) == set(ranked)
    assert set(chosen) in [set(point) for point in points]
    assert len(points) <= 7
    assert all(set(few) < set(more) for few, more in pairwise(points))
