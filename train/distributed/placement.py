"""Training on several devices and hosts, by Keras' distribution API: data parallel, one program in every process.

Every process knows the whole data set and the same order of it, and feeds its own rows of each batch. The step is one
computation over all devices, so a run has the loss curve of one process with the same batch.
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
# How XLA, its collectives and its coordination service begin to say that another process is gone, in whatever class.
_LOST = re.compile(r"(UNAVAILABLE|UNKNOWN|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION): ")


@dataclass(frozen=True)
class Placement:
    """Where this process stands in a run.

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
        """What messages call this process."""
        return f"process {self.process_id} of {self.processes}"


ALONE = Placement()


def is_asked_for() -> bool:
    """Whether the environment names processes to join."""
    return any(os.environ.get(name) for name in (ADDRESSES, PROCESSES, PROCESS_ID))


def asked_placement() -> tuple[str, Placement]:
    """Read what the environment asks for.

    Returns:
        The address of process 0, "host:port", and the placement, its devices not yet known; `("", ALONE)` if none of
        the variables is set.

    Raises:
        ConfigError: only some are set, or one has a value that cannot be meant.
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
    """Join the processes that the environment names, and spread what Keras makes from now on over all devices.

    To be called before any Keras variable is made. Does nothing with one process and one device.

    Returns:
        Where this process stands.

    Raises:
        ConfigError: several processes are asked for that this backend cannot join, or they have unlike devices.
        TrainingError: the other processes cannot be reached.
    """
    address, asked = asked_placement()
    if not address and os.environ.get("KERAS_BACKEND") != "jax":
        return ALONE  # without the seconds that Keras takes to load
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
        # What keras.distribution.initialize does, but its heartbeat takes 100 s to miss a host that lost its power.
        jax.distributed.initialize(
            address, asked.processes, asked.process_id, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S
        )
    except RuntimeError as error:
        raise TrainingError(
            f"{asked.title} cannot join the others at {address} ({_first_line(error)}); start all of them, with the "
            "same address, and see that its port is open"
        ) from error
    # JAX takes it for a notice that the host will be preempted, and goes on.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _check_devices(devices: int, asked: Placement) -> None:
    import jax

    if jax.local_device_count() * asked.processes != devices:
        raise ConfigError(
            f"{asked.title} has {jax.local_device_count()} of {devices} devices; expected as many in each: choose "
            "them by CUDA_VISIBLE_DEVICES"
        )


def check_batch(size: int, placement: Placement) -> None:
    """Hold a training batch to the devices.

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
    """Compare what every process is about to work on, before one waits for the others in vain.

    Args:
        parts: what gives their texts, by what they are called; the same names in every process.
        placement: where this process stands.

    Raises:
        TrainingError: naming the parts that are not the same in all processes.
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
    """Return a digest of the images and labels that a run sees; images on disk count by path and size of file."""
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
    """Return an array that lies on all devices, from the copy that each process has.

    Keras would send everyone's copy to everyone, to see that they are the same, which `check_agreement` has seen.

    Args:
        values: the same in all processes.
        placement: where this process stands.

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
    """Part from the other processes: what is left to do, process 0 does alone, however long it takes."""
    if placement.processes > 1:
        import jax

        jax.distributed.shutdown()


@contextmanager
def with_others(placement: Placement) -> Iterator[None]:
    """Say in one line that a computation of all processes failed.

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
    """Return XLA's message among the errors that led to this one: Keras' cleaning up can raise another after it."""
    while error is not None:
        if _LOST.match(str(error)):
            return _first_line(error)
        error = error.__context__
    return None


@contextmanager
def apart(placement: Placement) -> Iterator[None]:
    """Let this process make and call a network of its own, without the others."""
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
    """Return a network that this process can call without the others, and make Keras forget them.

    Args:
        network: a network that lies on all devices.
        build: makes the same network.
        placement: where this process stands.

    Returns:
        A copy on one device; `network` itself, if there are no others.
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
