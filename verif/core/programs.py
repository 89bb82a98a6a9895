"""Random programs for a core, of kinds that no compiler would write: any tiles, any addresses, any
tokens.

A program is drawn instruction by instruction, in an order in which it could also run sequentially.
Where an instruction needs what an earlier one of another unit reads or writes, the earlier one
signals and the later one waits; some further pairs do so without need. The waits and signals of a
pair of units are in the same order, so the n-th wait takes the n-th signal. Since every wait is for
an earlier instruction, no program can deadlock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from evolute.hw.isa.instructions import OPERATIONS, Instruction, Unit, instruction
from evolute.hw.spec.base import SpecError
from evolute.hw.spec.core import RESULT_BITS, CoreSpec
from evolute.hw.spec.engine import Engine
from evolute.hw.spec.scaling import MULTIPLIERS
from evolute.verif.harness.driver import DRIVERS, random_spec

DATA_BYTES = 1 << 18
"""Memory that the operands and the results of a random program share."""

_NOBODY = -1
_MOST = {
    name: OPERATIONS["matmul"][name].maximum for name in ("slices", "row_tiles", "group_slices")
}
"""Greatest counts that an instruction can hold."""

_MOST_STEPS = 400
"""Steps of one matrix multiplication, so that a program has many."""


def random_core(rng: np.random.Generator, kind: type[Engine] | None = None) -> CoreSpec:
    """A random legal core, small enough to build in seconds. `kind` is the class of its engine, by
    default any."""
    kinds = list(DRIVERS)
    kind = kind or kinds[rng.integers(len(kinds))]
    while True:
        engine = random_spec(kind, rng)
        n = int(rng.choice([2, 4, 6, 8, 12, 16]))
        bus_bits = int(rng.choice([64, 128, 256, 512]))
        try:
            engine = engine.evolve(m=min(3, engine.m), n=n)
            least = int(np.log2(2 * engine.m * engine.n)) + 1
            core = CoreSpec(
                engine=engine,
                bus_bits=bus_bits,
                address_bits=int(rng.integers(24, 49)),
                burst_beats=1 << int(rng.integers(2, 7)),
                outstanding_reads=int(rng.integers(1, 10)),
                weight_buffer_bytes=1 << int(rng.integers(9, 14)),
                activation_buffer_bytes=1 << int(rng.integers(9, 13)),
                scale_buffer_bytes=1 << int(rng.integers(8, 12)),
                accumulators=1 << int(rng.integers(least, least + 3)),
                scale_bits=int(rng.integers(2, 17)),
                offset_bits=int(rng.integers(2, 17)),
                scale_lanes=1 << int(rng.integers(0, 5)),
                sum_bits=int(rng.integers(engine.acc_bits, 65)),
            )
        except SpecError:
            continue
        room = core.scale_buffer.beats * core.scale_lanes >= 2 * engine.n
        room = room and all(
            core.weight_buffer.words(fill.slices * fill.planes) <= core.weight_buffer.bus_words
            for fill in engine.fills
        )
        if room and core.weight_buffer.bus_bits * core.weight_buffer.words_per_beat <= 4096:
            return core.evolve(scale_multiplier=str(rng.choice(MULTIPLIERS)))


@dataclass
class _Draft:
    """An instruction to which signals may still be added."""

    name: str
    values: Mapping[str, int]
    wait: set[Unit] = field(default_factory=set)
    signal: set[Unit] = field(default_factory=set)


class Writer:
    """Writes a random program for `core` whose data lie in the DATA_BYTES bytes from `data` on.

    It remembers the last user of every word of the buffers and of memory, and of each bank of sums.
    """

    def __init__(self, core: CoreSpec, rng: np.random.Generator, data: int):
        self.core, self.rng, self.data = core, rng, data
        self.drafts: list[_Draft] = []
        self.last = dict.fromkeys(Unit, _NOBODY)
        # For two units: what the second is known to come after, and who waited for that.
        self.ordered = dict.fromkeys(permutations(Unit, 2), _NOBODY)
        self.taker = dict.fromkeys(permutations(Unit, 2), _NOBODY)
        # For each sync, whether all loads before it are complete when it starts.
        self.syncs: dict[int, bool] = {}
        self.last_load = _NOBODY

        def nobody(words: int) -> NDArray[np.int64]:
            return np.full(words, _NOBODY)

        self.loaded = [nobody(buffer.bus_words) for buffer in core.buffers]
        self.used = [nobody(buffer.bus_words) for buffer in core.buffers]
        self.written = nobody(DATA_BYTES // core.bus_bytes)
        self.read = nobody(DATA_BYTES // core.bus_bytes)
        self.summed, self.stored = nobody(2), nobody(2)
        self.filled = False
        self.holds_sums = np.zeros(core.accumulator_words, bool)

    def instructions(self) -> list[Instruction]:
        """The program so far."""
        return [
            instruction(draft.name, wait=draft.wait, signal=draft.signal, **draft.values)
            for draft in self.drafts
        ]

    # Instructions.

    def load(self, buffer: int, address: int, words: int) -> None:
        """Load words of a buffer from a random address."""
        start = self._place(words)
        target, source = slice(address, address + words), slice(start, start + words)
        index = self._add(
            Unit.LOAD,
            "load",
            self._memory(start) | {"buffer": buffer, "address": address, "words": words},
            {Unit.COMPUTE: self.used[buffer][target].max(), Unit.STORE: self.written[source].max()},
        )
        self.loaded[buffer][target] = self.read[source] = self.last_load = index

    def load_anything(self) -> None:
        """Fill a random part of a random buffer."""
        buffer = int(self.rng.integers(len(self.core.buffers)))
        room = self.core.buffers[buffer].bus_words
        # Long ones are rare, but cross many bursts.
        words = min(room, 1 + int(self.rng.exponential(12)))
        self.load(buffer, int(self.rng.integers(room - words + 1)), words)

    def matmul(self, counts: Mapping[str, int] | None = None) -> None:
        """Multiply operands at random places in the buffers, after loading what is missing there.
        The loop counts are `counts`, by default random ones."""
        core, rng = self.core, self.rng
        if core.engine.fills and not self.filled:
            self.fill()
        values = dict(self._counts() if counts is None else counts)
        after = {Unit.LOAD: _NOBODY}
        spans = []
        for number, beats in rng.permutation(list(enumerate(beats_taken(core, values)))).tolist():
            buffer = core.buffers[number]
            words, step = buffer.words(beats), buffer.words_per_beat
            address = step * int(rng.integers((buffer.bus_words - words) // step + 1))
            values[buffer.name] = address
            span = slice(address, address + words)
            if rng.random() < 0.5 or (self.loaded[number][span] == _NOBODY).any():
                self._fill(number, address, words)
            spans.append((number, span))
        for number, span in spans:
            after[Unit.LOAD] = max(after[Unit.LOAD], self.loaded[number][span].max())
        words = values["row_tiles"] * core.scale_steps
        bank = int(rng.integers(2))
        first = bank * core.bank_words + int(rng.integers(core.bank_words - words + 1))
        sums = slice(first, first + words)
        adds = self.holds_sums[sums].all() and rng.random() < 0.7
        after[Unit.STORE] = self.stored[bank]
        values |= {"accumulator": first, "accumulate": int(adds)}
        index = self._add(Unit.COMPUTE, "matmul", values, after)
        for number, span in spans:
            self.used[number][span] = index
        self.holds_sums[sums] = True
        self.summed[bank] = index

    def fill(self) -> None:
        """Fill the engine's own memories. Once they have contents, sometimes only a part of
        them."""
        core, rng = self.core, self.rng
        fill = core.engine.fills[rng.integers(len(core.engine.fills))]
        slices = fill.slices
        if self.filled and rng.random() < 0.5:
            slices = int(rng.integers(1, slices + 1))
        buffer = core.weight_buffer
        words, step = buffer.words(slices * fill.planes), buffer.words_per_beat
        address = step * int(rng.integers((buffer.bus_words - words) // step + 1))
        span = slice(address, address + words)
        if rng.random() < 0.5 or (self.loaded[0][span] == _NOBODY).any():
            self._fill(0, address, words)
        values = {"weight": address, "slices": slices, "planes": fill.planes, "mode": fill.mode}
        after = {Unit.LOAD: int(self.loaded[0][span].max())}
        self.used[0][span] = self._add(Unit.COMPUTE, "fill", values, after)
        self.filled = True

    def store(self) -> None:
        """Store some sums to a random address, if there are any."""
        core, rng = self.core, self.rng
        bank = int(rng.integers(2))
        holds = self.holds_sums[bank * core.bank_words :][: core.bank_words]
        starts = np.flatnonzero(holds)
        if not len(starts):
            return
        first = int(rng.choice(starts))
        most_words = self._store_words(bank, first)
        if most_words:
            self._store(bank, first, int(rng.integers(1, most_words + 1)))

    def store_all(self) -> None:
        """From each bank, store the first run of consecutive words that hold sums."""
        for bank in range(2):
            holds = self.holds_sums[bank * self.core.bank_words :][: self.core.bank_words]
            if holds.any() and (words := self._store_words(bank, int(np.argmax(holds)))):
                self._store(bank, int(np.argmax(holds)), words)

    def _store_words(self, bank: int, first: int) -> int:
        """The number of bus words of consecutive sums in a bank, from its word `first` on."""
        holds = self.holds_sums[bank * self.core.bank_words :][: self.core.bank_words]
        span = int(np.argmin(np.append(holds[first:], False)))
        return span * self.core.scale_lanes * RESULT_BITS // self.core.bus_bits

    def _store(self, bank: int, first: int, words: int) -> None:
        """Store `words` bus words of sums, from word `first` of a bank on, to a random address."""
        core = self.core
        start = self._place(words)
        target = slice(start, start + words)
        index = self._add(
            Unit.STORE,
            "store",
            self._memory(start) | {"accumulator": bank * core.bank_words + first, "words": words},
            {Unit.COMPUTE: self.summed[bank], Unit.LOAD: self.read[target].max()},
        )
        self.stored[bank] = self.written[target] = index

    def sync(self) -> None:
        """Call the host, in some cases after waiting for the other units."""
        units = [unit for unit in (Unit.COMPUTE, Unit.STORE) if self.rng.random() < 0.5]
        index = self._add(Unit.LOAD, "sync", {}, {unit: self.last[unit] for unit in units})
        self.syncs[index] = any(
            self.ordered[Unit.LOAD, unit] >= self.last_load
            and self.ordered[unit, Unit.LOAD] >= self.taker[Unit.LOAD, unit]
            for unit in (Unit.COMPUTE, Unit.STORE)
        )

    def halt(self) -> None:
        """End the program. Some of the last instructions give signals that nobody waits for."""
        for (source, sink), ordered in self.ordered.items():
            last_index = self.last[source]
            if ordered < last_index and last_index not in self.syncs and self.rng.random() < 0.3:
                self.drafts[last_index].signal.add(sink)
        self.drafts.append(_Draft("halt", {}))

    # Parts of them.

    def _add(
        self, unit: Unit, name: str, values: Mapping[str, int], after: Mapping[Unit, int]
    ) -> int:
        """Add an instruction that waits for the instructions `after`, by unit, and for some others
        without need. Returns its index."""
        index = len(self.drafts)
        draft = _Draft(name, values)
        self.drafts.append(draft)
        for source in Unit:
            if source == unit:
                continue
            predecessor = after.get(source, _NOBODY)
            last_index = self.last[source]
            # A sync's token would overtake those of loads that are still under way.
            chance = (
                0.6 if self.syncs.get(last_index) else 0.0 if last_index in self.syncs else 0.15
            )
            if self.rng.random() < chance:
                predecessor = last_index
            if predecessor > self.ordered[source, unit]:
                self.drafts[predecessor].signal.add(unit)
                draft.wait.add(source)
                self.ordered[source, unit], self.taker[source, unit] = predecessor, index
        self.last[unit] = index
        return index

    def _place(self, words: int) -> int:
        """A random place in the data for `words` bus words."""
        return int(self.rng.integers(len(self.read) - words + 1))

    def _memory(self, word: int) -> dict[str, int]:
        return {"memory": self.data + word * self.core.bus_bytes}

    def _fill(self, buffer: int, address: int, words: int) -> None:
        """Load words of a buffer in one to three pieces, in random order."""
        cuts = np.sort(self.rng.integers(0, words + 1, self.rng.integers(3)))
        edges = np.unique([0, *cuts, words])
        for piece in self.rng.permutation(len(edges) - 1):
            start, end = int(edges[piece]), int(edges[piece + 1])
            self.load(buffer, address + start, end - start)

    def _counts(self) -> dict[str, int]:
        """Random loop counts of a matmul that fits the buffers and one bank of sums."""
        core, rng = self.core, self.rng
        most_rows = min(_MOST["row_tiles"], core.bank_words // core.scale_steps)
        while True:
            engine = core.engine
            mode = list(engine.modes)[rng.integers(len(engine.modes))]
            planes = int(rng.choice(engine.modes[mode]))
            values = {
                "planes": planes,
                "mode": mode,
                "slices": 1 + int(rng.exponential(6)),
                "row_tiles": int(rng.integers(1, most_rows + 1)) if rng.random() < 0.5 else 1,
                "group_slices": int(rng.integers(1, engine.group_slices + 1)),
                "offset_shift": int(rng.integers(16)),
            }
            steps = values["slices"] * planes * engine.beat_steps(mode) * values["row_tiles"]
            fits = steps <= _MOST_STEPS and all(
                buffer.words(beats) <= buffer.bus_words
                for buffer, beats in zip(core.buffers, beats_taken(core, values), strict=True)
            )
            if fits and all(values[name] <= most for name, most in _MOST.items()):
                return values


def longest_counts(core: CoreSpec) -> list[dict[str, int]]:
    """The loop counts of two matmuls, one with the most slices and one with the most row tiles that
    buffers, sums and fields allow."""
    mode, (planes, *_) = min(
        core.engine.modes.items(), key=lambda mode_and_planes: mode_and_planes[1][0]
    )
    weights, activations, scales = (buffer.beats for buffer in core.buffers)
    group = core.engine.group_slices
    groups = scales * core.scale_lanes // core.engine.n
    slices = min(_MOST["slices"], weights // planes, activations, groups * group)
    row_tiles = min(_MOST["row_tiles"], core.bank_words // core.scale_steps, activations)
    common = {"planes": planes, "mode": mode, "group_slices": group, "offset_shift": 0}
    return [
        common | {"slices": slices, "row_tiles": 1},
        common | {"slices": 1, "row_tiles": row_tiles},
    ]


def beats_taken(core: CoreSpec, values: Mapping[str, int]) -> tuple[int, int, int]:
    """The number of beats that a matmul with these fields takes from the weight, activation and
    scale buffer."""
    groups = -(-values["slices"] // values["group_slices"])
    return (
        values["slices"] * values["planes"],
        values["slices"] * values["row_tiles"],
        groups * core.engine.n // core.scale_lanes,
    )


def random_program(
    core: CoreSpec, rng: np.random.Generator, data: int, length: int
) -> list[Instruction]:
    """A random program of at least `length` instructions whose data lie from the byte `data` on."""
    return _filled_up(Writer(core, rng, data), length)


def long_program(
    core: CoreSpec, rng: np.random.Generator, data: int, length: int
) -> list[Instruction]:
    """Like `random_program`, but it begins with loads of whole buffers, with matmuls that have the
    longest loops and loops two thirds as long, and with stores of all their results."""
    writer = Writer(core, rng, data)
    for number, buffer in enumerate(core.buffers):
        words = min(buffer.bus_words, OPERATIONS["load"].fields[2].maximum, len(writer.read))
        writer.load(number, 0, words)
    for counts in longest_counts(core):
        # A counter whose bits are mixed up may come to a round number at the right time.
        odd = {name: -(-2 * counts[name] // 3) for name in ("slices", "row_tiles")}
        for fields in (counts, counts | odd):
            writer.matmul(fields)
            writer.store_all()
    return _filled_up(writer, length)


def _filled_up(writer: Writer, length: int) -> list[Instruction]:
    """The writer's program, extended by random instructions to at least `length`, and a halt."""
    core, rng = writer.core, writer.rng
    actions = [writer.matmul, writer.store, writer.load_anything, writer.sync]
    often = [3, 3, 2, 1]
    if core.engine.fills:
        actions.append(writer.fill)
        often.append(1)
    # Some programs are mostly loads, some mostly stores.
    weights = rng.dirichlet(often)
    while len(writer.drafts) < length:
        actions[rng.choice(len(actions), p=weights)]()
    writer.halt()
    return writer.instructions()
