"""LUT Tensor Core in registers and multiplexers; `hw.spec.lut_tensor_core` says what it computes.

The operands of a step are tables. A table's word begins with the low bit that all its entries
share, if they share one, followed by the rest of every entry. A step looks the codes of one or more
planes up in the tables and sums all lookups of every output.
"""

import itertools
from collections.abc import Sequence
from functools import reduce
from operator import xor

from amaranth.hdl import Cat, Const, Module, Mux, Value

from evolute.hw.rtl.blocks.arith import (
    decode,
    digit_sums,
    half_sums,
    log2,
    named,
    negate_if,
    resized,
    round_shift,
    select,
    subset_sums,
    total,
)
from evolute.hw.rtl.engines.engine import EngineComponent
from evolute.hw.spec.lut_tensor_core import LutTensorCore


class LutTensorCoreEngine(EngineComponent):
    """A complete LUT Tensor Core."""

    spec: LutTensorCore

    def operands(self, m, x, fields):
        """The m * kg tables of a K-slice, and the sum of each row's activations."""
        spec = self.spec
        built, sums = [], []
        build = digit_sums if spec.base == 3 else half_sums if spec.mirrored else subset_sums
        for row in range(spec.m):
            row_sum: Value = Const(0)
            for group in range(spec.kg):
                start = (row * spec.kg + group) * spec.k
                part = x[start : start + spec.k]
                entries = build(m, part, spec.exact_table_bits)
                # The sum of the k activations.
                row_sum = row_sum + entries[0 if self._halves else -1]
                if spec.table_bits is not None:
                    shift = fields["table_shift"][row]
                    entries = [
                        round_shift(m, entry, shift, spec.maximum_table_shift, spec.entry_maximum)
                        for entry in entries
                    ]
                if spec.shared_bits:
                    built.append(reduce(xor, (value[0] for value in part)))
                built += [
                    resized(entry, bits)[spec.shared_bits :]
                    for entry, bits in zip(entries, self._widths, strict=True)
                ]
            sums.append(row_sum)
        return Cat(*built), sums

    @property
    def _halves(self) -> bool:
        """Whether a table holds half of the signed sums of its activations."""
        return self.spec.base == 2 and self.spec.mirrored

    @property
    def _widths(self) -> list[int]:
        """The width of every entry; an entry that sums fewer activations is narrower."""
        spec = self.spec
        if spec.base == 3:
            terms = [_digits(index + 1) for index in range(spec.entries)]
        elif spec.mirrored:
            terms = [spec.k] * spec.entries
        else:
            terms = [(index + 1).bit_count() for index in range(spec.entries)]
        exact = [(count * spec.activations.maximum).bit_length() + 1 for count in terms]
        return [min(bits, spec.entry_bits) for bits in exact]

    def _tables(self, operands: Value) -> list[tuple[Value, list[Value]]]:
        """The tables in the operands' word, row by row: the shared low bit, of no width where none
        is shared, and the rest of the entries, all in the same width."""
        spec, tables, position = self.spec, [], 0
        for _ in range(spec.m * spec.kg):
            shared = operands[position : position + spec.shared_bits]
            position += spec.shared_bits
            entries = []
            for bits in self._widths:
                rest = operands[position : position + bits - spec.shared_bits]
                position += bits - spec.shared_bits
                entries.append(resized(rest.as_signed(), spec.entry_bits - spec.shared_bits))
            tables.append((shared, entries))
        return tables

    def _decoded(self, m: Module, code: Value, name: str) -> tuple[list[Value], Value | None]:
        """The entry that a code selects, one-hot, and whether it is negated, or None where tables
        are not mirrored."""
        spec = self.spec
        index = code[:-1] if spec.mirrored else code
        places = decode(index)
        places = places[: spec.entries] if self._halves else places[1 : spec.entries + 1]
        one_hot = named(m, name, Cat(*places))
        if not spec.mirrored:
            return list(one_hot), None
        return list(one_hot), ~code[-1] if spec.base == 2 else code[-1]

    def multiply(self, m, operands, weights, sequencer):
        """The sum of all lookups, one per plane and table, for every output [m][n].

        Where entries share their low bit, an entry is 2*h + low, and its negation is
        2*(~h + ~low) + low. So only h is looked up, and the low bits, which are the same in every
        column, are added once per row.
        """
        spec, psums = self.spec, []
        decoded = [self._decoded(m, code, f"one_hot{i}") for i, code in enumerate(weights["code"])]
        of_column = spec.planes_per_step * spec.kg  # lookups
        tables = self._tables(operands)
        for row in range(spec.m):
            of_row = tables[row * spec.kg : (row + 1) * spec.kg]
            low: Value | None = None
            if spec.shared_bits:
                ones = total([shared for shared, _ in of_row])
                low = named(m, f"low{row}", total([ones << p for p in range(spec.planes_per_step)]))
            for column in range(spec.n):
                lookups = decoded[column * of_column : (column + 1) * of_column]
                terms, bias = self._looked_up(m, f"{row}_{column}", of_row, lookups)
                if low is None:
                    psums.append(total([*terms, Const(-bias)]))
                else:
                    psums.append(Cat(low[0], total([*terms, low[1:], Const(-bias)])))
        return psums

    def _looked_up(
        self,
        m: Module,
        output: str,
        tables: Sequence[tuple[Value, Sequence[Value]]],
        lookups: Sequence[tuple[list[Value], Value | None]],
    ) -> tuple[list[Value], int]:
        """The terms of the lookups of one output, an entry of each of a row's `tables` for every
        plane.

        Returns (terms, bias): unsigned numbers whose sum is too great by the constant `bias`.
        """
        spec, bias = self.spec, 0
        terms: list[Value] = []
        places = itertools.product(range(spec.planes_per_step), enumerate(tables))
        for (plane, (group, (shared, entries))), (one_hot, negative) in zip(
            places, lookups, strict=True
        ):
            value: Value = select(entries, one_hot)
            if negative is not None:
                carry = negative & ~shared if spec.shared_bits else negative
                value = negate_if(value, negative)
                terms.append(Cat(Const(0, plane), carry))
            # Subtract: add the one's complement here and 1 in the constant.
            if spec.is_signed and plane == spec.weight_bits - 1:
                value = ~value
                bias -= 1 << plane
            value = named(m, f"found{output}_{plane}_{group}", value)
            # The inverted sign bit and a constant take the place of a sign extension.
            terms.append(Cat(Const(0, plane), value[:-1], ~value[-1]))
            bias += 1 << (len(value) - 1 + plane)
        return terms, bias

    def shift(self, sequencer):
        if self.spec.planes_per_step == 1:
            return Mux(sequencer.mode == 1, 0, sequencer.plane)
        return Cat(Const(0, log2(self.spec.planes_per_step)), sequencer.plane)


def _digits(number: int) -> int:
    """The number of digits of `number` that are not 0, in base 3 with digits -1, 0 and 1."""
    count = 0
    while number:
        count += number % 3 > 0
        number = (number + 1) // 3
    return count
