"""Area and speed of a spec after synthesis of its exported Verilog, in standard cells or on an
FPGA. Results are kept on disk (`hw.synthesis.cache`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

from evolute.hw.emit.export import module_name, source_lines, to_verilog
from evolute.hw.emit.yosys_script import fpga_passes
from evolute.hw.spec import Spec
from evolute.hw.synthesis import asic, cache, nextpnr, yosys
from evolute.hw.synthesis.asic import AreaSplit, AsicResult, PathStep
from evolute.hw.synthesis.fpga import FAMILIES, Family, Part
from evolute.hw.synthesis.libraries import NANGATE45, CellLibrary
from evolute.hw.synthesis.netlist import Netlist
from evolute.hw.synthesis.nextpnr import Hop
from evolute.support.errors import RefusedError, UnknownNameError

TARGETS = ("asic", *FAMILIES)

_TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class FpgaResult:
    """Resources, clock frequency and cells of a netlist that is mapped to an FPGA family."""

    target: str
    device: str | None
    """The requested part, or the smallest known one that the design fits into; None if there is
    none."""
    lut: int
    """Lookup tables after mapping, including those whose place carry cells and memories take."""
    ff: int
    bram: int
    dsp: int
    fmax_mhz: float | None
    fmax_is: str
    """What `fmax_mhz` is, or why there is none."""
    utilization: dict[str, float]
    """Share of the device in use, by kind of cell; after placement where there was one."""
    critical_path: tuple[Hop, ...]
    """The path that limits `fmax_mhz`, net by net; empty where no path is known."""
    cells: dict[str, int]
    tool: str


@overload
def synthesize(
    spec: Spec, target: Literal["asic"], *, library: CellLibrary = NANGATE45
) -> AsicResult: ...
@overload
def synthesize(
    spec: Spec,
    target: str,
    seed: int = 1,
    device: str | None = None,
    *,
    library: CellLibrary = NANGATE45,
) -> AsicResult | FpgaResult: ...


def synthesize(
    spec: Spec,
    target: str,
    seed: int = 1,
    device: str | None = None,
    *,
    library: CellLibrary = NANGATE45,
) -> AsicResult | FpgaResult:
    """Synthesize the engine or core of a spec for `asic` or for an FPGA family.

    `library` is that of the standard cells; `seed` is the placer's, `device` the FPGA's part, else
    the smallest one that holds it. Raises `UnknownNameError` for another target or part,
    `ToolError` or `FileError` if a tool fails or the cell library cannot be fetched.
    """
    if target not in TARGETS:
        raise UnknownNameError("target", target, list(TARGETS))
    if target == "asic":
        if device is not None:
            raise RefusedError(f"asic: has no parts to choose from, got {device}")
        result = asic.map_asic(to_verilog(spec), module_name(spec), library)
        return dataclasses.replace(
            result, critical_path=_with_sources(result.critical_path, source_lines(spec))
        )
    family = FAMILIES[target]
    part = None if device is None else family.part(device)
    result = map_fpga(to_verilog(spec), module_name(spec), family, seed, part)
    if not result.critical_path:
        return result
    path = _with_sources(result.critical_path, source_lines(spec))
    return dataclasses.replace(result, critical_path=path)


_Step = TypeVar("_Step", Hop, PathStep)


def _with_sources(path: tuple[_Step, ...], lines: Mapping[int, str]) -> tuple[_Step, ...]:
    """The path with the source of every line that has one."""
    return tuple(
        dataclasses.replace(step, source=lines.get(step.line) if step.line else None)
        for step in path
    )


def split_area(spec: Spec, library: CellLibrary = NANGATE45) -> AreaSplit:
    """Area of the spec's engine or core by block, in standard cells. Raises as `synthesize`."""
    return asic.split_asic(to_verilog(spec), module_name(spec), library)


def mapped(spec: Spec, library: CellLibrary = NANGATE45, *, by_block: bool = False) -> Netlist:
    """The netlist that `synthesize(spec, "asic")` measures, or with `by_block` the one of modules
    mapped one by one, as `split_area` does. Raises as they do."""
    return asic.mapped(to_verilog(spec), module_name(spec), library, by_block=by_block)


def map_fpga(
    verilog: str, top: str, family: Family, seed: int, part: Part | None = None
) -> FpgaResult:
    """Map the module `top` to a family's cells; for ECP5, also place and route it."""

    def map_cells() -> dict[str, Any]:
        script = [
            *fpga_passes(family.name, nextpnr.SOURCE, top),
            "tee -q -o mapped.json stat -json",
            "write_json netlist.json",
        ]
        outputs = ("mapped.json", "netlist.json")
        run = yosys.run(script, {nextpnr.SOURCE: verilog}, outputs, _TIMEOUT_S)
        cells = yosys.cell_counts(run.files["mapped.json"])
        netlist = run.files["netlist.json"] if family.name == nextpnr.FAMILY else None
        return {"cells": cells, "netlist": netlist}

    # What cells there are depends neither on the part nor on the placer's seed.
    kept = cache.remembered(f"{family.name}-mapped", (verilog, top), map_cells)
    cells = kept["cells"]
    used = family.usage(cells)
    chosen = part or family.smallest_part(used)

    def place() -> dict[str, Any]:
        assert chosen is not None
        return dataclasses.asdict(nextpnr.place(kept["netlist"], chosen, seed, _TIMEOUT_S))

    fmax_mhz, tool = None, yosys.version()
    utilization: dict[str, float] = {}
    path: tuple[Hop, ...] = ()
    if chosen is None:
        fmax_is = f"none: larger than the {family.parts[-1].name}, the largest part known here"
    elif family.name != nextpnr.FAMILY:
        fmax_is = "none: no place and route for this family, and mapping alone has no delays"
        utilization = chosen.shares(used)
    else:
        key = (verilog, top, str(seed), chosen.name)
        placed = cache.remembered(f"{family.name}-placed", key, place)
        fmax_mhz, utilization = placed["fmax_mhz"], placed["utilization"]
        path = tuple(Hop(**hop) for hop in placed["critical_path"])
        fmax_is = f"routed alone, without pins; speed grade {nextpnr.SPEED_GRADE}, seed {seed}"
        tool = f"{tool}, {nextpnr.version()}"
    return FpgaResult(
        target=family.name,
        device=chosen.name if chosen else None,
        **used,
        fmax_mhz=fmax_mhz,
        fmax_is=fmax_is,
        utilization=utilization,
        critical_path=path,
        cells=cells,
        tool=tool,
    )
