"""Proofs that a fault in a netlist changes nothing that can be observed, by a SAT solver in Yosys.

The fault is behind a switch. The netlist becomes two copies of its logic that share inputs and
registers: one with the switch off (the sound design) and one with it on (the faulty design). A
single bit, `differs`, says whether the copies differ in an output, in the next value of a register,
or in an access of a memory. The first proof treats registers as free inputs: the bit is 0 in every
state. The second one only covers the states that the sound design reaches after a reset. Either
way, the faulty design never leaves the states of the sound one.

After a reset, a register that the reset sets has its one value, and everything else may be
anything. From there, temporal induction shows that the bit is never 1. It is helped by what a few
small registers near the fault can be at once: the set of their values that begins with those after
a reset, and has all that the sound design makes of a state whose values are in the set, whatever
its other registers, its memories and its inputs are. Clocks of a design that has several may tick
in any order, alone or together.

What is left goes to ABC, which finds for itself what holds of the registers in every state from the
end of a reset to the next one. At first of the sound design alone, as above; then of both designs,
each with registers of its own, which may come to differ as long as outputs and accesses of memories
do not. A reset lasts as long as the design demands: values that its first cycle gives can be what
gives others their values in the next.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from evolute.hw.synthesis import abc, yosys

SAT_SECONDS = 60
"""Time limit of one proof, in seconds."""

INDUCTION_CYCLES = 12
"""The most cycles that an induction looks back."""

SMALL_BITS = 4
"""Width of the widest register that can be part of an invariant."""

GROUP_BITS = (5, 9)
"""Total width of the registers of an invariant, at most; the numbers are tried in turn."""

MOST_VALUES = 300
"""The most values that an invariant may have."""

MOST_EXCUSES = 8
"""The most one-bit registers near one place that are tried as an excuse, see `_Loose`."""

MOST_ROUNDS = 4
"""How many times registers may be added to those that differ while nothing depends on them."""

MOST_TWIN_BITS = 3000
"""Most bits of registers of a design of which a whole copy is made."""

_READS, _WRITES = ("$memrd", "$memrd_v2"), ("$memwr", "$memwr_v2")
"""Ports of memories."""

_MISSED = "SAT proof finished - no model found: SUCCESS!"
_INDUCED = "Induction step proven: SUCCESS!"


@dataclass(frozen=True)
class Reset:
    """The resets of a design, one for each of its clocks, and the level that is active."""

    ports: tuple[str, ...]
    level: int
    cycles: int = 1
    """How long it lasts at least, in cycles of the slowest clock."""


Bits = list[Any]
"""Bits of a signal in Yosys' JSON: numbers of nets, and constants as text."""


class _Netlist:
    """A flat module in Yosys' JSON, to which cells and ports can be added."""

    def __init__(self, module: dict[str, Any]):
        self.ports: dict[str, dict[str, Any]] = module["ports"]
        self.cells: dict[str, dict[str, Any]] = {
            name: cell
            for name, cell in module["cells"].items()
            if cell["type"] not in ("$scopeinfo", "$meminit_v2", "$meminit")
        }
        nets = [bit for net in module["netnames"].values() for bit in net["bits"]]
        nets += [bit for cell in self.cells.values() for bits in cell["connections"].values()
                 for bit in bits]  # fmt: skip
        self.nets: dict[str, dict[str, Any]] = {}
        self._next = 1 + max((bit for bit in nets if isinstance(bit, int)), default=1)

    def new(self, width: int) -> Bits:
        """A new signal of `width` bits."""
        self._next += width
        return list(range(self._next - width, self._next))

    def input(self, name: str, bits: Bits) -> None:
        """Make a signal an input of the module."""
        self.ports[name] = {"direction": "input", "bits": bits}

    def gate(self, kind: str, width: int, output: Bits | None = None, **inputs: Bits) -> Bits:
        """The output of a new cell of unsigned operands, if it is to be one that is given."""
        output = output or self.new(width)
        parameters = {"Y_WIDTH": width}
        for port, bits in inputs.items():
            parameters |= {f"{port}_SIGNED": 0, f"{port}_WIDTH": len(bits)}
        if kind == "$mux":
            parameters = {"WIDTH": width}
        self.cells[f"proof{len(self.cells)}"] = {
            "type": kind,
            "parameters": parameters,
            "port_directions": {**dict.fromkeys(inputs, "input"), "Y": "output"},
            "connections": {**inputs, "Y": output},
            "attributes": {},
        }
        return output

    def register(self, name: str, clock: Bits, data: Bits) -> Bits:
        """The output of a register that begins with 0."""
        output = self.new(len(data))
        self.cells[name] = {
            "type": "$dff",
            "parameters": {"WIDTH": len(data), "CLK_POLARITY": 1},
            "port_directions": {"CLK": "input", "D": "input", "Q": "output"},
            "connections": {"CLK": clock, "D": data, "Q": output},
            "attributes": {},
        }
        attributes = {"init": "0" * len(data)}
        self.nets[f"{name}.begins"] = {"hide_name": 0, "bits": output, "attributes": attributes}
        return output

    def text(self, top: str, outputs: dict[str, Bits]) -> str:
        """The module as Yosys' JSON, with the given outputs in place of its own."""
        ports = {name: port for name, port in self.ports.items() if port["direction"] == "input"}
        ports |= {name: {"direction": "output", "bits": bits} for name, bits in outputs.items()}
        module = {
            "attributes": {"top": 1}, "ports": ports, "cells": self.cells, "netnames": self.nets,
        }  # fmt: skip
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
    """Pairs of bits of a register or memory, one of each copy, that must be equal if the copies are
    to be equal: its next value, or its access."""

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
        access = net.gate("$and", len(address), A=address, B=any_enable * len(address))
        if cell["type"] in _WRITES:
            data = both(ports["DATA"])[take]
            access = access + net.gate("$and", len(data), A=data, B=enables)
        masked.append(access)
    yield masked[0], masked[1]


@dataclass(frozen=True)
class _Loose:
    """Registers, by name, that may differ between the copies while an excuse holds.

    An excuse is a condition on one bit: each bit of `excuses` gives two, that it is 1 and that it
    is 0.
    """

    registers: tuple[str, ...]
    excuses: Bits


def _miter(
    text: str, switch: str, loose: _Loose | None = None, *, through_registers: bool = False
) -> tuple[_Netlist, dict[str, Bits], dict[str, dict[str, Any]]]:
    """Builds a netlist that compares the design with the switch off and on.

    With `loose`, an input `pick` has a bit for each excuse, and one for the contrary of each.
    Loose registers of the copy have any value while the one that is picked holds. They count as
    different only where it does not hold in the next cycle. Of `differs`, `seen` is then what lies
    outside of registers, or is not excused, and `others` has a bit for each other register.

    With `through_registers`, registers stay, and those that the switch reaches are copied, too. The
    copies then differ in an output or in an access of a memory alone.
    """
    (module,) = json.loads(text)["modules"].values()
    net = _Netlist(module)
    (off,) = net.ports.pop(switch)["bits"]
    taken_out = {
        name: cell
        for name, cell in net.cells.items()
        if _is_memory(cell) or (_is_register(cell) and not through_registers)
    }
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
    excused_next = ["0"]
    if loose is not None:
        following = {
            bit: later
            for cell in taken_out.values()
            if _is_register(cell)
            for bit, later in zip(*(cell["connections"][port] for port in "QD"), strict=True)
        }
        pick = net.new(2 * len(loose.excuses))
        net.input("pick", pick)
        excused, excused_next = (
            net.gate("$reduce_or", 1, A=net.gate("$and", len(pick), A=bits + inverse, B=pick))
            for bits in (loose.excuses, [following[bit] for bit in loose.excuses])
            for inverse in [net.gate("$not", len(bits), A=bits)]
        )
        for i, name in enumerate(loose.registers):
            bits = taken_out[name]["connections"]["Q"]
            anything = net.new(len(bits))
            net.input(f"loose{i}", anything)
            twins = net.gate("$mux", len(bits), A=bits, B=anything, S=excused)
            copied |= dict(zip(bits, twins, strict=True))
            front += bits
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
        net.cells[name + _TWIN] = {**cell, "connections": connections}
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

    def differ(pairs: Iterable[tuple[Bits, Bits]]) -> Bits:
        """A bit for each bit in which pairs may differ."""
        return [
            net.gate("$xor", 1, A=[sound_bit], B=[faulty_bit])[0]
            for left, right in pairs
            for sound_bit, faulty_bit in zip(left, right, strict=True)
            if sound_bit != faulty_bit
        ]

    seen, others = differ(shown), {}
    for name, cell in taken_out.items():
        wrong = differ(_seen(net, cell, copied))
        if loose is not None and name in loose.registers:
            unexcused = net.gate("$not", 1, A=excused_next)
            seen += net.gate("$and", len(wrong), A=wrong, B=unexcused * len(wrong)) if wrong else []
        elif _is_register(cell):
            others[name] = wrong
        else:
            seen += wrong
    wrong = [*seen, *(bit for bits in others.values() for bit in bits)]
    outputs = {"differs": net.gate("$reduce_or", 1, A=wrong) if wrong else ["0"]}
    if loose is not None:
        outputs["seen"] = net.gate("$reduce_or", 1, A=seen) if seen else ["0"]
        outputs["others"] = [
            net.gate("$reduce_or", 1, A=bits)[0] if bits else "0" for bits in others.values()
        ]
    for i, cell in enumerate(taken_out.values()):
        if cell["type"] in _READS:
            net.input(f"read{i}", cell["connections"]["DATA"])
    registers = {
        name: {
            **cell,
            "switched_on": [copied.get(bit, bit) for bit in cell["connections"]["D"]],
        }
        for name, cell in taken_out.items()
        if _is_register(cell)
    }
    return net, outputs, registers


def proof(flat: str, top: str, change: str, reset: Reset) -> str | None:
    """How it is proved that a mutation of a flat netlist changes nothing; None if no proof
    succeeds.

    `flat` is the netlist in RTLIL, `top` its module, and `change` the arguments of Yosys' pass
    `mutate`.
    """
    plant = [
        "read_rtlil flat.il",
        f"mutate -module {top} {change} -ctrl {_SWITCH} 1 1",
        *("dffunmap", "opt_clean", "write_json flat.json"),
    ]
    text = yosys.run(plant, {"flat.il": flat}, ["flat.json"], timeout_s=300).files["flat.json"]
    net, outputs, registers = _miter(text, _SWITCH)
    _cut(net, registers)
    if _holds(net.text(top, outputs), f"sat -prove differs 0 {_LIMIT} {top}", _MISSED):
        return "no state in which it shows"
    cell = re.search(r"-cell (\S+)", change)
    assert cell is not None
    site = cell[1].removeprefix("\\")
    if registers and _stays_unseen(text, top, site):
        return "no state in which it shows but in registers that nothing depends on then"
    if not registers or any(port not in net.ports for port in reset.ports):
        return None
    reset_values = _after_reset(text, top, reset, reset.cycles)
    if not _resets_alike(text, top, reset, reset_values):
        return None
    if _holds_by_induction(text, top, reset_values, None):
        return "no state after a reset in which it shows, by induction"
    tried: set[tuple[Any, ...]] = set()
    for most_bits in GROUP_BITS:
        near = _near(text, site, reset_values, most_bits)
        if near and tuple(near) not in tried:
            tried.add(tuple(near))
            values = _values(text, top, near, reset_values)
            if values is not None and _holds_by_induction(text, top, reset_values, (near, values)):
                return "no state after a reset in which it shows, by what registers can be"
    if _never_shows(text, top, reset, reset_values, twins=False):
        return "no state after a reset in which it shows, by an invariant"
    bits = sum(len(cell["connections"]["Q"]) for cell in registers.values())
    if bits <= MOST_TWIN_BITS and _never_shows(text, top, reset, reset_values, twins=True):
        return "no state after a reset in which it shows in what either design gives"
    return None


_SWITCH = "mutant"
_TWIN = ".switched_on"
"""What ends the name of a cell of the faulty copy."""
_LIMIT = f"-timeout {SAT_SECONDS}"


def _cut(net: _Netlist, registers: dict[str, dict[str, Any]]) -> None:
    """Make every register's value an input."""
    for i, cell in enumerate(registers.values()):
        net.input(f"state{i}", cell["connections"]["Q"])


def _stays_unseen(text: str, top: str, site: str) -> bool:
    """Whether the fault at the cell `site` only ever changes some registers while an excuse holds
    (see `_Loose`) with which nothing else depends on them.

    Both designs start with equal values. The registers are those that differ after one cycle, then
    also those that differ because of them. Excuses are tried with one-bit registers near the first
    of these registers and near the fault.
    """
    _, _, registers = _miter(text, _SWITCH)
    clocks = {str(cell["connections"]["CLK"]) for cell in registers.values()}
    if len(clocks) > 1:
        return False
    owners = {cell["connections"]["Q"][0]: name for name, cell in registers.items()}
    excuses: Bits = list(owners)[:1]

    def grown(names: frozenset[str], picks: Sequence[str]) -> list[frozenset[str] | None]:
        """For each pick, `names` and what else differs; the same if nothing; None if it is seen."""
        loose = _Loose(tuple(sorted(names)), excuses)
        net, outputs, registers = _miter(text, _SWITCH, loose)
        _cut(net, registers)
        others_in_order = [name for name in registers if name not in names]
        commands = [
            f"sat -set pick {len(pick)}'b{pick} -prove differs 0 -show seen,others {_LIMIT} {top}"
            for pick in picks
        ]
        logs = _log(net.text(top, outputs), *commands).split("Executing SAT pass")[1:]
        sets: list[frozenset[str] | None] = []
        for log in logs:
            seen = re.search(r"\\seen .* ([01])\s*$", log, re.M)
            others = re.search(r"\\others .* ([01]+)\s*$", log, re.M)
            if _MISSED in log:
                sets.append(names)
            elif seen is None or others is None or seen[1] == "1":
                sets.append(None)
            else:
                differ = zip(
                    others_in_order, reversed(others[1].zfill(len(others_in_order))), strict=True
                )
                sets.append(names | {name for name, bit in differ if bit == "1"})
        return sets

    # The first that differ do so whatever the excuse.
    (first,) = grown(frozenset(), ["00"])
    if first is None:
        return False
    design = json.loads(text)
    for sites in (sorted(first), [site]):
        near = (registers[name]["connections"]["Q"] for name in _registers_near(design, sites))
        excuses += islice((bits[0] for bits in near if len(bits) == 1), MOST_EXCUSES)
    excuses = list(dict.fromkeys(excuses[1:]))
    count = 2 * len(excuses)
    candidates = {f"{1 << i:0{count}b}": first for i in range(count)}
    owner = dict(zip(candidates, 2 * [owners[bit] for bit in excuses], strict=True))
    for _ in range(MOST_ROUNDS):
        following: dict[str, frozenset[str]] = {}
        for names in set(candidates.values()):
            picks = [
                pick
                for pick in candidates
                if candidates[pick] == names and owner[pick] not in names
            ]
            for pick, grown_names in zip(picks, grown(names, picks), strict=True):
                if grown_names == names:
                    return True
                if grown_names is not None:
                    following[pick] = grown_names
        candidates = following
    return False


def _after_reset(text: str, top: str, reset: Reset, cycles: int, data: str = "D") -> dict[Any, str]:
    """The value that each bit of a register has after `cycles` cycles of reset, as far as constants
    alone decide it: of the sound design, or of the faulty one if `data` is "switched_on".

    In a design with several clocks, every clock ticks at least once in such a cycle.
    """
    known: dict[Any, str] = {}
    for _ in range(cycles):
        net, _, registers = _miter(text, _SWITCH)
        _cut(net, registers)
        _tie(net, reset)
        _put(net, known)
        outputs = {
            f"next{i}": [known.get(bit, bit) for bit in cell["connections"]["D"]]
            if data == "D"
            else [known.get(bit, bit) for bit in cell[data]]
            for i, cell in enumerate(registers.values())
        }
        script = ["read_json miter.json", "opt -full", "write_json reset.json"]
        inputs = {"miter.json": net.text(top, outputs)}
        design = json.loads(
            yosys.run(script, inputs, ["reset.json"], timeout_s=300).files["reset.json"]
        )
        ports = design["modules"][top]["ports"]
        known = {
            bit: value
            for i, cell in enumerate(registers.values())
            for bit, value in zip(cell["connections"]["Q"], ports[f"next{i}"]["bits"], strict=True)
            if value in ("0", "1")
        }
    return known


def _put(net: _Netlist, values: Mapping[Any, str]) -> None:
    """Put constants in the place of bits."""
    for cell in net.cells.values():
        cell["connections"] = {
            port: [values.get(bit, bit) for bit in bits]
            for port, bits in cell["connections"].items()
        }


def _tie(net: _Netlist, reset: Reset, *, on: bool = True) -> dict[Any, str]:
    """Hold all resets on, or off; the values of their bits."""
    level = str(reset.level if on else 1 - reset.level)
    tied: dict[Any, str] = {net.ports.pop(port)["bits"][0]: level for port in reset.ports}
    _put(net, tied)
    return tied


def _resets_alike(text: str, top: str, reset: Reset, reset_values: dict[Any, str]) -> bool:
    """Whether a reset gives the faulty design's registers the values of the sound one's."""
    before_last = _after_reset(text, top, reset, reset.cycles - 1, "switched_on")
    net, _, registers = _miter(text, _SWITCH)
    _cut(net, registers)
    _tie(net, reset)
    _put(net, before_last)
    wrong = [
        net.gate("$xor", 1, A=[before_last.get(faulty_bit, faulty_bit)], B=[reset_values[bit]])[0]
        for cell in registers.values()
        for bit, faulty_bit in zip(cell["connections"]["Q"], cell["switched_on"], strict=True)
        if bit in reset_values
    ]
    if not wrong:
        return True
    outputs = {"strays": net.gate("$reduce_or", 1, A=wrong)}
    return _holds(net.text(top, outputs), f"sat -prove strays 0 {_LIMIT} {top}", _MISSED)


def _next(net: _Netlist, registers: dict[str, dict[str, Any]]) -> dict[str, Bits]:
    """The next value of each register. For several clocks, an input is added for each that says
    whether it ticks."""
    clocks = list(
        dict.fromkeys(str(register["connections"]["CLK"]) for register in registers.values())
    )
    ticks = {}
    for i, clock in enumerate(clocks):
        ticks[clock] = net.new(1)
        net.input(f"tick{i}", ticks[clock])
    if len(clocks) < 2:
        return {name: register["connections"]["D"] for name, register in registers.items()}
    return {
        name: net.gate(
            "$mux",
            len(register["connections"]["D"]),
            A=register["connections"]["Q"],
            B=register["connections"]["D"],
            S=ticks[str(register["connections"]["CLK"])],
        )
        for name, register in registers.items()
    }


def _holds_by_induction(
    text: str, top: str, reset_values: dict[Any, str], known: tuple[Bits, set[str]] | None
) -> bool:
    """Whether the designs never differ after a reset, proved by induction. `known` is an invariant:
    bits of registers and all values that they can have."""
    net, compared, registers = _miter(text, _SWITCH)
    begin = net.new(1)
    net.input("begin", begin)
    following = _next(net, registers)
    clock = next(iter(registers.values()))["connections"]["CLK"]
    for i, (name, cell) in enumerate(registers.items()):
        bits = cell["connections"]["Q"]
        anything = net.new(len(bits))
        net.input(f"anything{i}", anything)
        value_after_reset = [
            reset_values.get(bit, free) for bit, free in zip(bits, anything, strict=True)
        ]
        next_value = net.gate("$mux", len(bits), A=following[name], B=value_after_reset, S=begin)
        connections = {"CLK": clock, "D": next_value, "Q": bits}
        net.cells[name] = {**cell, "connections": connections}
    outputs, assumed = {"differs": compared["differs"]}, ""
    if known is not None:
        outputs["known"], assumed = _is_one_of(net, *known), "-set known 1"
    full_text = net.text(top, outputs)
    if known is not None:
        # Often the values alone say enough.
        alone, compared, registers = _miter(text, _SWITCH)
        _cut(alone, registers)
        outputs = {"differs": compared["differs"], "known": _is_one_of(alone, *known)}
        command = f"sat -set known 1 -prove differs 0 {_LIMIT} {top}"
        if _holds(alone.text(top, outputs), command, _MISSED):
            return True
    command = (
        f"sat -tempinduct -seq 1 -set-at 1 begin 1 {assumed} -prove differs 0 "
        f"-maxsteps {INDUCTION_CYCLES} {_LIMIT} {top}"
    )
    return _holds(full_text, command, _INDUCED)


def _never_shows(text: str, top: str, reset: Reset, after: dict[Any, str], *, twins: bool) -> bool:
    """Whether the fault shows in no state from the end of a reset to the next one, by property
    directed reachability (IC3): ABC finds what must hold of the registers in every state, and
    proves it.

    Without `twins`, in no state of the sound design. With them, both designs have registers of
    their own, which may come to differ, and show the same in outputs and accesses of memories.
    """
    net, outputs, registers = _miter(text, _SWITCH, through_registers=twins)
    if twins:
        registers = {name: cell for name, cell in net.cells.items() if _is_register(cell)}
    following = _next(net, registers)
    off = _tie(net, reset, on=False)
    clock = next(iter(registers.values()))["connections"]["CLK"]
    # Registers of the proof begin with 0. Until the first step, the values after a reset stand for
    # them: those are anything where a reset sets none, but the same in both designs.
    started = net.register("started", clock, ["1"])
    first: dict[str, Bits] = {}
    for i, (name, cell) in enumerate(registers.items()):
        bits = cell["connections"]["Q"]
        original = name.removesuffix(_TWIN)
        if original not in first:
            anything = net.new(len(bits))
            net.input(f"anything{i}", anything)
            first[original] = [
                after.get(bit, free) for bit, free in zip(bits, anything, strict=True)
            ]
        net.cells.pop(name, None)
        data = [off.get(bit, bit) for bit in following[name]]
        kept = net.register(name, clock, data)
        net.gate("$mux", len(bits), bits, A=first[original], B=kept, S=started)
    return abc.never_true(net.text(top, outputs), SAT_SECONDS)


def _is_one_of(net: _Netlist, bits: Bits, values: set[str]) -> Bits:
    """Whether bits, lowest first, have one of the values, which are in binary."""
    matches = [net.gate("$eq", 1, A=bits, B=list(reversed(value)))[0] for value in sorted(values)]
    return net.gate("$reduce_or", 1, A=matches)


def _values(text: str, top: str, bits: Bits, reset_values: dict[Any, str]) -> set[str] | None:
    """All joint values, in binary, that bits of registers can have in the sound design; None if
    they are too many."""
    values = fresh = {"".join(reset_values[bit] for bit in reversed(bits))}
    while fresh:
        net, _, registers = _miter(text, _SWITCH)
        following = _next(net, registers)
        _cut(net, registers)
        of_bit = {
            bit: later
            for name, cell in registers.items()
            for bit, later in zip(cell["connections"]["Q"], following[name], strict=True)
        }
        later = [of_bit[bit] for bit in bits]
        outputs = {
            "known": _is_one_of(net, bits, values),
            "again": _is_one_of(net, later, values),
            "later": later,
        }
        script = f"sat -set known 1 -set again 0 -show later -max {MOST_VALUES} {_LIMIT} {top}"
        log = _log(net.text(top, outputs), script)
        fresh = set(re.findall(r"\\later .* ([01]+)\s*$", log, re.M))
        values = values | fresh
        if "timeout" in log.lower() or len(values) >= MOST_VALUES:
            return None
    return values


def _registers_near(design: dict[str, Any], sites: Iterable[str]) -> Iterator[str]:
    """Registers by their distance from the cells `sites`: first those that drive the sites and
    their readers, then those that drive these registers, and so on."""
    (module,) = design["modules"].values()
    cells: dict[str, dict[str, Any]] = module["cells"]
    driver = {bit: n for n, c in cells.items() for bits in _outputs(c).values() for bit in bits}
    readers = defaultdict(list)
    for name, cell in cells.items():
        for bits in _inputs(cell).values():
            for bit in bits:
                readers[bit].append(name)
    # The fault is behind a gate of its own, which is among the readers of the cell, or before it.
    start = [site for site in sites if site in cells]
    around = [
        reader
        for name in start
        for bits in _outputs(cells[name]).values()
        for bit in bits
        for reader in readers[bit]
    ]
    front, visited = deque([*start, *around]), set()
    later: deque[str] = deque()
    while front or later:
        name = front.popleft() if front else later.popleft()
        if name in visited:
            continue
        visited.add(name)
        if _is_register(cells[name]):
            yield name
        for port, bits in _inputs(cells[name]).items():
            for bit in bits if port != "CLK" else ():
                if bit in driver and driver[bit] not in visited:
                    driving_cell = driver[bit]
                    (later if _is_register(cells[driving_cell]) else front).append(driving_cell)


def _near(text: str, site: str, reset_values: dict[Any, str], most: int) -> Bits:
    """Bits of small registers that a reset sets, nearest to the cell `site` first; at most `most`
    bits."""
    design = json.loads(text)
    (module,) = design["modules"].values()
    small: Bits = []
    for name in _registers_near(design, [site]):
        bits = [bit for bit in module["cells"][name]["connections"]["Q"] if bit in reset_values]
        if len(bits) <= SMALL_BITS and len(small) + len(bits) <= most:
            small += [bit for bit in bits if bit not in small]
    return small


def _log(miter: str, *commands: str) -> str:
    script = ["read_json miter.json", "opt -full", "opt_clean -purge", *commands]
    return yosys.run(script, {"miter.json": miter}, (), timeout_s=10 * SAT_SECONDS).log


def _holds(miter: str, command: str, success: str) -> bool:
    return success in _log(miter, command)
