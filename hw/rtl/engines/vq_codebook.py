"""Codebooks in memories or registers, and what is computed with them; see `hw.spec.vq_codebook`."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import memory

from evolute.hw.rtl.blocks.arith import (
    booth_products,
    decode,
    log2,
    named,
    select,
    sum_modulo,
    total,
)
from evolute.hw.rtl.blocks.words import unpack
from evolute.hw.rtl.core.buffer import NO_COLLISION
from evolute.hw.rtl.core.sequencer import Sequencer
from evolute.hw.rtl.engines.engine import EngineComponent, Fields, WeightBeat
from evolute.hw.spec import layout
from evolute.hw.spec.vq_codebook import SHORT_MODE, VqCodebook


def product(x: Value, weight: Value) -> list[Value]:
    """Signed values whose sum is `x * weight`."""
    return [
        term if term.shape().signed else Cat(term, Const(0, 1)).as_signed()
        for term in booth_products(x, weight)
    ]


class VqCodebookEngine(EngineComponent):
    """An array of dot products, or of lookups in tables of products, for weights out of
    codebooks."""

    spec: VqCodebook
    codewords: list[list[Value]]
    """A list of codewords for each codebook, which `weights` sets: those that the lanes have
    gathered, or for tables those of all entries."""

    # Codebooks.

    def weights(self, m, arrives, held, sequencer):
        """The weights of the beat. Also keeps the beats of a fill in the codebooks, and looks
        codewords up for a gather."""
        writes = []
        first = 0
        for size in self.spec.codebooks:
            beats = size // self.spec.fill_codewords
            here = sequencer.slice < first + beats
            if first:
                here = here & (sequencer.slice >= first)
            address = (sequencer.slice - first)[: log2(beats)]
            writes.append((named(m, f"fills{first}", held.moves & here), address))
            first += beats
        m.submodules.codebooks = codebooks = Module()
        if self.spec.form == "gather":
            self.codewords = self._gathered(codebooks, arrives, held.beat, writes, sequencer)
        else:
            self.codewords = self._registers(codebooks, held.beat, writes, sequencer)
        return super().weights(m, arrives, held, sequencer)

    def _indices(self, lanes: Sequence[Value]) -> list[list[Value]]:
        """The index of every lane, a list for each codebook."""
        indices, low = [], 0
        for size in self.spec.codebooks:
            high = low + log2(size)
            indices.append([lane[low:high] for lane in lanes])
            low = high
        return indices

    def _gathered(
        self,
        m: Module,
        arrives: WeightBeat,
        held: Value,
        writes: Sequence[tuple[Value, Value]],
        sequencer: Sequencer,
    ) -> list[list[Value]]:
        """The codewords of all lanes, a list for each codebook, out of one memory per codebook and
        lane, in which the beat that arrives is looked up."""
        spec, codewords = self.spec, []
        part = held[: spec.codeword_bits // spec.fill_planes]
        lanes = unpack(arrives.beat, layout.streams(spec).weight)["index"]
        books = zip(spec.codebooks, writes, self._indices(lanes), strict=True)
        for book, (size, (fills, address), indices) in enumerate(books):
            values = []
            for lane, index in enumerate(indices):
                store = memory.Memory(
                    shape=spec.codeword_bits, depth=size, init=[], attrs=NO_COLLISION
                )
                m.submodules[f"book{book}_lane{lane}"] = store
                write, read = store.write_port(granularity=len(part)), store.read_port()
                m.d.comb += [
                    write.addr.eq(address),
                    write.data.eq(part.replicate(spec.fill_planes)),
                    write.en.eq(
                        Cat(fills & (sequencer.plane == i) for i in range(spec.fill_planes))
                    ),
                    read.addr.eq(index),
                    read.en.eq(arrives.moves),
                ]
                values.append(read.data)
            codewords.append(values)
        return codewords

    def _registers(
        self,
        m: Module,
        held: Value,
        writes: Sequence[tuple[Value, Value]],
        sequencer: Sequencer,
    ) -> list[list[Value]]:
        """All codewords, a list for each codebook, out of one register per codeword."""
        spec, codewords = self.spec, []
        bits = spec.codeword_bits // spec.fill_planes
        for book, (size, (fills, address)) in enumerate(zip(spec.codebooks, writes, strict=True)):
            words = []
            for entry in range(size):
                beat, place = divmod(entry, spec.fill_codewords)
                word = Signal(spec.codeword_bits, name=f"book{book}_{entry}", reset_less=True)
                for part in range(spec.fill_planes):
                    with m.If(fills & (address == beat) & (sequencer.plane == part)):
                        m.d.sync += word.word_select(part, bits).eq(held.word_select(place, bits))
                words.append(word)
            codewords.append(words)
        return codewords

    def _components(self, codeword: Value) -> list[Value]:
        bits = self.spec.entry_bits
        return [codeword.word_select(i, bits).as_signed() for i in range(self.spec.v)]

    # Activations.

    def operands(self, m, x, fields):
        """The activations themselves, or one table for every codebook, row and place of a codeword
        in the slice; and the sum of each row's activations."""
        spec = self.spec
        rows = [x[start : start + spec.k] for start in range(0, len(x), spec.k)]
        sums = [total(row) for row in rows]
        if spec.form == "gather":
            return Cat(*x), sums
        values = []
        for book, words in enumerate(self.codewords):
            for i, row in enumerate(rows):
                for start in range(0, spec.k, spec.table_terms):
                    taken = row[start : start + spec.table_terms]
                    for entry, word in enumerate(words):
                        name = f"table{book}_{i}_{start}_{entry}"
                        values += self._table_entry(m, name, taken, word)
        return Cat(*values), sums

    def _table_entry(
        self, m: Module, name: str, x: Sequence[Value], codeword: Value
    ) -> list[Value]:
        """The values of a table for one codeword: its dot product with the activations, or the
        product of one activation with each component."""
        spec = self.spec
        components = self._components(codeword)
        if spec.along == "inputs":
            sums = [[term for pair in zip(x, components, strict=True) for term in product(*pair)]]
        else:
            sums = [product(x[0], component) for component in components]
        return [
            sum_modulo(m, f"{name}_{i}", terms, spec.table_bits) for i, terms in enumerate(sums)
        ]

    # A step.

    def multiply(self, m, operands, weights, sequencer):
        """The sum of every output [m][n], of products of codewords and activations or of values
        that are looked up in tables."""
        spec = self.spec
        psums = []
        if spec.form == "gather":
            values = self._added(m, sequencer)
        else:
            values = self._looked_up(m, operands, weights)
        for row in range(spec.m):
            terms: list[list[Value]] = [[] for _ in range(spec.n)]
            for lane in range(spec.lanes):
                first, second = divmod(lane, spec.index_shape[1])
                if spec.along == "outputs":
                    places = [(first * spec.v + i, second) for i in range(spec.v)]
                else:
                    places = [(first, second * spec.v + i) for i in range(spec.v)]
                if spec.form == "gather":
                    for (output, k), weight in zip(places, values[lane], strict=True):
                        x = operands.word_select(row * spec.k + k, spec.activation_bits)
                        terms[output] += product(x.as_signed(), weight)
                else:
                    looked_up = values[row * spec.lanes + lane]
                    for (output, _), term in zip(places, looked_up, strict=False):
                        terms[output].append(term)
            psums += [
                sum_modulo(m, f"sum{row}_{output}", addends, spec.step_bits)
                for output, addends in enumerate(terms)
            ]
        return psums

    def _added(self, m: Module, sequencer: Sequencer) -> list[list[Value]]:
        """The weights of every lane: the components of its codewords, those of both codebooks
        added. A step of short codewords has weights only for the outputs whose turn it is."""
        spec, weights_of_lanes = self.spec, []
        used: list[Value] = []
        if spec.short_v:
            whole = sequencer.mode != SHORT_MODE
            for part in range(spec.short_planes):
                turn = named(m, f"part{part}", whole | (sequencer.plane == part))
                used += [turn] * spec.short_v
        for lane, words in enumerate(zip(*self.codewords, strict=True)):
            parts = zip(*(self._components(word) for word in words), strict=True)
            weights = [total(addends) for addends in parts]
            if used:
                weights = [Mux(turn, weight, 0) for turn, weight in zip(used, weights, strict=True)]
            weights_of_lanes.append(
                [named(m, f"weight{lane}_{i}", weight) for i, weight in enumerate(weights)]
            )
        return weights_of_lanes

    def _looked_up(self, m: Module, operands: Value, weights: Fields) -> list[list[Value]]:
        """The values of every row and lane out of the tables, those of both codebooks added."""
        spec = self.spec
        books = [
            [
                list(named(m, f"one_hot{book}_{lane}", Cat(*decode(index))))
                for lane, index in indices
            ]
            for book, indices in enumerate(map(enumerate, self._indices(weights["index"])))
        ]
        width = spec.table_values * spec.table_bits
        tables, at = [], 0
        for size in spec.codebooks:
            count = spec.m * (spec.k // spec.table_terms)
            words = operands[at:][: count * size * width]
            tables.append([words.word_select(i, size * width) for i in range(count)])
            at += count * size * width
        terms = []
        for row in range(spec.m):
            for lane in range(spec.lanes):
                place = row * spec.index_shape[1] + lane % spec.index_shape[1]
                taken = []
                for book, (size, one_hot) in enumerate(zip(spec.codebooks, books, strict=True)):
                    table = tables[book][place]
                    entries = [table.word_select(i, width) for i in range(size)]
                    value = select(entries, one_hot[lane])
                    taken.append(named(m, f"found{book}_{row}_{lane}", value))
                bits = spec.table_bits
                parts = [
                    total(value.word_select(i, bits).as_signed() for value in taken)
                    for i in range(spec.table_values)
                ]
                terms.append(
                    [named(m, f"term{row}_{lane}_{i}", term) for i, term in enumerate(parts)]
                )
        return terms
