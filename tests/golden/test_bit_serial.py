"""Bit-serial terms: of every code that there is, by definition and as published."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hw.spec import BitSerial, CoreSpec, SpecError
from hw.spec.bit_serial import SPECIAL_CODE, float_code
from hw.spec.formats import FORMATS, Kind, WeightCodes
from sim.cycles import fold, run_cycles
from sim.evaluate import evaluate_layer
from sim.golden import bit_serial as golden
from sim.memory import Platform
from sim.schedule import plan
from sim.workload import Linear
from sw.pack import weighed_run
from sw.packers.bit_serial import needed_digits
from verif.bit_serial import beat_steps, sparser

FP3, FP4 = WeightCodes(3, Kind.BITMOD), WeightCodes(4, Kind.BITMOD)
SPECS = [
    BitSerial(terms="planes", weight_bits=8),
    BitSerial(terms="booth", weight_bits=8),
    BitSerial(terms="bitmod", weight_bits=8),
    BitSerial(terms="and", weight_bits=8),
    BitSerial(terms="xnor", weight_bits=8),
]
RUNS = [(spec, each) for spec in SPECS for each in spec.formats]


def every_code(spec, weight_format):
    """The terms of every code in groups of every special value, and what each code counts as."""
    count = max(1, len(weight_format.specials))
    codes = np.tile(np.arange(weight_format.levels, dtype=np.uint8), (count, 1))
    special = np.arange(count, dtype=np.uint8)[:, None]
    encoded = golden.encode(spec, codes, weight_format, weight_format.levels, special)
    coding = spec.coding_of(weight_format)
    return encoded, np.array([coding.values(weight_format, each) for each in range(count)])


@pytest.mark.parametrize(
    ("spec", "weight_format"), RUNS, ids=[f"{spec.terms}-{each.name}" for spec, each in RUNS]
)
def test_terms_are_signed_powers_of_two_and_sum_to_the_weight(spec, weight_format):
    encoded, values = every_code(spec, weight_format)
    shifted = encoded.terms.astype(int) << np.array(encoded.shifts)[:, None, None]
    twice = 2 if spec.terms == "xnor" else 1
    assert (twice * shifted.sum(axis=0) == values).all()
    magnitudes = np.abs(encoded.terms)
    assert not (magnitudes & magnitudes - 1).any()
    activations = spec.activation_planes if spec.has_pairs else 1
    assert activations * len(encoded.terms) == spec.slice_steps(weight_format)
    # What is added in the midst of a slice needs no wider accumulators than whole weights do.
    widest = max(spec.coding_of(each).maximum(each) for each in spec.formats)
    assert np.abs(np.cumsum(shifted, axis=0)).max() <= widest


@pytest.mark.parametrize(("bits", "steps"), [(4, 2), (5, 3), (6, 3), (8, 4), (2, 1), (1, 1)])
def test_integers_take_as_many_booth_digits_as_published(bits, steps):
    """BitMoD, section III-B: three for INT6, four for INT8; Booth's digits are -2 .. 2."""
    for spec in SPECS[1:3]:
        assert spec.slice_steps(WeightCodes(bits)) == steps
        assert np.abs(every_code(spec, WeightCodes(bits))[0].terms).max() <= 2


def test_values_are_those_of_bitmods_table():
    """BitMoD, Table I: what all groups share, and the special values of a group."""
    shared = {
        FP3: (0, 1, 2, 4),
        FP4: (0, 0.5, 1, 1.5, 2, 3, 4, 6),
    }
    specials = {FP3: (3, -3, 6, -6), FP4: (5, -5, 8, -8)}
    for weight_format, half in ((FP3, 1), (FP4, 2)):
        for i, special in enumerate(specials[weight_format]):
            values = sorted(value / half for value in weight_format.values(i))
            mirrored = {sign * value for value in shared[weight_format] for sign in (1, -1)}
            assert values == sorted([*mirrored, special])


def test_a_beats_codes_tell_all_values_of_a_group_apart():
    for special in range(4):
        codes = {float_code(value) for value in FP4.values(special)}
        assert codes == set(range(-8, 8))
        assert float_code(FP4.specials[special]) == SPECIAL_CODE
        doubled = [2 * value for value in FP3.values(special)]
        assert len({float_code(value) for value in doubled}) == 8
        # The special values of FP3 are among the values that FP4 always has.
        assert set(doubled) <= set(FP4.values(0)) - {FP4.specials[0]}


@pytest.mark.parametrize("weight_format", [FP3, FP4], ids=["FP3", "FP4"])
def test_floating_weights_multiply_as_their_values_do(weight_format):
    """Every code of every special value, one product at a time."""
    spec, rng = SPECS[2], np.random.default_rng(1)
    x = rng.integers(-127, 128, (5, weight_format.levels))
    codes = np.tile(np.arange(weight_format.levels, dtype=np.uint8), (4, 1))
    special = np.repeat(np.arange(4, dtype=np.uint8)[:, None], weight_format.levels, axis=1)
    encoded = golden.encode(spec, codes, weight_format, 1, special)
    found = golden.group_sums(spec, x, encoded).psum
    counted = 1 if weight_format is FP4 else 2  # all in halves of FP4
    for row, i, n in itertools.product(range(5), range(weight_format.levels), range(4)):
        assert found[row, i, n] == counted * weight_format.values(n)[i] * x[row, i]


@pytest.mark.parametrize("bits", [4, 8])
def test_pairs_of_planes_take_as_many_steps_as_published(bits):
    """ABQ-LLM: p times q binary products; of -1 and 1, a plane more says even activations."""
    for spec, more in ((SPECS[3], 0), (SPECS[4], 1)):
        spec = spec.evolve(activation_bits=bits)
        for weight_bits in range(1, 9):
            assert spec.slice_steps(WeightCodes(weight_bits)) == weight_bits * (bits + more)


def test_planes_of_signs_count_as_published():
    """AP-LLM, bipolar integers: 2 * u - (2^n - 1), odd and without zero; here times 2."""
    for bits in range(1, 9):
        values = SPECS[4].coding_of(WeightCodes(bits)).values(WeightCodes(bits))
        top = (1 << bits) - 1
        assert [each // 2 for each in values] == list(range(-top, top + 1, 2))


@pytest.mark.parametrize("bits", [3, 4, 5, 8])
def test_steps_that_no_weight_needs_are_skipped(bits):
    """Two ways to find them: from the bits of codes, and from the terms that golden multiplies."""
    spec = BitSerial(n=2, k=3, terms="booth", weight_bits=8, skips=True)
    rng, weight_format = np.random.default_rng(bits), WeightCodes(bits)
    codes = rng.integers(0, 1 << bits, (4, 60), dtype=np.uint8)
    codes[:, :30] = sparser(rng, spec, codes[:, :30], weight_format)
    needed = needed_digits(spec, codes, weight_format)
    terms = golden.encode(spec, codes, weight_format, 60).terms
    steps = np.maximum((terms.reshape(-1, 2, 2, 20, 3) != 0).any(axis=(2, 4)).sum(axis=0), 1)
    assert np.array_equal(np.bitwise_count(needed), steps)
    whole = codes.reshape(2, 2, 20, 3)
    assert np.array_equal(beat_steps(spec, whole, weight_format), steps)
    assert steps.min() == 1 < steps.max() == -(-bits // 2)


def test_steps_of_a_layer_by_hand():
    """One tile of two outputs by three slices of two: 5 = 4 + 1, 16, and 6 = 8 - 2; and nothing."""
    spec = BitSerial(n=2, k=2, terms="booth", weight_bits=8, skips=True)
    values = np.array([[5, 0, 0, 16, 0, 0], [0, 0, 16, 6, 0, 0]])
    codes = (values + 128).astype(np.uint8)
    linear = Linear("by hand", 2, 6, WeightCodes(8), group=6, group_bits=16)
    # Digits 0 and 1; 0, 1 and 2; and the one that is always taken.
    found = weighed_run(spec, linear, codes, rows=2)
    assert found.steps_of_beats == (2, 3, 1) * 2
    assert found.steps == 12 < plan(spec, linear, 2).steps == 24
    assert fold(spec, [found]).cycles == run_cycles(spec, [found])
    fixed = spec.evolve(skips=False)
    assert weighed_run(fixed, linear, codes, 2) == plan(fixed, linear, 2)


def test_cycles_that_depend_on_weights_are_not_told_without_them():
    spec = BitSerial(terms="booth", weight_bits=8, skips=True)
    with pytest.raises(SpecError, match="engine: must be one whose steps do not depend on weights"):
        CoreSpec(engine=spec)
    linear = Linear("shape", 2, 6, WeightCodes(8), group=6, group_bits=16)
    with pytest.raises(SpecError, match="a workload has shapes alone"):
        evaluate_layer(spec, linear, 1, Platform())


def test_refusals():
    codes = np.zeros((1, 4), np.uint8)
    for spec in SPECS[:2]:
        with pytest.raises(SpecError, match=r"weights: must be one of w1, .* on this engine, got"):
            golden.encode(spec, codes, FP4, 4)
    with pytest.raises(SpecError, match="weights"):
        golden.encode(BitSerial(weight_bits=3), codes, WeightCodes(4), 4)
    with pytest.raises(SpecError, match=r"weight_bits: must be in 4\.\.8"):
        BitSerial(terms="bitmod", weight_bits=3)
    with pytest.raises(SpecError, match="terms: must be one of planes, booth, bitmod, and, xnor"):
        BitSerial(terms="digits")
    with pytest.raises(SpecError, match="terms: must be booth where steps are skipped"):
        BitSerial(terms="planes", skips=True)
    with pytest.raises(SpecError, match=r"weight_bits: must be in 3\.\.8"):
        BitSerial(terms="booth", weight_bits=2, skips=True)


def test_every_engine_runs_what_its_terms_can_say():
    for spec in SPECS:
        kinds = {Kind.INTEGER, Kind.TERNARY} | ({Kind.BITMOD} if spec.has_floats else set())
        assert set(spec.formats) == {each for each in FORMATS if each.kind in kinds}
        assert spec.mode_bits <= 3
