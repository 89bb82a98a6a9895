"""How every benchmark measures and prints."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable


def median_seconds(work: Callable[[], object], repeats: int = 7) -> float:
    """Median time of `work` after one run that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def report(figures: dict[str, float], notes: dict[str, str]) -> None:
    """Print figures as JSON with `--json`, else one a line with what it means."""
    if "--json" in sys.argv[1:]:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:28} {value:14.6g}  {notes[name]}")
