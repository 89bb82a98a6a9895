"""No output of an AXI port follows an input within a cycle, traced through each core's netlist."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from evolute.hw.emit.export import module_name, to_verilog
from evolute.hw.rtl.core import control
from evolute.hw.spec import CoreSpec
from evolute.hw.spec.presets import CORES
from evolute.hw.synthesis import yosys
from evolute.verif.core.programs import random_core
from evolute.verif.mutation import planted as mutants
from tests.verif.core.test_core import MODULES, SMALL

_INPUTS = ("aresetn", "m_axi_", "s_axi_")


def netlist(core: CoreSpec) -> dict[str, Any]:
    """The flattened core as Yosys writes it in JSON, registers and memories as cells."""
    top = module_name(core)
    script = [f"read_verilog {top}.v", f"hierarchy -top {top}", "proc", "flatten", "opt_clean"]
    script += ["memory_collect", "opt_clean", "write_json net.json"]
    done = yosys.run(script, {f"{top}.v": to_verilog(core)}, ["net.json"], 600)
    return json.loads(done.files["net.json"])["modules"][top]


def _edges(cell: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Bits that a cell reads and those that follow them within a cycle."""
    kind, connections = cell["type"], cell["connections"]
    bits: dict[str, list[int]] = {"input": [], "output": []}
    for port, direction in cell["port_directions"].items():
        bits[direction] += [bit for bit in connections[port] if isinstance(bit, int)]
    if kind in ("$dff", "$dffe", "$sdff", "$sdffe", "$sdffce"):
        return [], []
    if kind == "$mem_v2":
        # Ports with a clock are registers; others give a word of the address.
        parameters = cell["parameters"]
        clocked = [each == "1" for each in reversed(parameters["RD_CLK_ENABLE"])]
        address_bits, width = (int(parameters[name], 2) for name in ("ABITS", "WIDTH"))
        address, data = connections["RD_ADDR"], connections["RD_DATA"]
        read: tuple[list[int], list[int]] = [], []
        for i, registered in enumerate(clocked):
            if not registered:
                read[0].extend(address[i * address_bits :][:address_bits])
                read[1].extend(data[i * width :][:width])
        return tuple([bit for bit in part if isinstance(bit, int)] for part in read)
    assert kind.startswith("$") and "latch" not in kind and "ff" not in kind, kind
    return bits["input"], bits["output"]


def paths(module: dict[str, Any]) -> set[tuple[str, str]]:
    """Pairs of a port's input and an output that follows it within a cycle."""
    follows: dict[int, list[int]] = defaultdict(list)
    for cell in module["cells"].values():
        read, driven = _edges(cell)
        for bit in read:
            follows[bit] += driven
    reached: dict[int, set[str]] = defaultdict(set)
    for name, port in module["ports"].items():
        if port["direction"] == "output":
            for bit in port["bits"]:
                reached[bit].add(name)
    found = set()
    for name, port in module["ports"].items():
        if port["direction"] == "input" and name.startswith(_INPUTS):
            seen, todo = set(port["bits"]), list(port["bits"])
            while todo:
                bit = todo.pop()
                found |= {(name, output) for output in reached.get(bit, ())}
                fresh = set(follows.get(bit, ())) - seen
                seen |= fresh
                todo += fresh
    return found


RANDOM = random_core(np.random.default_rng(0))
OTHERS = {f"random {seed}": random_core(np.random.default_rng(seed)) for seed in (1, 2)} | CORES


@pytest.mark.parametrize(
    "core",
    [
        pytest.param(core, id=name, marks=[pytest.mark.slow] * (name in OTHERS))
        for name, core in {"small": SMALL, "random": RANDOM, **OTHERS}.items()
    ],
)
def test_no_output_follows_an_input(core: CoreSpec) -> None:
    module = netlist(core)
    assert {"s_axi_awvalid", "m_axi_rvalid", "s_axi_awready", "interrupt"} <= set(module["ports"])
    assert not paths(module)


OLD_WRITES = mutants.PlantedFault(
    "registers: a write is taken when address and data are both valid",
    control,
    "self.axi.awready.eq(~address_held)",
    "self.axi.awready.eq(~address_held & self.axi.wvalid)",
    "",
)


def test_a_path_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    mutants.put_in(OLD_WRITES, CoreSpec, MODULES, monkeypatch)
    assert paths(netlist(SMALL)) == {("s_axi_wvalid", "s_axi_awready")}
