"""Area and speed of a spec's netlist: standard cells or FPGA, from the Verilog that is exported.

Results are kept on disk under all they depend on: the Verilog, this code and the tools' versions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from hw import files, liberty, nextpnr, yosys
from hw.export import module_name, to_verilog
from hw.fpga import FAMILIES, Family
from hw.liberty import NANGATE45
from hw.spec import Spec
from hw.spec.presets import UnknownNameError
from hw.tools import ToolError

TARGETS = ("asic", *FAMILIES)

_TIMEOUT_S = 1800.0
_SIZING_TARGET_PS = 1000
"""Gates are sized up until the paths between registers meet this, and down where they can be."""


@dataclass(frozen=True)
class AsicResult:
    """A flattened netlist of standard cells."""

    target: str
    area_um2: float
    area_ge: float
    """Area in two-input NAND gates of the library."""
    delay_ns: float
    """Longest path between registers; `delay_is` says how far to trust it."""
    delay_is: str
    flops: int
    latches: int
    multipliers: int
    """Multiplications found in the Verilog before any optimization; no engine may have one."""
    cells: dict[str, int]
    library: str
    tool: str


@dataclass(frozen=True)
class Block:
    """One part of an `AreaSplit`."""

    area_um2: float
    area_ge: float
    register_um2: float
    """The flip-flops' share of `area_um2`."""


@dataclass(frozen=True)
class AreaSplit:
    """Area by block, with every module mapped on its own.

    The blocks sum to `area_um2` here, which exceeds that of the flattened netlist a little, since
    nothing is optimized across blocks.
    """

    area_um2: float
    area_ge: float
    blocks: dict[str, Block]
    """By the names of the engine's parts; what lies between them is under the engine's name."""


@dataclass(frozen=True)
class FpgaResult:
    """A netlist of one FPGA family's cells."""

    target: str
    device: str | None
    """The smallest part known here that holds it; None if none does."""
    lut: int
    """Lookup tables, including those whose place carry cells take; as mapped."""
    ff: int
    bram: int
    dsp: int
    fmax_mhz: float | None
    fmax_is: str
    """What `fmax_mhz` is, or why there is none."""
    utilization: dict[str, float]
    """Share of the device in use, by kind of cell; as placed where it was placed."""
    cells: dict[str, int]
    tool: str


@overload
def synthesize(spec: Spec, target: Literal["asic"]) -> AsicResult: ...
@overload
def synthesize(spec: Spec, target: str, seed: int = 1) -> AsicResult | FpgaResult: ...


def synthesize(spec: Spec, target: str, seed: int = 1) -> AsicResult | FpgaResult:
    """Synthesize the spec's engine for `asic` or an FPGA family; `seed` is the placer's.

    Raises `UnknownNameError` for another target, `ToolError` or `FileError` if a tool fails or the
    cell library cannot be fetched.
    """
    if target not in TARGETS:
        raise UnknownNameError("target", target, list(TARGETS))
    text, top = to_verilog(spec), module_name(spec)
    return map_asic(text, top) if target == "asic" else map_fpga(text, top, FAMILIES[target], seed)


def split_area(spec: Spec) -> AreaSplit:
    """Area of the spec's engine by block, in standard cells. Raises as `synthesize` does."""
    return split_asic(to_verilog(spec), module_name(spec))


def map_asic(verilog: str, top: str) -> AsicResult:
    """Flatten the module `top` and map it to standard cells."""

    def measure() -> dict[str, Any]:
        run = _run_asic(verilog, top, flat=True)
        design = json.loads(run.files["mapped.json"])["design"]
        cells = design["num_cells_by_type"]
        library = liberty.read(NANGATE45)
        delays = re.findall(r"Delay = *([0-9.]+) ps", run.log)
        if not delays:
            raise ToolError("yosys: ABC reported no delay")
        register_ns = liberty.register_delay_ns(library, NANGATE45.register)
        return dataclasses.asdict(
            AsicResult(
                target="asic",
                area_um2=round(design["area"], 3),
                area_ge=round(design["area"] / liberty.area_um2(library, NANGATE45.gate), 1),
                delay_ns=round(float(delays[-1]) / 1000 + register_ns, 4),
                delay_is=(
                    "ABC's estimate of the longest path, gates sized for "
                    f"{_SIZING_TARGET_PS / 1000:g} ns, plus clock-to-output and setup of "
                    f"{NANGATE45.register}; before layout, no wires"
                ),
                flops=_count(cells, r"S?DFF\w*"),
                latches=_count(cells, _LATCH),
                multipliers=_count(yosys.cell_counts(run.files["proc.json"]), r"\$(mul|macc\w*)"),
                cells=dict(sorted(cells.items())),
                library=NANGATE45.name,
                tool=yosys.version(),
            )
        )

    return AsicResult(**_remembered("asic", (verilog, top), measure))


def split_asic(verilog: str, top: str) -> AreaSplit:
    """Map every module below `top` to standard cells on its own, and sum by block."""

    def measure() -> dict[str, Any]:
        run = _run_asic(verilog, top, flat=False)
        # A module's area includes that of the modules in it.
        modules = {
            name.removeprefix("\\"): module
            for name, module in json.loads(run.files["mapped.json"])["modules"].items()
        }
        gate_um2 = liberty.area_um2(liberty.read(NANGATE45), NANGATE45.gate)

        def block(area_um2: float, register_um2: float) -> Block:
            return Block(round(area_um2, 3), round(area_um2 / gate_um2, 1), round(register_um2, 3))

        whole = modules[top]
        blocks, rest_um2, rest_register_um2 = {}, whole["area"], whole["sequential_area"]
        for name, count in whole["num_cells_by_type"].items():
            if name in modules:
                area_um2 = count * modules[name]["area"]
                register_um2 = count * modules[name]["sequential_area"]
                blocks[name.removeprefix(f"{top}_")] = block(area_um2, register_um2)
                rest_um2 -= area_um2
                rest_register_um2 -= register_um2
        blocks[top.removeprefix("evolute_")] = block(rest_um2, rest_register_um2)
        return {
            "area_um2": round(whole["area"], 3),
            "area_ge": round(whole["area"] / gate_um2, 1),
            "blocks": {
                name: dataclasses.asdict(each)
                for name, each in sorted(blocks.items(), key=lambda item: -item[1].area_um2)
            },
        }

    found = _remembered("split", (verilog, top), measure)
    blocks = {name: Block(**each) for name, each in found["blocks"].items()}
    return AreaSplit(found["area_um2"], found["area_ge"], blocks)


def map_fpga(verilog: str, top: str, family: Family, seed: int) -> FpgaResult:
    """Map the module `top` to a family's cells; for ECP5, also place and route it."""

    def measure() -> dict[str, Any]:
        script = [
            *yosys.fpga_passes(family, "top.v", top),
            "tee -q -o mapped.json stat -json",
            "write_json netlist.json",
        ]
        run = yosys.run(script, {"top.v": verilog}, ("mapped.json", "netlist.json"), _TIMEOUT_S)
        cells = yosys.cell_counts(run.files["mapped.json"])
        used = family.usage(cells)
        part = family.smallest_part(used["lut"], used["ff"])
        fmax_mhz, tool = None, yosys.version()
        utilization = {}
        if part is None:
            fmax_is = f"none: larger than the {family.parts[-1].name}, the largest part known here"
        elif family.name != nextpnr.FAMILY:
            fmax_is = "none: no place and route for this family, and mapping alone has no delays"
            utilization = {
                "lut": round(used["lut"] / part.lut, 4),
                "ff": round(used["ff"] / part.ff, 4),
            }
        else:
            placed = nextpnr.place(run.files["netlist.json"], part, seed, _TIMEOUT_S)
            fmax_mhz, utilization = placed.fmax_mhz, placed.utilization
            fmax_is = f"routed alone, without pins; speed grade {nextpnr.SPEED_GRADE}, seed {seed}"
            tool = f"{tool}, {nextpnr.version()}"
        return dataclasses.asdict(
            FpgaResult(
                target=family.name,
                device=part.name if part else None,
                **used,
                fmax_mhz=fmax_mhz,
                fmax_is=fmax_is,
                utilization=utilization,
                cells=cells,
                tool=tool,
            )
        )

    return FpgaResult(**_remembered(family.name, (verilog, top, str(seed)), measure))


# Area mapping over structural choices: of the mappers tried on these engines the one with the least
# combinational area, 15 % below the delay-oriented `&nf` sized to the same delay.
_ABC = f"""\
strash
&get -n
&dch -f
&put
amap
topo
buffer -N 24
upsize -D {_SIZING_TARGET_PS}
dnsize -D {_SIZING_TARGET_PS}
stime -p
"""

_LATCH = r"\$_?D?LATCH\w*|\$(adlatch|dlatch|dlatchsr|sr)|\$_SR_\w*|(DLH|DLL|TLAT)_\w*"


def _asic_script(top: str, flat: bool) -> list[str]:
    """The passes of Yosys' `synth` that matter for logic without memories and state machines."""
    return [
        "read_verilog top.v",
        f"hierarchy -check -top {top}",
        "proc",
        "tee -q -o proc.json stat -json",
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
    ]


def _run_asic(verilog: str, top: str, flat: bool) -> yosys.Run:
    inputs = {
        "top.v": verilog,
        "cells.lib": liberty.read(NANGATE45),
        "map.abc": _ABC,
        "top.constr": (
            f"set_driving_cell {NANGATE45.driving_cell}\n"
            f"set_load {NANGATE45.output_load_ff} [all_outputs]\n"
        ),
    }
    run = yosys.run(_asic_script(top, flat), inputs, ("proc.json", "mapped.json"), _TIMEOUT_S)
    cells = yosys.cell_counts(run.files["mapped.json"])
    unmapped = [cell for cell in cells if cell.startswith("$") and not re.fullmatch(_LATCH, cell)]
    if unmapped:
        raise ToolError(f"yosys: no standard cell for {', '.join(unmapped)}")
    return run


def _count(cells: Mapping[str, int], pattern: str) -> int:
    return sum(count for cell, count in cells.items() if re.fullmatch(pattern, cell))


def _remembered(
    kind: str, inputs: tuple[str, ...], measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """`measure()`, or what it gave before for the same inputs, code and tools."""
    modules = ("synth", "fpga", "liberty", "nextpnr", "yosys")
    code = [Path(__file__).with_name(f"{name}.py").read_text("utf-8") for name in modules]
    facts = (*inputs, *code, yosys.version(), nextpnr.version())
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    path = files.cache_directory() / "synth" / f"{kind}-{key}.json"
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return json.loads(path.read_text(encoding="utf-8"))
    found = measure()
    files.write_text(path, json.dumps(found, indent=2) + "\n")
    return found
