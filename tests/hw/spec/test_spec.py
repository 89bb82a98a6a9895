"""What specs accept, derive and refuse."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.hw.spec import LutTensorCore, Mac, SpecError, layout
from evolute.hw.spec.formats import TERNARY, Kind, WeightCodes
from evolute.hw.spec.presets import DEFAULT, PRESETS, preset
from evolute.support.errors import UnknownNameError


def test_importing_hw_loads_no_hdl_and_no_arrays():
    code = "import sys, evolute.hw.spec.presets; print({'amaranth', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_presets_are_distinct_and_named_consistently():
    assert DEFAULT == "core-decode"
    assert len({each.spec.digest for each in PRESETS.values()}) == len(PRESETS)
    assert all(name == each.name for name, each in PRESETS.items())


def test_paper_tile_has_the_published_table_and_weight_bits():
    """ISCA 2025, Eqs. 7-8: M2 N64 K4 stores 2 tables of 8 entries and reads 256 weight bits."""
    spec = preset("lut-paper").spec
    assert (spec.m * spec.entries, spec.k * spec.n) == (16, 256)
    assert layout.streams(spec).weight.bits == 256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 7}, "k: must be in 2..6, got 7"),
        ({"m": 0}, "m: must be in 1..64, got 0"),
        ({"weight_bits": 9}, "weight_bits: must be in 1..8, got 9"),
        ({"table_bits": 10}, "table_bits: must be in 4..9 or exact (10 bits), got 10"),
        ({"accumulator_bits": 12}, "accumulator_bits: must be in 19..64"),
        ({"m": True}, "m: must be of type int, got True"),
        ({"n": "64"}, "n: must be of type int, got '64'"),
        ({"rows": 2}, "rows: must be one of m, n, "),
    ],
)
def test_impossible_choices_name_field_rule_and_value(changes, message):
    with pytest.raises(SpecError) as refused:
        LutTensorCore().evolve(**changes)
    assert str(refused.value).startswith(message)


def test_text_assignments():
    spec = LutTensorCore().evolve_text(["k=3", "table_bits=8", "n=0x10"])
    assert (spec.k, spec.table_bits, spec.n) == (3, 8, 16)
    assert spec.evolve_text(["table_bits=exact"]).table_bits is None
    for text in ("k", "k=four", "q=1"):
        with pytest.raises(SpecError):
            LutTensorCore().evolve_text([text])


def test_unknown_preset_offers_near_names():
    with pytest.raises(UnknownNameError, match="lut-decode"):
        preset("lutdecode")


@st.composite
def specs(draw):
    spec = LutTensorCore(
        m=draw(st.integers(1, 8)),
        n=draw(st.integers(1, 64)),
        k=draw(st.integers(2, 6)),
        kg=draw(st.integers(1, 16)),
        activation_bits=draw(st.integers(4, 16)),
        weight_bits=draw(st.integers(1, 8)),
        group_size=draw(st.integers(1, 2048)),
    )
    table_bits = draw(st.none() | st.integers(4, max(4, spec.exact_table_bits - 1)))
    return spec.evolve(table_bits=table_bits)


@given(specs())
def test_derived_widths_are_the_least_that_hold(spec):
    def least(maximum):
        return next(bits for bits in range(1, 80) if maximum < 1 << (bits - 1))

    top = spec.activations.maximum
    assert spec.exact_table_bits == least(spec.k * top)
    assert spec.step_bits == least((2**spec.planes_per_step - 1) * spec.kg * spec.entry_maximum)
    assert spec.acc_bits == least(
        (2**spec.weight_bits - 1) * spec.entry_maximum * spec.kg * spec.group_slices
    )
    assert spec.group_slices * spec.slice_k >= spec.group_size
    assert round(spec.k * top / 2**spec.maximum_table_shift) <= spec.entry_maximum
    if spec.maximum_table_shift:
        assert spec.k * top / 2 ** (spec.maximum_table_shift - 1) > spec.entry_maximum
    with pytest.raises(SpecError):
        spec.evolve(accumulator_bits=spec.acc_bits - 1)


@st.composite
def multipliers(draw):
    return Mac(
        m=draw(st.integers(1, 8)),
        n=draw(st.integers(1, 64)),
        k=draw(st.integers(1, 128)),
        activation_bits=draw(st.integers(4, 16)),
        weight_bits=draw(st.integers(1, 8)),
        group_size=draw(st.integers(1, 2048)),
    )


@given(multipliers())
def test_widths_of_multipliers_are_the_least_that_hold(spec):
    def least(maximum):
        return next(bits for bits in range(1, 80) if maximum < 1 << (bits - 1))

    largest = spec.activations.maximum * 2 ** (spec.weight_bits - 1)
    assert spec.step_bits == least(spec.k * largest)
    assert spec.acc_bits == least(spec.k * spec.group_slices * largest)
    assert spec.group_slices * spec.k >= spec.group_size


@given(specs() | multipliers())
def test_fields_of_a_beat_tile_it_without_gaps(spec):
    streams = layout.streams(spec)
    for beat in (streams.command, streams.activation, streams.weight, streams.result):
        position = 0
        for field in beat.fields:
            assert beat.offsets[field.name] == position
            assert field.total_bits > 0
            position += field.total_bits
        assert beat.bits == position


@pytest.mark.parametrize("bits", range(1, 9))
def test_binary_values_are_the_odd_integers(bits):
    codes = WeightCodes(bits)
    coding = LutTensorCore(weight_bits=8).coding_of(codes)
    most = coding.maximum(codes)
    assert list(coding.values(codes)) == list(range(-most, most + 1, 2))


@pytest.mark.parametrize("bits", range(1, 9))
def test_multipliers_take_twos_complement(bits):
    codes = WeightCodes(bits)
    half = 1 << (bits - 1)
    assert list(Mac(weight_bits=8).coding_of(codes).values(codes)) == list(range(-half, half))


def test_bitmod_values_are_those_of_the_paper():
    """HPCA 2025, Table I: the basic values, and each group's own in place of minus zero."""
    basic = {3: {0, 1, 2, 4}, 4: {0, 0.5, 1, 1.5, 2, 3, 4, 6}}
    special = {3: (3, -3, 6, -6), 4: (5, -5, 8, -8)}
    for bits, unit in ((3, 1), (4, 0.5)):
        codes = WeightCodes(bits, Kind.BITMOD)
        for index, extra in enumerate(special[bits]):
            values = [unit * value for value in codes.values(index)]
            assert values[1 << (bits - 1)] == extra
            assert set(values) == basic[bits] | {-each for each in basic[bits]} | {extra}


def test_ternary_values():
    assert LutTensorCore().coding_of(TERNARY).values(TERNARY) == (-2, 0, 2)
    assert Mac().coding_of(TERNARY).values(TERNARY) == (-1, 0, 1)
    with pytest.raises(SpecError):
        WeightCodes(3, Kind.TERNARY)
