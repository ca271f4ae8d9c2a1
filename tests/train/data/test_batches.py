"""What a step is fed: every image once an epoch, in an order that seed and epoch decide."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from train.data.batches import Batches, EvalBatches, TrainBatches
from train.model.recipe import TrainConfig


def batches(count: int = 22, epoch: int = 0, **changes: Any) -> TrainBatches:
    recipe = TrainConfig(**({"batch_size": 5, "seed": 3} | changes))
    return TrainBatches(np.arange(count) % 3, 3, recipe, first_epoch=epoch)


def indices(each: TrainBatches) -> list[int]:
    """The images of an epoch, in order."""
    return [int(value) for index in range(len(each)) for value in each[index][0]["indices"]]


def test_a_batch_is_indices_with_their_labels() -> None:
    inputs, labels = batches()[0]
    assert (inputs["indices"].shape, inputs["indices"].dtype) == ((5,), np.int32)
    assert (labels.shape, labels.dtype) == ((5, 3), np.float32)
    assert labels.tolist() == np.eye(3)[inputs["indices"] % 3].tolist()
    np.testing.assert_array_equal(inputs["targets"], labels)


@pytest.mark.parametrize("kind", ["training", "validation"])
def test_many_classes_take_no_table_of_classes_by_classes(kind: str) -> None:
    labels, classes = np.array([21_841, 0, 7, 7]), 21_842
    tracemalloc.start()
    try:
        if kind == "training":
            each: Batches = TrainBatches(labels, classes, TrainConfig(batch_size=4))
        else:
            each = EvalBatches(np.zeros((4, 2, 2, 3), np.uint8), labels, classes, batch_size=4)
        targets = each.batch_of(np.arange(4))[1]
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 10 * targets.nbytes
    assert (targets.shape, targets.dtype) == ((4, classes), np.float32)
    assert [np.flatnonzero(row).tolist() for row in targets] == [[21_841], [0], [7], [7]]
    assert targets.sum() == 4


def test_an_epoch_takes_each_image_at_most_once() -> None:
    each = batches(count=22)
    assert len(each) == 4
    for _ in range(3):
        taken = indices(each)
        assert len(taken) == len(set(taken)) == 20
        each.on_epoch_end()


def test_an_epoch_of_whole_batches_takes_every_image() -> None:
    assert sorted(indices(batches(count=20))) == list(range(20))


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    each = batches(count=3)
    assert len(each) == 1
    assert sorted(indices(each)) == [0, 1, 2]


def test_over_the_epochs_no_image_is_left_out() -> None:
    each = batches(count=22)
    seen: set[int] = set()
    for _ in range(10):
        seen.update(indices(each))
        each.on_epoch_end()
    assert seen == set(range(22))


@pytest.mark.parametrize("other", [batches(epoch=1), batches(seed=1)])
def test_epochs_and_seeds_differ(other: TrainBatches) -> None:
    assert indices(batches()) == indices(batches())
    assert indices(other) != indices(batches())


def test_the_end_of_an_epoch_leads_to_the_next_one_s_order() -> None:
    each = batches()
    for epoch in (1, 2):
        each.on_epoch_end()
        assert indices(each) == indices(batches(epoch=epoch))


def test_validation_takes_every_image_in_order() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3)).astype(np.uint8)
    each = EvalBatches(images, np.arange(7) % 3, classes=3, batch_size=3)
    parts = [each[index] for index in range(len(each))]
    assert [len(labels) for _, labels in parts] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([inputs["images"] for inputs, _ in parts]), images)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in parts]).argmax(axis=1), np.arange(7) % 3)
