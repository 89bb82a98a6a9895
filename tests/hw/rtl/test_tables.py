"""Adders that building a lookup table takes, counted in the netlist."""

import pytest
from amaranth.back import rtlil  # pyright: ignore[reportAttributeAccessIssue] not in its stubs
from amaranth.hdl import Cat, Module, Signal, signed

from evolute.hw.rtl.blocks.arith import digit_sums, half_sums, subset_sums


def adders(build, k: int) -> int:
    m, x = Module(), [Signal(signed(8), name=f"x{i}") for i in range(k)]
    found = Signal(4096)
    m.d.comb += found.eq(Cat(*build(m, x, 11)))
    text = rtlil.convert(m, ports=[*x, found], name="top", emit_src=False)
    return sum(text.count(f"cell ${kind} ") for kind in ("add", "sub", "neg"))


@pytest.mark.parametrize(("k", "count"), [(2, 2), (3, 6), (4, 12), (5, 24), (6, 44)])
def test_half_tables_share_their_sums(k, count):
    """2^(k-1) entries, each from two sums over half of the activations that all entries share."""
    assert adders(half_sums, k) == count


@pytest.mark.parametrize("k", range(2, 7))
def test_a_sum_over_a_subset_takes_one_adder_from_smaller_ones(k):
    assert adders(subset_sums, k) == 2**k - 1 - k


@pytest.mark.parametrize(("k", "count"), [(2, 2), (3, 10)])
def test_ternary_tables_share_their_sums(k, count):
    assert adders(digit_sums, k) == count
