"""What a user sees while something takes long.

On a terminal it is a bar or a spinner; on a pipe or in a log, a line every ten seconds. `python -m
evolute.support.waiting WHAT COMMAND...` runs a command with such lines and exits with its code.
This needs no packages, so that it can also be used while packages are installed.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

EVERY_S = 10.0
"""Between two lines."""


@dataclass
class Work:
    """Work that takes long, and its progress: `done` of `total`, or unknown.

    A whole number as total is a count of things; the float 1.0 means all of the work.
    """

    what: str
    total: int | float | None = None
    done: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        if self.total is None:
            part = ""
        elif isinstance(self.total, float):
            part = f", {self.done:.0%}"
        else:
            part = f", {self.done:.0f} of {self.total:.0f}"
        return f"{self.what}{part}, {time.monotonic() - self.began:.0f} s so far"


@contextlib.contextmanager
def told(work: Work, every_s: float | None = None) -> Iterator[None]:
    """Print a line about `work` to stderr every `every_s` seconds, until the block ends."""
    ended, every_s = threading.Event(), EVERY_S if every_s is None else every_s

    def tell() -> None:
        while not ended.wait(every_s):
            with contextlib.suppress(OSError, ValueError):  # nobody reads stderr any more
                print(f"evolute: {work}", file=sys.stderr, flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


@contextlib.contextmanager
def shown(what: str, total: int | float | None = None) -> Iterator[Shown]:
    """Show that `what` is in progress. If there is a total, call the yielded object with the amount
    that is done.

    A total that is a whole number is shown as a count, the float 1.0 in percent, and no total as a
    spinner.
    """
    work = Work(what, total)
    if not sys.stderr.isatty():
        with told(work):
            yield Shown(work)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    indicator = SpinnerColumn() if total is None else BarColumn()
    part = TaskProgressColumn() if isinstance(total, float) else MofNCompleteColumn()
    amounts = [] if total is None else [part]
    columns = (TextColumn("{task.description}"), indicator, *amounts, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield Shown(work, lambda: bar.update(task, description=work.what, completed=work.done))


class Shown:
    """Receives the progress of work that is shown."""

    def __init__(self, work: Work, draw: Callable[[], None] = lambda: None):
        self._work, self._draw = work, draw

    def __call__(self, done: float, what: str | None = None) -> None:
        """Set how much is done, in units of the total; and the description of the work, if `what`
        is given."""
        self._work.done = done
        self._work.what = self._work.what if what is None else what
        self._draw()


def main(arguments: Sequence[str]) -> int:
    """Run the command after the first argument, which describes it. Returns its exit code."""
    what, *command = arguments
    with told(Work(what)):
        done = subprocess.run(command, check=False).returncode
    return done if done >= 0 else 128 - done


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
