"""What a core may be: legality with plain messages, text and digests, geometry by brute force."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.hw.isa.instructions import BUFFERS, OPERATIONS
from evolute.hw.spec import ENGINES, LutTensorCore, SpecError
from evolute.hw.spec.core import (
    MEMORY_PAGE_BYTES,
    RESULT_BITS,
    Buffer,
    CoreSpec,
)
from evolute.hw.spec.layout import streams as streams_of
from evolute.hw.spec.presets import CORES

ENGINE = LutTensorCore(m=1, n=8, k=4, kg=4, weight_bits=4, group_size=64)
CORE = CoreSpec(engine=ENGINE, accumulators=16, scale_lanes=2, bus_bits=128)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": 3}, "engine: must be of type Engine, got 3"),
        (
            {"engine": ENGINE.evolve(table_bits=8)},
            "engine: must be without row shifts (scaling has none), got 'LutTensorCore'",
        ),
        ({"engine": ENGINE.evolve(n=1)}, "scale_lanes: must be a power of two that divides the"),
        ({"bus_bits": 96}, "bus_bits: must be 64, 128, 256 or 512, got 96"),
        ({"address_bits": 15}, "address_bits: must be in 16..48, got 15"),
        ({"address_bits": 49}, "address_bits: must be in 16..48, got 49"),
        ({"burst_beats": 2}, "burst_beats: must be a power of two in 4..256 (256 beats and 4 KiB"),
        ({"burst_beats": 48}, "burst_beats: must be a power of two in 4..256"),
        ({"burst_beats": 512}, "burst_beats: must be a power of two in 4..256"),
        ({"bus_bits": 512, "burst_beats": 128}, "burst_beats: must be a power of two in 4..64"),
        ({"outstanding_reads": 0}, "outstanding_reads: must be in 1..64, got 0"),
        (
            {"scale_multiplier": "booth"},
            "scale_multiplier: must be one of array, serial, got 'booth'",
        ),
        ({"scale_bits": 1}, "scale_bits: must be in 2..16, got 1"),
        ({"offset_bits": 17}, "offset_bits: must be in 2..16, got 17"),
        ({"sum_bits": ENGINE.acc_bits - 1}, f"sum_bits: must be in {ENGINE.acc_bits}..64, got"),
        ({"clock_mhz": 0}, "clock_mhz: must be in 1..4000, got 0"),
        ({"vector_lanes": 3}, "vector_lanes: must be 0, 1, 2, 4 or 8, got 3"),
        ({"attention_rows": -1}, "attention_rows: must be in 0..64, got -1"),
        ({"scale_lanes": 0}, "scale_lanes: must be a power of two that divides the engine's n (8)"),
        ({"scale_lanes": -2}, "scale_lanes: must be a power of two that divides"),
        ({"scale_lanes": 16}, "scale_lanes: must be a power of two that divides"),
        ({"engine": ENGINE.evolve(n=24), "scale_lanes": 3}, "scale_lanes: must be a power of two"),
        (
            {"engine": ENGINE.evolve(n=6), "bus_bits": 512},
            "bus_bits: must be a divisor of the engine's results in memory (384 bits), got 512",
        ),
        (
            {"accumulators": 8},
            "accumulators: must be scale_lanes times a power of two, in 16..8192 (two result "
            "tiles), got 8",
        ),
        ({"accumulators": 24}, "accumulators: must be scale_lanes times a power of two"),
        ({"accumulators": 17}, "accumulators: must be scale_lanes times a power of two"),
        ({"accumulators": 16384}, "accumulators: must be scale_lanes times a power of two"),
        (
            {"weight_buffer_bytes": 1000},
            "weight_buffer_bytes: must be a multiple of 32 (two beats) in 32..16777216, got 1000",
        ),
        ({"activation_buffer_bytes": 0}, "activation_buffer_bytes: must be a multiple of 32"),
        (
            {"scale_buffer_bytes": 1 << 21},
            "scale_buffer_bytes: must be a multiple of 32 (two beats) in 32..1048576, got 2097152",
        ),
        ({"lanes": 2}, "lanes: must be one of engine, bus_bits"),
        ({"bus_bits": "128"}, "bus_bits: must be of type int, got '128'"),
    ],
)
def test_impossible_cores_name_field_rule_and_value(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(SpecError) as refused:
        CORE.evolve(**changes)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


def test_text_reaches_the_engine_in_the_core() -> None:
    core = CORE.evolve_text(["engine.weight_bits=2", "engine.n=0x10", "accumulators=32"])
    assert core == CORE.evolve(engine=ENGINE.evolve(weight_bits=2, n=16), accumulators=32)
    assert CORE.evolve_text(["engine.table_bits=exact"]) == CORE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engine.m=0", "engine.m: must be in 1..64, got 0"),
        ("engine.m=x", "engine.m: must be of type int, got 'x'"),
        ("engine.q=1", "engine.q: must be one of m, n, "),
        ("engine.m.n=1", "engine.m.n: must be one of m, n, "),
        ("engine.table_bits=8", "engine: must be without row shifts (scaling has none)"),
        ("engine.m", "engine.m: must be of the form field=value"),
        ("engine=lut-fpga", "engine: must be of type Engine, got 'lut-fpga'"),
        ("m=2", "m: must be one of engine, bus_bits"),
        ("bus_bits.m=2", "bus_bits.m: must be one of engine, bus_bits"),
    ],
)
def test_broken_text_names_the_whole_field(text: str, message: str) -> None:
    with pytest.raises(SpecError) as refused:
        CORE.evolve_text([text])
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("core", CORES.values(), ids=CORES.keys())
def test_a_core_comes_back_from_its_dictionary(core: CoreSpec) -> None:
    stated = core.to_dict()
    assert stated.pop("kind") == "CoreSpec"
    engine = stated.pop("engine")
    kinds = {kind.__name__: kind for kind in ENGINES.values()}
    again = CoreSpec(engine=kinds[engine.pop("kind")](**engine), **stated)
    assert again == core and again.digest == core.digest


def test_every_choice_shows_in_the_digest() -> None:
    changed = {
        "engine": ENGINE.evolve(group_size=128),
        "bus_bits": 256,
        "address_bits": 32,
        "burst_beats": 32,
        "outstanding_reads": 4,
        "weight_buffer_bytes": 32768,
        "activation_buffer_bytes": 4096,
        "scale_buffer_bytes": 4096,
        "accumulators": 32,
        "scale_bits": 6,
        "offset_bits": 6,
        "scale_lanes": 4,
        "scale_multiplier": "serial",
        "sum_bits": 48,
        "clock_mhz": 100,
        "vector_lanes": 4,
        "attention_rows": 4,
    }
    assert set(changed) == {field.name for field in dataclasses.fields(CoreSpec)}
    digests = {CORE.evolve(**{name: value}).digest for name, value in changed.items()}
    assert len(digests | {CORE.digest}) == len(changed) + 1


@given(st.integers(1, 3000), st.sampled_from([64, 128, 256, 512]), st.integers(1, 64))
def test_beats_lie_as_the_layout_says(beat_bits: int, bus_bits: int, beats: int) -> None:
    """Beat by beat: where its bits are, and which bus words they touch."""
    buffer = Buffer("weight", 1 << 16, bus_bits, beat_bits)
    starts = [i * buffer.stride_bits for i in range(beats)]
    touched = {bit // bus_bits for start in starts for bit in (start, start + beat_bits - 1)}
    assert beat_bits <= buffer.stride_bits < 2 * beat_bits
    assert buffer.words(beats) >= max(touched) + 1
    # A beat has whole words of its own, or lies in one; both are the same however many there are.
    for i, start in enumerate(starts):
        words = {bit // bus_bits for bit in range(start, start + beat_bits)}
        if buffer.words_per_beat > 1:
            assert buffer.beats_per_word == 1
            own = range(i * buffer.words_per_beat, (i + 1) * buffer.words_per_beat)
            assert words <= set(own)
        else:
            assert words == {i // buffer.beats_per_word}
    most = buffer.beats
    assert buffer.words(most) <= buffer.bus_words < buffer.words(most + 1)


@pytest.mark.parametrize("core", CORES.values(), ids=CORES.keys())
def test_what_a_core_derives(core: CoreSpec) -> None:
    engine = core.engine
    streams = streams_of(engine)
    assert tuple(buffer.name for buffer in core.buffers) == BUFFERS
    assert core.weight_buffer.beat_bits == streams.weight.bits
    assert core.activation_buffer.beat_bits == streams.activation.bits
    assert core.scale_beat.bits == core.scale_lanes * (core.scale_bits + core.offset_bits)
    for buffer in core.buffers:
        size = getattr(core, f"{buffer.name}_buffer_bytes")
        assert buffer.bus_words * core.bus_bytes == size and buffer.beats >= 2
    assert core.scale_steps * core.scale_lanes == engine.m * engine.n
    assert core.tile_store_words * core.bus_bits == engine.m * engine.n * RESULT_BITS
    assert core.bank_words * 2 == core.accumulator_words >= 2 * core.scale_steps
    assert core.burst_beats * core.bus_bytes <= MEMORY_PAGE_BYTES
    assert MEMORY_PAGE_BYTES % (core.fetch_beats * core.bus_bytes) == 0
    assert core.fetch_words >= 2 * core.fetch_beats


@pytest.mark.parametrize("buffer", BUFFERS)
def test_the_largest_buffer_is_what_instructions_can_address(buffer: str) -> None:
    core = CoreSpec(engine=ENGINE)
    largest = core.bus_bytes * (OPERATIONS["matmul"][buffer].maximum + 1)
    field = f"{buffer}_buffer_bytes"
    whole = core.evolve(**{field: largest})
    words = whole.buffers[BUFFERS.index(buffer)].bus_words
    assert words == largest // core.bus_bytes <= OPERATIONS["load"]["address"].maximum + 1
    with pytest.raises(SpecError, match=field):
        core.evolve(**{field: 2 * largest})


def test_limits_are_what_instructions_can_address() -> None:
    matmul, load, store = (OPERATIONS[name] for name in ("matmul", "load", "store"))
    core = CoreSpec(engine=ENGINE)
    most = core.scale_lanes * (matmul["accumulator"].maximum + 1)
    assert core.evolve(accumulators=most).accumulator_words == matmul["accumulator"].maximum + 1
    with pytest.raises(SpecError, match="accumulators"):
        core.evolve(accumulators=2 * most)
    assert matmul["accumulator"].maximum == store["accumulator"].maximum
    memory_bits = load["memory"].bits
    assert core.evolve(address_bits=memory_bits).address_bits == store["memory"].bits
    with pytest.raises(SpecError, match="address_bits"):
        core.evolve(address_bits=memory_bits + 1)
    streams = streams_of(core.engine)
    assert matmul["planes"].bits == streams.command.field("planes_minus_1").bits
    assert 1 << load["buffer"].bits >= len(BUFFERS)
