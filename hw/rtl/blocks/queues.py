"""What keeps the units of a core in order: the queue of instructions before each unit, and the
counters of tokens between units."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from evolute.hw.isa import instructions as isa
from evolute.hw.isa.instructions import INDEX_BITS, OPERATIONS, Operation, Unit
from evolute.hw.rtl.blocks.arith import any_of


def field(word: Value, operation: Operation, name: str) -> Value:
    """The bits of an instruction's field `name` as they are stored, which for a count is the count
    less one."""
    return word[operation.offsets[name] :][: operation[name].bits]


def unit_bits(unit: Unit) -> int:
    """Width of the longest instruction of a unit."""
    return max(operation.bits for operation in OPERATIONS.values() if operation.unit is unit)


def others(unit: Unit) -> list[Unit]:
    """The units that `unit` exchanges tokens with, which are all units except itself."""
    return [partner for partner in Unit if partner is not unit]


class Queue(wiring.Component):
    """The instructions that wait for one unit, in order. The first one starts as soon as the unit
    is idle and the tokens it waits for are present.

    Members
    -------
    push, word, index : append an instruction and its index in the program; allowed only while
        `room`.
    tokens : one bit per unit: a token from that unit is present.
    idle : the unit can start an instruction in this cycle.
    pop : the first instruction starts in this cycle.
    first, first_index : the first instruction and its index in the program.
    take : one bit per unit: a token from that unit is used up in this cycle.
    empty : no instruction waits.
    """

    push: Signal
    word: Signal
    index: Signal
    room: Signal
    tokens: Signal
    idle: Signal
    pop: Signal
    first: Signal
    first_index: Signal
    take: Signal
    empty: Signal

    def __init__(self, unit: Unit, depth: int):
        self.bits, self.depth = unit_bits(unit), depth
        super().__init__(
            {
                "push": In(1),
                "word": In(self.bits),
                "index": In(INDEX_BITS),
                "room": Out(1),
                "tokens": In(len(Unit)),
                "idle": In(1),
                "pop": Out(1),
                "first": Out(self.bits),
                "first_index": Out(INDEX_BITS),
                "take": Out(len(Unit)),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # The first is in registers, which everything that starts a unit reads; a FIFO has the rest.
        m.submodules.fifo = fifo = SyncFIFO(width=self.bits + INDEX_BITS, depth=self.depth - 1)
        wait = self.first[isa.WAIT_OFFSET :][: len(Unit)]
        pushed = Cat(self.word, self.index)
        there, refill, direct = Signal(), Signal(), Signal()
        m.d.comb += [
            refill.eq(~there | self.pop),
            direct.eq(refill & ~fifo.r_rdy),
            fifo.w_data.eq(pushed),
            fifo.w_en.eq(self.push & ~direct),
            fifo.r_en.eq(refill),
            self.room.eq(fifo.w_rdy),
            self.empty.eq(~there),
            self.pop.eq(there & self.idle & ~(wait & ~self.tokens).any()),
            self.take.eq(Mux(self.pop, wait, 0)),
        ]
        with m.If(refill):
            m.d.sync += [
                there.eq(fifo.r_rdy | self.push),
                Cat(self.first, self.first_index).eq(Mux(direct, pushed, fifo.r_data)),
            ]
        return m


_SOURCES = {Unit.LOAD: 2, Unit.COMPUTE: 1, Unit.STORE: 1}
"""Completions per cycle: a load's last word and a sync's end may fall together."""


class Tokens(wiring.Component):
    """Counts the tokens between each ordered pair of units. A unit may have several sources of
    tokens.

    Members
    -------
    signal_<unit>_<i> : tokens that source i of `unit` gives, one bit per other unit.
    take_<unit> : tokens that `unit` uses up, one bit per other unit.
    there_<unit> : one bit per unit: a token from it to `unit` is present.
    overflow_<unit>_<i> : that source gives a token by which its counter exceeds `limit`.
    """

    signal_load_0: Signal
    signal_load_1: Signal
    signal_compute_0: Signal
    signal_store_0: Signal
    overflow_load_0: Signal
    overflow_load_1: Signal
    overflow_compute_0: Signal
    overflow_store_0: Signal

    def __init__(self, limit: int):
        self.limit = limit
        units = len(Unit)
        sources = [f"{unit.name.lower()}_{i}" for unit in Unit for i in range(_SOURCES[unit])]
        signals = {f"signal_{source}": In(units) for source in sources}
        overflows = {f"overflow_{source}": Out(1) for source in sources}
        takes = {f"take_{unit.name.lower()}": In(units) for unit in Unit}
        there = {f"there_{unit.name.lower()}": Out(units) for unit in Unit}
        super().__init__({**signals, **takes, **there, **overflows})

    def elaborate(self, platform):
        m = Module()
        over: dict[str, list[Value]] = {}
        for taker in Unit:
            name = taker.name.lower()
            there: list[Value] = [Const(0, 1)] * len(Unit)
            for giver in others(taker):
                count = Signal(range(self.limit + 1), name=f"{giver.name.lower()}_to_{name}")
                sources = [f"{giver.name.lower()}_{i}" for i in range(_SOURCES[giver])]
                gives = {source: getattr(self, f"signal_{source}")[taker] for source in sources}
                given = sum(gives.values(), start=Const(0, 1))
                total = Signal(range(self.limit + 3), name=f"{count.name}_next")
                m.d.comb += total.eq(count + given - getattr(self, f"take_{name}")[giver])
                m.d.sync += count.eq(total)
                for source, gives_token in gives.items():
                    over.setdefault(source, []).append(gives_token & (total > self.limit))
                there[giver] = count != 0
            m.d.comb += getattr(self, f"there_{name}").eq(Cat(*there))
        for source, overflows in over.items():
            m.d.comb += getattr(self, f"overflow_{source}").eq(any_of(overflows))
        return m
