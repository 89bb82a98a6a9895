"""The multipliers' golden model against two's complement integers, one product at a time."""

import itertools

import numpy as np
import pytest

from evolute.hw.spec import Mac, SpecError
from evolute.hw.spec.formats import FORMATS, TERNARY, Kind, WeightCodes
from evolute.sim.golden import mac as golden
from evolute.sim.weights import Grid

RUN = [each for each in FORMATS if each.kind in (Kind.INTEGER, Kind.TERNARY)]


def weight(code, weight_format):
    """The code's integer: the lowest of w-bit codes is -2^(w-1), and the ternary ones are -1..1."""
    return code - 1 if weight_format == TERNARY else code - (1 << weight_format.bits - 1)


@pytest.mark.parametrize("weight_format", RUN, ids=lambda each: each.name)
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_sums_are_the_definition(weight_format, bits):
    rng = np.random.default_rng(bits)
    spec = Mac(weight_bits=8, activation_bits=bits)
    top = spec.activations.maximum
    for k, group in ((1, 1), (20, 20), (45, 16), (9, 30)):
        x = rng.integers(-top - 1, top + 1, (2, k))
        x[0], x[1, 0] = top, -top - 1
        codes = rng.integers(0, weight_format.levels, (3, k)).astype(np.uint8)
        codes[0] = 0
        found = golden.group_sums(
            spec, x, golden.encode(spec, Grid.plain(codes, weight_format, group))
        )
        groups = range(-(-k // group))
        assert found.psum.shape == (2, len(groups), 3)
        for row, g in itertools.product(range(2), groups):
            inside = range(g * group, min(k, g * group + group))
            values = {i: max(int(x[row, i]), -top) for i in inside}
            assert found.row_sum[row, g] == sum(values.values())
            for column in range(3):
                expected = 0
                for i in inside:
                    expected += values[i] * weight(int(codes[column, i]), weight_format)
                assert found.psum[row, g, column] == expected


def test_refusals():
    spec, codes = Mac(weight_bits=2), np.zeros((1, 4), np.uint8)
    for refused in (WeightCodes(3), WeightCodes(3, Kind.BITMOD)):
        with pytest.raises(SpecError, match="weights: must be one of w1, w2, ternary on this"):
            golden.encode(spec, Grid.plain(codes, refused, 4))
