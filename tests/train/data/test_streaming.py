"""Images that stay on disk: the same batches as from memory, in the memory of a batch, whatever is broken."""

from __future__ import annotations

import dataclasses
import json
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from calibration.representative_set import draw_representative_set
from export.quantize.qat import LazyBatches
from runtime.core.cli import run_cli
from runtime.core.errors import DataError, TrainingError
from runtime.core.machine import Memory
from runtime.evaluation.split_file import read_split
from runtime.images.formats import NAMES
from runtime.images.input_spec import InputSpec
from tests.support.tiny_training import NETWORK, RECIPE, RUN
from train.data import dataset as splits
from train.data import lazy_images as lazy_images
from train.data import packed_paths as file_names
from train.data.__main__ import main
from train.data.batches import EvalBatches, TrainBatches
from train.data.dataset import Dataset, check_dataset, draw, resident, resize_all
from train.data.folders import folder
from train.data.folders.folder import choose_residence, load_folder
from train.data.lazy_images import LazyImages
from train.data.prefetch import AHEAD, Ahead
from train.distributed.placement import Placement, digest_of
from train.distributed.shards import share
from train.loop.fit import fit, predict

CLASSES = ("blue", "green", "red")
SIZE = 10
TRAIN, VAL, TEST = 84, 18, 18
# Crops and dropout are drawn; the rest would take TensorFlow long to trace.
PLAIN = dataclasses.replace(RECIPE, epochs=2, flip=False, mixup_alpha=0.0, mix_rate=1.0, ema_momentum=0.0)
PLAIN_RUN = dataclasses.replace(RUN, recipe=PLAIN)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs and PNGs of noise in the colour of their class, of differing sizes; to read only."""
    root = tmp_path_factory.mktemp("tree")
    rng = np.random.default_rng(0)
    for index in range(TRAIN + VAL + TEST):
        label = index % 3
        image = rng.integers(0, 120, (20 + index % 7, 24, 3)).astype(np.uint8)
        image[..., label] += 100
        path = root / CLASSES[label] / f"{index:03}{('.jpg', '.png')[index % 2]}"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), image)
    return root


@pytest.fixture
def copied(tree: Path, tmp_path: Path) -> Path:
    """The tree, to damage."""
    for path in tree.rglob("*.*"):
        target = tmp_path / "tree" / path.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path / "tree"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was read, by its path below the tree."""
    counts: Counter[str] = Counter()
    lock, read = threading.Lock(), lazy_images.read_content

    def counted(path: Path) -> bytes:
        with lock:
            counts["/".join(path.parts[-2:])] += 1
        return read(path)

    monkeypatch.setattr(lazy_images, "read_content", counted)
    return counts


def both(root: Path) -> tuple[Dataset, Dataset]:
    return load_folder(root, SIZE, seed=0, stream=False), load_folder(root, SIZE, seed=0, stream=True)


def files_of(dataset: Dataset, split: str = "train") -> LazyImages:
    images = dataset.split(split).images
    assert isinstance(images, LazyImages)
    return images


def test_a_split_on_disk_is_the_one_in_memory(tree: Path) -> None:
    memory, disk = both(tree)
    check_dataset(disk)
    assert (disk.name, disk.labels) == (memory.name, memory.labels)
    for name, count in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        kept, streamed = memory.split(name), disk.split(name)
        assert (streamed.streamed, kept.streamed) == (True, False)
        assert tuple(streamed.ids) == kept.ids
        np.testing.assert_array_equal(streamed.labels, kept.labels)
        assert streamed.images.shape == kept.images.shape == (count, SIZE, SIZE, 3)
        assert (len(streamed.images), streamed.images.dtype, streamed.images.ndim) == (count, np.uint8, 4)
        np.testing.assert_array_equal(streamed.images[:], kept.images)


@pytest.mark.parametrize(
    "index",
    [0, -1, np.int64(7), slice(2, 30, 5), slice(None, None, -9), slice(5, 5), [3, 1, 3, -2], np.arange(60)[::-7]],
    ids=str,
)
def test_it_is_indexed_as_an_array_is(tree: Path, index: Any) -> None:
    memory, disk = both(tree)
    np.testing.assert_array_equal(disk.train.images[index], memory.train.images[index])


@pytest.mark.parametrize("index", [TRAIN, -TRAIN - 1, [0, TRAIN], 1.0, [True, False], [[1, 2]]], ids=str)
def test_an_index_that_is_none_is_refused(tree: Path, index: Any) -> None:
    with pytest.raises(IndexError):
        both(tree)[1].train.images[index]


@pytest.mark.parametrize("spec", [InputSpec(6), InputSpec(6, 0.5, "bicubic")], ids=["whole", "cropped"])
def test_resizing_leaves_it_on_disk_and_gives_the_same_pixels(
    spec: InputSpec, tree: Path, decoded: Counter[str]
) -> None:
    memory, disk = both(tree)
    small = resize_all(files_of(disk, "val"), spec)
    assert small.resized(InputSpec(6)) is small
    assert small.shape == (VAL, 6, 6, 3)
    part = small.part(np.array([4, 2]))
    assert not decoded
    expected = resize_all(memory.val.images, spec)
    np.testing.assert_array_equal(small[:], expected)
    np.testing.assert_array_equal(part[:], expected[[4, 2]])
    np.testing.assert_array_equal(np.stack(list(part)), expected[[4, 2]])


def test_what_does_not_fit_stays_on_disk_and_a_line_says_why(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = (TRAIN + VAL + TEST) * SIZE * SIZE * 3
    for total, streamed in ((4 * needed, False), (4 * needed - 1, True)):
        monkeypatch.setattr(folder, "read_memory", lambda total=total: Memory(total, 0))
        dataset = load_folder(tree, SIZE, seed=0)
        assert dataset.train.streamed == dataset.test.streamed == streamed
        assert dataset.residence == choose_residence(TRAIN + VAL + TEST, SIZE, None)[1]
    assert choose_residence(1000, 100, None)[1] == (
        "1,000 images of 100 px, 0.03 GB, stay on disk, read as they are needed: "
        "more than 25% of the machine's 0.000144 GB"
    )
    assert choose_residence(1, 1, True)[1].endswith("no more than 25% of the machine's 0.000144 GB, but requested")
    assert load_folder(tree, SIZE, seed=0, stream=False).train.streamed is False
    monkeypatch.setattr(folder, "read_memory", lambda: None)
    assert choose_residence(10_000, 256, None)[0] is False
    assert choose_residence(100_000, 256, None)[0] is True


def epoch(batches: Any) -> list[Any]:
    return [batches[index] for index in range(len(batches))]


def test_batches_are_those_of_the_images_in_memory_epoch_after_epoch(tree: Path) -> None:
    memory, disk = both(tree)
    looked_up = TrainBatches(memory.train.labels, 3, RECIPE)
    streamed = Ahead(TrainBatches(disk.train.labels, 3, RECIPE, images=files_of(disk)))
    for _ in range(3):
        streamed[0]  # as Keras does for its first build
        for (inputs, targets), (found, found_targets) in zip(epoch(looked_up), epoch(streamed), strict=True):
            assert found["raw"].dtype == np.uint8
            np.testing.assert_array_equal(found["raw"], memory.train.images[inputs["indices"]])
            np.testing.assert_array_equal(found["targets"], inputs["targets"])
            np.testing.assert_array_equal(found_targets, targets)
        looked_up.on_epoch_end()
        streamed.on_epoch_end()
    in_order = EvalBatches(memory.val.images, memory.val.labels, 3, batch_size=7)
    for (inputs, _), (found, _) in zip(
        epoch(in_order), epoch(Ahead(EvalBatches(files_of(disk, "val"), disk.val.labels, 3, 7))), strict=True
    ):
        np.testing.assert_array_equal(found["images"], inputs["images"])


def test_the_next_batches_are_made_before_they_are_asked_for() -> None:
    made: list[int] = []

    class Slow(TrainBatches):
        def __getitem__(self, index: int) -> Any:
            made.append(index)
            return super().__getitem__(index)

    ahead = Ahead(Slow(np.zeros(160, np.int64), 1, RECIPE))
    ahead[0]
    ahead._maker.submit(lambda: None).result(10)
    assert made == [0, *range(1, 1 + AHEAD)]
    epoch(ahead)
    assert sorted(made) == [0, *range(10)]


def test_an_epoch_takes_the_memory_of_batches_and_not_of_the_images(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    content = cv2.imencode(".png", noise)[1].tobytes()
    for label in range(2):
        for index in range(400):
            path = tmp_path / str(label) / f"{index:03}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
    dataset = load_folder(tmp_path, 64, seed=0, stream=True)
    recipe = dataclasses.replace(RECIPE, batch_size=16)
    batches = Ahead(TrainBatches(dataset.train.labels, 2, recipe, images=files_of(dataset)))
    batch_bytes, whole_bytes = (count * 64 * 64 * 3 for count in (16, len(dataset.train.labels)))
    tracemalloc.start()
    try:
        for index in range(len(batches)):
            batches[index]
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert batch_bytes < peak_bytes < (AHEAD + 5) * batch_bytes < whole_bytes / 4


@pytest.mark.slow
def test_a_training_has_the_losses_of_one_from_memory(tree: Path, tmp_path: Path) -> None:
    memory, disk = both(tree)
    histories, predictions = [], []
    for dataset in (memory, disk):
        (tmp_path / str(dataset.train.streamed)).mkdir()
        model, history = fit(PLAIN_RUN, dataset, tmp_path / str(dataset.train.streamed), resume=False)
        histories.append([{name: value for name, value in row.items() if name != "time_s"} for row in history])
        predictions.append(predict(model, dataset.test.images, NETWORK.input_spec))
    for streamed, expected in zip(histories[1], histories[0], strict=True):
        assert streamed == pytest.approx(expected, abs=1e-6)
    np.testing.assert_array_equal(*predictions)
    panels = [(tmp_path / name / "monitor/epoch_002.png").read_bytes() for name in ("False", "True")]
    assert panels[0] == panels[1]


def test_processes_read_their_own_rows_alone_and_together_the_batch(tree: Path, decoded: Counter[str]) -> None:
    memory, disk = both(tree)
    batches = TrainBatches(disk.train.labels, 3, RECIPE, images=files_of(disk))
    shares = [share(batches, Placement(2, process_id, 4)) for process_id in (0, 1)]
    assert not decoded  # to know the shares, nothing is read
    for index in range(len(batches)):
        parts = [each[index] for each in shares]
        rows = batches.rows(index)
        assert [len(part[0]["raw"]) for part in parts] == [RECIPE.batch_size // 2] * 2
        np.testing.assert_array_equal(np.concatenate([part[0]["raw"] for part in parts]), memory.train.images[rows])
        assert decoded == Counter(disk.train.ids[row] for row in rows)
        decoded.clear()


def test_a_batch_that_is_filled_up_is_not_read_twice(tree: Path, decoded: Counter[str]) -> None:
    memory, disk = both(tree)
    batches = EvalBatches(files_of(disk, "val"), disk.val.labels, 3, batch_size=7)  # 7, 7 and 4 images
    shares = [share(batches, Placement(2, process_id, 6)) for process_id in (0, 1)]
    seen = []
    for index in range(3):
        for each in shares:
            inputs, _, weights = each[index]
            seen += list(inputs["images"][weights > 0])
    np.testing.assert_array_equal(np.stack(seen), memory.val.images)
    assert set(decoded) == set(disk.val.ids)
    assert set(decoded.values()) == {1}


def test_processes_agree_by_paths_labels_and_sizes_without_reading(copied: Path, decoded: Counter[str]) -> None:
    digest = digest_of(load_folder(copied, SIZE, seed=0, stream=True))
    assert digest == digest_of(load_folder(copied, SIZE, seed=0, stream=True))
    other = load_folder(copied, SIZE, seed=0, stream=True)
    other.val.labels[3] = (other.val.labels[3] + 1) % 3
    longer = load_folder(copied, SIZE, seed=0, stream=True)
    path = copied / longer.train.ids[5]
    path.write_bytes(path.read_bytes() + b"\0")
    path_digest = digest_of(longer)
    path.rename(path.with_name("another.jpg"))
    renamed = load_folder(copied, SIZE, seed=0, stream=True)
    assert len({digest, digest_of(other), path_digest, digest_of(renamed)}) == 4
    assert not decoded


BREAK: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-300]),
    "text": lambda path: path.write_text("no image"),
    "gone": lambda path: path.unlink(),
}
REASONS = ("empty file", "cut short", f"not an image of a known format ({', '.join(NAMES)})", "no such file")


def test_broken_images_are_stood_in_for_counted_and_said(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory, disk = both(copied)
    rows = [3, 10, 21, 70]
    for row, damage in zip(rows, BREAK.values(), strict=True):
        damage(copied / disk.train.ids[row])
    found = disk.train.images[:]
    for row in range(TRAIN):
        (standing,) = [row] if row not in rows else _next_sound(disk.train.labels, row, rows)
        np.testing.assert_array_equal(found[row], memory.train.images[standing])
    np.testing.assert_array_equal(disk.train.images[rows], found[rows])  # always the same
    log = capsys.readouterr().err
    assert all(f"{disk.train.ids[row]}: " in log for row in rows)
    assert log.count("another image of its class stands in") == len(rows)
    assert disk.unreadable[-1] == "4 unreadable in all; others of their classes stood in for them"
    assert sorted(disk.unreadable[:-1]) == sorted(
        f"{disk.train.ids[row]}: {reason}" for row, reason in zip(rows, REASONS, strict=True)
    )
    assert memory.unreadable == []


def _next_sound(labels: Any, row: int, broken: list[int]) -> list[int]:
    same = [each for each in [*range(row + 1, len(labels)), *range(row)] if labels[each] == labels[row]]
    return [next(each for each in same if each not in broken)]


def test_too_many_broken_images_end_the_run_in_one_line(copied: Path, tmp_path: Path) -> None:
    dataset = load_folder(copied, SIZE, seed=0, stream=True)
    for name in dataset.train.ids[:40]:
        BREAK["empty"](copied / name)
    with pytest.raises(TrainingError, match=r"1\d of 120 images cannot be read, the last one .*; expected at most 10"):
        fit(PLAIN_RUN, dataset, tmp_path, resume=False)


def test_a_class_without_a_readable_image_is_named(copied: Path) -> None:
    for path in sorted((copied / "red").iterdir())[3:]:
        path.unlink()
    dataset = load_folder(copied, SIZE, seed=0, stream=True)
    for path in (copied / "red").iterdir():
        BREAK["empty"](path)
    (row,) = np.flatnonzero(dataset.train.labels == 2)
    with pytest.raises(DataError, match=r"none of the 1 images of the class of red/\d+\.... can be read"):
        dataset.train.images[[row]]


def test_a_sample_has_no_image_that_another_stands_in_for(copied: Path, decoded: Counter[str]) -> None:
    memory, disk = both(copied)
    sample = draw(disk.train, 12, seed=1)
    assert len(decoded) == sum(decoded.values()) == 12
    expected = draw(memory.train, 12, seed=1)
    assert sample.ids == expected.ids
    np.testing.assert_array_equal(sample.images, expected.images)
    BREAK["cut"](copied / sample.ids[4])
    fewer = draw(disk.train, 12, seed=1)
    assert fewer.ids == (*sample.ids[:4], *sample.ids[5:])
    np.testing.assert_array_equal(fewer.images, np.delete(sample.images, 4, axis=0))
    assert len(fewer.labels) == 11
    chosen = draw_representative_set(disk.train, 12, seed=1)
    assert (chosen.ids, len(chosen.images)) == (fewer.ids, 11)


def test_a_sample_of_a_split_on_disk_is_limited(
    tree: Path, monkeypatch: pytest.MonkeyPatch, decoded: Counter[str]
) -> None:
    memory, disk = both(tree)
    monkeypatch.setattr(splits, "STREAMED_SAMPLE", 6)
    assert len(resident(memory.test).labels) == TEST
    assert np.bincount(resident(disk.test).labels).tolist() == [2, 2, 2]
    assert len(decoded) == 6


def test_fine_tuning_sees_the_same_images(tree: Path) -> None:
    still = dataclasses.replace(RECIPE, resize_margin=0, flip=False, mixup_alpha=0.0, mix_rate=1.0)
    memory, disk = both(tree)
    network = dataclasses.replace(NETWORK, input_size=8)
    pairs = [LazyBatches(each.train, network, still) for each in (memory, disk)]
    for _ in range(2):
        for index in range(len(pairs[0])):
            np.testing.assert_array_equal(*(each[index] for each in pairs))
        for each in pairs:
            each.on_epoch_end()


def test_the_command_writes_a_sample_and_says_so(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(splits, "STREAMED_SAMPLE", 6)
    out = tmp_path / "test.npz"
    arguments = ["--dataset", "folder", "--data-dir", str(tree), "--image-size", str(SIZE)]
    assert main([*arguments, "--out", str(out), "--stream", "true"]) == 0
    printed = capsys.readouterr().out
    assert "stay on disk, read as they are needed" in printed
    assert f"6 images of 3 classes, test split of {tree.name}, 0 skipped, a sample of {TEST}" in printed
    assert len(read_split(out).ids) == 6


def test_the_command_measures_a_folder(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dataset", "folder", "--data-dir", str(tree), "--image-size", str(SIZE), "--measure"]
    assert main([*arguments, "--threads", "2", "--images", "50", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["files"], figures["images"], figures["threads"]) == (TRAIN + VAL + TEST, 50, 2)
    assert figures["images_per_s"] > 0
    assert 0 < figures["cpu_time_ms"] < 1000
    assert figures["files_per_s"] > 0
    assert main(arguments) == 0
    assert f"read {TRAIN} images to {SIZE} px" in capsys.readouterr().out
    assert run_cli(main, [*arguments, "--threads", "0"]) == 2
    assert run_cli(main, ["--dataset", "shapes", "--measure"]) == 2
    assert "expected --dataset folder" in capsys.readouterr().err


def test_names_are_those_given_in_half_of_the_memory() -> None:
    builder = file_names.FileNamesBuilder()
    given = {"train/a": [f"n01440764_{i}.JPEG" for i in range(500)], "b": [], "val/ü": ["ä ö.png", "\udcff.jpg"]}
    for name, files in given.items():
        builder.add(name, files)
    names = builder.build()
    expected = [f"{name}/{file}" for name, files in given.items() for file in files]
    assert list(names) == expected
    assert len(names) == 502
    assert list(names[498:501]) == expected[498:501]
    assert list(names.part(np.array([501, 0]))) == [expected[501], expected[0]]
    assert names[-1] == expected[-1]
    with pytest.raises(IndexError):
        names[502]
    assert names.size_bytes < sum(len(each.encode(errors="surrogateescape")) + 57 for each in expected) / 2
