"""Programs in columns: the same instructions, bytes and complaints as one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from evolute.hw.isa import instructions as isa
from evolute.hw.isa.instructions import OPERATIONS, Instruction, IsaError, Unit, instruction
from evolute.hw.isa.table import InstructionTable, check_program
from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.presets import CORES


def random_instruction(core: CoreSpec, rng: np.random.Generator) -> Instruction:
    """Of any operation, with values near those that the core has room for."""
    operation = list(OPERATIONS.values())[rng.integers(len(OPERATIONS))]
    sizes = {buffer.name: buffer.bus_words for buffer in core.buffers}
    sizes |= {"address": int(rng.choice([*sizes.values()])), "accumulator": core.accumulator_words}
    sizes |= {"slices": 3 * core.engine.group_slices, "group_slices": core.engine.group_slices + 1}
    sizes |= {"mode": 2, "planes": core.engine.most_planes + 1, "row_tiles": 9, "buffer": 3}
    sizes |= {"words": int(rng.choice([4, 60, 1 << 16])), "memory": 1 << core.address_bits}
    values = {}
    for field in operation.fields:
        edge = min(field.maximum, sizes.get(field.name, field.maximum))
        drawn = int(rng.choice([0, 1, edge // 2, edge, rng.integers(edge + 1)]))
        if field.name == "memory" and rng.random() < 0.9:
            drawn -= drawn % core.bus_bytes
        values[field.name] = min(max(drawn, field.minimum), field.maximum)
    others = [unit for unit in Unit if operation.unit not in (None, unit)]
    wait, signal = ([unit for unit in others if rng.random() < 0.5] for _ in range(2))
    return instruction(operation.name, wait=wait, signal=signal, **values)


def complaint(core: CoreSpec, program: Sequence[Instruction]) -> str | None:
    """What is wrong with a program, one instruction after another."""
    for index, each in enumerate(program):
        try:
            isa.check(core, each)
        except IsaError as error:
            return f"instruction {index}: {error}"
    halts = [index for index, each in enumerate(program) if each.operation.name == "halt"]
    if halts != [len(program) - 1]:
        return f"program: must end with its only halt, got halts at {halts}"
    return None


@pytest.mark.parametrize("name", CORES)
def test_a_table_is_refused_as_its_instructions_are(name: str) -> None:
    """Alone, and with what is legal around it."""
    core, rng = CORES[name], np.random.default_rng(0)
    legal: list[Instruction] = []
    refused = 0
    for _ in range(1500):
        one = random_instruction(core, rng)
        fine = complaint(core, [one, isa.instruction("halt")]) is None
        refused += not fine
        if fine:
            legal = [*legal, one][-6:]
        after = [isa.instruction("halt")] if rng.random() < 0.9 else []
        program = [*legal[:-1], one, *legal[::-1], *after]
        expected = complaint(core, program)
        try:
            check_program(core, program, 0)
        except IsaError as error:
            assert str(error) == expected
        else:
            assert expected is None
    assert 300 < refused < 1450


@pytest.mark.parametrize("address", [64, -4096, 1 << 40])
def test_a_program_at_no_page_of_the_memory_is_refused(address: int) -> None:
    with pytest.raises(IsaError, match=r"^program address: must be a multiple of 4096 in 0\.\.0x"):
        check_program(CORES["core-decode"], [isa.instruction("halt")], address)


def test_a_table_is_a_sequence_of_its_instructions() -> None:
    rng, core = np.random.default_rng(1), CORES["core-vq"]
    program = [random_instruction(core, rng) for _ in range(50)]
    table = InstructionTable.of(program)
    assert InstructionTable.of(table) is table
    assert list(table) == program and len(table) == 50
    assert [table[i] for i in range(50)] == program and table[-1] == program[-1]
    assert table[3:40:7] == tuple(program[3:40:7])
    assert table.code == isa.to_bytes(program)
    assert table == InstructionTable.of(program) != InstructionTable.of(program[1:])
    assert table != program
    with pytest.raises(IndexError, match="instruction 50 of 50"):
        table[50]
    assert list(InstructionTable.of([])) == [] and InstructionTable.of([]).code == b""


def test_a_value_beyond_its_field_is_refused_as_in_an_instruction() -> None:
    """The first one in the program, whichever column it is in."""
    program = [
        instruction("sync"),
        *[instruction("load", buffer=0, address=0, words=1, memory=0)] * 3,
    ]
    table = InstructionTable.of(program)
    values = [column.copy() for column in table.fields["load"]]
    values[3][1], values[2][2] = 1 << 48, 0
    with pytest.raises(IsaError, match=r"^load memory: must be in 0\.\.281474976710655, got 2814"):
        InstructionTable(table.opcodes, table.waits, table.signals, table.fields | {"load": values})
