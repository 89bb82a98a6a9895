"""The core's instruction set. The decoder, the compiler, the models and the documentation all read
this one definition.

An instruction is a 128-bit word. Its lowest bits hold the opcode and the tokens that the
instruction waits for and signals. The operation's fields follow without gaps; all bits above them
must be zero. Counts are stored less one, so that no encoding means "none".

Each instruction goes to the queue of its unit. The units work at the same time, and only tokens
order them: before it starts, an instruction takes one token from every unit in `wait`; when it is
complete, it gives one token to every unit in `signal`.

A matmul includes scaling: results are scaled as they leave the engine.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from evolute.hw.spec.core import (
    ACCUMULATOR_ADDRESS_BITS,
    BUFFER_ADDRESS_BITS,
    INSTRUCTION_BITS,
    MEMORY_ADDRESS_BITS,
    RESULT_BITS,
    CoreSpec,
)
from evolute.hw.spec.engine import PLANES_BITS
from evolute.hw.spec.scaling import OFFSET_SHIFT_BITS
from evolute.support.errors import RefusedError

INSTRUCTION_BYTES = INSTRUCTION_BITS // 8

MODE_BITS = 3
"""Width of a matrix multiplication's mode, which each engine reads in its own way."""

INDEX_BITS = 24
"""Width of an instruction's index, and of the count of a program's instructions."""


class IsaError(RefusedError):
    """An instruction that does not exist, or that a core cannot run."""


class DeadlockError(IsaError):
    """A program that stops for good: every instruction that is left waits for a token that will
    never come."""

    def __init__(self, waits: Mapping[int, str]):
        """`waits` maps the index of each waiting instruction to what it waits for."""
        texts = [
            f"instruction {index} waits for {reason}" for index, reason in sorted(waits.items())
        ]
        super().__init__(f"deadlock: {'; '.join(texts)}")


class Unit(enum.IntEnum):
    """The units that execute instructions. The value is the unit's bit in `wait` and `signal`."""

    LOAD = 0
    COMPUTE = 1
    STORE = 2


class Fault(enum.IntEnum):
    """Why a core stopped before the end of its program. The value is the code in the `error`
    register."""

    ILLEGAL = 1
    """There is no such instruction, or a field has a value that this core does not allow."""
    MISALIGNED = 2
    """A memory address is not a multiple of the bus width in bytes; or a program does not begin at
    a multiple of 4096 bytes or ends past the last address. Nothing of such a program is fetched,
    and the index is 0."""
    READ = 3
    """The memory answered a read with an error: that of a load, or the fetch of the bus word in
    which this instruction is the first."""
    WRITE = 4
    """The memory answered a write with an error."""
    BOUNDS = 5
    """A matrix multiplication ran past the end of a buffer."""
    TOKENS = 6
    """There are more tokens between two units than can be counted; the instruction gave the last
    one."""
    NO_HALT = 7
    """The program ended without a halt."""
    WATCHDOG = 8
    """Nothing moved for the number of cycles in the register `watchdog`. The instruction is the one
    that a unit is at work on, else the first one that waits in a queue, both in the order load,
    compute, store; else the next one to be dispatched."""


@dataclass(frozen=True)
class InstructionField:
    """A field of an instruction. With `less_one`, the bits hold the value minus 1."""

    name: str
    bits: int
    meaning: str
    less_one: bool = False

    @property
    def minimum(self) -> int:
        """The smallest value."""
        return int(self.less_one)

    @property
    def maximum(self) -> int:
        """The largest value."""
        return (1 << self.bits) - 1 + self.less_one


@dataclass(frozen=True)
class Operation:
    """A kind of instruction. Where `unit` is None, the dispatcher itself executes it, and it can
    neither wait nor signal."""

    name: str
    opcode: int
    unit: Unit | None
    meaning: str
    fields: tuple[InstructionField, ...] = ()

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Lowest bit of each field in the instruction word, by the field's name."""
        offsets, position = {}, HEADER_BITS
        for field in self.fields:
            offsets[field.name] = position
            position += field.bits
        return offsets

    @cached_property
    def places(self) -> dict[str, int]:
        """Position of each field in `fields`, by the field's name."""
        return {field.name: place for place, field in enumerate(self.fields)}

    def __getitem__(self, name: str) -> InstructionField:
        """The field `name`."""
        return self.fields[self.places[name]]

    @property
    def bits(self) -> int:
        """The number of bits in use, from bit 0 on. All bits above them must be zero."""
        return HEADER_BITS + sum(field.bits for field in self.fields)


OPCODE_BITS = 4
WAIT_OFFSET = OPCODE_BITS
SIGNAL_OFFSET = WAIT_OFFSET + len(Unit)
HEADER_BITS = SIGNAL_OFFSET + len(Unit)

BUFFERS = tuple(BUFFER_ADDRESS_BITS)
"""What a load can fill, by the number in its `buffer` field; `CoreSpec.buffers` in words."""

_MEMORY = InstructionField(
    "memory", MEMORY_ADDRESS_BITS, "byte address in memory, a multiple of the bus width"
)

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation(
            "load",
            1,
            Unit.LOAD,
            "Copy bus words from memory into a buffer.",
            (
                InstructionField(
                    "buffer", 2, ", ".join(f"{i} {name}" for i, name in enumerate(BUFFERS))
                ),
                InstructionField(
                    "address", max(BUFFER_ADDRESS_BITS.values()), "first bus word in the buffer"
                ),
                InstructionField("words", 16, "bus words", less_one=True),
                _MEMORY,
            ),
        ),
        Operation(
            "matmul",
            2,
            Unit.COMPUTE,
            "Multiply row tiles of activations by one column tile of weights, scale and sum.",
            (
                InstructionField(
                    "weight", BUFFER_ADDRESS_BITS["weight"], "first bus word of the weights"
                ),
                InstructionField(
                    "activation",
                    BUFFER_ADDRESS_BITS["activation"],
                    "first bus word of the activations",
                ),
                InstructionField(
                    "scale", BUFFER_ADDRESS_BITS["scale"], "first bus word of the scales"
                ),
                InstructionField("accumulator", ACCUMULATOR_ADDRESS_BITS, "first word of sums"),
                InstructionField("slices", 12, "K-slices per row tile", less_one=True),
                InstructionField("row_tiles", 8, "row tiles, one after another", less_one=True),
                InstructionField("group_slices", 12, "K-slices per scale group", less_one=True),
                InstructionField("planes", PLANES_BITS, "weight beats per K-slice", less_one=True),
                InstructionField("mode", MODE_BITS, "how the engine reads the weights"),
                InstructionField("accumulate", 1, "0 starts sums, 1 adds to those there"),
                InstructionField("offset_shift", OFFSET_SHIFT_BITS, "left shift of every offset"),
            ),
        ),
        Operation(
            "store",
            3,
            Unit.STORE,
            "Copy sums to memory, each as a 64-bit integer.",
            (
                InstructionField("accumulator", ACCUMULATOR_ADDRESS_BITS, "first word of sums"),
                InstructionField("words", 16, "bus words", less_one=True),
                _MEMORY,
            ),
        ),
        Operation("sync", 4, Unit.LOAD, "Call the host, and wait for it to resume."),
        Operation("halt", 5, None, "Wait until all is done; the program's last instruction."),
        Operation(
            "fill",
            6,
            Unit.COMPUTE,
            "Fill the engine's own memories, such as codebooks; only where it has any.",
            (
                InstructionField(
                    "weight",
                    BUFFER_ADDRESS_BITS["weight"],
                    "first bus word of the contents in the weight buffer",
                ),
                InstructionField(
                    "slices",
                    16,
                    "slices of contents, in the order of `evolute.hw.spec.layout`",
                    True,
                ),
                InstructionField("planes", PLANES_BITS, "weight beats per slice", less_one=True),
                InstructionField("mode", MODE_BITS, "what is filled, as the engine calls it"),
            ),
        ),
    )
}

_BY_OPCODE = {operation.opcode: operation for operation in OPERATIONS.values()}


@dataclass(frozen=True)
class Instruction:
    """One instruction. `values` are those of the operation's fields, in their order.

    Raises `IsaError` for a value that its field cannot hold, and for tokens of the instruction's
    own unit.
    """

    operation: Operation
    values: tuple[int, ...] = ()
    wait: frozenset[Unit] = frozenset()
    signal: frozenset[Unit] = frozenset()

    def __post_init__(self) -> None:
        if len(self.values) != len(self.operation.fields):
            raise IsaError(f"{self.operation.name}: needs {len(self.operation.fields)} fields")
        for field, value in zip(self.operation.fields, self.values, strict=True):
            if not field.minimum <= value <= field.maximum:
                rule = f"must be in {field.minimum}..{field.maximum}"
                raise IsaError(f"{self.operation.name} {field.name}: {rule}, got {value}")
        unit = self.operation.unit
        if unit is None and (self.wait or self.signal):
            raise IsaError(f"{self.operation.name}: must not wait or signal")
        if unit in self.wait | self.signal:
            raise IsaError(f"{self.operation.name}: must not wait for its own unit or signal it")

    def __getitem__(self, name: str) -> int:
        """The value of the field `name`."""
        return self.values[self.operation.places[name]]


def instruction(
    name: str, /, *, wait: Iterable[Unit] = (), signal: Iterable[Unit] = (), **values: int
) -> Instruction:
    """Make the instruction `name`, with its fields as keywords. Raises `IsaError`."""
    operation = OPERATIONS[name]
    names = [field.name for field in operation.fields]
    if set(values) != set(names):
        raise IsaError(f"{name}: needs the fields {', '.join(names) or 'none'}")
    ordered = tuple(int(values[field]) for field in names)
    return Instruction(operation, ordered, frozenset(wait), frozenset(signal))


def encode(instruction: Instruction) -> int:
    """The 128-bit word of an instruction."""
    operation = instruction.operation
    word = operation.opcode
    word |= sum(1 << WAIT_OFFSET + unit for unit in instruction.wait)
    word |= sum(1 << SIGNAL_OFFSET + unit for unit in instruction.signal)
    for field, value in zip(operation.fields, instruction.values, strict=True):
        word |= value - field.minimum << operation.offsets[field.name]
    return word


def decode(word: int) -> Instruction:
    """The instruction in a 128-bit word. Raises `IsaError` if it holds none."""
    opcode = word & (1 << OPCODE_BITS) - 1
    if opcode not in _BY_OPCODE:
        raise IsaError(f"opcode {opcode}: no such instruction")
    operation = _BY_OPCODE[opcode]
    if word >> operation.bits:
        raise IsaError(f"{operation.name}: bits above {operation.bits - 1} must be zero")
    values = tuple(
        (word >> operation.offsets[field.name] & (1 << field.bits) - 1) + field.minimum
        for field in operation.fields
    )
    wait, signal = (
        frozenset(unit for unit in Unit if word >> offset + unit & 1)
        for offset in (WAIT_OFFSET, SIGNAL_OFFSET)
    )
    return Instruction(operation, values, wait, signal)


def check(core: CoreSpec, instruction: Instruction) -> None:
    """Raise `IsaError` if `core` cannot run `instruction`. The message names the field, the rule
    and the value."""
    name = instruction.operation.name

    def rule(holds: bool, field: str, text: str) -> None:
        if not holds:
            raise IsaError(f"{name} {field}: must be {text}, got {instruction[field]}")

    if name in ("load", "store"):
        memory, words = instruction["memory"], instruction["words"]
        rule(memory % core.bus_bytes == 0, "memory", f"a multiple of {core.bus_bytes}")
        last_address = (1 << core.address_bits) - words * core.bus_bytes
        rule(memory <= last_address, "memory", f"at most {last_address:#x} for {words} words")
    if name == "load":
        rule(instruction["buffer"] < len(BUFFERS), "buffer", f"below {len(BUFFERS)}")
        room = core.buffers[instruction["buffer"]].bus_words - instruction["address"]
        rule(instruction["words"] <= room, "words", f"at most {room} from that address")
    if name == "store":
        stored = instruction["words"] * core.bus_bits // RESULT_BITS  # sums
        span = -(-stored // core.scale_lanes)
        _check_bank(core, instruction, span)
    if name == "matmul":
        _check_matmul(core, instruction, rule)
    if name == "fill":
        _check_fill(core, instruction, rule)


def operations(core: CoreSpec) -> dict[str, Operation]:
    """The operations that `core` can run, by name. `fill` is missing where the engine has no
    memories to fill."""
    absent = () if core.engine.fills else ("fill",)
    return {name: operation for name, operation in OPERATIONS.items() if name not in absent}


def _check_bank(core: CoreSpec, instruction: Instruction, span: int) -> None:
    """Raise `IsaError` unless a span of accumulator words lies within one of the two banks."""
    first_word = instruction["accumulator"]
    last_word = first_word + span - 1
    if (
        last_word >= core.accumulator_words
        or first_word // core.bank_words != last_word // core.bank_words
    ):
        raise IsaError(
            f"{instruction.operation.name} accumulator: must keep {span} words within one of "
            f"2 banks of {core.bank_words}, got {first_word}"
        )


def _check_matmul(core: CoreSpec, instruction: Instruction, rule) -> None:
    engine = core.engine
    planes, mode = instruction["planes"], instruction["mode"]
    rule(mode in engine.modes, "mode", f"one of {', '.join(map(str, engine.modes))}")
    legal = engine.modes[mode]
    rule(planes in legal, "planes", f"in {legal[0]}..{legal[-1]} in mode {mode}")
    rule(
        instruction["group_slices"] <= engine.group_slices,
        "group_slices",
        f"at most {engine.group_slices}",
    )
    slices, rows = instruction["slices"], instruction["row_tiles"]
    groups = -(-slices // instruction["group_slices"])
    beats = {
        "weight": slices * planes,
        "activation": slices * rows,
        "scale": groups * engine.n // core.scale_lanes,
    }
    for buffer in core.buffers:
        address = instruction[buffer.name]
        rule(
            address % buffer.words_per_beat == 0,
            buffer.name,
            f"a multiple of {buffer.words_per_beat}",
        )
        room = buffer.bus_words - buffer.words(beats[buffer.name])
        rule(address <= room, buffer.name, f"at most {room} for {beats[buffer.name]} beats")
    _check_bank(core, instruction, rows * core.scale_steps)


def _check_fill(core: CoreSpec, instruction: Instruction, rule) -> None:
    fills = {fill.mode: fill for fill in core.engine.fills}
    if not fills:
        raise IsaError("fill: the engine has nothing to fill")
    rule(instruction["mode"] in fills, "mode", f"one of {', '.join(map(str, fills))}")
    fill = fills[instruction["mode"]]
    rule(instruction["planes"] == fill.planes, "planes", str(fill.planes))
    rule(instruction["slices"] <= fill.slices, "slices", f"at most {fill.slices}")
    buffer, beats = core.weight_buffer, instruction["slices"] * instruction["planes"]
    multiple = buffer.words_per_beat
    rule(instruction["weight"] % multiple == 0, "weight", f"a multiple of {multiple}")
    room = buffer.bus_words - buffer.words(beats)
    rule(instruction["weight"] <= room, "weight", f"at most {room} for {beats} beats")


# Text. One line per instruction: name, field=value in order, wait=unit,unit signal=unit,unit.


def disassemble(instruction: Instruction) -> str:
    """The instruction as a line of text; `assemble` turns it back."""
    words = [instruction.operation.name]
    for field, value in zip(instruction.operation.fields, instruction.values, strict=True):
        shown = f"{value:#x}" if field is _MEMORY else str(value)
        words.append(f"{field.name}={shown}")
    for title, units in (("wait", instruction.wait), ("signal", instruction.signal)):
        if units:
            words.append(f"{title}={','.join(unit.name.lower() for unit in sorted(units))}")
    return " ".join(words)


def assemble(line: str) -> Instruction:
    """The instruction in a line of text, in which `#` starts a comment. Raises `IsaError`."""
    words = line.partition("#")[0].split()
    if not words or words[0] not in OPERATIONS:
        names = ", ".join(OPERATIONS)
        raise IsaError(f"{line.strip()!r}: must start with one of {names}")
    values: dict[str, int] = {}
    units: dict[str, list[Unit]] = {"wait": [], "signal": []}
    for word in words[1:]:
        name, equals, text = word.partition("=")
        try:
            if not equals or name in values:
                raise ValueError
            if name in units:
                units[name] += [Unit[unit.upper()] for unit in text.split(",")]
            elif re.fullmatch(r"\d+|0x[0-9a-fA-F]+", text):
                values[name] = int(text, 0)
            else:
                raise ValueError
        except (ValueError, KeyError):
            raise IsaError(f"{words[0]} {word!r}: must be field=number or wait=unit,...") from None
    return instruction(words[0], wait=units["wait"], signal=units["signal"], **values)


def to_bytes(program: Sequence[Instruction]) -> bytes:
    """The program as it lies in memory: 16 bytes per instruction, lowest byte first."""
    return b"".join(encode(step).to_bytes(INSTRUCTION_BYTES, "little") for step in program)


def from_bytes(data: bytes) -> list[Instruction]:
    """The instructions of a program in memory; the inverse of `to_bytes`.

    Raises `IsaError` with the index of the instruction that is not valid.
    """
    if len(data) % INSTRUCTION_BYTES:
        raise IsaError(f"program: must be a multiple of {INSTRUCTION_BYTES} bytes, got {len(data)}")
    program = []
    for start in range(0, len(data), INSTRUCTION_BYTES):
        try:
            word = int.from_bytes(data[start : start + INSTRUCTION_BYTES], "little")
            program.append(decode(word))
        except IsaError as error:
            raise IsaError(f"instruction {start // INSTRUCTION_BYTES}: {error}") from None
    return program
