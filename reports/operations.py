"""The operations that a token needs beside its linear layers, from `sim` records: in tables, and in
groups for bars of time."""

from __future__ import annotations

from dataclasses import dataclass

from evolute.reports import frames
from evolute.reports.records import Record
from evolute.reports.tables import PageColumn, PageTable, page_table, quantity, size, texts

GROUPS = ("linear layers", "attention", "vector", "host")
"""Where a token's time goes, in the order that a bar shows."""


@dataclass(frozen=True)
class Share:
    """The seconds that a group takes in a phase; None if one of its operations has no time."""

    group: str
    seconds: float | None


def has_operations(run: Record) -> bool:
    """Whether a `sim` record has operations; those of earlier versions have none."""
    return bool(run.optional("decode.operations"))


def group(operation: Record) -> str:
    """The member of `GROUPS` to which an operation belongs."""
    if operation.text("label") == "host":
        return "host"
    kinds = {"matmul": "linear layers", "attention": "attention"}
    return kinds.get(operation.text("kind"), "vector")


def shares(run: Record, phase: str) -> tuple[Share, ...]:
    """The time of each group that has operations in a phase."""
    seconds: dict[str, list[float | None]] = {}
    for operation in run.parts(f"{phase}.operations"):
        seconds.setdefault(group(operation), []).append(operation.optional("seconds"))
    return tuple(
        Share(name, None if None in seconds[name] else sum(one or 0 for one in seconds[name]))
        for name in GROUPS
        if name in seconds
    )


def passes(run: Record, phase: str) -> float:
    """The number of passes through the model in a phase: one for a prompt, and one for each decoded
    token of all sequences together."""
    if phase == "prefill":
        return 1
    return run.number("decode.tokens") / (run.optional("serving.batch") or 1)


def table(run: Record, phase: str) -> PageTable:
    """A table with one row per kind of operation; figures are sums over a pass."""
    count = passes(run, phase)
    frame = frames.table(run[f"{phase}.operations"])
    amounts = ["macs", "bytes", "cycles", "seconds"]
    frame[amounts] = frame.reindex(columns=amounts).astype(float) / count
    frame[["macs", "cycles"]] = frame[["macs", "cycles"]].round()
    return page_table(
        (PageColumn("operation"), frame["name"]),
        (PageColumn("kind"), frame["kind"]),
        (PageColumn("count", "a pass"), texts(frame, "count", quantity)),
        (PageColumn("MACs", "a pass"), texts(frame, "macs", quantity)),
        (PageColumn("moved", "a pass"), texts(frame, "bytes", size)),
        (PageColumn("cycles", "a pass"), texts(frame, "cycles", quantity)),
        (
            PageColumn("took", "ms a pass"),
            texts(frame, "seconds", lambda seconds: quantity(1e3 * seconds, 3), "not known"),
        ),
        (PageColumn("number is"), frame["label"]),
        (PageColumn("bound by"), frame["limited_by"]),
    )
