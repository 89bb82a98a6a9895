"""Static timing of a mapped netlist: when each net's edges arrive at the latest, and how steep.

Delays and transition times come from the library's two-index tables (the nonlinear delay model),
by the transition time at a cell's input and the capacitance at its output. Where several inputs, or
several conditions of a library, could be the last to arrive, the latest counts, and the slowest
edge. There are no wires: a load is the sum of the pins on the net. Flip-flops are driven by a clock
without delay and with edges of no duration.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evolute.hw.synthesis import liberty, netlist
from evolute.hw.synthesis.libraries import CellLibrary
from evolute.hw.synthesis.netlist import Macro, Netlist

RISE, FALL = 0, 1
_EDGES = ("rise", "fall")


@dataclass(frozen=True)
class TimedCell:
    """One cell of the longest path."""

    at_ns: float
    """When the edge leaves it."""
    cell: str
    """The library's name of its kind."""
    net: int
    """The net that it drives."""


@dataclass(frozen=True, eq=False)
class Timing:
    """What timing analysis gives for a netlist."""

    delay_ns: float
    """The longest path, to an output or to a flip-flop with its setup time."""
    start: int
    """The net at which it starts: a flip-flop's output, an input or a memory's output."""
    start_ns: float
    """When the edge is there: after the clock-to-output delay of the flip-flop."""
    path: tuple[TimedCell, ...]
    """The cells after that, without flip-flops."""
    end_cell: str
    """The flip-flop's kind at which it ends; empty where it ends at a port or a memory."""
    end_register: int | None
    """The net that this flip-flop drives."""
    arrival_ns: np.ndarray
    """[nets, 2 edges], minus infinity for an edge that nothing causes."""
    slew_ns: np.ndarray
    """Transition times, [nets, 2 edges]."""
    load_ff: np.ndarray
    """Capacitance on each net for both edges, [nets, 2 edges]."""


@dataclass(frozen=True, eq=False)
class TableStack:
    """Many tables in arrays, so that each of many places is looked up in a table of its own."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    sizes: np.ndarray
    """Points of both axes, [tables, 2]."""

    def __call__(self, table: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """`tables[table](row, column)` for each entry, as `LibertyTable` does for one."""
        i, i_next, row_share = _places(self.rows[table], self.sizes[table, 0], row)
        j, j_next, column_share = _places(self.columns[table], self.sizes[table, 1], column)
        low, low_next = self.values[table, i, j], self.values[table, i, j_next]
        low = low + column_share * (low_next - low)
        high, high_next = self.values[table, i_next, j], self.values[table, i_next, j_next]
        high = high + column_share * (high_next - high)
        return low + row_share * (high - low)


def _places(
    axis: np.ndarray, size: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (i, i_next, share) per entry: the points on the axis around `at`."""
    i = (axis <= at[:, None]).sum(axis=1) - 1
    i = np.clip(i, 0, np.maximum(size - 2, 0))
    i_next = np.minimum(i + 1, size - 1)
    entry = np.arange(len(at))
    start, step = axis[entry, i], axis[entry, i_next] - axis[entry, i]
    share = np.divide(at - start, step, out=np.zeros_like(at), where=step > 0)
    return i, i_next, share


def stacked(tables: Sequence[liberty.LibertyTable]) -> TableStack:
    """The tables in arrays; what lies beyond the end of an axis is infinity and never used."""
    rows = max((len(table.rows) for table in tables), default=1)
    columns = max((len(table.columns) for table in tables), default=1)
    stack = TableStack(
        np.full((len(tables), rows), np.inf),
        np.full((len(tables), columns), np.inf),
        np.zeros((len(tables), rows, columns)),
        np.array([(len(table.rows), len(table.columns)) for table in tables]).reshape(-1, 2),
    )
    for i, table in enumerate(tables):
        stack.rows[i, : len(table.rows)] = table.rows
        stack.columns[i, : len(table.columns)] = table.columns
        stack.values[i, : len(table.rows), : len(table.columns)] = table.values
    return stack


def looked_up(table: liberty.LibertyTable, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The numbers of one table at many places: `table(row, column)` for each entry."""
    return stacked([table])(np.zeros(len(row), int), row, column)


def loads_ff(design: Netlist, library: liberty.Library, output_load_ff: float) -> np.ndarray:
    """The capacitance on each net for a rising and a falling edge, [nets, 2]."""
    loads = np.zeros((design.nets, 2))
    for kind in design.instances:
        for name in library.cells[kind.cell].inputs:
            if name in kind.pins:
                pin = library.cells[kind.cell].pins[name]
                of_pin = (pin.rise_capacitance_ff, pin.fall_capacitance_ff)
                np.add.at(loads, kind.on(name), of_pin)
    for nets in design.outputs.values():
        np.add.at(loads, nets, output_load_ff)
    return loads


@dataclass(frozen=True, eq=False)
class _Arcs:
    """Single edges through cells, in the order of the levels of the cells."""

    source: np.ndarray
    """Twice the net, plus 1 for a falling edge."""
    target: np.ndarray
    delay: np.ndarray
    """Number of the table of delays, and of that of transition times."""
    slew: np.ndarray
    level: np.ndarray
    kind: np.ndarray
    """Number of the kind of cell."""


class _Tables:
    """Tables by number, each once."""

    def __init__(self) -> None:
        self.tables: list[liberty.LibertyTable] = []
        self._numbers: dict[int, int] = {}

    def number(self, table: liberty.LibertyTable) -> int:
        if id(table) not in self._numbers:
            self._numbers[id(table)] = len(self.tables)
            self.tables.append(table)
        return self._numbers[id(table)]


_SOURCES: Mapping[str, Mapping[int, tuple[int, ...]]] = {
    "positive_unate": {RISE: (RISE,), FALL: (FALL,)},
    "negative_unate": {RISE: (FALL,), FALL: (RISE,)},
    "non_unate": {RISE: (RISE, FALL), FALL: (RISE, FALL)},
}
"""Which edges of an input cause which edge of the output, by Liberty's `timing_sense`."""


def analyze(
    design: Netlist,
    library: liberty.Library,
    cells: CellLibrary,
    access_ns: Callable[[Macro], float] = lambda macro: 0.0,
    memory_setup_ns: float = 0.0,
) -> Timing:
    """The timing of a netlist.

    Inputs arrive at 0 with the edges of the library's driving cell, outputs carry its output load,
    as the mapper assumes. What a memory reads is there `access_ns` after the clock, with the same
    edges, and its inputs must be there `memory_setup_ns` before the clock.
    """
    loads = loads_ff(design, library, cells.output_load_ff)
    order = netlist.levels(design, library)
    tables = _Tables()
    arrival = np.full(2 * design.nets, -np.inf)
    slew = np.zeros(2 * design.nets)
    _start_inputs(design, library.cells[cells.driving_cell], loads, access_ns, arrival, slew)
    _start_registers(design, library, loads, arrival, slew)
    arcs = _arcs(design, library, order, tables)
    stack = stacked(tables.tables)
    flat_loads = loads.reshape(-1)
    bounds = np.searchsorted(arcs.level, np.arange(order.depth + 2))
    for start, end in itertools.pairwise(bounds):
        source, target = arcs.source[start:end], arcs.target[start:end]
        if not len(source):
            continue
        delay = stack(arcs.delay[start:end], slew[source], flat_loads[target])
        edge = stack(arcs.slew[start:end], slew[source], flat_loads[target])
        caused = np.isfinite(arrival[source])
        np.maximum.at(arrival, target[caused], (arrival[source] + delay)[caused])
        np.maximum.at(slew, target[caused], edge[caused])
    ends = _ends(design, library, arrival, slew, memory_setup_ns)
    end = max(ends, key=lambda end: end.delay_ns)
    start, path = _trace(design, arcs, stack, flat_loads, arrival, slew, end.node)
    return Timing(
        delay_ns=max(end.delay_ns, 0.0),
        start=start // 2,
        start_ns=float(arrival[start]),
        path=path,
        end_cell=end.cell,
        end_register=end.register,
        arrival_ns=_pairs(arrival),
        slew_ns=_pairs(slew),
        load_ff=loads,
    )


def _pairs(of_nodes: np.ndarray) -> np.ndarray:
    return of_nodes.reshape(-1, 2)


def _start_inputs(
    design: Netlist,
    driver: liberty.Cell,
    loads: np.ndarray,
    access_ns: Callable[[Macro], float],
    arrival: np.ndarray,
    slew: np.ndarray,
) -> None:
    """Inputs arrive at 0 and what memories read after their access, with a driving cell's edges."""
    starts = [(nets, 0.0) for nets in design.inputs.values()]
    starts += [(macro.outputs, access_ns(macro)) for macro in design.macros]
    (arc,) = driver.pins[driver.outputs[0]].arcs[:1]
    for nets, at_ns in starts:
        for edge, name in enumerate(_EDGES):
            table, zeros = arc.tables[f"{name}_transition"], np.zeros(len(nets))
            arrival[2 * nets + edge] = at_ns
            slew[2 * nets + edge] = looked_up(table, zeros, loads[nets, edge])


def _start_registers(
    design: Netlist,
    library: liberty.Library,
    loads: np.ndarray,
    arrival: np.ndarray,
    slew: np.ndarray,
) -> None:
    """Outputs of flip-flops arrive at their clock-to-output delay."""
    for kind in design.instances:
        cell = library.cells[kind.cell]
        if cell.flip_flop is None:
            continue
        for name in cell.outputs:
            if name not in kind.pins:
                continue
            nets = kind.on(name)
            for arc in cell.pins[name].arcs:
                if arc.related != cell.flip_flop.clock or arc.kind != "rising_edge":
                    continue
                for edge, word in enumerate(_EDGES):
                    node, zeros, load = 2 * nets + edge, np.zeros(len(nets)), loads[nets, edge]
                    delay = looked_up(arc.tables[f"cell_{word}"], zeros, load)
                    steep = looked_up(arc.tables[f"{word}_transition"], zeros, load)
                    arrival[node] = np.maximum(arrival[node], delay)
                    slew[node] = np.maximum(slew[node], steep)


def _arcs(
    design: Netlist, library: liberty.Library, order: netlist.Levels, tables: _Tables
) -> _Arcs:
    columns: list[tuple[np.ndarray, ...]] = []
    for number, kind in enumerate(design.instances):
        cell = library.cells[kind.cell]
        if cell.flip_flop is not None:
            continue
        for name in cell.outputs:
            if name not in kind.pins:
                continue
            for arc in cell.pins[name].arcs:
                if arc.kind != "combinational" or arc.related not in kind.pins:
                    continue
                for edge, word in enumerate(_EDGES):
                    if f"cell_{word}" not in arc.tables:
                        continue
                    numbers = (
                        tables.number(arc.tables[f"cell_{word}"]),
                        tables.number(arc.tables[f"{word}_transition"]),
                    )
                    for cause in _SOURCES[arc.sense][edge]:
                        count = len(kind.names)
                        columns.append(
                            (
                                2 * kind.on(arc.related) + cause,
                                2 * kind.on(name) + edge,
                                *(np.full(count, value) for value in numbers),
                                order.of[kind.cell],
                                np.full(count, number),
                            )
                        )
    whole = (
        [np.concatenate(column) for column in zip(*columns, strict=True)]
        if columns
        else [np.zeros(0, int)] * 6
    )
    by_level = np.argsort(whole[4], kind="stable")
    return _Arcs(*(column[by_level] for column in whole))


@dataclass(frozen=True)
class _End:
    """Where paths end: the latest edge there, and its time with the setup time."""

    delay_ns: float
    node: int
    """Twice the net, plus 1 for a falling edge."""
    cell: str = ""
    register: int | None = None


def _ends(
    design: Netlist,
    library: liberty.Library,
    arrival: np.ndarray,
    slew: np.ndarray,
    memory_setup_ns: float,
) -> list[_End]:
    """The latest end at every port, memory and kind of flip-flop."""
    ends = [_End(-np.inf, 0)]
    plain = [(nets, 0.0) for nets in design.outputs.values()]
    plain += [(macro.inputs, memory_setup_ns) for macro in design.macros]
    for nets, setup_ns in plain:
        for edge in (RISE, FALL):
            nodes = 2 * nets + edge
            latest = int(np.argmax(arrival[nodes]))
            ends.append(_End(float(arrival[nodes[latest]]) + setup_ns, int(nodes[latest])))
    for kind in design.instances:
        cell = library.cells[kind.cell]
        if cell.flip_flop is None:
            continue
        driven = next(kind.on(pin) for pin in cell.outputs if pin in kind.pins)
        for name in cell.inputs:
            for arc in cell.pins[name].arcs:
                if arc.kind != "setup_rising" or name not in kind.pins:
                    continue
                for edge, word in enumerate(_EDGES):
                    table = arc.tables.get(f"{word}_constraint")
                    if table is None:
                        continue
                    nodes = 2 * kind.on(name) + edge
                    late = arrival[nodes] + looked_up(table, np.zeros(len(nodes)), slew[nodes])
                    latest = int(np.argmax(late))
                    ends.append(
                        _End(
                            float(late[latest]), int(nodes[latest]), kind.cell, int(driven[latest])
                        )
                    )
    return ends


def _trace(
    design: Netlist,
    arcs: _Arcs,
    stack: TableStack,
    loads: np.ndarray,
    arrival: np.ndarray,
    slew: np.ndarray,
    node: int,
) -> tuple[int, tuple[TimedCell, ...]]:
    """Returns (node, path): where the latest path to a net's edge starts, and its cells."""
    by_target = np.argsort(arcs.target, kind="stable")
    targets = arcs.target[by_target]
    path: list[TimedCell] = []
    while True:
        first, last = np.searchsorted(targets, [node, node + 1])
        into = by_target[first:last]
        if not len(into):
            return node, tuple(reversed(path))
        source = arcs.source[into]
        delay = stack(arcs.delay[into], slew[source], np.full(len(into), loads[node]))
        latest = int(np.argmax(arrival[source] + delay))
        cell = design.instances[arcs.kind[into[latest]]].cell
        path.append(TimedCell(float(arrival[node]), cell, node // 2))
        node = int(source[latest])
