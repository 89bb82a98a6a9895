"""Proofs that a fault in a netlist changes nothing that can be seen (SAT, by Yosys).

A netlist with its fault behind a switch becomes two copies of its logic that share their inputs and
registers: one with the switch off, one with it on. Where they differ in an output, in the next
value of a register, or in an access of a memory, is one bit. First, registers being inputs, that
bit is never 1 in any state; else, by temporal induction, never in any state that the sound design
comes to after a reset. In both cases the faulty design never leaves the states of the sound one.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from evolute.hw.synthesis import yosys

SAT_SECONDS = 60
"""How long one proof may take."""

INDUCTION_CYCLES = 12
"""Most cycles that an induction looks back."""

_READS, _WRITES = ("$memrd", "$memrd_v2"), ("$memwr", "$memwr_v2")
"""Ports of memories."""

_MISSED = "SAT proof finished - no model found: SUCCESS!"
_INDUCED = "Induction step proven: SUCCESS!"


@dataclass(frozen=True)
class Reset:
    """The reset of a design, and the level at which it resets."""

    port: str
    level: int


Bits = list[Any]
"""Bits of a signal as Yosys' JSON has them: numbers of nets, and constants as text."""


class _Netlist:
    """A flat module in Yosys' JSON that can be grown."""

    def __init__(self, module: dict[str, Any]):
        self.ports: dict[str, dict[str, Any]] = module["ports"]
        self.cells: dict[str, dict[str, Any]] = {
            name: cell
            for name, cell in module["cells"].items()
            if cell["type"] not in ("$scopeinfo", "$meminit_v2", "$meminit")
        }
        nets = [bit for each in module["netnames"].values() for bit in each["bits"]]
        nets += [bit for cell in self.cells.values() for bits in cell["connections"].values()
                 for bit in bits]  # fmt: skip
        self._next = 1 + max((bit for bit in nets if isinstance(bit, int)), default=1)

    def new(self, width: int) -> Bits:
        self._next += width
        return list(range(self._next - width, self._next))

    def input(self, name: str, bits: Bits) -> None:
        self.ports[name] = {"direction": "input", "bits": bits}

    def gate(self, kind: str, width: int, **inputs: Bits) -> Bits:
        """The output of a new cell of unsigned operands."""
        found = self.new(width)
        parameters = {"Y_WIDTH": width}
        for port, bits in inputs.items():
            parameters |= {f"{port}_SIGNED": 0, f"{port}_WIDTH": len(bits)}
        self.cells[f"proof{len(self.cells)}"] = {
            "type": kind,
            "parameters": parameters,
            "port_directions": {**dict.fromkeys(inputs, "input"), "Y": "output"},
            "connections": {**inputs, "Y": found},
            "attributes": {},
        }
        return found

    def text(self, top: str, outputs: dict[str, Bits]) -> str:
        ports = {name: each for name, each in self.ports.items() if each["direction"] == "input"}
        ports |= {name: {"direction": "output", "bits": bits} for name, bits in outputs.items()}
        module = {"attributes": {"top": 1}, "ports": ports, "cells": self.cells, "netnames": {}}
        return json.dumps({"modules": {top: module}})


def _is_register(cell: dict[str, Any]) -> bool:
    return cell["type"] == "$dff"


def _is_memory(cell: dict[str, Any]) -> bool:
    return cell["type"] in (*_READS, *_WRITES)


def _inputs(cell: dict[str, Any]) -> dict[str, Bits]:
    return {
        port: cell["connections"][port]
        for port, direction in cell["port_directions"].items()
        if direction == "input"
    }


def _outputs(cell: dict[str, Any]) -> dict[str, Bits]:
    return {
        port: cell["connections"][port]
        for port, direction in cell["port_directions"].items()
        if direction == "output"
    }


def _seen(
    net: _Netlist, cell: dict[str, Any], copied: dict[Any, Any]
) -> Iterable[tuple[Bits, Bits]]:
    """What of a register or memory must be equal in both copies, in pairs."""

    def both(bits: Bits) -> tuple[Bits, Bits]:
        return bits, [copied.get(bit, bit) for bit in bits]

    if _is_register(cell):
        yield both(cell["connections"]["D"])
        return
    ports = cell["connections"]
    yield both(ports["EN"])
    masked = []
    for take in (0, 1):
        enables = both(ports["EN"])[take]
        if len(enables) == 1:
            any_enable = enables
        else:
            any_enable = net.gate("$reduce_or", 1, A=enables)
        address = both(ports["ADDR"])[take]
        found = net.gate("$and", len(address), A=address, B=any_enable * len(address))
        if cell["type"] in _WRITES:
            data = both(ports["DATA"])[take]
            found = found + net.gate("$and", len(data), A=data, B=enables)
        masked.append(found)
    yield masked[0], masked[1]


def _miter(text: str, switch: str) -> tuple[_Netlist, dict[str, Bits], dict[str, dict[str, Any]]]:
    """The netlist with a copy of all that the switch reaches; bits that say that the copies differ,
    in anything (`differs`) or in what the next state will be (`strays`); and the registers, which
    are taken out."""
    (module,) = json.loads(text)["modules"].values()
    net = _Netlist(module)
    (off,) = net.ports.pop(switch)["bits"]
    taken_out = {n: c for n, c in net.cells.items() if _is_register(c) or _is_memory(c)}
    for name in taken_out:
        del net.cells[name]
    readers = defaultdict(list)
    for name, cell in net.cells.items():
        for bits in _inputs(cell).values():
            for bit in bits:
                readers[bit].append(name)
    copied: dict[Any, Any] = {off: "1"}
    reached: set[str] = set()
    front = deque([off])
    while front:
        for name in readers[front.popleft()]:
            if name not in reached:
                reached.add(name)
                for bits in _outputs(net.cells[name]).values():
                    for bit, twin in zip(bits, net.new(len(bits)), strict=True):
                        copied[bit] = twin
                        front.append(bit)
    for name in reached:
        cell = net.cells[name]
        connections = {
            port: [copied.get(bit, bit) for bit in bits]
            for port, bits in cell["connections"].items()
        }
        net.cells[f"{name}.switched_on"] = {**cell, "connections": connections}
    for cell in net.cells.values():
        cell["connections"] = {
            port: ["0" if bit == off else bit for bit in bits]
            for port, bits in cell["connections"].items()
        }
    shown: list[tuple[Bits, Bits]] = [
        (port["bits"], [copied.get(bit, bit) for bit in port["bits"]])
        for port in net.ports.values()
        if port["direction"] == "output"
    ]
    kept = [pair for cell in taken_out.values() for pair in _seen(net, cell, copied)]
    found: dict[str, Bits] = {}
    for name, pairs in (("differs", shown + kept), ("strays", kept)):
        wrong = [
            net.gate("$xor", 1, A=[a], B=[b])[0]
            for left, right in pairs
            for a, b in zip(left, right, strict=True)
            if a != b
        ]
        found[name] = net.gate("$reduce_or", 1, A=wrong) if wrong else ["0"]
    for i, cell in enumerate(taken_out.values()):
        if cell["type"] in _READS:
            net.input(f"read{i}", cell["connections"]["DATA"])
    registers = {name: cell for name, cell in taken_out.items() if _is_register(cell)}
    return net, found, registers


def proof(flat: str, top: str, change: str, reset: Reset) -> str | None:
    """How it is proved that a mutation of a flat netlist changes nothing; None if it is not.

    `change` are the arguments of Yosys' pass `mutate`, and `top` is the module.
    """
    switch = "mutant"
    plant = [
        "read_rtlil flat.il",
        f"mutate -module {top} {change} -ctrl {switch} 1 1",
        *("dffunmap", "opt_clean", "write_json flat.json"),
    ]
    text = yosys.run(plant, {"flat.il": flat}, ["flat.json"], timeout_s=300).files["flat.json"]
    read = ["read_json miter.json", "opt -full", "opt_clean -purge"]

    net, found, registers = _miter(text, switch)
    clocks = {str(cell["connections"]["CLK"]) for cell in registers.values()}
    for i, cell in enumerate(registers.values()):
        net.input(f"state{i}", cell["connections"]["Q"])
    cut = net.text(top, found)
    free = [f"sat -prove differs 0 -timeout {SAT_SECONDS} {top}"]
    if _holds([*read, *free], cut, _MISSED):
        return "no state in which it shows"
    if len(clocks) != 1:
        return None  # Yosys' induction knows one clock
    if reset.port not in net.ports:
        return None
    # The first reset, in whatever state, leads to the same one; from then on nothing shows.
    resetting = [
        f"sat -set {reset.port} {reset.level} -prove strays 0 -timeout {SAT_SECONDS} {top}"
    ]
    if not _holds([*read, *resetting], cut, _MISSED):
        return None
    net, found, registers = _miter(text, switch)
    net.cells |= registers
    whole = net.text(top, {"differs": found["differs"]})
    inducing = [
        f"sat -tempinduct -seq 1 -set-at 1 {reset.port} {reset.level} -prove differs 0 "
        f"-maxsteps {INDUCTION_CYCLES} -timeout {SAT_SECONDS} {top}"
    ]
    if _holds([*read, *inducing], whole, _INDUCED):
        return "no state after a reset in which it shows, by induction"
    return None


def _holds(script: list[str], miter: str, success: str) -> bool:
    return success in yosys.run(script, {"miter.json": miter}, (), timeout_s=10 * SAT_SECONDS).log
