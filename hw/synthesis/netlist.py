"""A mapped netlist as arrays: standard cells by kind, the nets on their pins, ports, memories."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evolute.hw.synthesis import liberty
from evolute.support import files

CONSTANTS = 2
"""Nets 0 and 1 are the constants 0 and 1."""


@dataclass(frozen=True, eq=False)
class Instances:
    """All cells of one kind in a netlist."""

    cell: str
    """The library's name of the kind."""
    names: tuple[str, ...]
    pins: tuple[str, ...]
    nets: np.ndarray
    """The net on every pin, int32 [cells, pins]; a pin that leads nowhere has a net of its own."""

    def on(self, pin: str) -> np.ndarray:
        """The net that a pin has on each cell, int32 [cells]."""
        return self.nets[:, self.pins.index(pin)]


@dataclass(frozen=True, eq=False)
class Macro:
    """A memory that mapping left whole: the netlist ends at its pins."""

    name: str
    words: int
    bits: int
    """Width of a word."""
    read_ports: int
    write_ports: int
    inputs: np.ndarray
    """The nets of its clocks, enables, addresses and data."""
    outputs: np.ndarray


@dataclass(frozen=True, eq=False)
class Netlist:
    """One flat module of standard cells. Nets are numbers below `nets`."""

    top: str
    nets: int
    instances: tuple[Instances, ...]
    inputs: Mapping[str, np.ndarray]
    """The nets of each input port, the lowest bit first."""
    outputs: Mapping[str, np.ndarray]
    macros: tuple[Macro, ...]
    net_names: Mapping[int, str]
    """Names from the Verilog, hierarchical, of the nets that kept one."""
    net_lines: Mapping[int, int]
    """The line of the Verilog in which such a net is declared."""

    @property
    def cells(self) -> int:
        """How many standard cells there are."""
        return sum(len(kind.names) for kind in self.instances)

    @cached_property
    def by_cell(self) -> Mapping[str, Instances]:
        """The instances by the library's name of their kind."""
        return {kind.cell: kind for kind in self.instances}

    def net_name(self, net: int) -> str:
        """The net's name, or a number for a net that mapping made."""
        return self.net_names.get(net, f"net {net}")


def from_json(text: str, top: str, source: str = "top.v") -> Netlist:
    """The netlist that Yosys' `write_json` gives for a flat module `top`, mapped to cells.

    `source` is the Verilog file whose lines nets are declared in.
    """
    module: dict[str, Any] = json.loads(text)["modules"][top]
    numbers: dict[Any, int] = {"0": 0, "1": 1, "x": 0, "z": 0}

    def number(bit: Any) -> int:
        return numbers.setdefault(bit, _next(numbers))

    ports: dict[str, dict[str, np.ndarray]] = {"input": {}, "output": {}}
    for name, port in module["ports"].items():
        ports[port["direction"]][name] = np.array([number(bit) for bit in port["bits"]], np.int32)
    kinds: dict[str, dict[str, dict[str, Any]]] = {}
    macros = []
    for name, cell in module["cells"].items():
        if cell["type"] == "$scopeinfo":  # Yosys' note of a module that was flattened
            continue
        if cell["type"].startswith("$"):
            directions = cell["port_directions"]
            sides = {
                side: [
                    number(bit)
                    for pin, bits in cell["connections"].items()
                    if directions[pin] == side
                    for bit in bits
                ]
                for side in ("input", "output")
            }
            if cell["type"] != "$mem_v2":
                raise files.FileError(f"{top}: {cell['type']} {name} is no standard cell")
            words, bits, reads, writes = (int(cell["parameters"][key], 2) for key in _MEMORY)
            inputs, outputs = (np.array(sides[side], np.int32) for side in ("input", "output"))
            macros.append(Macro(name, words, bits, reads, writes, inputs, outputs))
        else:
            kinds.setdefault(cell["type"], {})[name] = cell["connections"]
    instances = []
    for kind, cells in sorted(kinds.items()):
        pins = tuple(dict.fromkeys(pin for pinned in cells.values() for pin in pinned))
        nets = [
            [number(pinned[pin][0] if pinned.get(pin) else (name, pin)) for pin in pins]
            for name, pinned in cells.items()
        ]
        instances.append(Instances(kind, tuple(cells), pins, np.array(nets, np.int32)))
    names: dict[int, str] = {}
    lines: dict[int, int] = {}
    for name, net in module["netnames"].items():
        if net.get("hide_name") or name.startswith("$"):
            continue
        line = re.search(rf"\b{re.escape(source)}:(\d+)\.", net["attributes"].get("src", ""))
        for i, bit in enumerate(net["bits"]):
            if bit not in numbers or numbers[bit] < CONSTANTS:
                continue
            stated = f"{name}[{i}]" if len(net["bits"]) > 1 else name
            # The name nearest to the top is the one that readers know.
            if numbers[bit] not in names or stated.count(".") < names[numbers[bit]].count("."):
                names[numbers[bit]] = stated
                if line:
                    lines[numbers[bit]] = int(line[1])
    return Netlist(
        top=top,
        nets=max(numbers.values()) + 1,
        instances=tuple(instances),
        inputs=ports["input"],
        outputs=ports["output"],
        macros=tuple(macros),
        net_names=names,
        net_lines=lines,
    )


_MEMORY = ("SIZE", "WIDTH", "RD_PORTS", "WR_PORTS")
"""What Yosys calls the numbers of a memory that `Macro` has."""


def _next(numbers: Mapping[Any, int]) -> int:
    return max(CONSTANTS, len(numbers) - 2)  # "x" and "z" share the number of "0"


def kept(path: Path, text: str) -> None:
    """Keep what `from_json` needs of Yosys' JSON in a packed file."""
    document = json.loads(text)
    for module in document["modules"].values():
        for cell in module["cells"].values():
            cell.pop("attributes", None)
            if not cell["type"].startswith("$"):
                cell.pop("parameters", None)
                cell.pop("port_directions", None)
    with files.replacing(path) as temporary, gzip.open(temporary, "wt", encoding="utf-8") as file:
        json.dump(document, file, separators=(",", ":"))


def of_kept(path: Path, top: str) -> Netlist:
    """The netlist of a file that `kept` wrote. Raises `FileError` where it cannot be read."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return from_json(file.read(), top)
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise files.FileError(f"cannot read {path}: {error}; delete it and try again") from None


@dataclass(frozen=True, eq=False)
class Levels:
    """An order in which every cell comes after those that drive it.

    `of` holds the level of each cell, by kind: 0 for flip-flops and for cells without inputs, else
    one more than the highest level that drives it.
    """

    of: Mapping[str, np.ndarray]
    depth: int


def levels(netlist: Netlist, library: liberty.Library) -> Levels:
    """The levels of a netlist's cells. Raises `FileError` for a loop without a flip-flop in it."""
    drivers: list[np.ndarray] = []
    driven: list[np.ndarray] = []
    starts, count = {}, 0
    owner = np.full(netlist.nets, -1)  # the cell that drives a net
    registers: list[np.ndarray] = []
    for kind in netlist.instances:
        cell = library.cells[kind.cell]
        starts[kind.cell] = count
        cells = np.arange(count, count + len(kind.names))
        count += len(kind.names)
        for pin in cell.outputs:
            if pin in kind.pins:
                owner[kind.on(pin)] = cells
        if cell.flip_flop is not None:
            registers.append(cells)
            continue
        for pin in cell.inputs:
            drivers.append(kind.on(pin))
            driven.append(cells)
    source = owner[np.concatenate(drivers)] if drivers else np.zeros(0, int)
    target = np.concatenate(driven) if driven else np.zeros(0, int)
    inside = source >= 0
    source, target = source[inside], target[inside]
    order = np.argsort(source, kind="stable")
    source, target = source[order], target[order]
    first = np.searchsorted(source, np.arange(count + 1))
    waiting = np.bincount(target, minlength=count)
    level = np.zeros(count, np.int32)
    ready = np.flatnonzero(waiting == 0)
    depth, done = 0, 0
    while len(ready):
        done += len(ready)
        level[ready] = depth
        follow = _ranges(first[ready], first[ready + 1])
        waiting -= np.bincount(target[follow], minlength=count)
        ready = np.unique(target[follow])
        ready = ready[waiting[ready] == 0]
        depth += 1
    if done < count:
        stuck = int(np.flatnonzero(waiting > 0)[0])
        name = next(
            kind.names[stuck - starts[kind.cell]]
            for kind in netlist.instances
            if 0 <= stuck - starts[kind.cell] < len(kind.names)
        )
        raise files.FileError(f"{netlist.top}: a loop without a flip-flop leads through {name}")
    # Registers and inputs share level 0; logic that they drive begins at 1.
    level += 1
    for cells in registers:
        level[cells] = 0
    return Levels(
        {
            kind.cell: level[starts[kind.cell] : starts[kind.cell] + len(kind.names)]
            for kind in netlist.instances
        },
        depth + 1,
    )


def _ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """All numbers from each start up to its end, one range after another."""
    lengths = ends - starts
    total = int(lengths.sum())
    if not total:
        return np.zeros(0, int)
    jumps = np.repeat(starts - np.concatenate([[0], lengths.cumsum()[:-1]]), lengths)
    return jumps + np.arange(total)
