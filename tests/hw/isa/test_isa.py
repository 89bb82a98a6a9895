"""The instruction set: words and text stand for the same instructions, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.hw.isa import docs as isa_docs
from evolute.hw.isa import instructions as isa
from evolute.hw.isa.instructions import OPERATIONS, Instruction, IsaError, Operation, Unit
from evolute.hw.isa.registers import ADDRESS_BITS, COUNTERS, REGISTERS, Control, Status
from evolute.hw.spec import LutTensorCore, Mac
from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.presets import PRESETS

SMALL = CoreSpec(
    engine=LutTensorCore(m=1, n=4, k=2, kg=1, activation_bits=4, weight_bits=3, group_size=8),
    bus_bits=64,
    address_bits=16,
    weight_buffer_bytes=64,
    activation_buffer_bytes=32,
    scale_buffer_bytes=64,
    accumulators=16,
    scale_lanes=2,
)
"""8 words of 8 weight beats, 4 of 8 activation beats, 8 of 2 scale beats; 2 banks of 4 words."""

WIDE = SMALL.evolve(
    engine=SMALL.engine.evolve(n=32, kg=2, group_size=16),
    weight_buffer_bytes=1024,
    activation_buffer_bytes=64,
    scale_buffer_bytes=2048,
    scale_bits=16,
    offset_bits=16,
    scale_lanes=8,
    accumulators=128,
)
"""Weight beats of 2 bus words and scale beats of 4."""

MULTIPLIERS = SMALL.evolve(
    engine=Mac(n=4, k=2, activation_bits=4, weight_bits=2, group_size=8), weight_buffer_bytes=16
)
"""2 words of 4 weight beats; one plane, one mode."""


@st.composite
def instructions(draw: st.DrawFn, operations: tuple[str, ...] = tuple(OPERATIONS)) -> Instruction:
    operation = OPERATIONS[draw(st.sampled_from(operations))]
    values = tuple(
        draw(st.integers(field.minimum, field.maximum) | st.sampled_from([field.maximum]))
        for field in operation.fields
    )
    others = [unit for unit in Unit if operation.unit not in (None, unit)]
    some = st.frozensets(st.sampled_from(others)) if others else st.just(frozenset())
    return Instruction(operation, values, draw(some), draw(some))


@given(instructions())
def test_words_and_text_give_the_instruction_back(instruction: Instruction) -> None:
    word = isa.encode(instruction)
    assert 0 <= word < 1 << isa.INSTRUCTION_BITS
    assert isa.decode(word) == instruction
    assert isa.assemble(isa.disassemble(instruction)) == instruction
    assert isa.assemble(f"  {isa.disassemble(instruction)}   # and a comment") == instruction


@given(st.lists(instructions(), max_size=5))
def test_bytes_give_the_program_back(program: list[Instruction]) -> None:
    data = isa.to_bytes(program)
    assert len(data) == isa.INSTRUCTION_BYTES * len(program)
    assert isa.from_bytes(data) == program


@given(instructions(), st.data())
def test_every_bit_of_a_word_counts(instruction: Instruction, data: st.DataObject) -> None:
    """Each word is illegal or the only one for its instruction."""
    word = isa.encode(instruction) ^ 1 << data.draw(st.integers(0, isa.INSTRUCTION_BITS - 1))
    try:
        other = isa.decode(word)
    except IsaError:
        return
    assert other != instruction and isa.encode(other) == word


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_fields_follow_one_another_within_a_word(operation: Operation) -> None:
    position = isa.OPCODE_BITS + 2 * len(Unit)
    for field in operation.fields:
        assert operation.offsets[field.name] == position
        position += field.bits
    assert operation.bits == position <= isa.INSTRUCTION_BITS


def test_a_word_by_hand() -> None:
    """Opcode 1, signal to unit 1, buffer 2, address 3, words 5 - 1, memory 64."""
    text = "load buffer=2 address=3 words=5 memory=0x40 signal=compute"
    word = 1 | 1 << 4 + 3 + 1 | 2 << 10 | 3 << 12 | 4 << 32 | 64 << 48
    assert isa.encode(isa.assemble(text)) == word
    assert isa.disassemble(isa.decode(word)) == text


# What does not exist.


def test_unknown_opcodes_are_refused() -> None:
    known = {operation.opcode for operation in OPERATIONS.values()}
    for opcode in set(range(1 << isa.OPCODE_BITS)) - known:
        with pytest.raises(IsaError, match=f"^opcode {opcode}: no such instruction$"):
            isa.decode(opcode)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_bits_above_the_fields_are_refused(operation: Operation) -> None:
    for bit in range(operation.bits, isa.INSTRUCTION_BITS + 1):
        with pytest.raises(IsaError, match=rf"^{operation.name}: bits above {operation.bits - 1} "):
            isa.decode(operation.opcode | 1 << bit)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
@pytest.mark.parametrize("flag", ["wait", "signal"])
def test_tokens_with_the_own_unit_are_refused(operation: Operation, flag: str) -> None:
    offset = isa.WAIT_OFFSET if flag == "wait" else isa.SIGNAL_OFFSET
    refused = set(Unit) if operation.unit is None else {operation.unit}
    smallest = [f"{field.name}={field.minimum}" for field in operation.fields]
    for unit in Unit:
        word = operation.opcode | 1 << offset + unit
        text = " ".join([operation.name, *smallest, f"{flag}={unit.name.lower()}"])
        if unit in refused:
            for call, argument in ((isa.decode, word), (isa.assemble, text)):
                with pytest.raises(IsaError, match=f"^{operation.name}: must not wait"):
                    call(argument)
        else:
            assert isa.decode(word) == isa.assemble(text)


@given(instructions(("load", "matmul", "store")), st.data())
def test_values_out_of_range_are_refused(instruction: Instruction, data: st.DataObject) -> None:
    operation = instruction.operation
    field = data.draw(st.sampled_from(operation.fields))
    beyond = data.draw(st.sampled_from([field.minimum - 1, field.maximum + 1]))
    values = {each.name: instruction[each.name] for each in operation.fields} | {field.name: beyond}
    rule = f"must be in {field.minimum}..{field.maximum}, got {beyond}"
    with pytest.raises(IsaError, match=f"^{operation.name} {field.name}: {rule}$"):
        isa.instruction(operation.name, **values)
    if beyond > 0:
        with pytest.raises(IsaError, match=rule):
            isa.assemble(" ".join([operation.name, *(f"{k}={v}" for k, v in values.items())]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "must start with one of load, matmul"),
        ("# load", "must start with one of load, matmul"),
        ("jump", "must start with one of load, matmul"),
        ("store accumulator=0 words=1", "store: needs the fields accumulator, words, memory"),
        ("halt words=1", "halt: needs the fields none"),
        ("sync name=1", "sync: needs the fields none"),
        ("store accumulator=0 words=1 memory=0 lanes=1", "store: needs the fields accumulator"),
        ("store accumulator=0 accumulator=0 words=1 memory=0", "store 'accumulator=0': must be"),
        ("store accumulator=-1 words=1 memory=0", "store 'accumulator=-1': must be"),
        ("store accumulator=a words=1 memory=0", "store 'accumulator=a': must be"),
        ("store accumulator= words=1 memory=0", "store 'accumulator=': must be"),
        ("store accumulator=0 words=1 memory", "store 'memory': must be"),
        ("sync wait=fetch", "sync 'wait=fetch': must be"),
        ("sync wait=", "sync 'wait=': must be"),
        ("sync wait=1", "sync 'wait=1': must be"),
    ],
)
def test_broken_text_is_refused(line: str, message: str) -> None:
    with pytest.raises(IsaError) as refused:
        isa.assemble(line)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_broken_program_names_the_instruction() -> None:
    good = isa.to_bytes([isa.instruction("sync"), isa.instruction("halt")])
    with pytest.raises(IsaError, match=r"^instruction 2: opcode 0: no such instruction$"):
        isa.from_bytes(good + bytes(isa.INSTRUCTION_BYTES))
    with pytest.raises(IsaError, match=r"^program: must be a multiple of 16 bytes, got 31$"):
        isa.from_bytes(good[:-1])


# What one core has room for.


def _last_word(address: int, beats: int, beat_bits: int, bus_bits: int) -> int:
    """The last bus word that `beats` beats from the word `address` touch, beat by beat."""
    stride = next(1 << i for i in range(32) if 1 << i >= beat_bits)
    last_bit = max(i * stride + max(stride, bus_bits) - 1 for i in range(beats))
    if stride < bus_bits:
        last_bit = (beats - 1) * stride + stride - 1
    return address + last_bit // bus_bits


def _has_room(core: CoreSpec, each: Instruction) -> bool:
    """`isa.check`, spelled out."""
    engine, word_sums = core.engine, core.scale_lanes
    half = core.accumulators // 2

    def one_bank(first_sum: int, last_sum: int) -> bool:
        return last_sum < 2 * half and first_sum // half == last_sum // half

    if each.operation.name in ("load", "store"):
        last_byte = each["memory"] + each["words"] * core.bus_bits // 8 - 1
        if each["memory"] % (core.bus_bits // 8) or last_byte >= 1 << core.address_bits:
            return False
    if each.operation.name == "load":
        sizes = (core.weight_buffer_bytes, core.activation_buffer_bytes, core.scale_buffer_bytes)
        last = 8 * (each["address"] + each["words"]) * core.bus_bits // 64
        return each["buffer"] < 3 and last <= sizes[each["buffer"]]
    if each.operation.name == "store":
        first = each["accumulator"] * word_sums
        return one_bank(first, first + each["words"] * core.bus_bits // 64 - 1)
    if each.operation.name == "matmul":
        groups = sum(1 for _ in range(0, each["slices"], each["group_slices"]))
        if isinstance(engine, LutTensorCore):  # a bit per weight; mode 1 is ternary
            weight_bits = engine.n * engine.kg * engine.k
            planes = {0: range(1, engine.weight_bits + 1), 1: [2]}
        else:
            weight_bits = engine.n * engine.slice_k * engine.weight_bits
            planes = {0: [1]}
        activation_bits = engine.m * engine.slice_k * engine.activation_bits
        scale_bits = core.scale_lanes * (core.scale_bits + core.offset_bits)
        sizes = {
            "weight": (core.weight_buffer_bytes, weight_bits, each["slices"] * each["planes"]),
            "activation": (
                core.activation_buffer_bytes,
                activation_bits,
                each["slices"] * each["row_tiles"],
            ),
            "scale": (core.scale_buffer_bytes, scale_bits, groups * engine.n // core.scale_lanes),
        }
        for name, (size, bits, beats) in sizes.items():
            if each[name] % max(1, bits // core.bus_bits):  # the bits here are powers of two
                return False
            if _last_word(each[name], beats, bits, core.bus_bits) >= size * 8 // core.bus_bits:
                return False
        first = each["accumulator"] * word_sums
        sums = each["row_tiles"] * engine.m * engine.n
        return (
            one_bank(first, first + sums - 1)
            and each["planes"] in planes.get(each["mode"], ())
            and each["group_slices"] * engine.slice_k <= engine.group_size
        )
    return True


@st.composite
def near_limits(draw: st.DrawFn, core: CoreSpec) -> Instruction:
    """Loads, stores and multiplications of which some fit the core."""

    def draws(**tops: int) -> dict[str, int]:
        return {name: draw(st.integers(0, top)) for name, top in tops.items()}

    name = draw(st.sampled_from(("load", "store", "matmul")))
    words = max(buffer.bus_words for buffer in core.buffers)
    if name == "matmul":
        values = draws(
            weight=core.weight_buffer.bus_words,
            activation=core.activation_buffer.bus_words,
            scale=core.scale_buffer.bus_words,
            accumulator=core.accumulator_words,
            accumulate=1,
            offset_shift=15,
        )
        values |= {
            "mode": draw(st.sampled_from([0, 0, *core.engine.modes, max(core.engine.modes) + 1])),
            "slices": draw(st.integers(1, 2 * core.engine.group_slices + 1)),
            "row_tiles": draw(st.integers(1, 3)),
            "group_slices": draw(st.integers(1, core.engine.group_slices + 1)),
            "planes": draw(st.integers(1, core.engine.weight_bits + 1)),
        }
    else:
        ends = [0, core.bus_bytes, 1 << core.address_bits]
        memory = draw(st.sampled_from(ends)) + draw(st.integers(-words, words)) * core.bus_bytes
        slip = draw(st.sampled_from([0, 0, 0, 1]))
        values = {"memory": max(0, memory) + slip, "words": draw(st.integers(1, words + 1))}
        if name == "load":
            values |= draws(buffer=3, address=words)
        else:
            values |= draws(accumulator=core.accumulator_words)
    return isa.instruction(name, **values)


@pytest.mark.parametrize("core", [SMALL, WIDE, MULTIPLIERS], ids=["small", "wide", "mac"])
def test_check_is_its_rules_spelled_out(core: CoreSpec) -> None:
    outcomes = set()

    @settings(max_examples=500, derandomize=True)  # enough to see every outcome, always the same
    @given(near_limits(core))
    def holds(each: Instruction) -> None:
        try:
            isa.check(core, each)
            fits = True
        except IsaError as error:
            assert str(error).startswith(f"{each.operation.name} ") and ": must " in str(error)
            fits = False
        assert fits == _has_room(core, each)
        outcomes.add((each.operation.name, fits))

    holds()
    assert len(outcomes) == 6


_FITS = (
    "matmul weight=0 activation=0 scale=0 accumulator=0 slices=4 row_tiles=1 group_slices=4 "
    "planes=2 mode=0 accumulate=0 offset_shift=0"
)


@pytest.mark.parametrize(
    ("core", "line", "message"),
    [
        (SMALL, "load buffer=3 address=0 words=1 memory=0", "load buffer: must be below 3, got 3"),
        (SMALL, "load buffer=0 address=0 words=1 memory=4", "memory: must be a multiple of 8"),
        (SMALL, "store accumulator=0 words=1 memory=1", "store memory: must be a multiple of 8"),
        (SMALL, "load buffer=0 address=0 words=2 memory=0xfff8", "memory: must be at most 0xfff0"),
        (SMALL, "load buffer=1 address=1 words=4 memory=0", "words: must be at most 3 from that"),
        (SMALL, "store accumulator=3 words=4 memory=0", "must keep 2 words within one of 2 banks"),
        (SMALL, "store accumulator=7 words=4 memory=0", "must keep 2 words within one of 2 banks"),
        (SMALL, _FITS.replace("planes=2", "planes=4"), "planes: must be in 1..3 in mode 0, got 4"),
        (SMALL, _FITS.replace("mode=0", "mode=1").replace("planes=2", "planes=3"),
         "matmul planes: must be in 2..2 in mode 1, got 3"),
        (SMALL, _FITS.replace("mode=0", "mode=2"), "matmul mode: must be one of 0, 1, got 2"),
        (SMALL, _FITS.replace("group_slices=4", "group_slices=5"), "group_slices: must be at most"),
        (SMALL, _FITS.replace("weight=0", "weight=8"), "weight: must be at most 7 for 8 beats"),
        (SMALL, _FITS.replace("activation=0", "activation=4"), "activation: must be at most 3"),
        (SMALL, _FITS.replace("scale=0", "scale=8"), "scale: must be at most 7 for 2 beats"),
        (SMALL, _FITS.replace("accumulator=0", "accumulator=3"), "must keep 2 words within one"),
        (WIDE, _FITS.replace("weight=0", "weight=1"), "matmul weight: must be a multiple of 2"),
        (WIDE, _FITS.replace("scale=0", "scale=2"), "matmul scale: must be a multiple of 4"),
    ],
)  # fmt: skip
def test_what_a_core_has_no_room_for_names_field_and_rule(
    core: CoreSpec, line: str, message: str
) -> None:
    isa.check(core, isa.assemble(_FITS))
    with pytest.raises(IsaError) as refused:
        isa.check(core, isa.assemble(line))
    assert message in str(refused.value)


def test_modes_and_planes_are_the_engines() -> None:
    fits = _FITS.replace("planes=2", "planes=1")
    isa.check(MULTIPLIERS, isa.assemble(fits))
    with pytest.raises(IsaError, match=r"^matmul mode: must be one of 0, got 1$"):
        isa.check(MULTIPLIERS, isa.assemble(fits.replace("mode=0", "mode=1")))
    with pytest.raises(IsaError, match=r"^matmul planes: must be in 1\.\.1 in mode 0, got 2$"):
        isa.check(MULTIPLIERS, isa.assemble(_FITS))


# Registers, and the page about all of it.


def test_registers_have_words_of_their_own() -> None:
    offsets = [register.offset for register in REGISTERS.values()]
    assert offsets == sorted(set(offsets)) and all(offset % 4 == 0 for offset in offsets)
    assert offsets[-1] < 1 << ADDRESS_BITS
    for name in COUNTERS:
        low, high = REGISTERS[f"{name}_low"].offset, REGISTERS[f"{name}_high"].offset
        assert low % 8 == 0 and high == low + 4


def test_the_page_is_current() -> None:
    page = Path(__file__).parents[3] / "docs" / "isa.md"
    assert page.read_text(encoding="utf-8") == isa_docs.page(), "run `make docs`"


def test_the_page_names_every_field_register_and_bit() -> None:
    page = isa_docs.page()
    names = [*OPERATIONS, *REGISTERS, *COUNTERS]
    names += [field.name for operation in OPERATIONS.values() for field in operation.fields]
    names += [str(each.name) for kind in (Control, Status, isa.Fault) for each in kind]
    assert [name for name in names if f"`{name}`" not in page] == []
    assert set(isa_docs.meanings(isa.Fault)) == {each.name for each in isa.Fault}


def test_the_example_runs_on_its_core() -> None:
    core = PRESETS[isa_docs.EXAMPLE_PRESET].spec
    assert isinstance(core, CoreSpec)
    program = isa_docs.example_program()
    for each in program:
        isa.check(core, each)
    assert program[-1].operation.name == "halt"
    # Every token that is given is taken.
    given_tokens = [(each.operation.unit, unit) for each in program for unit in each.signal]
    taken_tokens = [(unit, each.operation.unit) for each in program for unit in each.wait]
    assert sorted(given_tokens) == sorted(taken_tokens) and given_tokens
    # Loads fill what the multiplication reads, and the store takes all of its sums.
    loads = {isa.BUFFERS[each["buffer"]]: each for each in program if each.operation.name == "load"}
    matmul, store = program[3], program[4]
    assert loads["weight"]["words"] == matmul["slices"] * matmul["planes"]
    assert store["words"] * core.bus_bits == core.engine.m * core.engine.n * 64
