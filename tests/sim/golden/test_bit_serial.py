"""Bit-serial terms: of every code that there is, by definition and as published."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evolute.hw.spec import BitSerial, SpecError
from evolute.hw.spec.bit_serial import SPECIAL_CODE, float_code, float_terms
from evolute.hw.spec.formats import FORMATS, Kind, WeightCodes
from evolute.hw.spec.platform import Platform
from evolute.sim.cost.engine import evaluate_layer
from evolute.sim.cost.evaluate import evaluate
from evolute.sim.golden import bit_serial as golden
from evolute.sim.timing.engine import fold, run_cycles
from evolute.sim.timing.schedule import plan
from evolute.sim.weights import Grid
from evolute.sim.workload.linear import LayerName, Linear, Workload
from evolute.sw.deploy.pack import layer_steps, weighed_run
from evolute.sw.deploy.packers.bit_serial import needed_steps
from evolute.sw.tensors.tensor import QuantTensor
from evolute.verif.engines.bit_serial import beat_steps, sparser

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
    encoded = golden.encode(spec, Grid(codes, weight_format, weight_format.levels, special))
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
    encoded = golden.encode(spec, Grid(codes, weight_format, 1, special))
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


@pytest.mark.parametrize("value", [0, 1, 2, 3, 4, 6, 8, 10, 12, 16])
def test_the_terms_of_a_value_are_two_powers_of_two(value):
    """Where steps are skipped: two terms only where one will not do, and golden's are the same."""
    for sign in (1, -1):
        lower, upper = float_terms(sign * value)
        assert lower + 4 * upper == sign * value
        assert {abs(lower), abs(upper)} <= {0, 1, 2, 4}
        assert bool(lower) + bool(upper) == (2 if value & value - 1 else bool(value))
        assert not (value <= 4 and value != 3) or not upper
    spec = SPECS[2].evolve(skips=True)
    for weight_format in (FP3, FP4):
        encoded, values = every_code(spec, weight_format)
        assert encoded.shifts == (0, 2)
        own = [[float_terms(each) for each in row] for row in values.tolist()]
        assert np.array_equal(encoded.terms.transpose(1, 2, 0), own)


def test_only_special_values_of_fp3_need_a_second_step():
    spec = SPECS[2].evolve(skips=True)
    encoded, values = every_code(spec, FP3)
    assert np.array_equal(encoded.terms[1] != 0, np.isin(np.abs(values), (3, 6)))
    assert spec.coding_of(FP3).scale == 1 and spec.coding_of(FP3).mode == spec.coding_of(FP4).mode


SKIPPING = [
    *((terms, WeightCodes(bits)) for terms in ("booth", "planes") for bits in (3, 4, 5, 8)),
    ("planes", WeightCodes(2, Kind.TERNARY)),
    ("bitmod", WeightCodes(6)),
    ("bitmod", FP3),
    ("bitmod", FP4),
]


@pytest.mark.parametrize(
    ("terms", "weight_format"), SKIPPING, ids=[f"{terms}-{each.name}" for terms, each in SKIPPING]
)
def test_steps_that_no_weight_needs_are_skipped(terms, weight_format):
    """Two ways to find them: from the bits of codes, and from the terms that golden multiplies."""
    spec = BitSerial(n=2, k=3, terms=terms, weight_bits=8, skips=True)
    rng = np.random.default_rng(weight_format.bits)
    codes = rng.integers(0, weight_format.levels, (4, 60), dtype=np.uint8)
    codes[:, :30] = sparser(rng, spec, codes[:, :30], weight_format)
    special = rng.integers(0, 4, (4, 20), dtype=np.uint8) * np.uint8(bool(weight_format.specials))
    found = needed_steps(spec, codes, special, weight_format)
    terms_of = golden.encode(spec, Grid(codes, weight_format, 3, special)).terms
    has = (terms_of.reshape(-1, 2, 2, 20, 3) != 0).any(axis=(2, 4))
    assert np.array_equal(found, (has << np.arange(len(has))[:, None, None]).sum(axis=0))
    steps = np.maximum(has.sum(axis=0), 1)
    whole = codes.reshape(2, 2, 20, 3)
    beside = special.reshape(2, 2, 20)
    assert np.array_equal(beat_steps(spec, whole, beside, weight_format), steps)
    assert steps.min() == 1 < steps.max() == spec.slice_steps(weight_format)


def tensor_of(codes, weight_format, group):
    scale = np.ones((len(codes), -(-codes.shape[1] // group)), np.float32)
    return QuantTensor(Grid.plain(codes, weight_format, group), scale, scale, group_bits=16)


def test_steps_of_a_layer_by_hand():
    """One tile of two outputs by three slices of two: 5 = 4 + 1, 16, and 6 = 8 - 2; and nothing."""
    spec = BitSerial(n=2, k=2, terms="booth", weight_bits=8, skips=True)
    values = np.array([[5, 0, 0, 16, 0, 0], [0, 0, 16, 6, 0, 0]])
    tensor = tensor_of((values + 128).astype(np.uint8), WeightCodes(8), 6)
    linear = Linear(LayerName(None, "hand"), 2, 6, WeightCodes(8), group=6, group_bits=16)
    # Digits 0 and 1; 0, 1 and 2; and the one that is always taken.
    found = weighed_run(spec, linear, tensor, rows=2)
    assert found.steps_of_beats == (2, 3, 1) * 2
    assert found.steps == 12 < plan(spec, linear, 2).steps == 24
    assert fold(spec, [found]).cycles == run_cycles(spec, [found])
    fixed = spec.evolve(skips=False)
    assert weighed_run(fixed, linear, tensor, 2) == plan(fixed, linear, 2)
    # Planes of the same: 5 is 101 and 16 alone, with 6 three planes; and what is padding is none.
    planes = spec.evolve(terms="planes", n=3, k=4)
    assert layer_steps(planes, tensor).tolist() == [[4, 1]]
    metrics = evaluate_layer(spec, linear, 2, Platform(), layer_steps(spec, tensor))
    assert metrics.cycles == run_cycles(spec, [found])
    # Two steps of a beat in the mean; four multipliers.
    assert metrics.utilization == 2 * 12 * 2 / 4 / metrics.cycles


def test_cycles_that_depend_on_weights_are_a_bound_without_them():
    """As many as where nothing is skipped; measured steps are never more, and the labels tell."""
    spec = BitSerial(n=2, k=2, terms="booth", weight_bits=8, skips=True)
    name = LayerName(0, "shape")
    linear = Linear(name, 2, 6, WeightCodes(8), group=6, group_bits=16)
    bound = evaluate_layer(spec, linear, 1, Platform())
    assert bound.cycles == evaluate_layer(spec.evolve(skips=False), linear, 1, Platform()).cycles
    work = Workload("toy", "w8", (linear,))
    steps = {name: np.array([[2, 3, 1]])}
    unknown, known = (evaluate(spec, work, Platform(), 4, 1, each) for each in (None, steps))
    assert known.prefill.cycles < unknown.prefill.cycles
    timed = {"cycles", "seconds", "tokens_per_s", "utilization", "compute_seconds", "bound"}
    assert {name for name, label in unknown.labels.items() if label == "bound"} == timed
    assert "bound" not in known.labels.values()


def test_refusals():
    codes = np.zeros((1, 4), np.uint8)
    for spec in SPECS[:2]:
        with pytest.raises(SpecError, match=r"weights: must be one of w1, .* on this engine, got"):
            golden.encode(spec, Grid.plain(codes, FP4, 4))
    with pytest.raises(SpecError, match="weights"):
        golden.encode(BitSerial(weight_bits=3), Grid.plain(codes, WeightCodes(4), 4))
    with pytest.raises(SpecError, match=r"weight_bits: must be in 4\.\.8"):
        BitSerial(terms="bitmod", weight_bits=3)
    with pytest.raises(SpecError, match="terms: must be one of planes, booth, bitmod, and, xnor"):
        BitSerial(terms="digits")
    with pytest.raises(SpecError, match="terms: must be planes, booth or bitmod where"):
        BitSerial(terms="and", skips=True)
    with pytest.raises(SpecError, match=r"weight_bits: must be in 3\.\.8"):
        BitSerial(terms="booth", weight_bits=2, skips=True)
    with pytest.raises(SpecError, match=r"weight_bits: must be in 2\.\.8"):
        BitSerial(terms="planes", weight_bits=1, skips=True)


def test_every_engine_runs_what_its_terms_can_say():
    for spec in (*SPECS, *(each.evolve(skips=True) for each in SPECS[:3])):
        kinds = {Kind.INTEGER, Kind.TERNARY} | ({Kind.BITMOD} if spec.has_floats else set())
        assert set(spec.formats) == {each for each in FORMATS if each.kind in kinds}
        assert spec.mode_bits <= 3
