"""Class-balanced samples: as equal as the labels allow, seeded, without repeats."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.evaluation.sampling import class_balanced_indices


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    count=st.integers(0, 70),
    seed=st.integers(0, 2**32),
)
def test_no_class_has_fewer_while_it_has_more_to_give(labels: list[int], count: int, seed: int) -> None:
    array = np.array(labels, dtype=np.int64)
    chosen = class_balanced_indices(array, count, seed)
    assert len(chosen) == min(count, len(labels))
    assert (np.diff(chosen) > 0).all()
    assert set(chosen.tolist()) <= set(range(len(labels)))
    taken, there = np.bincount(array[chosen], minlength=5), np.bincount(array, minlength=5)
    unfinished = taken[taken < there]
    assert len(unfinished) == 0 or taken.max() <= unfinished.min() + 1


def test_equal_classes_give_equal_counts() -> None:
    labels = np.repeat(np.arange(10, dtype=np.int64), 50)
    assert np.bincount(labels[class_balanced_indices(labels, 120, 0)]).tolist() == [12] * 10
    assert sorted(np.bincount(labels[class_balanced_indices(labels, 123, 0)])) == [12] * 7 + [13] * 3


def test_a_small_class_is_taken_whole() -> None:
    labels = np.array([0] * 30 + [1] * 2 + [2] * 30, dtype=np.int64)
    assert np.bincount(labels[class_balanced_indices(labels, 22, 0)]).tolist() == [10, 2, 10]


def test_the_seed_decides() -> None:
    labels = np.arange(200, dtype=np.int64) % 4
    first = class_balanced_indices(labels, 20, 7)
    np.testing.assert_array_equal(first, class_balanced_indices(labels, 20, 7))
    assert first.tolist() != class_balanced_indices(labels, 20, 8).tolist()


def test_every_image_has_the_same_chance() -> None:
    labels = np.array([0] * 10 + [1] * 40, dtype=np.int64)
    times = np.zeros(len(labels))
    for seed in range(2000):
        times[class_balanced_indices(labels, 10, seed)] += 1
    # 5 of 10 and 5 of 40; 2,000 draws have a standard deviation below 0.0112.
    assert times[:10] / 2000 == pytest.approx(0.5, abs=0.06)
    assert times[10:] / 2000 == pytest.approx(0.125, abs=0.06)


def test_without_a_seed_the_first_of_each_class_come_first() -> None:
    labels = np.array([1, 1, 1, 0, 0, 2, 1])
    assert class_balanced_indices(labels, 3, None).tolist() == [0, 3, 5]
    assert class_balanced_indices(labels, 5, None).tolist() == [0, 3, 5, 1, 4]
    assert sorted(class_balanced_indices(labels, None, None).tolist()) == list(range(7))
