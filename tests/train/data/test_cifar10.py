"""CIFAR-10 from files of the real size, and its download from a loopback server."""

from __future__ import annotations

import hashlib
import http.server
import io
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.core.errors import DataError
from train.data.cifar10 import cache_folder, download, find_folder, load_cifar10, read_batch, read_class_names
from train.data.dataset import Dataset

TRAIN_NAMES = [f"data_batch_{number}.bin" for number in (1, 2, 3, 4, 5)]
STANDARD_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def records(file_number: int) -> np.ndarray:
    """Make a batch whose pixels tell which record of which file they are of."""
    table = np.zeros((10_000, 3073), dtype=np.uint8)
    index = np.arange(10_000)
    table[:, 0] = index % 10
    table[:, 1] = file_number  # red of the first pixel
    table[:, 2] = index // 256  # red of the pixel to its right
    table[:, 1 + 32] = index % 256  # red of the pixel below it
    table[:, 1 + 1024] = 101  # its green
    table[:, 1 + 2048] = 202  # its blue
    return table


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cifar") / "cifar-10-batches-bin"
    folder.mkdir()
    for number, name in enumerate([*TRAIN_NAMES, "test_batch.bin"], start=1):
        records(number).tofile(folder / name)
    yield folder
    shutil.rmtree(folder)  # 184 MB


@pytest.fixture
def linked(batches: Path, tmp_path: Path) -> Path:
    """Return a folder of links to the batches, for a test to replace one."""
    folder = tmp_path / "linked"
    folder.mkdir()
    for path in batches.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def dataset(batches: Path) -> Dataset:
    return load_cifar10(batches, seed=0)


def test_every_record_comes_once_with_its_own_pixels_and_label(dataset: Dataset) -> None:
    assert dataset.labels == STANDARD_NAMES
    assert [len(dataset.split(name).ids) for name in ("train", "val", "test")] == [40_000, 10_000, 10_000]
    assert np.bincount(dataset.val.labels).tolist() == [1000] * 10
    every_id = {*dataset.train.ids, *dataset.val.ids, *dataset.test.ids}
    stems = [*(f"data_batch_{number}" for number in (1, 2, 3, 4, 5)), "test_batch"]
    assert every_id == {f"{stem}:{index}" for stem in stems for index in range(10_000)}
    for split in (dataset.train, dataset.val, dataset.test):
        at = [image.split(":") for image in split.ids]
        numbers = np.array([stems.index(stem) + 1 for stem, _ in at])
        index = np.array([int(record) for _, record in at])
        assert np.array_equal(split.images[:, 0, 0, 0], numbers)
        high, low = split.images[:, 0, 1, 0].astype(int), split.images[:, 1, 0, 0]
        assert np.array_equal(256 * high + low, index)
        assert np.array_equal(split.labels, index % 10)
        assert np.all(split.images[:, 0, 0, 1] == 101)
        assert np.all(split.images[:, 0, 0, 2] == 202)


def test_the_test_batch_is_the_test_split_and_the_seed_moves_only_validation(batches: Path, dataset: Dataset) -> None:
    again, other = (load_cifar10(batches, seed) for seed in (0, 1))
    assert dataset.val.ids == again.val.ids
    assert dataset.val.ids != other.val.ids
    assert dataset.test.ids == other.test.ids == tuple(f"test_batch:{index}" for index in range(10_000))
    assert other.test.images.shape == (10_000, 32, 32, 3)


def test_the_folder_or_its_parent_or_the_environment_names_it(batches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_folder(batches) == batches
    assert find_folder(batches.parent) == batches
    monkeypatch.setenv("DATA_DIR", str(batches.parent))
    assert find_folder(None) == batches


def test_the_argument_goes_before_the_environment(
    batches: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert find_folder(batches) == batches


def test_a_folder_without_the_files_is_an_error_not_a_download(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no data_batch_1\.bin"):
        find_folder(tmp_path)
    assert not cache_folder().exists()


def test_a_filled_cache_is_taken(batches: Path) -> None:
    cache_folder().mkdir(parents=True)
    (cache_folder() / "cifar-10-batches-bin").symlink_to(batches)
    assert find_folder(None) == cache_folder() / "cifar-10-batches-bin"


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache" / "focaledge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "focaledge"


@pytest.mark.parametrize("size_bytes", [0, 30_729_999, 30_730_001, 30_730_000 - 3073])
def test_a_file_of_another_size_is_refused(tmp_path: Path, size_bytes: int) -> None:
    path = tmp_path / "data_batch_1.bin"
    with path.open("wb") as file:
        file.truncate(size_bytes)
    with pytest.raises(DataError, match=f"has {size_bytes} bytes; expected 30730000"):
        read_batch(path)


def test_a_truncated_batch_stops_the_load(linked: Path) -> None:
    (linked / "data_batch_3.bin").unlink()
    (linked / "data_batch_3.bin").write_bytes(b"\0" * 1000)
    with pytest.raises(DataError, match=r"data_batch_3\.bin has 1000 bytes"):
        load_cifar10(linked, seed=0)


@pytest.mark.parametrize("name", ["data_batch_5.bin", "test_batch.bin"])
def test_a_missing_batch_is_named(linked: Path, name: str) -> None:
    (linked / name).unlink()
    with pytest.raises(DataError, match=rf"{name} cannot be read"):
        load_cifar10(linked, seed=0)


def test_a_label_over_nine_is_named_with_its_record(tmp_path: Path) -> None:
    table = records(1)
    table[4321, 0] = 10
    table.tofile(tmp_path / "test_batch.bin")
    with pytest.raises(DataError, match=r"has label 10 in record 4321; expected 0\.\.9"):
        read_batch(tmp_path / "test_batch.bin")


def test_class_names_are_those_of_the_file_if_there_is_one(tmp_path: Path) -> None:
    assert read_class_names(tmp_path) == STANDARD_NAMES
    (tmp_path / "batches.meta.txt").write_text("a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n")
    assert read_class_names(tmp_path) == tuple("abcdefghij")


@pytest.mark.parametrize("content", [b"a\nb\n", b"a\na\nc\nd\ne\nf\ng\nh\ni\nj\n", b"\xff\xfe\n"])
def test_a_damaged_names_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "batches.meta.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"batches\.meta\.txt .*delete"):
        read_class_names(tmp_path)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Serve a folder on the loopback, and give it with its address."""
    folder = tmp_path / "served"
    folder.mkdir()

    def handler(*args: object) -> _Quiet:
        return _Quiet(*args, directory=str(folder))  # type: ignore[arg-type]

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def archive_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def serve_archive(folder: Path, content: bytes) -> str:
    (folder / "cifar.tar.gz").write_bytes(content)
    return hashlib.md5(content).hexdigest()


def test_a_download_is_unpacked_and_nothing_else_is_left(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    md5 = serve_archive(folder, archive_of({"cifar-10-batches-bin/test_batch.bin": b"pixels" * 1000}))
    download(tmp_path / "cache", f"{address}/cifar.tar.gz", md5)
    assert (tmp_path / "cache/cifar-10-batches-bin/test_batch.bin").read_bytes() == b"pixels" * 1000
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["cifar-10-batches-bin"]


def test_a_download_replaces_an_incomplete_folder(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    (tmp_path / "cache/cifar-10-batches-bin").mkdir(parents=True)
    (tmp_path / "cache/cifar-10-batches-bin/data_batch_1.bin").write_bytes(b"half")
    md5 = serve_archive(folder, archive_of({"cifar-10-batches-bin/test_batch.bin": b"new"}))
    download(tmp_path / "cache", f"{address}/cifar.tar.gz", md5)
    names = [path.name for path in (tmp_path / "cache/cifar-10-batches-bin").iterdir()]
    assert names == ["test_batch.bin"]


def test_an_empty_cache_is_filled_by_a_download(served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, address = served
    names = [*TRAIN_NAMES, "test_batch.bin"]
    md5 = serve_archive(folder, archive_of({f"cifar-10-batches-bin/{name}": b"0" for name in names}))
    monkeypatch.setattr(download, "__defaults__", (f"{address}/cifar.tar.gz", md5))
    found = find_folder(None)
    assert found == cache_folder() / "cifar-10-batches-bin"
    assert sorted(path.name for path in found.iterdir()) == sorted(names)


def test_another_md5_leaves_nothing_in_the_cache(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    received = serve_archive(folder, archive_of({"cifar-10-batches-bin/test_batch.bin": b"altered"}))
    with pytest.raises(DataError, match=f"MD5 {received}; expected {'0' * 32}"):
        download(tmp_path / "cache", f"{address}/cifar.tar.gz", "0" * 32)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_failed_download_says_what_to_do_and_leaves_nothing(tmp_path: Path, served: tuple[Path, str]) -> None:
    with pytest.raises(DataError, match=r"cannot download .*HTTP Error 404.*give its folder as DATA_DIR"):
        download(tmp_path / "cache", f"{served[1]}/none.tar.gz", "0" * 32)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot download .*refused"):
        download(tmp_path / "cache", "http://127.0.0.1:1/cifar.tar.gz", "0" * 32)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"no archive at all",
        archive_of({"cifar-10-batches-bin/test_batch.bin": b"x" * 5000})[:-20],
        archive_of({"another-folder/test_batch.bin": b"x"}),
        archive_of({"../outside.bin": b"x", "cifar-10-batches-bin/test_batch.bin": b"x"}),
    ],
    ids=["no archive", "cut short", "other folder", "path outside"],
)
def test_an_unfit_archive_is_refused_and_leaves_nothing(
    tmp_path: Path, served: tuple[Path, str], content: bytes
) -> None:
    folder, address = served
    md5 = serve_archive(folder, content)
    with pytest.raises(DataError, match="cannot download"):
        download(tmp_path / "cache", f"{address}/cifar.tar.gz", md5)
    assert list((tmp_path / "cache").iterdir()) == []
    assert not list(tmp_path.rglob("outside.bin"))
