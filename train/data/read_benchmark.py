"""Speed of listing and reading a folder of images: the upper bound for training from disk."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from runtime.core.errors import ConfigError
from runtime.core.machine import cpu_model
from runtime.images.input_spec import InputSpec
from train.data.folders.folder import load_folder
from train.data.lazy_images import LazyImages

BATCH_SIZE = 128


@dataclass(frozen=True, kw_only=True)
class FolderSpeed:
    """Measured figures.

    Attributes:
        cpu: the processor's name.
        files: of the folder, listed at `files_per_s`.
        files_per_s: the listing includes their division into splits.
        names_bytes: memory that the training split's paths take.
        images: that were read, of the training split at random.
        image_size: the side that they were resized to, in pixels.
        threads: that decoded.
        images_per_s: read, decoded and resized.
        cpu_time_ms: per image, over all threads; other load hardly changes it.
        read_mb_per_s: of their files.
    """

    cpu: str
    files: int
    files_per_s: float
    names_bytes: int
    images: int
    image_size: int
    threads: int
    images_per_s: float
    cpu_time_ms: float
    read_mb_per_s: float


def measure_folder(data_dir: Path | None, stored: InputSpec, *, count: int, threads: int, seed: int) -> FolderSpeed:
    """List a folder as a training does, then read training images at random, in batches.

    Files read before may come from the system's cache.

    Args:
        data_dir: the folder, as `load_folder` takes it.
        stored: what is made of each image.
        count: how many to read; all, if there are no more.
        threads: that decode.
        seed: draws them.

    Returns:
        The figures.

    Raises:
        ConfigError: threads or images are below 1, or no folder is given.
        DataError: the folder cannot be trained on.
    """
    if threads < 1 or count < 1:
        raise ConfigError(f"received {threads} threads and {count} images; expected at least one of each")
    start = time.perf_counter()
    dataset = load_folder(data_dir, stored.size, seed, stored.interpolation, stream=True)
    listing_s = time.perf_counter() - start
    files = sum(len(dataset.split(name).labels) for name in ("train", "val", "test"))
    images = dataset.train.images
    assert isinstance(images, LazyImages), "streamed"
    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    with ThreadPoolExecutor(threads) as pool:
        part = replace(images.part(chosen), pool=pool)
        start, start_cpu = time.perf_counter(), time.process_time()
        bar = tqdm(range(0, len(part), BATCH_SIZE), desc="reading", unit="batch", disable=None, leave=False)
        for first in bar:
            part[first : first + BATCH_SIZE]
        reading_s, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
    return FolderSpeed(
        cpu=cpu_model(),
        files=files,
        files_per_s=round(files / listing_s, 1),
        names_bytes=images.names.size_bytes,
        images=len(part),
        image_size=stored.size,
        threads=threads,
        images_per_s=round(len(part) / reading_s, 1),
        cpu_time_ms=round(1e3 * cpu_s / len(part), 2),
        read_mb_per_s=round(float(part.file_sizes().sum()) / 1e6 / reading_s, 1),
    )


def describe_speed(speed: FolderSpeed) -> str:
    """Return the figures in two lines."""
    return (
        f"listed {speed.files:,} files, {speed.files_per_s:,.0f} a second; the training split's names take "
        f"{speed.names_bytes / 1e6:.3g} MB\n"
        f"read {speed.images:,} images to {speed.image_size} px with {speed.threads} threads on {speed.cpu}: "
        f"{speed.images_per_s:,.0f} images/s, {speed.cpu_time_ms:.2g} ms of CPU time each, "
        f"{speed.read_mb_per_s:,.0f} MB/s of files"
    )
