"""The golden model against plain integer arithmetic, brute force and published figures."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.hw.spec import LutTensorCore, SpecError
from evolute.hw.spec.formats import TERNARY, Kind, WeightCodes
from evolute.sim.golden import integer
from evolute.sim.golden import lut_tensor_core as golden
from evolute.sim.weights import Grid

FORMATS = [WeightCodes(bits) for bits in range(1, 9)] + [TERNARY]


def product(x, codes, weight_format, group):
    """Sums by definition, one Python integer at a time: code q counts as 2*q - (levels - 1)."""
    m, k = x.shape
    n = codes.shape[0]
    psum = np.zeros((m, math.ceil(k / group), n), object)
    for row, column, i in itertools.product(range(m), range(n), range(k)):
        value = 2 * int(codes[column, i]) - (weight_format.levels - 1)
        psum[row, i // group, column] += value * int(x[row, i])
    return psum


def operands(rng, spec, weight_format, m, n, k):
    top = spec.activations.maximum
    x = rng.integers(-top, top + 1, (m, k))
    return x, rng.integers(0, weight_format.levels, (n, k)).astype(np.uint8)


@pytest.mark.parametrize("weight_format", FORMATS, ids=lambda each: each.name)
def test_both_models_equal_the_definition(weight_format):
    rng = np.random.default_rng(1)
    spec = LutTensorCore(weight_bits=8)
    x, codes = operands(rng, spec, weight_format, 2, 3, 45)
    expected = product(x, codes, weight_format, 16)
    plain = integer.group_sums(x, integer.weights(spec, Grid.plain(codes, weight_format, 16)), 16)
    looked_up = golden.group_sums(
        spec, x, golden.encode(spec, Grid.plain(codes, weight_format, 16))
    )
    assert (plain.psum == expected).all()
    assert (looked_up.psum == expected).all()
    assert (looked_up.row_sum == plain.row_sum).all()


@settings(max_examples=200)
@given(data=st.data())
def test_lossless_lookup_equals_integer_multiplication(data):
    weight_format = data.draw(st.sampled_from(FORMATS))
    spec = LutTensorCore(
        k=data.draw(st.integers(2, 6)),
        kg=data.draw(st.integers(1, 8)),
        activation_bits=data.draw(st.integers(4, 16)),
        weight_bits=data.draw(st.integers(weight_format.bits, 8)),
    )
    m, n, k = (data.draw(st.integers(1, top)) for top in (3, 9, 150))
    group = data.draw(st.sampled_from([1, 7, 32, 64, 128, 150]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x, codes = operands(rng, spec, weight_format, m, n, k)
    if data.draw(st.booleans()):
        x[:] = spec.activations.maximum * data.draw(st.sampled_from([-1, 1]))
        codes[:] = data.draw(st.sampled_from([0, weight_format.levels - 1]))
    looked_up = golden.group_sums(
        spec, x, golden.encode(spec, Grid.plain(codes, weight_format, group))
    )
    weights = integer.weights(spec, Grid.plain(codes, weight_format, group))
    plain = integer.group_sums(x, weights, group)
    assert (looked_up.psum == plain.psum).all()
    assert (looked_up.row_sum == plain.row_sum).all()


@settings(max_examples=200)
@given(data=st.data())
def test_every_kind_of_table_gives_the_product(data):
    """Subsets, ternary digits and several planes a step, in every format that they run."""
    base = data.draw(st.sampled_from([2, 2, 3]))
    planes = data.draw(st.sampled_from([1, 2, 4])) if base == 2 else 1
    spec = LutTensorCore(
        k=data.draw(st.integers(2, 6 if base == 2 else 3)),
        base=base,
        mirrored=base == 3 or data.draw(st.booleans()),
        planes_per_step=planes,
        activation_bits=data.draw(st.integers(4, 16)),
        weight_bits=planes * data.draw(st.integers(1, 8 // planes)) if base == 2 else 2,
    )
    weight_format = data.draw(st.sampled_from(spec.formats))
    m, n, k = (data.draw(st.integers(1, top)) for top in (3, 9, 60))
    group = data.draw(st.sampled_from([1, 7, 32, 60]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x, codes = operands(rng, spec, weight_format, m, n, k)
    found = golden.group_sums(spec, x, golden.encode(spec, Grid.plain(codes, weight_format, group)))
    plain = integer.group_sums(
        x, integer.weights(spec, Grid.plain(codes, weight_format, group)), group
    )
    assert (found.psum == plain.psum).all()
    assert (found.row_sum == plain.row_sum).all()


def test_formats_of_each_kind_of_table():
    def names(**changes):
        return [each.name for each in LutTensorCore(**changes).formats]

    assert names(weight_bits=4, planes_per_step=2) == ["w2", "w4", "ternary"]
    assert names(weight_bits=8, planes_per_step=4) == ["w4", "w8"]
    assert names(weight_bits=2, base=3, k=3) == ["ternary"]
    subsets = LutTensorCore(weight_bits=2, mirrored=False)
    assert subsets.coding_of(TERNARY).values(TERNARY) == (0, 1, 2)
    assert subsets.coding_of(WeightCodes(2)).values(WeightCodes(2)) == (0, 1, 2, 3)
    both = LutTensorCore(weight_bits=2, planes_per_step=2)
    assert both.coding_of(TERNARY).values(TERNARY) == (-3, -1, 1)
    assert both.slice_steps(TERNARY) == 1 and both.shifts == (0,)


def test_all_planes_in_one_step_are_twos_complement():
    pairs = LutTensorCore(k=2, kg=3, mirrored=False, weight_bits=4, planes_per_step=4, group_size=6)
    assert [each.name for each in pairs.formats] == ["w1", "w2", "w3", "w4", "ternary"]
    assert pairs.coding_of(WeightCodes(4)).values(WeightCodes(4)) == tuple(range(-8, 8))
    assert pairs.coding_of(TERNARY).values(TERNARY) == (-1, 0, 1)
    assert not pairs.evolve(planes_per_step=2).is_signed
    assert not pairs.evolve(table_bits=6).is_signed
    # The largest sums there are just fit.
    x = np.full((1, 6), -127, np.int8)
    lowest = golden.encode(pairs, Grid.plain(np.zeros((1, 6), np.uint8), WeightCodes(4), 6))
    assert golden.group_sums(pairs, x, lowest).psum.tolist() == [[[8 * 127 * 6]]]
    assert pairs.step_bits == pairs.acc_bits == (8 * 127 * 6).bit_length() + 1
    waits = {k: pairs.evolve(k=k).operand_latency_cycles for k in (2, 3)}
    assert waits[3] == waits[2] + 1 == pairs.evolve(mirrored=True).operand_latency_cycles


@pytest.mark.parametrize(("k", "entries", "bits"), [(2, 4, 4), (3, 13, 5)])
def test_ternary_codes_are_those_of_tl2(k, entries, bits):
    """arXiv 2502.11880: three weights in a sign and the magnitude, at most 13, of a number to base
    3: 5 bits, 1.67 a weight."""
    spec = LutTensorCore(k=k, kg=1, base=3, weight_bits=2)
    assert (spec.entries, spec.code_bits) == (entries, bits)
    x = np.random.default_rng(k).integers(-127, 128, k)
    tables = golden.full_tables(spec, x)
    seen = set()
    for digits in itertools.product(range(3), repeat=k):
        code = int(golden.table_codes(spec, np.array(digits, np.uint8)))
        assert code & (1 << bits - 1) - 1 <= entries
        assert tables[code] == sum(
            (digit - 1) * int(value) for digit, value in zip(digits, x, strict=True)
        )
        seen.add(code)
    assert len(seen) == 3**k


def test_rounded_subset_tables_equal_the_formula():
    """As for mirrored tables, with planes of 0 and 1, two a step."""
    rng = np.random.default_rng(6)
    spec = LutTensorCore(k=3, table_bits=6, mirrored=False, planes_per_step=2, weight_bits=2)
    x, codes = operands(rng, spec, WeightCodes(2), 2, 4, 30)
    shift = golden.table_shift(spec, x, 30)
    found = golden.group_sums(
        spec, x, golden.encode(spec, Grid.plain(codes, WeightCodes(2), 30)), shift
    )
    for row, column in itertools.product(range(2), range(4)):
        expected = 0
        for plane, start in itertools.product(range(2), range(0, 30, 3)):
            total = sum(
                int(x[row, i]) for i in range(start, start + 3) if codes[column, i] >> plane & 1
            )
            entry = round(total / 2 ** int(shift[row]))
            assert abs(entry) <= spec.entry_maximum
            expected += entry << plane
        assert found.psum[row, 0, column] == expected


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"base": 4}, "base: must be 2 or 3"),
        ({"base": 3, "weight_bits": 2}, "k: must be 2 or 3 ternary digits, got 4"),
        ({"base": 3, "k": 3}, "weight_bits: must be 2"),
        ({"base": 3, "k": 3, "weight_bits": 2, "planes_per_step": 2}, "planes_per_step: must be 1"),
        ({"base": 3, "k": 3, "weight_bits": 2, "mirrored": False}, "mirrored: must be true"),
        ({"planes_per_step": 3}, "planes_per_step: must be 1, 2 or 4"),
        ({"planes_per_step": 2, "weight_bits": 3}, "weight_bits: must be a multiple"),
    ],
)
def test_impossible_tables_are_refused(changes, rule):
    with pytest.raises(SpecError, match=rule):
        LutTensorCore(**changes)


@pytest.mark.parametrize("k", range(2, 7))
def test_folded_codes_read_the_signed_sum_from_half_a_table(k):
    """Every sign pattern of k weights, against the sum itself (ISCA 2025, Eqs. 4-6)."""
    x = np.random.default_rng(k).integers(-127, 128, k)
    half = golden.half_tables(x)
    assert len(half) == 2 ** (k - 1)
    for bits in itertools.product((0, 1), repeat=k):
        code = int(golden.fold_signs(np.array(bits, np.uint8)))
        sign, index = code >> (k - 1), code & (2 ** (k - 1) - 1)
        assert (-1) ** sign * half[index] == sum(
            int(value) if bit else -int(value) for bit, value in zip(bits, x, strict=True)
        )


def test_the_leftover_code_reads_as_the_lowest_activation():
    spec = LutTensorCore()
    codes = np.array([[0, 5, 9, 15]], np.uint8)
    encoded = golden.encode(spec, Grid.plain(codes, WeightCodes(4), 4))
    low = golden.group_sums(spec, np.full((1, 4), -128), encoded)
    assert (low.psum == golden.group_sums(spec, np.full((1, 4), -127), encoded).psum).all()


def test_rounded_tables_follow_tmac_rounding():
    """Halves to even, symmetric, saturated; a zero scale gives zeros (T-MAC, section 3.3)."""
    tables = np.array([-6, -5, -3, -2, -1, 0, 1, 2, 3, 5, 6])
    assert golden.round_tables(tables, np.array(2.0), 127).tolist() == [
        -3, -2, -2, -1, 0, 0, 0, 1, 2, 2, 3,
    ]  # fmt: skip
    assert golden.round_tables(tables, np.array(0.01), 127).tolist() == [
        -127, -127, -127, -127, -100, 0, 100, 127, 127, 127, 127,
    ]  # fmt: skip
    assert not golden.round_tables(tables, np.array(0.0), 127).any()


def test_rounded_engine_equals_the_formula():
    """psum = sum over planes and tables of 2^plane * round(T / 2^shift), by brute force."""
    rng = np.random.default_rng(3)
    for k, table_bits in ((4, 8), (3, 6), (5, 8), (2, 4)):
        spec = LutTensorCore(k=k, table_bits=table_bits, weight_bits=4)
        x, codes = operands(rng, spec, WeightCodes(3), 2, 4, 50)
        shift = golden.table_shift(spec, x, 20)
        encoded = golden.encode(spec, Grid.plain(codes, WeightCodes(3), 20))
        found = golden.group_sums(spec, x, encoded, shift)
        for row, column, g in itertools.product(range(2), range(4), range(3)):
            expected = 0
            bounds = range(20 * g, min(20 * g + 20, 50))
            for plane in range(3):
                for start in bounds[::k]:
                    total = sum(
                        int(x[row, i]) * (1 if codes[column, i] >> plane & 1 else -1)
                        for i in range(start, min(start + k, bounds.stop))
                    )
                    entry = round(total / 2 ** int(shift[row]))  # Python rounds halves to even
                    assert abs(entry) <= spec.entry_maximum
                    expected += entry << plane
            assert found.psum[row, g, column] == expected


def test_the_table_shift_is_the_least_without_saturation():
    """By brute force over the tables of every scale group, on rows of very different size."""
    rng = np.random.default_rng(4)
    spec = LutTensorCore(k=3, table_bits=5)
    x = rng.integers(-127, 128, (40, 50)) // rng.integers(1, 30, (40, 1))
    found = golden.table_shift(spec, x, 20)
    for row, shift in zip(x.tolist(), found.tolist(), strict=True):
        tables = [
            sum(abs(value) for value in row[start : min(start + 3, group + 20, 50)])
            for group in range(0, 50, 20)
            for start in range(group, min(group + 20, 50), 3)
        ]
        assert max(tables) / 2**shift <= spec.entry_maximum
        assert shift == 0 or max(tables) / 2 ** (shift - 1) > spec.entry_maximum
    assert len(set(found.tolist())) > 2


@pytest.mark.parametrize(
    ("scaled_groups", "published"), [(64, 3.7e-5), (4096, 8.0e-5)], ids=["per 64", "per row"]
)
def test_table_rounding_error_is_as_measured(scaled_groups, published):
    """NMSE of INT8 tables alone, Gaussian x, W2, K = 4096: an independent measurement, 15 %."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((16, 4096))
    signs = 2.0 * rng.integers(0, 4, (64, 4096)) - 3
    parts = x.reshape(-1, scaled_groups)
    scale = golden.tmac_scale(parts, 4)
    entries = np.repeat(scale[:, None], scaled_groups // 4, axis=1)[..., None]
    patterns = np.array(list(itertools.product((-1, 1), repeat=4)))
    exact = parts.reshape(len(parts), -1, 4) @ patterns.T
    error = golden.round_tables(exact, entries, 127) * entries - exact
    # Random codes pick every entry alike, in both planes, of weights 1 and 2.
    noise = (error**2).mean() * 1024 * (1 + 4)
    assert noise / np.mean((x @ signs.T) ** 2) == pytest.approx(published, rel=0.15)


def test_refusals():
    spec = LutTensorCore(weight_bits=2)
    codes = np.zeros((1, 4), np.uint8)
    for refused in (WeightCodes(3), WeightCodes(4, Kind.BITMOD)):
        with pytest.raises(SpecError, match=f"weights: must be one of w1, .* got '{refused.name}'"):
            golden.encode(spec, Grid.plain(codes, refused, 4))
    encoded = golden.encode(spec, Grid.plain(codes, WeightCodes(2), 4))
    with pytest.raises(SpecError, match="shift"):
        golden.group_sums(spec, np.zeros((1, 4)), encoded, np.zeros(1, int))
    with pytest.raises(OverflowError):
        integer.exact_float(255, 2**15, 2**40)
