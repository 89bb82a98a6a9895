"""Writes `docs/isa.md` from the definitions in `hw.isa.instructions` and `hw.isa.registers` alone.

`make docs` writes the file; a test compares the committed one with this module.
"""

from __future__ import annotations

import ast
import enum
import inspect
import sys
import textwrap
from collections.abc import Iterable, Sequence

from evolute.hw.isa.instructions import (
    INSTRUCTION_BITS,
    OPCODE_BITS,
    OPERATIONS,
    SIGNAL_OFFSET,
    WAIT_OFFSET,
    Fault,
    Instruction,
    InstructionField,
    Operation,
    Unit,
    assemble,
    encode,
)
from evolute.hw.isa.registers import COUNTERS, REGISTERS, WATCHDOG_DEFAULT, Control, Status
from evolute.hw.spec.core import MEMORY_PAGE_BYTES

EXAMPLE_PRESET = "core-fpga"

EXAMPLE = """\
load buffer=0 address=0 words=32 memory=0x10000
load buffer=1 address=0 words=8 memory=0x11000
load buffer=2 address=0 words=2 memory=0x12000 signal=compute  # the last of three, done in order
matmul weight=0 activation=0 scale=0 accumulator=0 slices=8 row_tiles=1 group_slices=4 planes=4 \
mode=0 accumulate=0 offset_shift=0 wait=load signal=store
store accumulator=0 words=4 memory=0x20000 wait=compute
halt
"""
"""One row of 128 activations by 128 x 8 four-bit weights in groups of 64, on `EXAMPLE_PRESET`."""


def page() -> str:
    """The text of `docs/isa.md`."""
    return "\n\n".join((*_head(), *_operations(), *_example(), *_driver(), *_reference())) + "\n"


def example_program() -> list[Instruction]:
    """The instructions of the text `EXAMPLE`."""
    return [assemble(line) for line in EXAMPLE.splitlines()]


def meanings(kind: type[enum.Enum]) -> dict[str, str]:
    """The docstring below each member of an enumeration, by the member's name, each on one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for assignment, docstring in zip(definition.body, definition.body[1:], strict=False):
        match assignment, docstring:
            case (
                ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                texts[name] = " ".join(text.split())
    return texts


def _table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _head() -> list[str]:
    units = {unit.name.lower(): unit.value for unit in Unit}
    unitless = [operation for operation in OPERATIONS.values() if operation.unit is None]
    return [
        "# Instructions and registers of a core",
        "Made from `hw/isa/instructions.py` and `hw/isa/registers.py` by `make docs`; change those,"
        " not this page.",
        "## Instructions",
        f"An instruction is {INSTRUCTION_BITS} bits, lowest byte first in memory; a program is an "
        f"array of them at a multiple of {MEMORY_PAGE_BYTES} bytes, ended by `halt`. The bits in "
        "the tables below follow one another without gaps, and all bits above the last field "
        "must be zero. Counts are stored less one.",
        "The core fetches instructions in order and hands each to the queue of its unit. The "
        f"units ({', '.join(units)}) work through their queues at the same time; only **tokens** "
        "order them. `wait` and `signal` hold one bit per unit "
        f"({', '.join(f'bit {bit} {name}' for name, bit in units.items())}):",
        "- `wait`: before it starts, the instruction takes one token from each named unit, all in "
        "the same cycle.\n- `signal`: when it is complete, it gives one token to each named unit.\n"
        "- There is one count of tokens for every ordered pair of units; all are zero at start. An "
        "instruction cannot name its own unit.\n"
        f"- {', '.join(f'`{operation.name}`' for operation in unitless)} never waits or signals.",
        "Loads complete in order, so a token from the last of several loads means that the data of "
        "all of them has arrived. A part of a buffer may be loaded again once the matrix "
        "multiplication that reads it has signalled to `load`. New sums may be started in a bank "
        "once the store of the old ones has signalled to `compute`.",
    ]


def _operations() -> list[str]:
    return [part for operation in OPERATIONS.values() for part in _operation(operation)]


def _operation(operation: Operation) -> list[str]:
    unit = "the dispatcher" if operation.unit is None else f"unit {operation.unit.name.lower()}"
    others = [partner.name.lower() for partner in Unit if operation.unit not in (None, partner)]
    tokens = ", ".join(others) or "0"
    rows: list[Sequence[object]] = [
        (_bits(0, OPCODE_BITS), "opcode", operation.opcode, f"`{operation.name}`"),
        (_bits(WAIT_OFFSET, len(Unit)), "`wait`", tokens, "takes a token from each of these"),
        (_bits(SIGNAL_OFFSET, len(Unit)), "`signal`", tokens, "gives a token to each of these"),
    ]
    rows += [
        (
            _bits(operation.offsets[field.name], field.bits),
            f"`{field.name}`",
            _values(field),
            field.meaning,
        )
        for field in operation.fields
    ]
    if operation.bits < INSTRUCTION_BITS:
        rows.append((_bits(operation.bits, INSTRUCTION_BITS - operation.bits), "", 0, ""))
    return [
        f"### `{operation.name}`",
        f"{operation.meaning} Executed by {unit}.",
        _table(("bits", "field", "values", "meaning"), rows),
    ]


def _bits(offset: int, bits: int) -> str:
    return f"{offset + bits - 1}:{offset}" if bits > 1 else str(offset)


def _values(field: InstructionField) -> str:
    top = f"{field.maximum:#x}" if field.bits > 20 else field.maximum
    return f"{field.minimum}..{top}" + (", stored less 1" if field.less_one else "")


def _example() -> list[str]:
    words = [
        f"{encode(instruction):0{INSTRUCTION_BITS // 4}x}" for instruction in example_program()
    ]
    return [
        "## Text",
        "`assemble` of `evolute.hw.isa.instructions` reads, and `disassemble` writes, one line per "
        "instruction: the name, every field as `field=number` (decimal or `0x`), then "
        "`wait=unit,unit` and `signal=unit,unit` where there are any; `#` starts a comment. "
        "`check(core, instruction)` says whether one core has room for it.",
        "One row of 128 activations by 128 x 8 four-bit weights in two scale groups, on "
        f"`{EXAMPLE_PRESET}`:",
        f"```\n{EXAMPLE}```",
        "As 128-bit words, the first instruction first:",
        "```\n" + "\n".join(words) + "\n```",
    ]


def _driver() -> list[str]:
    control, status = (f"`{name}`" for name in ("control", "status"))
    return [
        "## How to run a program",
        f"""\
1. Read `identity`, which shows that there is a core at this address, and compare `digest` with
   that of the exported sidecar, because a program is compiled for one spec.
2. Put the program at a multiple of {MEMORY_PAGE_BYTES} bytes, and weights, activations and scales
   at the addresses from which it loads them. The core only sees memory through its AXI4 port, so
   write back the processor's caches first.
3. Write the program's address to `program_low` and `program_high`, and its number of
   instructions, `halt` included, to `instructions`.
4. Write to `interrupt_enable` the bits of {status} that shall raise the interrupt, or 0 to poll.
   `watchdog` is {WATCHDOG_DEFAULT} after a reset; raise it if the memory may be slower than that.
5. Write {Control.START.value} (`START`) to {control}.
6. Wait for the interrupt or read {status} until one of these bits is set:
   - {Status.DONE.value} (`DONE`): the results are in memory, and the counters do not change any
     more.
   - {Status.ERROR.value} (`ERROR`): `error` holds the fault, `error_index` the instruction's index
     from 0. Once {Status.BUSY.value} (`BUSY`) is 0, no transfer is outstanding on the bus. You need
     not wait for that, because the orders of the next steps are remembered until then. If the
     memory never answers, the core stays busy, and only a reset helps.
   - {Status.SYNC.value} (`SYNC`): a `sync` waits for the host. Do the host's part, then write
     {Control.RESUME.value} (`RESUME`) to {control} and wait again.
7. Write {Control.ACKNOWLEDGE.value} (`ACKNOWLEDGE`) to {control}. It clears `DONE` and `ERROR`, and
   with them the interrupt; after an error, it does so once `BUSY` is 0. Discard the processor's
   cached copies of the results before reading them.
8. Go on at 2 or 3 with the next program. Its `START` may be written right after the
   `ACKNOWLEDGE`, or even without it: the status is then that of the new program alone.""",
        "`START` clears the status of the previous program at once; counters and tokens are "
        "cleared when the new program begins. The address and the length of the program are read "
        "at `START`: later writes to these registers are for the next program. The registers that "
        "the host writes keep their values, and so do buffers and sums, which still hold what "
        "earlier programs loaded or summed.",
        "An order acts in the cycle in which its write takes effect. This is the cycle in which "
        "both address and data have been taken; or, if the answer to the previous write is not "
        "taken yet, the cycle in which it is taken. `status` shows the result in the next cycle. "
        "Several orders in one write act together; a `START` that is not ignored comes before the "
        "others.",
    ]


def _reference() -> list[str]:
    faults = meanings(Fault)
    parts = [
        "## Registers",
        "32 bits each, over AXI4-Lite, at byte offsets. A write to an offset that is not in this "
        "table, or to a register that is read only, is answered with SLVERR and does nothing. A "
        "read of an offset that is not in this table is answered with SLVERR, too.",
        _table(
            ("offset", "register", "access", "meaning"),
            (
                (
                    f"`0x{register.offset:02x}`",
                    f"`{register.name}`",
                    _access(register.writable),
                    register.meaning,
                )
                for register in REGISTERS.values()
            ),
        ),
    ]
    for title, kind, text in (
        ("`control`", Control, "Bits to write."),
        (
            "`status` and `interrupt_enable`",
            Status,
            "The interrupt is high while a bit is set in both registers.",
        ),
    ):
        texts = meanings(kind)
        rows = ((bit.value, f"`{bit.name}`", texts.get(str(bit.name), "")) for bit in kind)
        parts += [f"### {title}", text, _table(("value", "bit", "meaning"), rows)]
    parts += [
        "### `error`",
        "The first fault wins. The core starts nothing more, completes what is outstanding on the "
        "bus, and stops.",
        _table(
            ("value", "fault", "meaning"),
            ((fault.value, f"`{fault.name}`", faults[fault.name]) for fault in Fault),
        ),
        "### Counters",
        "64 bits in two registers each, for the current program or the last one.",
        _table(
            ("counter", "counts"), ((f"`{name}`", meaning) for name, meaning in COUNTERS.items())
        ),
    ]
    return parts


def _access(writable: bool) -> str:
    return "read, write" if writable else "read"


if __name__ == "__main__":
    sys.stdout.write(page())
