"""Options of `evolute sim` that help to interpret a result: what would make it faster, and a
timeline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from evolute.hw.spec import CoreSpec
from evolute.sim.cost.trace import chrome_trace, token_trace
from evolute.support.files import write_text
from evolute.support.waiting import shown
from evolute.sw.deploy.assignment import Accelerator
from evolute.sw.deploy.simulate import Request, Simulation
from evolute.sw.deploy.what_helps import CHANGES, Gain, what_helps


def gains(
    spec: Accelerator,
    request: Request,
    result: Simulation,
    price: Callable[[Accelerator, Request], Simulation],
) -> list[Gain]:
    """The result of `what_helps`; shows its progress."""
    done = 0
    with shown("pricing what would help", len(CHANGES)) as tell:

        def decode(changed: Accelerator, request: Request) -> Any:
            nonlocal done
            decode = price(changed, request).metrics.decode
            done += 1
            tell(done)
            return decode

        return what_helps(spec, request, result.metrics.decode, decode)


def gains_table(record: dict[str, Any]) -> Table:
    """The gains as a table, the largest first."""
    table = Table(box=None, pad_edge=False)
    for title, right in (
        ("what would help decoding", False),
        ("times", True),
        ("tokens/s", True),
        ("gain", True),
        ("", False),
    ):
        table.add_column(title, justify="right" if right else "left")
    for gain in sorted(
        record["what_would_help"], key=lambda gain_record: -(gain_record["gain"] or 0)
    ):
        factor, name = f"{gain['factor']:g}", gain["resource"].replace("_", " ")
        if gain["gain"] is None:
            table.add_row(name, factor, "-", "-", gain["why_not"])
        else:
            speed = f"{gain['tokens_per_s']:.4g}"
            table.add_row(name, factor, speed, f"{gain['gain']:+.1%}", "")
    return table


def write_trace(path: Path, core: CoreSpec, request: Request, result: Simulation) -> None:
    """Write a timeline of the first decoded token. Raises `SpecError` if there is none for this
    accelerator."""
    serving = request.serving
    work = serving.decode[0]
    with shown("tracing a token"):
        spans = token_trace(
            core, result.shape, result.workload, request.platform, work, serving.cache
        )
    title = f"{result.workload.model}: a token with {work.cached:,} in the cache"
    document = chrome_trace(title, spans, request.platform.frequency_hz)
    write_text(path, json.dumps(document, allow_nan=False))
