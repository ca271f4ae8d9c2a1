"""Metrics, against exact arithmetic, SciPy and counts by hand."""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import median, quantiles

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special

from runtime.core.errors import FocalEdgeError
from runtime.evaluation.metrics import (
    accuracy_of,
    agreement,
    cosine_similarity,
    divergence_nats,
    drop_pp,
    drop_standard_error_pp,
    percentile,
    softmax,
    top1,
)

NON_FINITE = [math.nan, math.inf, -math.inf]
finite = st.floats(-1e6, 1e6)
vectors = st.integers(1, 12).flatmap(lambda n: st.tuples(arrays(float, n, elements=finite), st.just(n)))
pairs_of_maps = st.integers(1, 12).flatmap(
    lambda n: st.tuples(arrays(float, n, elements=finite), arrays(float, n, elements=finite))
)


def cosine_by_hand(first: list[float], second: list[float]) -> float:
    if not any(first) and not any(second):
        return 1.0
    if not any(first) or not any(second):
        return 0.0
    dot = sum(Fraction(a) * Fraction(b) for a, b in zip(first, second, strict=True))
    squares = sum(Fraction(a) ** 2 for a in first) * sum(Fraction(b) ** 2 for b in second)
    return math.copysign(math.sqrt(dot**2 / squares), dot)


@given(vectors)
def test_softmax_is_the_normalised_exponential(drawn):
    logits, _ = drawn
    by_hand = [1 / math.fsum(math.exp(min(other - own, 700)) for other in logits) for own in logits]
    np.testing.assert_allclose(softmax(logits), by_hand, rtol=1e-9, atol=1e-290)
    assert softmax(logits).sum() == pytest.approx(1)


def test_softmax_does_not_overflow():
    np.testing.assert_array_equal(softmax([[1e300, -1e300], [0.0, 0.0]]), [[1, 0], [0.5, 0.5]])


def test_top1_takes_the_largest_logit_and_the_first_of_a_tie():
    assert top1([[0, 2, 1], [5, 5, -1], [-3, -2, -1]]).tolist() == [1, 0, 2]


def test_agreement_counts_equal_predictions():
    assert agreement(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 0])) == 0.5


@given(st.integers(1, 20000), st.data())
def test_a_drop_equals_the_literal_of_its_exact_value(images, data):
    float32 = data.draw(st.integers(0, images))
    int8 = data.draw(st.integers(0, images))
    exact = Fraction(100 * (float32 - int8), images)
    assert drop_pp(float32, int8, images) == float(exact)


def test_a_drop_at_the_limit_is_not_above_it_though_a_difference_of_accuracies_is():
    assert 100 * (0.883 - 0.88) > 0.3
    assert drop_pp(883, 880, 1000) == 0.3


def test_the_standard_error_is_that_of_the_paired_differences():
    differences = [1] * 7 + [-1] * 3 + [0] * 90
    by_hand = 100 * np.std(differences) / math.sqrt(len(differences))
    assert drop_standard_error_pp(7, 3, 100) == pytest.approx(by_hand)


@given(pairs_of_maps)
def test_cosine_similarity_against_exact_arithmetic(drawn):
    first, second = drawn
    assert cosine_similarity(first, second) == pytest.approx(cosine_by_hand(first, second), abs=1e-12)


@given(pairs_of_maps, st.floats(1e-3, 1e3))
def test_cosine_similarity_is_symmetric_bounded_and_blind_to_scale(drawn, factor):
    first, second = drawn
    assume((np.abs(first[first != 0]) > 1e-300).all())  # below, float64 scales only roughly, or to zero
    cosine = cosine_similarity(first, second)
    assert -1 <= cosine <= 1
    assert cosine == pytest.approx(float(cosine_similarity(second, first)), abs=1e-12)
    assert cosine == pytest.approx(float(cosine_similarity(first * factor, second)), abs=1e-9)


def test_cosine_similarity_of_zero_maps_is_defined():
    zero, some = [0.0, 0.0], [0.0, -3.0]
    assert cosine_similarity([zero, zero, some], [zero, some, zero]).tolist() == [1, 0, 0]


@pytest.mark.parametrize("size", [1e-200, 1e200, 5e-324])
def test_cosine_similarity_of_extreme_values(size):
    np.testing.assert_allclose(cosine_similarity([[size, size]], [[size, -size]]), 0, atol=1e-15)
    np.testing.assert_allclose(cosine_similarity([[size, size]], [[1, 1]]), 1)


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=50))
def test_percentiles_against_the_standard_library(values):
    assert percentile(values, 50) == pytest.approx(median(values))
    assert percentile(values, 90) == pytest.approx(quantiles(values, n=10, method="inclusive")[8])


@pytest.mark.parametrize("bad", NON_FINITE)
def test_non_finite_values_are_refused_everywhere(bad):
    for function in (softmax, top1, lambda values: percentile(values, 50)):
        with pytest.raises(FocalEdgeError, match=r"1 of 2 .* NaN or infinite"):
            function([1.0, bad])
    for first, second in (([bad], [1.0]), ([1.0], [bad])):
        with pytest.raises(FocalEdgeError, match="NaN or infinite"):
            cosine_similarity(first, second)


def test_empty_input_is_refused_everywhere():
    for function in (softmax, top1, lambda values: percentile(values, 50)):
        with pytest.raises(FocalEdgeError, match="at least one"):
            function([])
    none = np.zeros(0, dtype=np.int64)
    with pytest.raises(FocalEdgeError, match="at least one"):
        cosine_similarity(np.zeros((3, 0)), np.zeros((3, 0)))
    with pytest.raises(FocalEdgeError, match="N at least 1"):
        agreement(none, none)
    for function in (drop_pp, drop_standard_error_pp):
        with pytest.raises(FocalEdgeError, match="0 images"):
            function(0, 0, 0)


def test_lists_that_do_not_pair_up_are_refused():
    three, two = np.array([0, 1, 1]), np.array([0, 1])
    with pytest.raises(FocalEdgeError, match=r"\(3,\) and \(2,\)"):
        agreement(three, two)
    with pytest.raises(FocalEdgeError, match=r"\(1, 2\) and \(2, 1\)"):
        cosine_similarity([[1.0, 2.0]], [[1.0], [2.0]])


CLASS = st.integers(0, 3)


@given(st.lists(st.tuples(st.integers(-1, 3), CLASS, CLASS), min_size=1, max_size=30))
def test_accuracy_is_counted_image_by_image(images: list[tuple[int, int, int]]) -> None:
    found = accuracy_of(*(np.asarray(column) for column in zip(*images, strict=True)))
    right = [predicted == label for predicted, label, _ in images]
    reference = [float_predicted == label for _, label, float_predicted in images]
    assert found.top1 == sum(right) / len(images)
    lost = [before - after for before, after in zip(reference, right, strict=True)]
    assert found.drop_pp == pytest.approx(100 * np.mean(lost))
    assert found.drop_standard_error_pp == pytest.approx(100 * np.std(lost) / math.sqrt(len(lost)), abs=1e-6)
    assert found.agreement == np.mean([predicted == reference for predicted, _, reference in images])


def test_divergence_is_scipys() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (300, 10))
    other = logits + generator.normal(0, 0.5, logits.shape)
    expected = special.rel_entr(special.softmax(logits, axis=1), special.softmax(other, axis=1)).sum(axis=1)
    np.testing.assert_allclose(divergence_nats(logits, other), expected, atol=1e-12)


def test_divergence_of_huge_logits_neither_overflows_nor_vanishes() -> None:
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]])
    assert divergence_nats(logits, logits).tolist() == [0, 0]


def test_non_finite_logits_are_infinitely_far() -> None:
    assert np.isinf(divergence_nats([[0.0, 1.0]] * 2, [[0.0, 1.0], [math.nan, 1.0]])).tolist() == [False, True]
