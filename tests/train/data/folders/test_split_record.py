"""A run keeps its splits: whatever comes to its folder, no image of a held-out split was trained on."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core.errors import ArtifactError, DataError
from tests.support.tiny_training import RUN
from tests.train.data.folders.test_class_folders import check_account, encoded, fill
from train.data.dataset import Dataset
from train.data.folders.folder import load_folder
from train.data.folders.split_record import SplitRecord, read_record, write_record
from train.data.registry import load_data_of
from train.run import SPLIT_FILE

SPLITS = ("train", "val", "test")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    fill(tmp_path / "pets" / "cat", 20, first=0)
    fill(tmp_path / "pets" / "dog", 20, first=100)
    return tmp_path / "pets"


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    for number, (split, count) in enumerate([("train", 10), ("val", 3), ("test", 4)]):
        fill(tmp_path / "divided" / split / "cat", count, first=1000 * number)
        fill(tmp_path / "divided" / split / "dog", count, first=1000 * number + 100)
    return tmp_path / "divided"


def load(root: Path, record: SplitRecord | None = None, *, stream: bool = False, grow: bool = True) -> Dataset:
    return load_folder(root, 8, seed=0, stream=stream, record=record, grow=grow)


def record_of(dataset: Dataset) -> SplitRecord:
    assert dataset.record is not None
    return dataset.record()


def ids_of(dataset: Dataset) -> dict[str, set[str]]:
    return {split: set(dataset.split(split).ids) for split in SPLITS}


MODES = pytest.mark.parametrize(("first", "second"), [(a, b) for a in (False, True) for b in (False, True)])


@MODES
def test_an_unchanged_folder_is_divided_as_before(pets: Path, first: bool, second: bool) -> None:
    (pets / "dog" / "zcopy.png").write_bytes(encoded(100))
    (pets / "dog" / "zbad.png").write_bytes(b"bad")
    before = load(pets, stream=first)
    after = load(pets, record_of(before), stream=second)
    kept = ids_of(after)
    if not first and second:
        assert ids_of(before) == kept
    assert all(kept[split] <= ids_of(before)[split] for split in SPLITS)
    assert after.notes == ()
    check_account(after, pets)


@MODES
def test_new_images_go_to_train(pets: Path, first: bool, second: bool) -> None:
    before = load(pets, stream=first)
    for name, value in (("cat", 500), ("dog", 600)):
        for index in range(15):
            (pets / name / f"-new{index:02}.png").write_bytes(encoded(value + index))
    assert ids_of(load(pets, stream=second))["test"] & ids_of(before)["train"]  # what a new draw would do
    after = load(pets, record_of(before), stream=second)
    assert (ids_of(after)["val"], ids_of(after)["test"]) == (ids_of(before)["val"], ids_of(before)["test"])
    assert ids_of(after)["train"] == ids_of(before)["train"] | {
        f"{name}/-new{index:02}.png" for name in ("cat", "dog") for index in range(15)
    }
    assert after.notes == (
        "30 image(s) are new since the run began (cat/-new00.png, cat/-new01.png, cat/-new02.png, ...): "
        "they go to train",
    )
    without = load(pets, record_of(before), stream=second, grow=False)
    assert ids_of(without) == ids_of(before)
    assert without.files is not None and without.files.left_out == 30
    check_account(without, pets)


def test_a_renamed_image_stays_in_its_split(pets: Path) -> None:
    before = load(pets)
    for split in SPLITS:
        name = before.split(split).ids[0]
        (pets / name).rename((pets / name).with_name(f"aa-{split}.png"))
    after = load(pets, record_of(before))
    for split in SPLITS:
        assert {name for name in after.split(split).ids if "aa-" in name} == {f"cat/aa-{split}.png"}
    assert after.notes == ()


def test_names_that_moved_on_do_not_carry_trained_images_into_test(pets: Path) -> None:
    before = load(pets)
    trained = {(pets / name).read_bytes() for name in before.train.ids}
    files = sorted((pets / "cat").iterdir())
    contents = [path.read_bytes() for path in files]
    for path, content in zip(files, [*contents[1:], contents[0]], strict=True):
        path.write_bytes(content)
    after = load(pets, record_of(before))
    assert not trained & {(pets / name).read_bytes() for name in after.test.ids}
    assert len(after.test.ids) == len(before.test.ids)


@MODES
def test_changed_and_missing_images_are_said(pets: Path, first: bool, second: bool) -> None:
    before = load(pets, stream=first)
    record = record_of(before)
    changed, missing = before.test.ids[0], before.train.ids[0]
    (pets / changed).write_bytes(encoded(900) + b"longer")
    (pets / missing).unlink()
    after = load(pets, record, stream=second)
    assert after.notes == (
        f"1 image(s) are changed since the run began ({changed}): they go to train",
        f"1 image(s) of the run are missing ({missing})",
    )
    assert changed in after.train.ids and changed not in after.test.ids


def test_a_missing_test_image_that_returns_is_a_test_image(pets: Path) -> None:
    before = load(pets)
    name = before.test.ids[0]
    content = (pets / name).read_bytes()
    (pets / name).unlink()
    between = load(pets, record_of(before))
    (pets / name).write_bytes(content)
    assert ids_of(load(pets, record_of(between))) == ids_of(before)
    (pets / name).write_bytes(b"bad for a while")
    between = load(pets, record_of(between))
    assert name not in between.test.ids
    (pets / name).write_bytes(content)
    assert ids_of(load(pets, record_of(between))) == ids_of(before)


def test_given_splits_may_not_exchange_images(divided: Path) -> None:
    record = record_of(load(divided))
    (divided / "train" / "cat" / "03.png").rename(divided / "test" / "cat" / "new.png")
    with pytest.raises(DataError, match=r"1 image\(s\) changed their split .*\(test/cat/new\.png was in train\); put"):
        load(divided, record)


def test_given_splits_grow_in_train_alone(divided: Path) -> None:
    record = record_of(load(divided))
    (divided / "train" / "cat" / "new.png").write_bytes(encoded(5000))
    assert "train/cat/new.png" in load(divided, record).train.ids
    (divided / "test" / "cat" / "new.png").write_bytes(encoded(5001))
    with pytest.raises(DataError, match=r"1 image\(s\) of val or test are new .*\(test/cat/new\.png\); only train may"):
        load(divided, record)
    assert "test/cat/new.png" not in load(divided, record, grow=False).test.ids


def test_a_copy_of_a_test_image_in_train_is_refused(divided: Path) -> None:
    record = record_of(load(divided))
    shutil.copy(divided / "test/cat/02.png", divided / "train/cat/aa.png")
    with pytest.raises(DataError, match=r"train/cat/aa\.png was in test"):
        load(divided, record)


def test_other_images_are_refused(pets: Path, tmp_path: Path) -> None:
    fill(tmp_path / "other" / "cat", 9, first=5000)
    fill(tmp_path / "other" / "dog", 9, first=6000)
    with pytest.raises(DataError, match=r"none of the images of the run is in .*other; give its images, or name"):
        load(tmp_path / "other", record_of(load(pets)))


def test_a_run_loads_its_own_splits(pets: Path, tmp_path: Path) -> None:
    run = dataclasses.replace(RUN, dataset="folder")
    before = load_folder(pets, run.image_size, seed=0)
    write_record(tmp_path / SPLIT_FILE, record_of(before))
    fill(pets / "cat" / "-later", 9, first=700)
    assert ids_of(load_data_of(run, pets, folder=tmp_path)) == ids_of(before)
    assert ids_of(load_data_of(run, pets, folder=tmp_path / "none")) != ids_of(before)


def test_a_record_is_read_as_it_was_written(pets: Path, tmp_path: Path) -> None:
    (pets / "cat" / "two\nlines \u00e9.png").write_bytes(encoded(800))
    record = record_of(load(pets))
    write_record(tmp_path / SPLIT_FILE, record)
    found = read_record(tmp_path / SPLIT_FILE)
    assert found.paths == record.paths
    for name in ("codes", "sizes", "digests"):
        np.testing.assert_array_equal(getattr(found, name), getattr(record, name))


@pytest.mark.parametrize("damage", ["cut", "text", "short", "code", "type", "missing"])
def test_a_damaged_record_is_refused(pets: Path, tmp_path: Path, damage: str) -> None:
    path, record = tmp_path / SPLIT_FILE, record_of(load(pets))
    faults = {
        "short": {"codes": record.codes[:-1]},
        "code": {"codes": np.full_like(record.codes, 7)},
        "type": {"sizes": record.sizes.astype(np.float64)},
    }
    write_record(path, dataclasses.replace(record, **faults.get(damage, {})))  # type: ignore[arg-type]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "text":
        path.write_bytes(b"no record")
    elif damage == "missing":
        path.unlink()
    with pytest.raises(ArtifactError, match=r"record of a run's splits.*; name another --run"):
        read_record(path)


CHANGES = st.lists(
    st.tuples(st.sampled_from(["add", "copy", "remove", "rename", "change", "swap"]), st.integers(0, 99)), max_size=12
)


@settings(max_examples=40, deadline=None)
@given(rounds=st.lists(CHANGES, min_size=1, max_size=3))
def test_no_test_image_was_ever_trained_on(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[tuple[str, int]]]
) -> None:
    root = tmp_path_factory.mktemp("grows")
    fill(root / "cat", 8, first=0)
    fill(root / "dog", 8, first=100)
    dataset = load(root)
    trained = {(root / name).read_bytes() for name in dataset.train.ids}
    held_out = {(root / name).read_bytes() for name in (*dataset.val.ids, *dataset.test.ids)}
    for number, changes in enumerate(rounds):
        for place, (change, value) in enumerate(changes):
            _change(root, change, value, f"{number}-{place}")
        try:
            dataset = load(root, record_of(dataset))
        except DataError as error:
            assert "empty" in str(error) or "no readable training image" in str(error)
            return
        check_account(dataset, root)
        trained |= {(root / name).read_bytes() for name in dataset.train.ids}
        kept = {(root / name).read_bytes() for name in (*dataset.val.ids, *dataset.test.ids)}
        assert kept <= held_out
        assert not kept & trained


def _change(root: Path, change: str, value: int, tag: str) -> None:
    folder = root / ("cat", "dog")[value % 2]
    files = sorted(folder.iterdir())
    one, other = files[value % len(files)], files[value // 2 % len(files)]
    if change == "add":
        (folder / f"{value % 3}-{tag}.png").write_bytes(encoded(10_000 + value))
    elif change == "copy":
        shutil.copy(one, folder / f"{value % 3}-copy-{tag}.png")
    elif change == "remove" and len(files) > 3:
        one.unlink()
    elif change == "rename":
        one.rename(folder / f"{value % 3}-renamed-{tag}.png")
    elif change == "change":
        one.write_bytes(encoded(20_000 + value))
    elif change == "swap":
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)


def test_the_account_names_what_is_left_out(pets: Path) -> None:
    record = record_of(load(pets))
    fill(pets / "cat" / "later", 3, first=900)
    dataset = load(pets, record, grow=False)
    assert dataset.files is not None
    assert asdict(dataset.files)["left_out"] == 3
    assert dataset.files.line().endswith("43 seen = 40 used, 3 left out")
