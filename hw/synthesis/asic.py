"""Standard cells: Verilog mapped to a cell library, with its area, delay and memories."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolute.hw.synthesis import cache, libraries, netlist, sram, timing, yosys
from evolute.hw.synthesis.libraries import NANGATE45, CellLibrary
from evolute.hw.synthesis.netlist import Macro, Netlist
from evolute.hw.synthesis.tools import ToolError

_TIMEOUT_S = 1800.0

MACRO_BITS = 4096
"""Clocked memories with more bits than this are not built of standard cells: they are left out of
the area and listed."""


@dataclass(frozen=True)
class MacroMemory:
    """A memory that a chip would have as a macro. Its figures are those of `hw.synthesis.sram`, or
    None where that has none for the cell library, the size or the ports."""

    name: str
    words: int
    bits: int
    """Bits of a word."""
    read_ports: int
    write_ports: int
    area_um2: float | None = None
    access_ns: float | None = None
    read_fj: float | None = None
    """Energy of reading one word."""
    write_fj: float | None = None
    leakage_nw: float | None = None


@dataclass(frozen=True)
class AsicResult:
    """Area, delay and cells of a flattened netlist of standard cells."""

    target: str
    area_um2: float
    """Area of the logic and of small memories; `memories` are not included."""
    area_ge: float
    """Area in two-input NAND gates of the library."""
    total_area_um2: float | None
    """With `memories`; None where one of them has no area."""
    delay_ns: float
    """Longest path, setup included; `delay_is` says how far to trust it."""
    delay_is: str
    critical_path: tuple[PathStep, ...]
    """The longest path, cell by cell."""
    flops: int
    latches: int
    multipliers: int
    """Multiplications found in the Verilog before any optimization; no engine may have one."""
    memories: tuple[MacroMemory, ...]
    memory_bits: int
    """Sum of the bits of all `memories`."""
    cells: dict[str, int]
    library: str
    licence: str
    """Of the library's file."""
    tool: str


@dataclass(frozen=True)
class PathStep:
    """One cell of a longest path through standard cells, or the net that the path starts at."""

    at_ns: float
    """When the edge leaves the cell."""
    cell: str
    """The library's name of the cell; empty at the start."""
    net: str
    """The net that the cell drives, by the name that the Verilog gives it, if it does."""
    line: int | None
    """Line of the Verilog in which the net is declared."""
    source: str | None = None
    """Where that line comes from, as `file:line`."""


@dataclass(frozen=True)
class AreaPart:
    """One part of an `AreaSplit`."""

    area_um2: float
    area_ge: float
    register_um2: float
    """The part of `area_um2` that flip-flops take."""


@dataclass(frozen=True)
class AreaSplit:
    """Area by block, with every module mapped on its own.

    `area_um2` is the sum of the blocks. It is a little more than that of the flattened netlist,
    because nothing is optimized across blocks.
    """

    area_um2: float
    area_ge: float
    blocks: dict[str, AreaPart]
    """Blocks by name. A block with more than half of the area is split into its parts; the logic
    between its parts is listed under its own name."""


def mapped(
    verilog: str, top: str, library: CellLibrary = NANGATE45, *, by_block: bool = False
) -> Netlist:
    """The netlist that `map_asic` measures, or with `by_block` that of `split_asic`."""
    path = _netlist_path("split" if by_block else "asic", verilog, top, library)
    if not path.exists():
        (split_asic if by_block else map_asic)(verilog, top, library, anew=True)
    return netlist.of_kept(path, top)


def _netlist_path(kind: str, verilog: str, top: str, library: CellLibrary) -> Path:
    return cache.place(f"{kind}-netlist", (verilog, top), library).with_suffix(".json.gz")


def map_asic(
    verilog: str, top: str, library: CellLibrary = NANGATE45, *, anew: bool = False
) -> AsicResult:
    """Flatten the module `top` and map it to standard cells; large memories stay what they are.

    The netlist is kept beside the figures. `anew` maps even where figures are kept already.
    """

    def access_ns(macro: Macro) -> float:
        """From the clock to what a memory reads; 0 for a memory without figures."""
        ports = macro.read_ports, macro.write_ports
        model = sram.model_of(library, macro.words, macro.bits, *ports)
        return 0.0 if model is None else model.access_ns

    def measure() -> dict[str, Any]:
        memories = _memories(verilog, top)
        run = _run_asic(verilog, top, memories, library, flat=True)
        netlist.kept(_netlist_path("asic", verilog, top, library), run.files["netlist.json"])
        design = json.loads(run.files["mapped.json"])["design"]
        cells, area_um2 = design["num_cells_by_type"], _area(design)[0]
        if latches := _count(cells, _LATCH):
            raise ToolError(f"{top}: has {latches} latches, of which no timing is known here")
        flat = netlist.from_json(run.files["netlist.json"], top)
        known = libraries.cells_of(library, flat)
        timed = timing.analyze(flat, known, library, access_ns, sram.SETUP_NS)
        macros = [_with_model(memory.memory, library) for memory in memories if memory.is_macro]
        areas = [memory.area_um2 for memory in macros]
        return dataclasses.asdict(
            AsicResult(
                target="asic",
                area_um2=round(area_um2, 3),
                area_ge=round(area_um2 / _gate_um2(library), 1),
                total_area_um2=(
                    None if None in areas else round(area_um2 + sum(filter(None, areas)), 3)
                ),
                delay_ns=round(timed.delay_ns, 4),
                delay_is=(
                    "longest path by static timing with setup, gates sized for "
                    f"{library.sizing_target_ps / 1000:g} ns; before layout, no wires"
                    + _of_memories(macros)
                ),
                critical_path=tuple(_steps(flat, timed)),
                flops=sum(
                    len(kind.names)
                    for kind in flat.instances
                    if known.cells[kind.cell].flip_flop is not None
                ),
                latches=latches,
                multipliers=_count(yosys.cell_counts(run.files["proc.json"]), r"\$(mul|macc\w*)"),
                memories=tuple(macros),
                memory_bits=sum(memory.words * memory.bits for memory in macros),
                cells=dict(sorted(cells.items())),
                library=library.name,
                licence=library.licence,
                tool=yosys.version(),
            )
        )

    measured = cache.remembered("asic", (verilog, top), measure, library, anew=anew)
    memories = tuple(MacroMemory(**memory) for memory in measured["memories"])
    path = tuple(PathStep(**step) for step in measured["critical_path"])
    return AsicResult(**{**measured, "memories": memories, "critical_path": path})


def _with_model(memory: MacroMemory, library: CellLibrary) -> MacroMemory:
    """The memory with its figures, if there are any."""
    ports = memory.read_ports, memory.write_ports
    model = sram.model_of(library, memory.words, memory.bits, *ports)
    if model is None:
        return memory
    return dataclasses.replace(
        memory,
        area_um2=round(model.area_um2, 3),
        access_ns=round(model.access_ns, 4),
        read_fj=round(model.read_fj, 3),
        write_fj=round(model.write_fj, 3),
        leakage_nw=round(model.leakage_nw, 3),
    )


def _of_memories(macros: Sequence[MacroMemory]) -> str:
    """What is to be said of memories beside a delay."""
    if not macros:
        return ""
    if any(memory.access_ns is None for memory in macros):
        return ", memories without access time"
    return f", memories as of {sram.SOURCE}"


def _steps(flat: Netlist, timed: timing.Timing) -> Iterator[PathStep]:
    """The longest path, from the net that it starts at."""

    def step(at_ns: float, cell: str, net: int) -> PathStep:
        return PathStep(round(at_ns, 4), cell, flat.net_name(net), flat.net_lines.get(net))

    if not timed.path:
        return
    yield step(timed.start_ns, "", timed.start)
    for cell in timed.path:
        yield step(cell.at_ns, cell.cell, cell.net)
    if timed.end_register is not None:
        # The flip-flop that takes the edge is named by what it gives.
        yield step(timed.delay_ns, timed.end_cell, timed.end_register)


def _gate_um2(library: CellLibrary) -> float:
    """The area of one gate equivalent."""
    return libraries.reader_of(library).area_um2(library.gate)


def split_asic(
    verilog: str, top: str, library: CellLibrary = NANGATE45, *, anew: bool = False
) -> AreaSplit:
    """Map every module below `top` to standard cells on its own, and sum by block.

    The netlist is kept, and `anew` counts, as for `map_asic`.
    """

    def measure() -> dict[str, Any]:
        run = _run_asic(verilog, top, _memories(verilog, top), library, flat=False)
        netlist.kept(_netlist_path("split", verilog, top, library), run.files["netlist.json"])
        # A module's area includes that of the modules in it.
        modules = {
            name.removeprefix("\\"): module
            for name, module in json.loads(run.files["mapped.json"])["modules"].items()
        }
        gate_um2 = _gate_um2(library)
        blocks = {
            name: AreaPart(
                round(area_um2, 3), round(area_um2 / gate_um2, 1), round(register_um2, 3)
            )
            for name, (area_um2, register_um2) in _parts(modules, top, modules[top]["area"] / 2)
            if round(area_um2, 3) > 0  # a memory, or mere wires
        }
        return {
            "area_um2": round(modules[top]["area"], 3),
            "area_ge": round(modules[top]["area"] / gate_um2, 1),
            "blocks": {
                name.removeprefix(f"{top}_").removeprefix("evolute_"): dataclasses.asdict(block)
                for name, block in sorted(blocks.items(), key=lambda item: -item[1].area_um2)
            },
        }

    measured = cache.remembered("split", (verilog, top), measure, library, anew=anew)
    blocks = {name: AreaPart(**block) for name, block in measured["blocks"].items()}
    return AreaSplit(measured["area_um2"], measured["area_ge"], blocks)


def _parts(
    modules: Mapping[str, Any], name: str, most_um2: float, count: int = 1
) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yields, for each part of a module, its name, its area and the area of its registers. Parts
    larger than `most_um2` are split in turn."""
    rest_um2, rest_register_um2 = _area(modules[name])
    for inner, inner_count in modules[name]["num_cells_by_type"].items():
        if inner not in modules:
            continue
        area_um2, register_um2 = (inner_count * size for size in _area(modules[inner]))
        rest_um2 -= area_um2
        rest_register_um2 -= register_um2
        if count * area_um2 > most_um2:
            yield from _parts(modules, inner, most_um2, count * inner_count)
        else:
            yield inner, (count * area_um2, count * register_um2)
    yield name, (count * rest_um2, count * rest_register_um2)


def _area(module: Mapping[str, Any]) -> tuple[float, float]:
    """Area of a module and of its registers; Yosys states none for one without standard cells."""
    return module.get("area", 0.0), module.get("sequential_area", 0.0)


# Area mapping over structural choices: of the mappers tried on these engines the one with the least
# combinational area, 15 % below the delay-oriented `&nf` sized to the same delay.
_ABC = """\
strash
&get -n
&dch -f
&put
amap
topo
buffer -N 24
upsize -D {sizing_target_ps}
dnsize -D {sizing_target_ps}
"""

_LATCH = r"\$_?D?LATCH\w*|\$(adlatch|dlatch|dlatchsr|sr)|\$_SR_\w*|(DLH|DLL|TLAT)_\w*"


@dataclass(frozen=True)
class _FoundMemory:
    """A memory of one module of the netlist."""

    module: str
    cell: str
    memory: MacroMemory
    clocked: bool

    @property
    def is_macro(self) -> bool:
        """Whether the memory is too large for standard cells."""
        return self.clocked and self.memory.words * self.memory.bits > MACRO_BITS


_MEMORIES = ("opt_expr", "opt_dff -nosdff", "opt_clean", "memory -nomap", "opt_clean")
"""Joins every memory and its ports to one cell, read registers with their enables included."""


def _read(top: str) -> tuple[str, ...]:
    return "read_verilog top.v", f"hierarchy -check -top {top}", "proc"


def _memories(verilog: str, top: str) -> list[_FoundMemory]:
    """Every memory of the design, by module and cell."""
    if not re.search(r"^ *reg (\[\d+:\d+\] )?\S+ \[", verilog, re.MULTILINE):
        return []
    script = [*_read(top), *_MEMORIES, "write_json modules.json"]
    run = yosys.run(script, {"top.v": verilog}, ("modules.json",), _TIMEOUT_S)
    memories = []
    for module, parts in json.loads(run.files["modules.json"])["modules"].items():
        for cell, description in parts["cells"].items():
            if description["type"] != "$mem_v2":
                continue
            names = ("SIZE", "WIDTH", "RD_PORTS", "WR_PORTS", "RD_CLK_ENABLE")
            number = {name: int(description["parameters"][name], 2) for name in names}
            path = [module.removeprefix(f"{top}_").removeprefix(top), cell]
            memory = MacroMemory(
                name="_".join(filter(None, path)),
                words=number["SIZE"],
                bits=number["WIDTH"],
                read_ports=number["RD_PORTS"],
                write_ports=number["WR_PORTS"],
            )
            clocked = number["RD_CLK_ENABLE"] == (1 << memory.read_ports) - 1
            memories.append(_FoundMemory(module, cell, memory, clocked))
    return sorted(memories, key=lambda memory: memory.memory.name)


def _asic_script(top: str, memories: Sequence[_FoundMemory], flat: bool) -> list[str]:
    """The passes of Yosys' `synth` that matter for logic without state machines."""
    small = [memory for memory in memories if not memory.is_macro]
    # Words that a memory's address could name and that are not there leave wires without a driver.
    into_logic = [
        "check -assert",
        *(f"memory_map {memory.module}/{memory.cell}" for memory in small),
        *(f"setundef -undriven -zero {memory.module}" for memory in small),
    ]
    return [
        *_read(top),
        "tee -q -o proc.json stat -json",
        *((*_MEMORIES, *into_logic) if memories else ()),
        *(["flatten"] if flat else []),
        "opt_expr",
        "opt_clean",
        "check -assert",
        "opt -nodffe -nosdff",
        "wreduce",
        "peepopt",
        "opt_clean",
        "alumacc",
        "opt",
        "opt -fast -full",
        "techmap",
        "opt_expr",
        "opt_clean",
        "dfflibmap -liberty cells.lib",
        "abc -liberty cells.lib -constr top.constr -script map.abc",
        "opt_clean -purge",
        "tee -q -o mapped.json stat -json -liberty cells.lib",
        "flatten",
        "write_json netlist.json",
    ]


def _run_asic(
    verilog: str, top: str, memories: Sequence[_FoundMemory], library: CellLibrary, flat: bool
) -> yosys.ScriptResult:
    inputs = {
        "top.v": verilog,
        "cells.lib": libraries.text_of(library),
        "map.abc": _ABC.format(sizing_target_ps=library.sizing_target_ps),
        "top.constr": (
            f"set_driving_cell {library.driving_cell}\n"
            f"set_load {library.output_load_ff} [all_outputs]\n"
        ),
    }
    script = _asic_script(top, memories, flat)
    run = yosys.run(script, inputs, ("proc.json", "mapped.json", "netlist.json"), _TIMEOUT_S)
    cells = yosys.cell_counts(run.files["mapped.json"])
    allowed = rf"\$mem_v2|{_LATCH}"
    unmapped = [cell for cell in cells if cell.startswith("$") and not re.fullmatch(allowed, cell)]
    if unmapped:
        raise ToolError(f"yosys: no standard cell for {', '.join(unmapped)}")
    return run


def _count(cells: Mapping[str, int], pattern: str) -> int:
    return sum(count for cell, count in cells.items() if re.fullmatch(pattern, cell))
