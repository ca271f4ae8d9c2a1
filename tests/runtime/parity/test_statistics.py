"""The statistics of a paired comparison, against SciPy and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from runtime.core.errors import ConfigError, FocalEdgeError
from runtime.parity.statistics import (
    PairedTable,
    calibration_bins,
    confusion,
    cross_entropy_nats,
    expected_calibration_error,
    holm,
    mean_interval,
    top_k_accuracy,
    wilson_interval,
)


def table(only_reference: int, only_candidate: int, images: int) -> PairedTable:
    return PairedTable(images, only_reference, only_reference, only_candidate)


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 2, (300, 8))


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 8, 300)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (5, 5), (26, 24), (40, 12), (3, 900), (2000, 2100)])
def test_mcnemar_is_the_exact_binomial_test(lost: int, gained: int) -> None:
    expected = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert table(lost, gained, 5000).p_value == pytest.approx(expected, rel=1e-6, abs=1e-300)


@pytest.mark.parametrize(("lost", "gained", "images"), [(26, 24, 10_000), (60, 20, 1000), (30, 30, 500)])
def test_the_interval_is_the_bootstrap_over_images(lost: int, gained: int, images: int) -> None:
    losses = np.zeros(images)
    losses[:lost], losses[lost : lost + gained] = 100, -100
    expected = stats.bootstrap(
        (losses,), np.mean, method="percentile", n_resamples=4000, batch=200, rng=np.random.default_rng(0)
    ).confidence_interval
    found = table(lost, gained, images).interval_pp()
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.08 * width)


@pytest.mark.parametrize(
    ("only_reference", "only_candidate", "images"),
    [(0.02, 0.01, 500), (0.003, 0.003, 1000), (0.05, 0.0, 200), (0.0026, 0.0024, 10_000)],
)
def test_95_percent_of_the_intervals_hold_the_true_drop(
    only_reference: float, only_candidate: float, images: int
) -> None:
    generator = np.random.default_rng(7)
    shares = [only_reference, only_candidate, 1 - only_reference - only_candidate]
    draws, held = 200, 0
    for lost, gained, _ in generator.multinomial(images, shares, draws):
        interval = table(int(lost), int(gained), images).interval_pp()
        held += interval.low - 1e-9 <= 100 * (only_reference - only_candidate) <= interval.high + 1e-9
    # Three standard errors of 200 draws below 95%; small counts are whole, so that it may hold somewhat more often.
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / draws) <= held / draws <= 0.995


def test_a_too_narrow_interval_would_be_found() -> None:
    """The simulation above can fail: intervals of 80% hold the drop about 80% of the time."""
    generator, held = np.random.default_rng(7), 0
    for lost, gained, _ in generator.multinomial(2000, [0.05, 0.04, 0.91], 200):
        interval = table(int(lost), int(gained), 2000).interval_pp(0.8)
        held += interval.low <= 1.0 <= interval.high
    assert 0.72 < held / 200 < 0.88


def test_full_agreement_has_an_interval_with_a_width() -> None:
    few, many = (table(0, 0, images).interval_pp() for images in (200, 20_000))
    assert few.low < 0 < few.high
    assert many.high < few.high / 10


@pytest.mark.parametrize("counts", [(1, 1, 0), (-1, 0, 10), (6, 5, 10)])
def test_counts_that_do_not_fit_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(FocalEdgeError, match="counts of one table"):
        table(*counts)


def test_a_confidence_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        table(1, 1, 10).interval_pp(95)


def test_the_interval_of_a_mean_is_the_bootstrap() -> None:
    values = np.random.default_rng(2).exponential(3, 400)
    expected = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0))
    found, limits = mean_interval(values), expected.confidence_interval
    assert (found.low, found.high) == pytest.approx((limits.low, limits.high), abs=0.06)


def test_wilson_is_as_in_scipy() -> None:
    for successes, images in ((0, 10), (9932, 10_000), (5, 5), (3, 7)):
        expected = stats.binomtest(successes, images).proportion_ci(method="wilson")
        found = wilson_interval(successes, images)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_holm_multiplies_by_the_remaining_number_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_cross_entropy_is_as_in_scipy(logits: np.ndarray, labels: np.ndarray) -> None:
    log_p = special.log_softmax(logits, axis=1)
    assert cross_entropy_nats(logits, labels) == pytest.approx(-log_p[np.arange(300), labels].mean())


def test_huge_logits_neither_overflow_nor_vanish() -> None:
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]])
    assert cross_entropy_nats(logits, np.array([0, 0])) == pytest.approx(1e4)


def test_non_finite_logits_have_no_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> None:
    broken = logits.copy()
    broken[3] = np.nan
    assert cross_entropy_nats(broken, labels) is None
    assert sum(each.images for each in calibration_bins(broken, labels)) == 299


def test_top_k_counts_the_k_largest(logits: np.ndarray, labels: np.ndarray) -> None:
    ranked = np.argsort(-logits, axis=1)
    for k in (1, 2, 5):
        expected = np.mean([label in row[:k] for label, row in zip(labels, ranked, strict=True)])
        assert top_k_accuracy(logits, labels, k) == pytest.approx(expected)
    assert top_k_accuracy(logits, labels, 8) is None, "nothing could be wrong"
    ties = np.zeros((2, 8))
    assert top_k_accuracy(ties, np.array([4, 5]), 5) == 0.5, "of equal logits the first ones win"
    assert top_k_accuracy(np.full((2, 8), np.nan), np.array([0, 0]), 5) == 0.0


def test_calibration_error_is_counted_by_hand() -> None:
    # Two images at 0.9 of which one is right, two at 0.6 that are both right.
    chances = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    bins = calibration_bins(np.log(chances), np.array([0, 1, 0, 1]), bins=10)
    assert [each.images for each in bins] == [0, 0, 0, 0, 0, 2, 0, 0, 2, 0]
    assert expected_calibration_error(bins) == pytest.approx((2 * 0.4 + 2 * 0.4) / 4)
    assert expected_calibration_error(calibration_bins(np.full((1, 2), np.nan), np.array([0]))) is None


def test_confusion_leaves_out_images_without_a_prediction() -> None:
    found = confusion(np.array([0, 0, 1, 2]), np.array([0, 2, 1, -1]), 3)
    assert found.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
