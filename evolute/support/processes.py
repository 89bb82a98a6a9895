"""Runs work in other processes, which end together with the process that started them."""

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
    """An executor that runs each task at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _become_worker() -> None:
    """Leave interrupts to the parent, and exit through every `finally` when the parent says so or
    is gone."""
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
    """Tell workers to end until all have ended. Telling them once is not enough: a worker that is
    told while it holds the lock of the results would never release it, so that it and the others
    would wait for ever."""
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

    Each process computes matrix products with one thread. So results do not depend on the number of
    CPU cores, and together the processes use as many cores as there are processes.
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
    """Runs tasks in this process if there is one worker, else in that many `processes`."""
    if workers == 1:
        yield _Here()
        return
    with processes(workers) as pool:
        yield pool
