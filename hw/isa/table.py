"""A program as columns instead of a list of instructions, for programs of many instructions.

A compiler fills the columns; checks and models process them one operation at a time, without an
object per instruction. `Instruction` objects are made only on request.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from evolute.hw.isa.instructions import (
    BUFFERS,
    INSTRUCTION_BYTES,
    MODE_BITS,
    OPERATIONS,
    SIGNAL_OFFSET,
    WAIT_OFFSET,
    Instruction,
    IsaError,
    Unit,
    check,
)
from evolute.hw.spec.core import MEMORY_PAGE_BYTES, RESULT_BITS, Buffer, CoreSpec

_Column: TypeAlias = NDArray[np.signedinteger]
"""Integers, one for each instruction of an operation."""

_NAMES = {operation.opcode: name for name, operation in OPERATIONS.items()}

_UNITS = tuple(
    frozenset(unit for unit in Unit if mask >> unit & 1) for mask in range(1 << len(Unit))
)
"""The units of every mask."""


@dataclass(frozen=True, eq=False)
class InstructionTable(Sequence[Instruction]):
    """A program as columns. It is also a sequence of `Instruction`s.

    `opcodes`, `waits` and `signals` are uint8 [instructions]; bit u of the latter two stands for
    unit u. `fields` has, for each operation, one int32 or int64 array [instructions of that
    operation] per field, in program order. Raises `IsaError` for a value that its field cannot
    hold.
    """

    opcodes: NDArray[np.uint8]
    waits: NDArray[np.uint8]
    signals: NDArray[np.uint8]
    fields: Mapping[str, Sequence[_Column]]

    def __post_init__(self) -> None:
        wrong: list[int] = []
        for name, values in self.fields.items():
            for field, column in zip(OPERATIONS[name].fields, values, strict=True):
                if len(column) and not (
                    field.minimum <= column.min() and column.max() <= field.maximum
                ):
                    outside = (column < field.minimum) | (column > field.maximum)
                    wrong.append(int(self.at(name)[outside.argmax()]))
        if wrong:
            self[min(wrong)]

    @classmethod
    def of(cls, program: Sequence[Instruction]) -> InstructionTable:
        """The table of a sequence of instructions. A table is returned unchanged."""
        if isinstance(program, InstructionTable):
            return program
        opcodes, waits, signals = (
            np.fromiter(column, np.uint8, len(program))
            for column in (
                (instruction.operation.opcode for instruction in program),
                (_mask(instruction.wait) for instruction in program),
                (_mask(instruction.signal) for instruction in program),
            )
        )
        values: dict[str, list[tuple[int, ...]]] = {name: [] for name in OPERATIONS}
        for instruction in program:
            values[instruction.operation.name].append(instruction.values)
        fields = {
            name: list(np.array(rows, np.int64).reshape(len(rows), len(OPERATIONS[name].fields)).T)
            for name, rows in values.items()
        }
        return cls(opcodes, waits, signals, fields)

    def at(self, name: str) -> NDArray[np.intp]:
        """The indices in the program of all instructions of the operation `name`."""
        return np.flatnonzero(self.opcodes == OPERATIONS[name].opcode)

    def column(self, name: str, field: str) -> _Column:
        """The values of a field in all instructions of the operation `name`, in program order."""
        return self.fields[name][OPERATIONS[name].places[field]]

    # As a sequence.

    def __len__(self) -> int:
        return len(self.opcodes)

    @functools.cached_property
    def _ranks(self) -> NDArray[np.int64]:
        """For each instruction, how many of the same operation precede it."""
        ranks = np.empty(len(self), np.int64)
        for name in OPERATIONS:
            indices = self.at(name)
            ranks[indices] = np.arange(len(indices))
        return ranks

    def nth(self, name: str, place: int) -> Instruction:
        """The instruction number `place` among those of the operation `name`, without its
        tokens."""
        values = tuple(int(column[place]) for column in self.fields[name])
        return Instruction(OPERATIONS[name], values)

    def _instruction(self, index: int) -> Instruction:
        bare = self.nth(_NAMES[int(self.opcodes[index])], self._ranks[index])
        return replace(bare, wait=_UNITS[self.waits[index]], signal=_UNITS[self.signals[index]])

    @overload
    def __getitem__(self, index: int) -> Instruction: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Instruction, ...]: ...
    def __getitem__(self, index: int | slice) -> Instruction | tuple[Instruction, ...]:
        if isinstance(index, slice):
            return tuple(map(self._instruction, range(*index.indices(len(self)))))
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"instruction {index} of {len(self)}")
        return self._instruction(index % len(self))

    def __iter__(self) -> Iterator[Instruction]:
        rows = {
            name: zip(*(column.tolist() for column in columns), strict=True)
            for name, columns in self.fields.items()
        }
        masks = zip(self.opcodes.tolist(), self.waits.tolist(), self.signals.tolist(), strict=True)
        for opcode, wait, signal in masks:
            name = _NAMES[opcode]
            values = next(rows[name]) if self.fields[name] else ()
            yield Instruction(OPERATIONS[name], values, _UNITS[wait], _UNITS[signal])

    def __eq__(self, other: object) -> bool:
        """Whether `other` is a table of the same instructions."""
        if not isinstance(other, InstructionTable):
            return NotImplemented
        return len(self) == len(other) and self.code == other.code

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    # As bytes.

    @functools.cached_property
    def code(self) -> bytes:
        """The program as it lies in memory, lowest byte first."""
        words = np.zeros((len(self), 2), "<u8")  # low half, high half
        words[:, 0] = (
            self.opcodes
            | self.waits.astype(np.uint64) << np.uint64(WAIT_OFFSET)
            | self.signals.astype(np.uint64) << np.uint64(SIGNAL_OFFSET)
        )
        for name, values in self.fields.items():
            operation, indices = OPERATIONS[name], self.at(name)
            for field, column in zip(operation.fields, values, strict=True):
                half, low = divmod(operation.offsets[field.name], 64)
                stored = (column - field.minimum).astype(np.uint64)
                words[indices, half] |= stored << np.uint64(low)
                if low + field.bits > 64:
                    words[indices, half + 1] |= stored >> np.uint64(64 - low)
        return words.tobytes()


def _mask(units: frozenset[Unit]) -> int:
    return sum(1 << unit for unit in units)


def check_program(core: CoreSpec, program: Sequence[Instruction], address: int) -> None:
    """Raise `IsaError` unless `core` can run the program at the byte address `address`.

    Every instruction must be legal for the core, and the last one alone must be a halt. The rules
    are those of `check`, applied here to whole columns. The first instruction that breaks a rule is
    passed to `check`, which names the rule.
    """
    program = InstructionTable.of(program)
    last_address = (1 << core.address_bits) - len(program) * INSTRUCTION_BYTES
    if address % MEMORY_PAGE_BYTES or not 0 <= address <= last_address:
        rule = f"must be a multiple of {MEMORY_PAGE_BYTES} in 0..{last_address:#x}"
        raise IsaError(f"program address: {rule}, got {address:#x}")
    illegal = [
        int(program.at(name)[broken.argmax()])
        for name in OPERATIONS
        if program.fields[name] and (broken := _broken(core, program, name)).any()
    ]
    if illegal:
        index = min(illegal)
        try:
            check(core, program[index])
        except IsaError as error:
            raise IsaError(f"instruction {index}: {error}") from None
        raise AssertionError(f"instruction {index} breaks a rule that `check` does not know")
    halts = program.at("halt").tolist()
    if halts != [len(program) - 1]:
        raise IsaError(f"program: must end with its only halt, got halts at {halts}")


def _broken(core: CoreSpec, program: InstructionTable, name: str) -> NDArray[np.bool]:
    """For each instruction of the operation `name`, whether it breaks a rule."""
    operation = OPERATIONS[name]
    columns = dict(zip((f.name for f in operation.fields), program.fields[name], strict=True))
    broken = np.zeros(len(program.fields[name][0]), bool)
    if "memory" in columns:
        memory, words = columns["memory"], columns["words"]
        broken |= memory % core.bus_bytes != 0
        broken |= memory + words * core.bus_bytes > 1 << core.address_bits
    if name == "load":
        buffer = columns["buffer"]
        sizes = np.array([*(buffer.bus_words for buffer in core.buffers), 0])
        broken |= buffer >= len(BUFFERS)
        room = sizes[np.minimum(buffer, len(BUFFERS))] - columns["address"]
        broken |= columns["words"] > room
    if name == "store":
        sums = columns["words"] * core.bus_bits // RESULT_BITS
        broken |= _beyond_bank(core, columns["accumulator"], -(-sums // core.scale_lanes))
    if name == "matmul":
        broken |= _broken_matmuls(core, columns)
    if name == "fill":
        broken |= _broken_fills(core, columns)
    return broken


def _beyond_bank(core: CoreSpec, first: _Column, span: _Column) -> NDArray[np.bool]:
    last = first + span - 1
    return (last >= core.accumulator_words) | (first // core.bank_words != last // core.bank_words)


def _broken_matmuls(core: CoreSpec, columns: Mapping[str, _Column]) -> NDArray[np.bool]:
    engine = core.engine
    slices, rows, planes = columns["slices"], columns["row_tiles"], columns["planes"]
    least_planes = np.ones(1 << MODE_BITS, np.int64)
    most_planes = np.zeros(1 << MODE_BITS, np.int64)
    for mode, legal in engine.modes.items():
        least_planes[mode], most_planes[mode] = legal[0], legal[-1]
    mode, group_slices = columns["mode"], columns["group_slices"]
    broken = (planes < least_planes[mode]) | (planes > most_planes[mode])
    broken |= group_slices > engine.group_slices
    beats = {
        "weight": slices * planes,
        "activation": slices * rows,
        "scale": -(-slices // group_slices) * engine.n // core.scale_lanes,
    }
    for buffer in core.buffers:
        broken |= _beyond_buffer(buffer, columns[buffer.name], beats[buffer.name])
    broken |= _beyond_bank(core, columns["accumulator"], rows * core.scale_steps)
    return broken


def _broken_fills(core: CoreSpec, columns: Mapping[str, _Column]) -> NDArray[np.bool]:
    slices, planes = columns["slices"], columns["planes"]
    broken = np.ones(len(slices), bool)
    for fill in core.engine.fills:
        legal = (planes == fill.planes) & (slices <= fill.slices)
        broken &= ~((columns["mode"] == fill.mode) & legal)
    broken |= _beyond_buffer(core.weight_buffer, columns["weight"], slices * planes)
    return broken


def _beyond_buffer(buffer: Buffer, first: _Column, beats: _Column) -> NDArray[np.bool]:
    """For each row, whether `first` is not a bus word of the buffer at which a beat begins, or the
    last of `beats` beats ends beyond the buffer."""
    words = -(-beats // buffer.beats_per_word) * buffer.words_per_beat
    return (first % buffer.words_per_beat != 0) | (first > buffer.bus_words - words)
