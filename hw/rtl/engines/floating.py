"""Floating multipliers and floating tables; `hw.spec.floating` says what they compute.

What a step adds goes through a pipelined tree into accumulators, which never wait: without a step
zeros are added. A group's sums leave for registers of their own.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from amaranth.hdl import Cat, Module, Signal, Value

from evolute.hw.rtl.blocks.arith import decode, named, select
from evolute.hw.rtl.blocks.floating import (
    Number,
    Range,
    add,
    decoded,
    encoded,
    float_range,
    from_integer,
    gated,
    half_table,
    joined,
    kept,
    multiply,
    nearest,
    negated,
    number,
    scaled,
)
from evolute.hw.rtl.blocks.words import pack
from evolute.hw.rtl.core.sequencer import Sequencer
from evolute.hw.rtl.engines.engine import EngineComponent, Fields
from evolute.hw.spec import layout
from evolute.hw.spec.floating import FP16, RESULT, FloatEngine, FloatLut, FloatMac


class Terms(NamedTuple):
    """The numbers that a step adds, `spec.leaves` of them to each sum."""

    psums: list[list[Number]]
    """Those of every output, [m * n]."""
    row_sums: list[list[Number]]
    """Those of every row's sum of activations, [m], or an empty list if there are no such sums."""


class Tags(NamedTuple):
    """Whether a step is the first or the last of its group. They move along the pipeline with the
    step."""

    first: Value
    last: Value


def register(m: Module, name: str, value: Number) -> Number:
    """The number a cycle later."""
    word = Signal(value.range.word_bits, name=name, reset_less=True)
    m.d.sync += word.eq(value.word)
    return number(word, value.range)


class FloatComponent(EngineComponent):
    """Base of the baselines."""

    spec: FloatEngine

    @abstractmethod
    def terms(self, m: Module, operands: Value, weights: Fields, sequencer: Sequencer) -> Terms:
        """The numbers that a step adds. Without a step the operands are 0, and so are they."""

    def taken(self, m, x):
        """Activations as words of normalized numbers."""
        return [value.word for value in self._numbers(m, x)]

    def _numbers(self, m: Module, x: Sequence[Value]) -> list[Number]:
        return [decoded(m, f"x{i}", code, self.spec.kind) for i, code in enumerate(x)]

    @property
    def x_range(self) -> Range:
        return float_range(self.spec.kind)

    def multiply(self, m, operands, weights, sequencer):
        raise AssertionError("sums of floating numbers are no integers")

    def add_up(self, m, operands, sums, weights, sequencer):
        spec, step = self.spec, self.step
        m.submodules.multiply = leaves = Module()
        m.submodules.accumulators = adders = Module()
        present = named(leaves, "present", operands & step.replicate(len(operands)))
        terms = self.terms(leaves, present, weights, sequencer)
        # Without a step, sums of nothing begin, after which those of the next step begin again.
        tags = Tags(sequencer.first, step & sequencer.last)
        for stage in range(spec.step_latency_cycles - 1):
            later = [
                Signal(name=f"{name}{stage}", reset_less=name == "first") for name in Tags._fields
            ]
            m.d.sync += [signal.eq(tag) for signal, tag in zip(later, tags, strict=True)]
            tags = Tags(*later)

        def sums_of(
            name: str, terms_of_sums: Sequence[Sequence[Number]], planes: int
        ) -> list[Value]:
            steps = spec.group_slices * planes
            return [
                self._accumulated(adders, f"{name}{i}", terms_of_sum, steps, tags)
                for i, terms_of_sum in enumerate(terms_of_sums)
            ]

        beat = layout.streams(spec).result
        planes = max(spec.coding_of(codes).planes for codes in spec.formats)
        fields = {"psum": sums_of("psum", terms.psums, planes)}
        if spec.row_sum_bits:
            fields["row_sum"] = sums_of("row_sum", terms.row_sums, 1)
        m.d.comb += self.result.payload.eq(pack(beat, **fields))
        return self.keep_results(m, sequencer, tags.last)

    def _accumulated(
        self, m: Module, name: str, terms: Sequence[Number], steps: int, tags: Tags
    ) -> Value:
        """The code of a whole group's sum, which takes at most `steps` steps."""
        bits, level, terms = self.spec.significand_bits, 0, list(terms)
        while len(terms) > 1:
            pairs = enumerate(zip(terms[::2], terms[1::2], strict=True))
            terms = [add(m, f"{name}_{level}_{i}", a, b, bits) for i, (a, b) in pairs]
            terms = [
                register(m, f"{name}_{level}_{i}_later", partial) for i, partial in enumerate(terms)
            ]
            level += 1
        (term,) = terms if level else [register(m, f"{name}_later", terms[0])]
        # Twice: rounding adds less than what is summed up itself, and then sums no longer grow.
        high = term.range.high + steps.bit_length() + 1
        range_ = Range(term.range.unit, high, bits)
        before = Signal(range_.word_bits, name=name, reset_less=True)
        start = gated(number(before, range_), ~tags.first)
        after = add(m, f"{name}_next", start, term, bits, high)
        whole = Signal(range_.word_bits, name=f"whole_{name}", reset_less=True)
        m.d.sync += before.eq(after.word)
        with m.If(tags.last):
            m.d.sync += whole.eq(after.word)
        return encoded(number(whole, range_), RESULT)


class FloatMacEngine(FloatComponent):
    """A complete array of floating multipliers."""

    spec: FloatMac  # pyright: ignore[reportIncompatibleVariableOverride]

    def operands(self, m, x, fields):
        """The activations, normalized."""
        return Cat(*x), []

    def _weights(self, m: Module, weights: Fields) -> list[Number]:
        spec = self.spec
        codes = enumerate(weights["code"])
        if spec.weights == "fp16":
            return [decoded(m, f"weight{i}", code, FP16) for i, code in codes]
        integers = [from_integer(m, f"weight{i}", code) for i, code in codes]
        if spec.weights == "int":
            return integers
        scales = [decoded(m, f"scale{i}", scale, FP16) for i, scale in enumerate(weights["scale"])]
        dequantized = []
        for i, integer in enumerate(integers):
            exact = multiply(m, f"scaled{i}", scales[i // spec.k], integer)
            dequantized.append(nearest(m, f"dequantized{i}", exact, float_range(FP16).bits))
        return dequantized

    def terms(self, m, operands, weights, sequencer):
        """The products of a step, one per weight and row."""
        spec = self.spec
        bits = self.x_range.word_bits
        x = [number(operands.word_select(i, bits), self.x_range) for i in range(spec.m * spec.k)]
        w, psums = self._weights(m, weights), []
        for row in range(spec.m):
            for column in range(spec.n):
                name = f"product{row}_{column}"
                pairs = zip(
                    x[row * spec.k :][: spec.k], w[column * spec.k :][: spec.k], strict=True
                )
                psums.append([multiply(m, f"{name}_{i}", a, b) for i, (a, b) in enumerate(pairs)])
        return Terms(psums, [x[row * spec.k :][: spec.k] for row in range(spec.m)])


class FloatLutEngine(FloatComponent):
    """A complete LUT Tensor Core with floating tables."""

    spec: FloatLut  # pyright: ignore[reportIncompatibleVariableOverride]

    def taken(self, m, x):
        """Words of half tables, one for the lower and one for the upper half of the activations of
        each table."""
        spec, numbers, words = self.spec, self._numbers(m, x), []
        for i, start in enumerate(range(0, len(x), spec.k)):
            part = numbers[start : start + spec.k]
            for name, half in (("low", part[: spec.k // 2]), ("high", part[spec.k // 2 :])):
                entries = half_table(m, f"{name}{i}", half, spec.significand_bits)
                words += [entry.word for entry in entries]
        return words

    def operands(self, m, x, fields):
        """The m*kg tables of a K-slice."""
        spec, words, position = self.spec, [], 0

        def half(numbers: int) -> list[Number]:
            nonlocal position
            start, position = position, position + (1 << (numbers - 1))
            return [number(word, self._sums(numbers)) for word in x[start:position]]

        for i in range(spec.m * spec.kg):
            low, high = half(spec.k // 2), half(spec.k - spec.k // 2)
            table = joined(m, f"table{i}", low, high, spec.significand_bits)
            words += [entry.word for entry in table]
        return Cat(*words), []

    def _sums(self, numbers: int) -> Range:
        """The range of signed sums of `numbers` activations, which adders sum in pairs."""
        x = self.x_range
        levels = (numbers - 1).bit_length()
        return Range(x.unit, x.high + levels, self.spec.significand_bits) if levels else x

    @property
    def entry_range(self) -> Range:
        """The range of entries."""
        return self._sums(self.spec.k)

    def terms(self, m, operands, weights, sequencer):
        """The entries that a step looks up, one per table and column, with the sign of the code and
        the weight of the plane."""
        spec, bits = self.spec, self.entry_range.word_bits
        words = [operands.word_select(i, bits) for i in range(spec.m * spec.kg * spec.entries)]
        tables = [words[i : i + spec.entries] for i in range(0, len(words), spec.entries)]
        plane = sequencer.plane[: (spec.weight_bits - 1).bit_length()]
        signs = [code[-1] for code in weights["code"]]
        places = [
            list(named(m, f"one_hot{i}", Cat(*decode(code[:-1]))))
            for i, code in enumerate(weights["code"])
        ]
        psums = []
        for row in range(spec.m):
            for column in range(spec.n):
                entries = []
                for group in range(spec.kg):
                    at, name = column * spec.kg + group, f"found{row}_{column}_{group}"
                    word = select(tables[row * spec.kg + group], places[at])
                    entry = negated(number(named(m, name, word), self.entry_range), ~signs[at])
                    entries.append(
                        kept(m, f"{name}_scaled", scaled(entry, plane, spec.weight_bits - 1))
                    )
                psums.append(entries)
        row_sums = [
            [
                gated(number(table[0], self.entry_range), sequencer.first_of_slice)
                for table in tables[row * spec.kg :][: spec.kg]
            ]
            for row in range(spec.m)
        ]
        return Terms(psums, row_sums)
