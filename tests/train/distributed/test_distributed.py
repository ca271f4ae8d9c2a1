"""Several processes have the curve of one and the same figures, and end in order when one is killed."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest

from runtime.core.errors import ConfigError, TrainingError
from tests.support.paths import ROOT
from tests.support.tiny_training import LABELS, easy_dataset
from train.data.batches import Batches
from train.distributed.placement import (
    ADDRESSES,
    ALONE,
    PROCESS_ID,
    PROCESSES,
    Placement,
    apart,
    asked_placement,
    check_batch,
    digest_of,
    digest_of_tensors,
    is_asked_for,
    on_one_device,
    start_distribution,
    with_others,
)
from train.distributed.shards import share

EPOCHS = 6
DEADLINE_S = 600
needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
# `python -m train` with the tiny preset; with SLOW, its steps take a second once there is a checkpoint.
WORKER = """
import os, signal, sys, time
from pathlib import Path
from runtime.core.cli import run_cli

from tests.support.tiny_training import NETWORK, RECIPE
from train.__main__ import main
from train.data import batches
from train.model.presets import PRESETS, Preset

PRESETS["tiny"] = Preset(NETWORK, 0, RECIPE)
checkpoint = Path(sys.argv[sys.argv.index("--run") + 1]) / "checkpoint.safetensors"
rows = batches.TrainBatches.rows

def slow(self, index):
    if checkpoint.exists() and index:
        time.sleep(1)
    return rows(self, index)

if os.environ.get("SLOW"):
    batches.TrainBatches.rows = slow
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it, and so would this
    sys.exit(run_cli(main))
"""


@dataclass(frozen=True)
class Worker:
    """A started process, and where its output goes."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def figures(self) -> list[str]:
        """The lines of its log that give an epoch's figures."""
        return [line for line in self.err.read_text().splitlines() if line.startswith("epoch ")]

    def error(self) -> str:
        """The last line of its log, which says why it ended; JAX may have said something before it."""
        log = self.err.read_text()
        assert "Traceback" not in log
        last = log.splitlines()[-1]
        assert last.startswith("error: ")
        return last


@dataclass(frozen=True)
class Workers:
    """What starts them, and knows those it started."""

    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self,
        run: Path,
        *more: str,
        process_id: int | None = None,
        port: int = 0,
        devices: int = 1,
        slow: bool = False,
    ) -> Worker:
        """Start one: alone, or as one of two that meet at `port`."""
        set_by_others = (ADDRESSES, PROCESSES, PROCESS_ID)
        environment = {name: value for name, value in os.environ.items() if name not in set_by_others}
        environment |= {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        environment |= {"JAX_NUM_CPU_DEVICES": str(devices)}
        # Most of a tiny run is compilation.
        environment |= {"JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache")}
        environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        if process_id is not None:
            environment |= {ADDRESSES: f"127.0.0.1:{port}", PROCESSES: "2", PROCESS_ID: str(process_id)}
        if slow:
            environment["SLOW"] = "1"
        given = ["--preset", "tiny", "--dataset", "folder", "--data-dir", str(self.folder / "images")]
        given += ["--run", str(run), "--epochs", str(EPOCHS), "--ema-momentum", "0.9", *more]
        out, err = (run.with_name(f"{run.name}.{process_id}.{kind}") for kind in ("out", "err"))
        with out.open("wb") as stdout, err.open("wb") as stderr:
            command = [sys.executable, str(self.folder / "worker.py"), *given]
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stdout, stderr=stderr)
        self.started.append(process)
        return Worker(process, out, err)

    def start_two(self, run: Path, *more: str, slow: bool = False) -> list[Worker]:
        port = free_port()
        return [self.start(run, *more, process_id=index, port=port, slow=slow) for index in (0, 1)]


def free_port() -> int:
    """A port of the loopback that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def history(run: Path) -> list[dict[str, float]]:
    """The rows of a run, without how long each took."""
    with (run / "history.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [{name: value for name, value in row.items() if name != "time_s"} for row in rows]


def assert_same_curve(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert len(found) == len(expected)
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, abs=1e-4)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "worker.py").write_text(WORKER)
    train = easy_dataset().train
    for index in range(68):  # 9 of them for validation, which two devices cannot share evenly
        path = folder / "images" / LABELS[train.labels[index]] / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), train.images[index][..., ::-1])
    workers = Workers(folder)
    yield workers
    for process in workers.started:
        process.kill()


@pytest.fixture(scope="module")
def alone(workers: Workers) -> Path:
    """The run of one process."""
    run = workers.folder / "alone"
    worker = workers.start(run)
    assert worker.process.wait(DEADLINE_S) == 0, worker.err.read_text()
    return run


@needs_jax
@pytest.mark.slow
def test_two_processes_have_the_curve_of_one(workers: Workers, alone: Path, tmp_path: Path) -> None:
    first, second = workers.start_two(tmp_path / "two", "--json")
    assert [worker.process.wait(DEADLINE_S) for worker in (first, second)] == [0, 0], first.err.read_text()
    assert_same_curve(history(tmp_path / "two"), history(alone))
    assert len(first.figures()) == EPOCHS
    assert first.figures() == second.figures()
    summary = json.loads(first.out.read_text())
    assert summary["test_top1"] == json.loads((alone / "train.json").read_text())["test_top1"]
    assert second.out.read_text() == ""
    names = [{path.relative_to(run) for path in run.rglob("*")} for run in (tmp_path / "two", alone)]
    assert names[0] == names[1]


@needs_jax
@pytest.mark.slow
def test_two_processes_that_read_their_own_rows_from_disk_have_the_curve_of_one_that_has_all_in_memory(
    workers: Workers, alone: Path, tmp_path: Path
) -> None:
    both = workers.start_two(tmp_path / "two", "--stream", "true")
    assert [worker.process.wait(DEADLINE_S) for worker in both] == [0, 0], both[0].err.read_text()
    assert "stay on disk" in both[0].out.read_text()
    assert_same_curve(history(tmp_path / "two"), history(alone))


@needs_jax
@pytest.mark.slow
def test_two_devices_of_one_process_have_the_curve_of_one(workers: Workers, alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    uneven = workers.start(run, "--batch-size", "15", devices=2)
    assert uneven.process.wait(DEADLINE_S) == 2
    assert "choose --batch-size 14" in uneven.error()
    assert not run.exists()
    worker = workers.start(run, devices=2)
    assert worker.process.wait(DEADLINE_S) == 0, worker.err.read_text()
    assert "2 devices in all" in worker.out.read_text()
    assert_same_curve(history(run), history(alone))


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize(("victim", "sent"), [(0, signal.SIGKILL), (1, signal.SIGKILL), (0, signal.SIGINT)])
def test_a_process_that_ends_early_ends_the_other_and_the_run_goes_on_alone(
    victim: int, sent: signal.Signals, workers: Workers, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    both = workers.start_two(run, slow=True)
    deadline_s = time.monotonic() + DEADLINE_S
    while not (run / "checkpoint.safetensors").exists():
        assert time.monotonic() < deadline_s, both[0].err.read_text()
        time.sleep(0.1)
    both[victim].process.send_signal(sent)
    other = both[1 - victim]
    assert other.process.wait(60) == 2
    assert both[victim].process.wait(60) != 0
    assert f"process {1 - victim} of 2 " in other.error()
    assert "--resume" in other.error()
    kept = history(run)
    assert 1 <= len(kept) < EPOCHS
    assert_same_curve(kept, history(alone)[: len(kept)])
    resumed = workers.start(run, "--resume")
    assert resumed.process.wait(DEADLINE_S) == 0, resumed.err.read_text()
    assert len(resumed.figures()) == EPOCHS - len(kept)
    assert_same_curve(history(run), history(alone))


@needs_jax
@pytest.mark.slow
def test_processes_with_different_arguments_are_refused(workers: Workers, tmp_path: Path) -> None:
    port = free_port()
    both = [workers.start(tmp_path / "run", "--seed", str(i), process_id=i, port=port) for i in (0, 1)]
    for worker in both:
        assert worker.process.wait(DEADLINE_S) == 2, worker.err.read_text()
        assert "the 2 processes differ in recipe;" in worker.error()
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def ask(patch: pytest.MonkeyPatch, addresses: str, processes: str, process_id: str) -> None:
    for name, value in {ADDRESSES: addresses, PROCESSES: processes, PROCESS_ID: process_id}.items():
        patch.delenv(name, raising=False)
        if value:
            patch.setenv(name, value)


def test_nothing_asked_for_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, "", "", "")
    assert not is_asked_for()
    assert asked_placement() == ("", ALONE)


@pytest.mark.parametrize("addresses", ["10.0.0.1:1234", "10.0.0.1:1234,10.0.0.2:1235,10.0.0.3:1236"])
def test_the_first_address_is_that_of_process_0(addresses: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, addresses, "3", "2")
    assert is_asked_for()
    assert asked_placement() == ("10.0.0.1:1234", Placement(3, 2))


@pytest.mark.parametrize(
    ("addresses", "processes", "process_id", "message"),
    [
        ("10.0.0.1:1234", "2", "", f"{PROCESS_ID} not set, but {ADDRESSES} and {PROCESSES}; set all three or none"),
        ("10.0.0.1:1234", "two", "0", f"{PROCESSES} is 'two'; expected a whole number"),
        ("10.0.0.1:1234", "2", "-1", f"{PROCESS_ID} is '-1'; expected a whole number"),
        ("10.0.0.1:1234", "2", "2", f"{PROCESS_ID} is 2; expected 0 to {PROCESSES} - 1, which is 1"),
        ("10.0.0.1", "2", "0", f"{ADDRESSES} begins with '10.0.0.1'; expected host:port"),
        ("a:1,b:1", "3", "0", f"{ADDRESSES} lists 2; expected that of process 0, or 3, one each"),
    ],
)
def test_invalid_variables_are_refused(
    addresses: str, processes: str, process_id: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, addresses, processes, process_id)
    with pytest.raises(ConfigError) as caught:
        asked_placement()
    assert message in str(caught.value)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="what the other backends refuse")
def test_other_backends_than_jax_join_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, "10.0.0.1:1234", "2", "0")
    with pytest.raises(ConfigError, match="set KERAS_BACKEND=jax"):
        start_distribution()
    ask(monkeypatch, "", "", "")
    assert start_distribution() == ALONE
    assert keras.distribution.distribution() is None


class Numbers(Batches):
    """The numbers from 0, in batches, as images and as targets."""

    def __init__(self, count: int, batch: int) -> None:
        super().__init__()
        self._count, self._batch = count, batch
        self.epochs = 0

    def __len__(self) -> int:
        return -(-self._count // self._batch)

    def rows(self, index: int) -> Any:
        return np.arange(index * self._batch, min(self._count, (index + 1) * self._batch))

    def batch_of(self, rows: Any) -> Any:
        values = rows.astype(np.float32)
        return {"images": values}, values[:, None]

    def on_epoch_end(self) -> None:
        self.epochs += 1


def test_shares_in_their_order_are_the_batch() -> None:
    numbers = Numbers(12, 4)
    shares = [share(numbers, Placement(2, process_id, 4)) for process_id in (0, 1)]
    for index in range(len(numbers)):
        parts = [part[index] for part in shares]
        assert [len(part) for part in parts] == [2, 2]  # no weights
        inputs, targets = numbers[index]
        np.testing.assert_array_equal(np.concatenate([part[0]["images"] for part in parts]), inputs["images"])
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), targets)
    shares[0].on_epoch_end()
    assert numbers.epochs == 1
    assert share(numbers, ALONE) is numbers


@pytest.mark.parametrize(("count", "batch", "processes", "devices"), [(9, 4, 2, 2), (7, 250, 2, 4), (10, 5, 1, 3)])
def test_batches_that_are_filled_up_have_the_mean_of_the_rows_they_had(
    count: int, batch: int, processes: int, devices: int
) -> None:
    shares = [share(Numbers(count, batch), Placement(processes, index, devices)) for index in range(processes)]
    total, rows = 0.0, 0
    seen: list[float] = []
    for index in range(len(shares[0])):
        parts = [part[index] for part in shares]
        values = np.concatenate([part[0]["images"] for part in parts])
        weights = np.concatenate([part[2] for part in parts])
        assert len(values) % devices == 0
        assert len({len(part[1]) for part in parts}) == 1
        # As Keras does: the mean over a batch's rows, and over batches by their number of rows.
        total += float((values * weights).mean()) * len(values)
        rows += len(values)
        seen += [value for value, weight in zip(values, weights, strict=True) if weight]
    assert seen == list(range(count))
    assert total / rows == pytest.approx((count - 1) / 2)


def test_a_batch_that_the_devices_cannot_share_is_refused() -> None:
    check_batch(128, Placement(2, 0, 8))
    check_batch(7, ALONE)
    with pytest.raises(ConfigError, match=r"a batch of 130 .* 8 devices; choose --batch-size 128"):
        check_batch(130, Placement(2, 0, 8))
    with pytest.raises(ConfigError, match="choose --batch-size 8"):
        check_batch(5, Placement(2, 0, 8))


def test_a_digest_sees_images_and_labels() -> None:
    digest = digest_of(easy_dataset())
    assert digest == digest_of(easy_dataset())
    changed = easy_dataset()
    changed.val.images[3, 2, 1, 0] ^= 1
    relabelled = easy_dataset()
    relabelled.train.labels[5] = 0
    assert len({digest, digest_of(changed), digest_of(relabelled)}) == 3


def test_a_digest_of_tensors_sees_names_shapes_and_values() -> None:
    values = np.arange(6, dtype=np.float32)
    unlike: list[dict[str, Any]] = [{"a": values}, {"b": values}, {"a": values.reshape(2, 3)}, {"a": values + 1}, {}]
    assert len({digest_of_tensors(tensors) for tensors in unlike}) == len(unlike)
    assert digest_of_tensors({"a": values, "b": values}) == digest_of_tensors({"b": values, "a": values.copy()})


def test_a_lost_process_is_told_from_a_mistake() -> None:
    two = Placement(2, 1, 2)
    for error in (RuntimeError, ValueError):
        lost = r"process 1 of 2 cannot go on.*\(UNKNOWN: Gloo\); .*--resume"
        with pytest.raises(TrainingError, match=lost), with_others(two):
            raise error("UNKNOWN: Gloo\nmore")
    with pytest.raises(TrainingError, match="UNAVAILABLE: gone"), with_others(two):
        try:
            raise RuntimeError("UNAVAILABLE: gone")
        finally:
            raise ValueError("Array has been deleted")
    with pytest.raises(ValueError, match="shapes differ"), with_others(two):
        raise ValueError("shapes differ")
    with pytest.raises(RuntimeError, match="UNKNOWN: Gloo"), with_others(ALONE):
        raise RuntimeError("UNKNOWN: Gloo")


@pytest.mark.parametrize(("placement", "met"), [(ALONE, "all"), (Placement(1, 0, devices=2), None)])
def test_apart_a_process_has_its_networks_to_itself_and_then_shares_them_again(
    placement: Placement, met: str | None
) -> None:
    keras.distribution.set_distribution("all")
    try:
        with pytest.raises(ConfigError), apart(placement):
            assert keras.distribution.distribution() == met
            raise ConfigError("left in the middle")
        assert keras.distribution.distribution() == "all"
    finally:
        keras.distribution.set_distribution(None)


def test_on_one_device_a_network_stays_the_same_one() -> None:
    network = object()
    assert on_one_device(network, object, ALONE) is network
