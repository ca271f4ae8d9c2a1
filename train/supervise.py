"""The parent of a training process that is one of several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback

from tqdm import tqdm

from runtime.core.cli import run_cli
from runtime.core.errors import TrainingError
from train.distributed.placement import asked_placement
from train.train_run import Request, train


def supervise(request: Request) -> int:
    """Train in a child process, which JAX may end by a signal when another process of the run ends.

    Args:
        request: the options of the run.

    Returns:
        The child's exit code.

    Raises:
        TrainingError: the child was ended by a signal.
    """
    _, asked = asked_placement()
    # Not forked: JAX has threads.
    child = multiprocessing.get_context("spawn").Process(target=_work, args=(request,), daemon=True)
    child.start()
    try:
        child.join()
    finally:
        child.kill()  # Ctrl-C reaches this process alone
    code = child.exitcode or 0
    if code >= 0:
        return code
    ended_by = signal.Signals(-code).name
    cause = ", as JAX does when another one has ended" if ended_by == "SIGABRT" else ""
    raise TrainingError(
        f"{asked.title} was ended by {ended_by}{cause}; see what the others say, then start all of them again with "
        "--resume, from the last whole epoch"
    )


def _work(request: Request) -> None:
    # Gloo writes to stdout, which may carry JSON.
    sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    os.dup2(2, 1)
    # The default lock, of multiprocessing, would be reported as leaked.
    tqdm.set_lock(threading.RLock())
    # The parent ends this process and reports for both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        code = run_cli(lambda _: train(request))
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        # An orderly exit would deadlock: JAX waits for the other processes.
        os._exit(code)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by supervise"
    parent.join()
    os._exit(1)
