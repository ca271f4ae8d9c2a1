"""CIFAR-10 in the binary layout of the official archive, downloaded if missing.

https://www.cs.toronto.edu/~kriz/cifar.html: five training files and a test file, each of 10,000 records of
one label byte and 3,072 pixel bytes (a 32x32 plane of red, then of green, then of blue).
"""

from __future__ import annotations

import hashlib
import http.client
import os
import tarfile
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.core.errors import DataError
from train.data.dataset import Dataset, Split, stratified_split

ARCHIVE_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
FOLDER_NAME = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
NAMES_FILE = "batches.meta.txt"
CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
SIDE_PX = 32
RECORD_BYTES = 1 + 3 * SIDE_PX * SIDE_PX
RECORDS_PER_FILE = 10_000
VAL_FRACTION = 0.2
TIMEOUT_S = 30
CHUNK_BYTES = 1 << 20


def load_cifar10(data_dir: Path | None, seed: int) -> Dataset:
    """Load CIFAR-10: 40,000 training and 10,000 validation images, and the 10,000 of the test file.

    Args:
        data_dir: the folder with the `.bin` files, or its parent; `None` takes the environment variable
            DATA_DIR, else the cache, else downloads into the cache.
        seed: draws the validation images, as many of each class.

    Returns:
        The dataset; an id is "file:record", such as "data_batch_1:42".

    Raises:
        DataError: a file is missing or damaged, or the download failed.
    """
    folder = find_folder(data_dir)
    class_names = read_class_names(folder)
    batches = [read_batch(folder / name) for name in TRAIN_FILES]
    images = np.concatenate([batch.images for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    ids = [name for batch in batches for name in batch.ids]
    train, val = stratified_split(labels, [VAL_FRACTION], seed, class_names)
    test = read_batch(folder / TEST_FILE)

    def part(indices: NDArray[np.int64]) -> Split:
        return Split(images[indices], labels[indices], tuple(ids[i] for i in indices))

    return Dataset(
        name="cifar10",
        labels=class_names,
        train=part(train),
        val=part(val),
        test=test,
    )


def find_folder(data_dir: Path | None) -> Path:
    """Return the folder with the `.bin` files, downloading them if no folder is given.

    Args:
        data_dir: that folder or its parent, or `None` (see `load_cifar10`).

    Raises:
        DataError: the given folder has no such files, or the download failed.
    """
    given = data_dir or os.environ.get("DATA_DIR")
    if given:
        root = Path(given)
        for folder in (root, root / FOLDER_NAME):
            if (folder / TRAIN_FILES[0]).is_file():
                return folder
        raise DataError(
            f"{root} holds no {TRAIN_FILES[0]}, nor does its folder {FOLDER_NAME}; give the folder of the "
            "unpacked cifar-10-binary.tar.gz, or no DATA_DIR to have it downloaded"
        )
    folder = cache_folder() / FOLDER_NAME
    if not all((folder / name).is_file() for name in (*TRAIN_FILES, TEST_FILE)):
        download(cache_folder())
    return folder


def cache_folder() -> Path:
    """Return the folder for downloads: `focaledge` in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "focaledge"


def read_class_names(folder: Path) -> tuple[str, ...]:
    """Return the ten class names of `batches.meta.txt`, or the standard ones if there is no such file.

    Raises:
        DataError: the file does not hold ten different names.
    """
    path = folder / NAMES_FILE
    try:
        names = tuple(path.read_text(encoding="utf-8").split())
    except FileNotFoundError:
        return CLASS_NAMES
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); delete it to use the standard names") from error
    if len(set(names)) != len(CLASS_NAMES) or len(names) != len(CLASS_NAMES):
        raise DataError(
            f"{path} holds {len(names)} class names, {len(set(names))} of them different; expected "
            f"{len(CLASS_NAMES)} different ones, one a line; delete the file to use the standard names"
        )
    return names


def read_batch(path: Path) -> Split:
    """Read one `.bin` file of 10,000 records.

    Args:
        path: the file; its stem begins the ids.

    Returns:
        uint8 images `[10000, 32, 32, 3]`, labels 0..9, and ids in the order of the file.

    Raises:
        DataError: the file is missing, of another size, or has a label over 9.
    """
    remedy = "unpack cifar-10-binary.tar.gz again, or delete the folder to have it downloaded"
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); {remedy}") from error
    if data.size != RECORDS_PER_FILE * RECORD_BYTES:
        raise DataError(
            f"{path} has {data.size} bytes; expected {RECORDS_PER_FILE * RECORD_BYTES} "
            f"({RECORDS_PER_FILE} records of {RECORD_BYTES}); {remedy}"
        )
    records = data.reshape(RECORDS_PER_FILE, RECORD_BYTES)
    labels = records[:, 0].astype(np.int64)
    wrong = np.flatnonzero(labels >= len(CLASS_NAMES))
    if wrong.size:
        raise DataError(f"{path} has label {labels[wrong[0]]} in record {wrong[0]}; expected 0..9; {remedy}")
    images = records[:, 1:].reshape(-1, 3, SIDE_PX, SIDE_PX).transpose(0, 2, 3, 1)  # planes -> [N,32,32,3]
    ids = tuple(f"{path.stem}:{index}" for index in range(RECORDS_PER_FILE))
    return Split(np.ascontiguousarray(images), labels, ids)


def download(cache: Path, url: str = ARCHIVE_URL, md5: str = ARCHIVE_MD5) -> None:
    """Download and unpack the archive, so that `cache` gets the whole folder or nothing.

    Args:
        cache: the folder to put `cifar-10-batches-bin` in; an incomplete one there is replaced.
        url: the archive.
        md5: its MD5, as 32 hexadecimal digits.

    Raises:
        DataError: the download failed, the MD5 differs, or the archive cannot be unpacked.
    """
    by_hand = f"or get {url} by hand, unpack it, and give its folder as DATA_DIR"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Beside its final place, so that the rename is one step on one file system.
        with tempfile.TemporaryDirectory(prefix=".download.", dir=cache) as temporary:
            work = Path(temporary)
            received = _fetch(url, work / "archive.tar.gz")
            if received != md5:
                raise DataError(
                    f"{url} came with MD5 {received}; expected {md5}; the download was cut short or altered "
                    f"and nothing was kept; try again, {by_hand}"
                )
            with tarfile.open(work / "archive.tar.gz", "r:gz") as archive:
                archive.extractall(work / "unpacked", filter="data")
            target = cache / FOLDER_NAME
            if target.exists():
                target.rename(work / "replaced")
            (work / "unpacked" / FOLDER_NAME).rename(target)
    except (OSError, http.client.HTTPException, tarfile.TarError, EOFError) as error:
        raise DataError(
            f"cannot download {url} to {cache} ({error}); check the network and the room on the disk and "
            f"try again, {by_hand}"
        ) from error


def _fetch(url: str, path: Path) -> str:
    """Download a file with a progress bar, and return its MD5."""
    md5 = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, path.open("wb") as file:
        size_bytes = int(response.headers.get("Content-Length") or 0) or None
        with tqdm(total=size_bytes, unit="B", unit_scale=True, desc="CIFAR-10", disable=None) as bar:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                md5.update(chunk)
                bar.update(len(chunk))
    return md5.hexdigest()
