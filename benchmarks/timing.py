"""How every benchmark measures and prints."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable


def median_seconds(
    work: Callable[[], object], repeats: int = 7, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median time of `work` by a clock after one run that is not counted.

    With `time.process_time` it is CPU time, which neighbours on the machine prolong less.
    """
    work()
    times = []
    for _ in range(repeats):
        start = clock()
        work()
        times.append(clock() - start)
    return statistics.median(times)


def report(figures: dict[str, float], notes: dict[str, str]) -> None:
    """Print figures as JSON with `--json`, else one a line with what it means."""
    if "--json" in sys.argv[1:]:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:28} {value:14.6g}  {notes[name]}")
