"""Data-parallel training on several devices and hosts, by Keras' distribution API.

Every process has the whole dataset in the same order, and feeds its own rows of each batch. A step is one computation
over all devices, so the loss curve is that of one process with the same batch.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.core.errors import ConfigError, TrainingError
from train.data.dataset import Dataset
from train.data.lazy_images import LazyImages

ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
PROCESSES = "KERAS_DISTRIBUTION_NUM_PROCESSES"
PROCESS_ID = "KERAS_DISTRIBUTION_PROCESS_ID"
HEARTBEAT_TIMEOUT_S = 30
# How messages of XLA about a lost process begin, whatever their class.
_LOST = re.compile(r"(UNAVAILABLE|UNKNOWN|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION): ")


@dataclass(frozen=True)
class Placement:
    """The place of this process in a run.

    Args:
        processes: of the run.
        process_id: of this one, from 0.
        devices: of all processes.
    """

    processes: int = 1
    process_id: int = 0
    devices: int = 1

    @property
    def writes(self) -> bool:
        """Whether this is the one process that writes the run's files."""
        return self.process_id == 0

    @property
    def title(self) -> str:
        """Name of this process in messages."""
        return f"process {self.process_id} of {self.processes}"


ALONE = Placement()


def is_asked_for() -> bool:
    """Whether the environment names processes to join."""
    return any(os.environ.get(name) for name in (ADDRESSES, PROCESSES, PROCESS_ID))


def asked_placement() -> tuple[str, Placement]:
    """Read the placement that the environment sets.

    Returns:
        The address of process 0, "host:port", and the placement, its devices not yet known; `("", ALONE)` if none of
        the variables is set.

    Raises:
        ConfigError: only some are set, or one has an invalid value.
    """
    if not is_asked_for():
        return "", ALONE
    found = {name: os.environ.get(name, "").strip() for name in (ADDRESSES, PROCESSES, PROCESS_ID)}
    missing = [name for name, value in found.items() if not value]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} not set, but {' and '.join(n for n in found if n not in missing)}; "
            "set all three or none"
        )
    for name in (PROCESSES, PROCESS_ID):
        if not found[name].isdecimal():
            raise ConfigError(f"{name} is {found[name]!r}; expected a whole number")
    processes, process_id = int(found[PROCESSES]), int(found[PROCESS_ID])
    if process_id >= processes:
        raise ConfigError(f"{PROCESS_ID} is {process_id}; expected 0 to {PROCESSES} - 1, which is {processes - 1}")
    addresses = found[ADDRESSES].split(",")
    if len(addresses) not in (1, processes):
        raise ConfigError(f"{ADDRESSES} lists {len(addresses)}; expected that of process 0, or {processes}, one each")
    host, _, port = addresses[0].rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"{ADDRESSES} begins with {addresses[0]!r}; expected host:port, such as 10.0.0.1:12345")
    return addresses[0], Placement(processes, process_id)


def start_distribution() -> Placement:
    """Join the processes that the environment names, and distribute Keras variables over all devices.

    Call it before any Keras variable is created. It does nothing with one process and one device.

    Returns:
        The placement of this process.

    Raises:
        ConfigError: the backend cannot join several processes, or they have different numbers of devices.
        TrainingError: the other processes cannot be reached.
    """
    address, asked = asked_placement()
    if not address and os.environ.get("KERAS_BACKEND") != "jax":
        return ALONE  # Keras takes seconds to load
    import keras

    if keras.backend.backend() != "jax":
        if asked.processes > 1:
            raise ConfigError(
                f"{PROCESSES} is {asked.processes}, and Keras runs on {keras.backend.backend()}, where it cannot join "
                "processes; set KERAS_BACKEND=jax"
            )
        return ALONE
    if asked.processes > 1:
        _join(address, asked)
    devices = keras.distribution.list_devices()
    if len(devices) == 1:
        return ALONE
    _check_devices(len(devices), asked)
    # Every process feeds its own rows; Keras can divide tf.data alone.
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False))
    return Placement(asked.processes, asked.process_id, len(devices))


def _join(address: str, asked: Placement) -> None:
    import jax

    try:
        # As keras.distribution.initialize, whose heartbeat takes 100 s to notice a lost host.
        jax.distributed.initialize(
            address, asked.processes, asked.process_id, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S
        )
    except RuntimeError as error:
        raise TrainingError(
            f"{asked.title} cannot join the others at {address} ({_first_line(error)}); start all of them, with the "
            "same address, and see that its port is open"
        ) from error
    # JAX takes SIGTERM as a notice of preemption and continues.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _check_devices(devices: int, asked: Placement) -> None:
    import jax

    if jax.local_device_count() * asked.processes != devices:
        raise ConfigError(
            f"{asked.title} has {jax.local_device_count()} of {devices} devices; expected as many in each: choose "
            "them by CUDA_VISIBLE_DEVICES"
        )


def check_batch(size: int, placement: Placement) -> None:
    """Check that the devices can share a training batch.

    Raises:
        ConfigError: they cannot share it evenly.
    """
    if size % placement.devices:
        fitting = max(1, size // placement.devices) * placement.devices
        raise ConfigError(
            f"a batch of {size} images cannot be shared evenly by {placement.devices} devices; "
            f"choose --batch-size {fitting}, or other devices by CUDA_VISIBLE_DEVICES"
        )


def check_agreement(parts: Mapping[str, Callable[[], str]], placement: Placement) -> None:
    """Check that all processes work on the same run.

    Args:
        parts: functions that return a text to compare, by name; the same names in every process.
        placement: the place of this process.

    Raises:
        TrainingError: naming the parts that differ.
    """
    if placement.processes == 1:
        return
    from jax.experimental import multihost_utils

    digests = [hashlib.sha256(text().encode()).digest() for text in parts.values()]
    mine = np.frombuffer(b"".join(digests), np.uint8).reshape(len(parts), -1)
    everyones = multihost_utils.process_allgather(mine)  # [processes, parts, 32]
    unlike = [name for name, rows in zip(parts, everyones.swapaxes(0, 1), strict=True) if (rows != rows[0]).any()]
    if unlike:
        raise TrainingError(
            f"the {placement.processes} processes differ in {' and '.join(unlike)}; give each the same arguments, the "
            "same images and, to resume, the same run folder"
        )


def digest_of(dataset: Dataset) -> str:
    """Return a digest of the training and validation split; images on disk count by path and file size."""
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.val):
        if isinstance(split.images, LazyImages):
            for name in split.ids:
                digest.update(name.encode(errors="surrogateescape") + b"\0")
            values_of_images: NDArray[Any] = split.images.file_sizes()
        else:
            values_of_images = split.images
        for values in (values_of_images, split.labels):
            digest.update(str(values.shape).encode() + np.ascontiguousarray(values).data)
    return digest.hexdigest()


def digest_of_tensors(tensors: Mapping[str, NDArray[Any]]) -> str:
    """Return a digest of arrays and their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].shape}".encode() + np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


def everywhere(values: NDArray[Any], placement: Placement) -> Any:
    """Return an array on all devices, from the copy in each process.

    Keras would compare the copies by sending them around, which `check_agreement` has done.

    Args:
        values: the same in all processes.
        placement: the place of this process.

    Returns:
        An array for a Keras variable; `values` itself in a single process.
    """
    if placement.processes == 1:
        return values
    import jax
    import keras

    mesh = keras.distribution.distribution().device_mesh
    layout = keras.distribution.TensorLayout([None] * values.ndim, mesh).backend_layout
    return jax.make_array_from_callback(values.shape, layout, lambda index: values[index])


def leave(placement: Placement) -> None:
    """Leave the other processes; process 0 does the rest alone."""
    if placement.processes > 1:
        import jax

        jax.distributed.shutdown()


@contextmanager
def with_others(placement: Placement) -> Iterator[None]:
    """Report a failed computation of all processes in one line.

    Raises:
        TrainingError: another process ended, or a device failed.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        fault = _fault(error)
        if placement.processes == 1 or fault is None:
            raise
        raise TrainingError(
            f"{placement.title} cannot go on, most likely as another one ended ({fault}); see what the others say, "
            "then start all of them again with --resume, from the last whole epoch"
        ) from error


def _fault(error: BaseException | None) -> str | None:
    """Return XLA's message among the errors that led to this one; Keras' cleanup can raise another."""
    while error is not None:
        if _LOST.match(str(error)):
            return _first_line(error)
        error = error.__context__
    return None


@contextmanager
def apart(placement: Placement) -> Iterator[None]:
    """Let this process create and call networks without the others."""
    if placement.devices == 1:
        yield
        return
    import keras

    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def on_one_device(network: Any, build: Callable[[], Any], placement: Placement) -> Any:
    """Return a network on one device, and end the distribution.

    Args:
        network: a network on all devices.
        build: builds the same network.
        placement: the place of this process.

    Returns:
        A copy on one device; `network` itself if there is only one.
    """
    if placement.devices == 1:
        return network
    import keras

    keras.distribution.set_distribution(None)
    alone = build()
    alone.set_weights(network.get_weights())
    return alone


def device_name() -> str:
    """Return "cpu", or the kind of accelerator that Keras' backend trains on, such as "gpu"."""
    import keras

    # Without a kind given, every backend lists its accelerators, and JAX no others.
    kinds = {str(device).split(":")[0] for device in keras.distribution.list_devices()}
    return next(iter(sorted(kinds - {"cpu"})), "cpu")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
