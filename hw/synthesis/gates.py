"""Simulates a mapped netlist, many runs at once, and counts how often each net changes.

A net's value is one bit per run, 64 runs to a word. Gates have no delay: a net has one value per
clock cycle, so that what is counted has no glitches. Every bit is 0 or 1: registers start with
values that the caller draws, as those of a chip do.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evolute.hw.synthesis import boolean, liberty, netlist
from evolute.hw.synthesis.netlist import Netlist
from evolute.support import native
from evolute.support.errors import RefusedError

_WORD_BITS = 64


@dataclass(frozen=True, eq=False)
class Activity:
    """What happened on a netlist's nets, summed over runs."""

    cycles: int
    """Cycles of all runs in which changes were counted."""
    toggles: np.ndarray
    """Changes of each net, int64 [nets]."""
    ones: np.ndarray
    """Cycles in which each net was 1, int64 [nets]."""
    states: Mapping[str, np.ndarray]
    """By kind of flip-flop, int64 [cells, 4]: the cycles in which the next state and the state were
    (0, 0), (0, 1), (1, 0) and (1, 1)."""


class GateSimulation:
    """The netlist in up to `runs` runs at once; each step is settle, look, tick."""

    def __init__(
        self, design: Netlist, library: liberty.Library, runs: int, rng: np.random.Generator
    ):
        if design.macros:
            raise RefusedError(
                f"{design.top}: has {len(design.macros)} memories that are no cells, and only "
                "netlists of cells can be simulated"
            )
        self.runs = runs
        self._words = -(-runs // _WORD_BITS)
        self._values = np.zeros((design.nets, self._words), np.uint64)
        self._values[1] = ~np.uint64(0)
        self._registers = [
            _Registers.of(kind, library.cells[kind.cell])
            for kind in design.instances
            if library.cells[kind.cell].flip_flop is not None
        ]
        for register in self._registers:
            size = register.count, self._words
            register.set(self._values, rng.integers(0, 1 << 64, size, np.uint64))
        self._settle = _settling(design, library)
        self._before = self._values.copy()
        self._is_new = True
        self._toggles = np.zeros(design.nets, np.int64)
        self._ones = np.zeros(design.nets, np.int64)
        self._states = {
            register.cell: np.zeros((register.count, 4), np.int64) for register in self._registers
        }
        self._cycles = 0

    def drive(self, nets: np.ndarray, bits: np.ndarray) -> None:
        """Set nets of inputs to `bits`, bool [runs, nets]."""
        self._values[nets] = _packed(bits, self._words)

    def settle(self) -> None:
        """Let the logic follow its inputs and registers."""
        self._settle(self._values)

    def look(self, nets: np.ndarray) -> np.ndarray:
        """The settled values of nets, bool [runs, nets]."""
        return _unpacked(self._values[nets], self.runs)

    def count(self, counted: np.ndarray) -> None:
        """Count the changes since the cycle before, for the runs in `counted`, bool [runs]."""
        mask = _packed(counted[:, None], self._words)[0]
        if not self._is_new:
            self._toggles += _ones((self._values ^ self._before) & mask)
            self._ones += _ones(self._values & mask)
            self._cycles += int(counted.sum())
            for register in self._registers:
                following, state = register.next(self._values), register.now(self._values)
                of_kind = self._states[register.cell]
                for i, of_next in enumerate((~following, following)):
                    for j, of_state in enumerate((~state, state)):
                        of_kind[:, 2 * i + j] += _ones(of_next & of_state & mask)
        np.copyto(self._before, self._values)
        self._is_new = False

    def tick(self) -> None:
        """The rising edge of the clock, on all registers."""
        following = [register.next(self._values) for register in self._registers]
        for register, state in zip(self._registers, following, strict=True):
            register.set(self._values, state)

    @property
    def activity(self) -> Activity:
        """What was counted so far."""
        return Activity(self._cycles, self._toggles, self._ones, self._states)


def _ones(words: np.ndarray) -> np.ndarray:
    return np.bitwise_count(words).sum(axis=1, dtype=np.int64)


def _packed(bits: np.ndarray, words: int) -> np.ndarray:
    """Bits [runs, nets] as words [nets, words]; the lowest bit of the first word is of run 0."""
    runs, nets = bits.shape
    whole = np.zeros((nets, words * _WORD_BITS), bool)
    whole[:, :runs] = bits.T
    return np.packbits(whole, axis=1, bitorder="little").view("<u8").astype(np.uint64)


def _unpacked(words: np.ndarray, runs: int) -> np.ndarray:
    """The inverse of `_packed`."""
    octets = np.ascontiguousarray(words.astype("<u8")).view(np.uint8)
    return np.unpackbits(octets, axis=1, bitorder="little")[:, :runs].T.astype(bool)


@dataclass(frozen=True, eq=False)
class _Registers:
    """All flip-flops of one kind."""

    cell: str
    count: int
    next_state: boolean.Expression
    pins: Mapping[str, np.ndarray]
    outputs: tuple[tuple[np.ndarray, bool], ...]
    """Nets that the state is given on, and whether inverted."""

    @staticmethod
    def of(kind: netlist.Instances, cell: liberty.Cell) -> _Registers:
        """Of the instances of a cell."""
        assert cell.flip_flop is not None
        outputs = []
        for pin in cell.outputs:
            function = cell.pins[pin].function
            if pin in kind.pins:
                inverted = function in (cell.flip_flop.inverse, ("not", cell.flip_flop.state))
                outputs.append((kind.on(pin), inverted))
        pins = {pin: kind.on(pin) for pin in cell.inputs if pin in kind.pins}
        return _Registers(
            kind.cell, len(kind.names), cell.flip_flop.next_state, pins, tuple(outputs)
        )

    def now(self, values: np.ndarray) -> np.ndarray:
        """The state, [cells, words]."""
        nets, inverted = self.outputs[0]
        return ~values[nets] if inverted else values[nets]

    def next(self, values: np.ndarray) -> np.ndarray:
        """The state after the clock's next edge, [cells, words]."""
        return boolean.evaluate(
            self.next_state,
            lambda pin: values[self.pins[pin]],
            functools.partial(_constant, values),
        )

    def set(self, values: np.ndarray, state: np.ndarray) -> None:
        for nets, inverted in self.outputs:
            values[nets] = ~state if inverted else state


def _constant(values: np.ndarray, bit: bool) -> np.ndarray:
    return values[int(bit)]


@dataclass(frozen=True, eq=False)
class Gate:
    """The gates of one kind and level that drive one pin, as a function of their input nets."""

    function: boolean.Expression
    inputs: Mapping[str, np.ndarray]
    output: np.ndarray


def gates_in_order(design: Netlist, library: liberty.Library) -> list[Gate]:
    """All logic of a netlist, each gate after those that drive it."""
    order = netlist.levels(design, library)
    by_level: dict[int, list[Gate]] = {}
    for kind in design.instances:
        cell = library.cells[kind.cell]
        if cell.flip_flop is not None:
            continue
        level = order.of[kind.cell]
        for stage in np.unique(level):
            of_level = level == stage
            for pin in cell.outputs:
                function = cell.pins[pin].function
                if pin not in kind.pins:
                    continue
                if function is None:
                    raise RefusedError(f"cell {kind.cell}: pin {pin} has no function")
                inputs = {name: kind.on(name)[of_level] for name in boolean.pins_of(function)}
                gate = Gate(function, inputs, kind.on(pin)[of_level])
                by_level.setdefault(int(stage), []).append(gate)
    return [gate for _, gates in sorted(by_level.items()) for gate in gates]


Settle = Callable[[np.ndarray], None]
"""Brings values uint64 [nets, words] into agreement with inputs and registers."""


def _settling(design: Netlist, library: liberty.Library) -> Settle:
    gates = gates_in_order(design, library)
    return compiled(gates, design.nets) or interpreted(gates)


def interpreted(gates: list[Gate]) -> Settle:
    """Settles gate by gate, in Python: what `compiled` must agree with."""

    def settle(values: np.ndarray) -> None:
        for gate in gates:
            values[gate.output] = boolean.evaluate(
                gate.function,
                lambda pin, gate=gate: values[gate.inputs[pin]],
                functools.partial(_constant, values),
            )

    return settle


_CODES = {"and": 0, "or": 1, "xor": 2, "not": 3}


def compiled(gates: list[Gate], nets: int) -> Settle | None:
    """Settles in compiled code, about a hundred times as fast; None where there is no compiler."""
    source = Path(__file__).parent / "native" / "gates.cpp"
    shared = native.library(source, "simulations of netlists")
    if shared is None:
        return None
    operations: list[np.ndarray] = []
    most = 0
    for gate in gates:
        steps = _steps(gate.function)
        most = max(most, len(steps))
        count = len(gate.output)
        columns = []
        for i, (code, first, second) in enumerate(steps):
            target = gate.output if i == len(steps) - 1 else np.full(count, nets + i)
            sources = [_operand(gate, operand, nets, count) for operand in (first, second)]
            columns.append(np.stack([np.full(count, code), target, *sources], axis=1))
        # All operations of one gate before the next gate's, which uses the same places between.
        operations.append(np.stack(columns, axis=1).reshape(-1, 4))
    program = np.ascontiguousarray(
        np.concatenate(operations) if operations else np.zeros((0, 4)), np.int32
    )
    run = shared.evolute_settle
    run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p] + [
        ctypes.c_int64
    ] * 2
    run.restype = None

    def settle(values: np.ndarray) -> None:
        words = values.shape[1]
        between = np.empty((most, words), np.uint64)
        run(program.ctypes.data, len(program), values.ctypes.data, between.ctypes.data, nets, words)

    return settle


def _operand(gate: Gate, operand: _Place, nets: int, count: int) -> np.ndarray:
    """The places of an operand: a pin's nets, a constant's net, or that of an earlier result."""
    if isinstance(operand, bool):
        return np.full(count, int(operand))
    if isinstance(operand, int):
        return np.full(count, nets + operand)
    return gate.inputs[operand]


_Place = str | bool | int
"""Where a value is: on a pin, a constant, or the result of the operation with this number."""


def _steps(function: boolean.Expression) -> list[tuple[int, _Place, _Place]]:
    """The operations of a function, the last of which gives its value.

    A function that is a mere pin or constant becomes the OR of it with itself.
    """
    steps: list[tuple[int, _Place, _Place]] = []

    def place(part: boolean.Expression) -> _Place:
        if isinstance(part, str | bool):
            return part
        operands = [place(operand) for operand in part[1:]]
        steps.append((_CODES[part[0]], operands[0], operands[-1]))
        return len(steps) - 1

    whole = place(function)
    return steps or [(_CODES["or"], whole, whole)]
