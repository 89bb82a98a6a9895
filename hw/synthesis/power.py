"""Energy and power of a mapped netlist from what its nets did.

Three parts, as Liberty has them: switching (a net's capacitance is charged when it rises), internal
(what a cell's tables say beside that) and leakage. Everything dynamic is an energy per clock cycle,
so that a clock rate is needed for leakage alone.

What is assumed, and stated with every figure: no wires and no clock tree (the clock's own power is
that of the flip-flops' clock pins), no glitches (simulated gates have no delay), and one corner.
Where a library's tables depend on the state of a cell's pins, the states are weighted by how often
they were there, pins taken as independent of one another; for flip-flops, whose next state and
state are not independent, the four combinations were counted. Data are taken to arrive in the first
half of a cycle as often as in the second, which decides what a change of a flip-flop's input costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from evolute.hw.synthesis import boolean, liberty
from evolute.hw.synthesis.gates import Activity
from evolute.hw.synthesis.netlist import Instances, Netlist
from evolute.hw.synthesis.timing import RISE, Timing, looked_up


@dataclass(frozen=True)
class Power:
    """Energy per clock cycle (fJ) by where it goes, and leakage."""

    logic_fj: float
    """Inside gates."""
    registers_fj: float
    """Inside flip-flops, the clock's edges included."""
    switching_fj: float
    """For the capacitances of nets that cells drive."""
    clock_pins_fj: float
    """For the capacitance of the flip-flops' clock pins."""
    leakage_nw: float

    @property
    def dynamic_fj(self) -> float:
        """All energy of a cycle but leakage."""
        return self.logic_fj + self.registers_fj + self.switching_fj + self.clock_pins_fj

    def leakage_fj(self, clock_mhz: float) -> float:
        """What leaks in one cycle at a clock rate."""
        return self.leakage_nw / clock_mhz


@dataclass(frozen=True, eq=False)
class CellPower:
    """The same for each cell of one kind, arrays of [cells]."""

    names: tuple[str, ...]
    are_registers: bool
    internal_fj: np.ndarray
    switching_fj: np.ndarray
    """For the nets that the cell drives."""
    clock_pins_fj: np.ndarray
    leakage_nw: np.ndarray


def cell_power(
    design: Netlist, library: liberty.Library, timing: Timing, activity: Activity
) -> tuple[CellPower, ...]:
    """Energies per cycle of all cells of a netlist that was as active as `activity` says.

    The nets that the netlist's inputs drive are charged from outside, and are not in it.
    """
    rates = _Rates(design, library, activity)
    volt_squared = library.voltage_v**2
    of_change_fj = timing.load_ff[:, RISE] * volt_squared / 2  # every other change is a rise
    kinds = []
    for kind in design.instances:
        cell = library.cells[kind.cell]
        switching, clock_pins = np.zeros(len(kind.names)), np.zeros(len(kind.names))
        for pin in cell.outputs:
            if pin in kind.pins:
                nets = kind.on(pin)
                switching += of_change_fj[nets] * rates.toggles[nets]
        if cell.flip_flop is None:
            states = _gate_states(kind, cell, rates)
            internal = _gate_fj(kind, cell, rates, states, timing)
        else:
            clock_pins += cell.pins[cell.flip_flop.clock].rise_capacitance_ff * volt_squared
            rising, states = _register_states(kind, cell, cell.flip_flop, rates)
            internal = _register_fj(kind, cell, cell.flip_flop, rates, (rising, states), timing)
        kinds.append(
            CellPower(
                kind.names,
                cell.flip_flop is not None,
                internal,
                switching,
                clock_pins,
                _leakage_nw(cell, states),
            )
        )
    return tuple(kinds)


def total(kinds: Iterable[CellPower], chosen: Callable[[str], bool] = lambda name: True) -> Power:
    """The power of all cells, or of those whose names are `chosen`."""
    logic = registers = switching = clock_pins = leakage = 0.0
    for kind in kinds:
        inside = np.array([chosen(name) for name in kind.names], bool)
        internal = float(kind.internal_fj[inside].sum())
        if kind.are_registers:
            registers += internal
        else:
            logic += internal
        switching += float(kind.switching_fj[inside].sum())
        clock_pins += float(kind.clock_pins_fj[inside].sum())
        leakage += float(kind.leakage_nw[inside].sum())
    return Power(logic, registers, switching, clock_pins, leakage)


class _Rates:
    """How often nets change and how often they are 1, per cycle."""

    def __init__(self, design: Netlist, library: liberty.Library, activity: Activity):
        cycles = max(activity.cycles, 1)
        self.toggles = activity.toggles / cycles
        self.ones = activity.ones / cycles
        self.ones[1] = 1.0
        self.states = {cell: counts / cycles for cell, counts in activity.states.items()}
        for kind in design.instances:
            flip_flop = library.cells[kind.cell].flip_flop
            if flip_flop is not None:
                self.toggles[kind.on(flip_flop.clock)] = 2.0
                self.ones[kind.on(flip_flop.clock)] = 0.5


@dataclass(frozen=True, eq=False)
class _States:
    """The states that the pins of cells of one kind can be in, and how likely each is."""

    pins: Mapping[str, np.ndarray]
    """The value of every pin, and of a flip-flop's state, in each state, bool [states]."""
    likely: np.ndarray
    """How likely each state is for each instance, [cells, states]."""

    def probability(self, condition: boolean.Expression) -> np.ndarray:
        """How likely a condition is for each instance."""
        states = self.likely.shape[1]
        holds = boolean.evaluate(condition, self.pins.__getitem__, lambda bit: np.full(states, bit))
        return self.likely[:, holds].sum(axis=1)

    def dependence(self, output: str, cause: str) -> np.ndarray:
        """How likely a change of the input `cause` changes an output, for each instance."""
        given = self.pins[output]
        flipped = np.arange(len(given)) ^ 1 << list(self.pins).index(cause)
        return self.likely[:, given != given[flipped]].sum(axis=1)


def _combinations(names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """All values of some bits: for each name its value in every combination."""
    numbers = np.arange(1 << len(names))
    return {name: (numbers >> i & 1).astype(bool) for i, name in enumerate(names)}


def _with_outputs(cell: liberty.Cell, pins: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The pins' values with those that the outputs' functions then have."""
    states = len(next(iter(pins.values())))
    for name in cell.outputs:
        function = cell.pins[name].function
        if function is not None:
            pins[name] = boolean.evaluate(
                function, pins.__getitem__, lambda bit: np.full(states, bit)
            )
    return pins


def _gate_states(kind: Instances, cell: liberty.Cell, rates: _Rates) -> _States:
    """The states of gates, whose inputs are taken as independent."""
    names = tuple(name for name in cell.inputs if name in kind.pins)
    pins = _combinations(names)
    likely = np.ones((len(kind.names), 1 << len(names)))
    for name, bits in pins.items():
        ones = rates.ones[kind.on(name)][:, None]
        likely *= np.where(bits, ones, 1 - ones)
    return _States(_with_outputs(cell, pins), likely)


def _register_states(
    kind: Instances, cell: liberty.Cell, flip_flop: liberty.FlipFlop, rates: _Rates
) -> tuple[_States, _States]:
    """Returns (rising, falling): the states of flip-flops at each edge of their clock.

    At a rising edge the next state has settled. At a falling one it has in half of the cycles; in
    the others it still is what the register took, so that next state and state are the same.
    """
    pins = _combinations((flip_flop.state, "", flip_flop.clock))
    following = pins.pop("")
    (data,) = boolean.pins_of(flip_flop.next_state)
    pins[data] = following if flip_flop.next_state == data else ~following
    pins[flip_flop.inverse] = ~pins[flip_flop.state]
    pins = _with_outputs(cell, pins)
    counted = rates.states[kind.cell]
    held = np.zeros_like(counted)
    held[:, 0] = counted[:, 0] + counted[:, 2]
    held[:, 3] = counted[:, 1] + counted[:, 3]
    rising, falling = (np.tile(joint, 2) / 2 for joint in (counted, (counted + held) / 2))
    return _States(pins, rising), _States(pins, falling)


def _weighted(groups: list[liberty.InternalPower], states: _States) -> list[np.ndarray]:
    """The share of each table of one supply in a change: by how often its condition holds, of all
    conditions; equal shares where none ever holds. Tables without a condition always count."""
    count = len(states.likely)
    likely = [None if group.when is None else states.probability(group.when) for group in groups]
    conditional = [of_group for of_group in likely if of_group is not None]
    total = sum(conditional, np.zeros(count))

    def share(of_group: np.ndarray | None) -> np.ndarray:
        if of_group is None:
            return np.ones(count)
        equal = np.full(count, 1 / len(conditional))
        return np.divide(of_group, total, out=equal, where=total > 0)

    return [share(of_group) for of_group in likely]


def _gate_fj(
    kind: Instances, cell: liberty.Cell, rates: _Rates, states: _States, timing: Timing
) -> np.ndarray:
    """Internal energy per cycle of gates: changes of inputs and of outputs."""
    energy = np.zeros(len(kind.names))
    for name, pin in cell.pins.items():
        if pin.direction == "input" and name in kind.pins:
            toggles = rates.toggles[kind.on(name)]
            for groups in _by_supply(pin.powers).values():
                for group, share in zip(groups, _weighted(groups, states), strict=True):
                    energy += toggles * share * _change_fj(kind, group, name, None, timing)
        elif pin.direction == "output" and name in kind.pins:
            toggles = rates.toggles[kind.on(name)]
            energy += toggles * _output_fj(kind, pin, rates, states, timing)
    return energy


def _by_supply(
    powers: tuple[liberty.InternalPower, ...],
) -> dict[str, list[liberty.InternalPower]]:
    by_supply: dict[str, list[liberty.InternalPower]] = {}
    for power in powers:
        by_supply.setdefault(power.supply, []).append(power)
    return by_supply


def _output_fj(
    kind: Instances,
    pin: liberty.Pin,
    rates: _Rates,
    states: _States,
    timing: Timing,
) -> np.ndarray:
    """Energy of one change of an output: that of the inputs that could be its cause, weighted by
    how often each changes while the output depends on it."""
    count = len(kind.names)
    energy = np.zeros(count)
    for groups in _by_supply(pin.powers).values():
        by_cause: dict[str | None, list[liberty.InternalPower]] = {}
        for group in groups:
            by_cause.setdefault(group.related, []).append(group)
        causes = [cause for cause in by_cause if cause is not None and cause in kind.pins]
        activity = {
            cause: rates.toggles[kind.on(cause)] * states.dependence(pin.name, cause)
            for cause in causes
        }
        total = sum(activity.values(), np.zeros(count))
        for cause, of_cause in by_cause.items():
            share = np.ones(count)
            if cause is not None:
                if cause not in activity:
                    continue
                equal = np.full(count, 1 / len(causes))
                share = np.divide(activity[cause], total, out=equal, where=total > 0)
            for group, weight in zip(of_cause, _weighted(of_cause, states), strict=True):
                energy += share * weight * _change_fj(kind, group, cause, pin, timing)
    return energy


def _change_fj(
    kind: Instances,
    group: liberty.InternalPower,
    cause: str | None,
    output: liberty.Pin | None,
    timing: Timing,
) -> np.ndarray:
    """Energy of one change by one table: the mean of a rise and a fall.

    Both are looked up at the capacitance that the switching part charges, since what a library
    states for a fall is what is left of the same charge.
    """
    count = len(kind.names)
    energy = np.zeros(count)
    for edge, table in enumerate((group.rise, group.fall)):
        if table is None:
            continue
        slew_ns = np.zeros(count)
        if cause is not None and cause in kind.pins:
            slew_ns = timing.slew_ns[kind.on(cause), _causing(output, cause, edge)]
        load_ff = np.zeros(count)
        if output is not None and output.name in kind.pins:
            load_ff = timing.load_ff[kind.on(output.name), RISE]
        energy += looked_up(table, slew_ns, load_ff) / 2
    return energy


def _causing(output: liberty.Pin | None, cause: str, edge: int) -> int:
    """The edge of an input that causes an edge of the output; the same where both could."""
    if output is None:
        return edge
    senses = {arc.sense for arc in output.arcs if arc.related == cause}
    return 1 - edge if senses == {"negative_unate"} else edge


def _register_fj(
    kind: Instances,
    cell: liberty.Cell,
    flip_flop: liberty.FlipFlop,
    rates: _Rates,
    at_edges: tuple[_States, _States],
    timing: Timing,
) -> np.ndarray:
    """Internal energy per cycle of flip-flops: clock edges, changes of inputs and of outputs.

    `at_edges` are the states at rising and at falling edges of the clock.
    """
    energy, none = np.zeros(len(kind.names)), np.zeros(len(kind.names))
    falling = at_edges[1]
    state_toggles = next(rates.toggles[kind.on(pin)] for pin in cell.outputs if pin in kind.pins)
    for name, pin in cell.pins.items():
        for groups in _by_supply(pin.powers).values():
            if name == flip_flop.clock:
                for edge, states in enumerate(at_edges):
                    shares = _weighted(groups, states)
                    for group, share in zip(groups, shares, strict=True):
                        table = (group.rise, group.fall)[edge]
                        if table is not None:
                            energy += share * looked_up(table, none, none)
            elif pin.direction == "input" and name in kind.pins:
                toggles = rates.toggles[kind.on(name)]
                shares = _weighted(groups, falling)
                for group, share in zip(groups, shares, strict=True):
                    energy += toggles * share * _change_fj(kind, group, name, None, timing)
            elif pin.direction == "output":
                shares = _weighted(groups, falling)
                for group, share in zip(groups, shares, strict=True):
                    energy += state_toggles * share * _change_fj(kind, group, None, pin, timing)
    return energy


def _leakage_nw(cell: liberty.Cell, states: _States) -> np.ndarray:
    """Leakage of each instance, by how often it is in each state that the library knows."""
    count = len(states.likely)
    conditional = [(when, power) for when, power in cell.leakage_nw if when is not None]
    average = [power for when, power in cell.leakage_nw if when is None]
    if not conditional:
        return np.full(count, sum(average))
    leakage = np.zeros(count)
    known = np.zeros(count)
    for when, power in conditional:
        likely = states.probability(when)
        leakage += likely * power
        known += likely
    # Libraries list a state once per supply pin; states that they leave out leak as the average.
    return leakage + np.maximum(0, 1 - known) * sum(average)
