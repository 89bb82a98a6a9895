"""From how many bits on aligned integers are at least as accurate as sums in FP16."""

import itertools

import numpy as np
import pytest

from evolute.hw.spec.formats import FLOATS, Activations
from evolute.sim.what_if.accuracy import Dots, aligned, draw, looked_up, multiplied, relative_error

FP16 = FLOATS["fp16"]
BITMOD_ACCUMULATOR = 1.8e-3
"""Of BitMoD's 15-bit accumulator over dot products of 128, as measured in NumPy."""


def error(how, distribution, k, weight_bits, **choices):
    dots = draw(np.random.default_rng(k), distribution, (500, k), weight_bits)
    return relative_error(how(dots, **choices), dots.exact)


@pytest.mark.parametrize("distribution", ["normal", "t3"])
@pytest.mark.parametrize("weight_bits", [2, 4])
@pytest.mark.parametrize("k", [128, 4096])
def test_with_a_guard_bit_aligned_rows_beat_sums_in_fp16(distribution, k, weight_bits):
    one_guard = FP16.mantissa_bits + 3
    assert Activations(one_guard, FP16).guard_bits == 1
    rounded = min(error(how, distribution, k, weight_bits) for how in (multiplied, looked_up))
    for group in (128, k):
        found = error(aligned, distribution, k, weight_bits, activation_bits=one_guard, group=group)
        assert found < rounded
        assert group > 128 or found < BITMOD_ACCUMULATOR


@pytest.mark.parametrize(("distribution", "guard_bits"), [("normal", -1), ("t3", 0)])
def test_long_sums_in_fp16_lose_even_to_fewer_bits(distribution, guard_bits):
    bits = FP16.mantissa_bits + 2 + guard_bits
    found = error(aligned, distribution, 4096, 2, activation_bits=bits, group=4096)
    assert found < error(looked_up, distribution, 4096, 2)


def test_every_bit_halves_the_error_or_does_better():
    errors = [
        error(aligned, "t3", 4096, 4, activation_bits=bits, group=128) for bits in range(10, 17)
    ]
    assert all(second < 0.6 * first for first, second in itertools.pairwise(errors))


def test_a_group_of_its_own_exponent_loses_less_than_a_row():
    row, group = (
        error(aligned, "t3", 4096, 4, activation_bits=12, group=each) for each in (4096, 128)
    )
    assert group < 0.6 * row


def test_what_needs_no_rounding_is_exact():
    rng = np.random.default_rng(0)
    quarters = rng.integers(-7, 8, (50, 16)) / 4
    dots = Dots(quarters.astype(np.float16), rng.integers(0, 16, quarters.shape), 4)
    for found in (aligned(dots, 12, 16), multiplied(dots), looked_up(dots)):
        assert np.array_equal(found, dots.exact)
