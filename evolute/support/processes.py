"""Work in other processes, which end with the one that began them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Any

from evolute.support.files import FileError

_THREADS = "OPENBLAS_NUM_THREADS"

_PATIENCE_S = 2
"""What a task gets to clean up after itself before it is told again to end."""


class DeadWorkerError(FileError):
    """A worker process ended before its task did, which is no fault of the task."""

    def __init__(self) -> None:
        super().__init__(
            "a worker process died: too little memory for that many workers, or a Python script "
            "that calls this outside `if __name__ == '__main__':`"
        )


class _Here(Executor):
    """Runs each task at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _become_worker() -> None:
    """Leave interrupts to the parent; end through every `finally` when it says so, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        while True:  # the first ends a task, as an error of it; the next one the wait for more
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_PATIENCE_S)

    threading.Thread(target=follow, daemon=True).start()


def _end(workers: Sequence[BaseProcess]) -> None:
    """Tell workers to end until all have. Once is not enough: one that is told while it takes the
    lock of the results holds that for ever, and then waits for it, as do the others."""
    while left := [worker for worker in workers if worker.is_alive()]:
        for worker in left:
            worker.terminate()
        for worker in left:
            worker.join(_PATIENCE_S)


@contextlib.contextmanager
def processes(workers: int) -> Iterator[Executor]:
    """A pool of `workers` processes, which are ended at once on an error.

    A process imports the script that began it. Where that script comes here again, because it
    starts work outside `if __name__ == "__main__"`, the process ends without a word, and the pool
    of the script breaks. Raises `DeadWorkerError` for that, and wherever else a process is gone.

    Matrix products of the processes have one thread each: results do not depend on how many CPU
    cores there are, and together the processes use as many cores as there are of them.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(1)
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = "1"
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_become_worker)
    try:
        yield pool
    except BaseException as error:
        _end(multiprocessing.active_children())
        if isinstance(error, BrokenProcessPool):
            raise DeadWorkerError from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        if before is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = before


@contextlib.contextmanager
def executor(workers: int) -> Iterator[Executor]:
    """Runs tasks here if there is one worker, else in that many `processes`."""
    if workers == 1:
        yield _Here()
        return
    with processes(workers) as pool:
        yield pool
