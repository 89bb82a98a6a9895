"""Comparators and kept rows of tables; `hw.spec.lut_dla` says what they compute."""

from collections.abc import Sequence
from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from evolute.hw.rtl.blocks.arith import named, select, square_terms, sum_modulo, total
from evolute.hw.rtl.engines.engine import EngineComponent
from evolute.hw.spec.lut_dla import LutDla, distance_bits


class Nearest(NamedTuple):
    """The nearest of some centroids."""

    distance: Value
    """Its distance."""
    one_hot: list[Value]
    """Whether it is the i-th centroid, by i."""


def distance(m: Module, name: str, metric: str, x: Sequence[Value], y: Sequence[Value]) -> Value:
    """The unsigned distance of two vectors of signed values of one width."""
    parts = []
    for i, (one, other) in enumerate(zip(x, y, strict=True)):
        difference = named(m, f"{name}_{i}_difference", one - other)
        negative = difference[-1]
        # Adding the sign completes the negation; the magnitude has the width of the values.
        flipped = difference[:-1] ^ negative.replicate(len(difference) - 1)
        magnitude = named(m, f"{name}_{i}", (flipped + negative)[: len(difference) - 1])
        parts.append(magnitude)
    if metric == "l1":
        return total(parts)
    if metric == "l2":
        squares = [term for part in parts for term in square_terms(part)]
        bits = distance_bits(metric, len(x), len(x[0]))
        return sum_modulo(m, f"{name}_sum", squares, bits).as_unsigned()
    greatest = parts[0]
    for i, part in enumerate(parts[1:], 1):
        greatest = named(m, f"{name}_greatest{i}", Mux(part > greatest, part, greatest))
    return greatest


def nearest(m: Module, name: str, distances: Sequence[Value]) -> Nearest:
    """The least of the distances, by a tree of comparators. Of equal distances the first is
    taken."""
    rivals = [Nearest(value, [Const(1, 1)]) for value in distances]
    while len(rivals) > 1:
        merged = []
        for i in range(0, len(rivals) - 1, 2):
            low, high = rivals[i : i + 2]
            later = named(m, f"{name}_{len(rivals)}_{i}", high.distance < low.distance)
            least = Mux(later, high.distance, low.distance)
            one_hot = [bit & ~later for bit in low.one_hot] + [bit & later for bit in high.one_hot]
            merged.append(Nearest(named(m, f"{name}_{len(rivals)}_{i}_least", least), one_hot))
        rivals = merged + rivals[len(merged) * 2 :]
    return rivals[0]


class LutDlaEngine(EngineComponent):
    """A complete engine of nearest centroids."""

    spec: LutDla

    def operands(self, m, x, fields):
        """The activations themselves, and 1 as the sum of every one-hot row."""
        entries: list[Value] = [Const(1, 2)] * self.spec.m
        return Cat(*x), entries

    def multiply(self, m, operands, weights, sequencer):
        """The table row of the nearest of the slice's centroids, for every row of activations, in
        the step of the slice's last beat; 0 in its other steps."""
        spec, psums = self.spec, []
        centroids, entries = weights["centroid"], Cat(*weights["entry"])
        row_bits = spec.n * spec.weight_bits
        rows = [entries.word_select(lane, row_bits) for lane in range(spec.lanes)]
        for row in range(spec.m):
            word = operands.word_select(row, spec.v * spec.activation_bits)
            x = [word.word_select(i, spec.activation_bits).as_signed() for i in range(spec.v)]
            distances = []
            for lane in range(spec.lanes):
                name = f"distance{row}_{lane}"
                y = centroids[lane * spec.v : (lane + 1) * spec.v]
                value = distance(m, name, spec.metric, x, y)[: spec.distance_bits]
                distances.append(named(m, name, value))
            best = nearest(m, f"nearest{row}", distances)
            one_hot = [named(m, f"taken{row}_{lane}", bit) for lane, bit in enumerate(best.one_hot)]
            taken = named(m, f"row{row}", select(rows, one_hot))
            if spec.lanes < spec.centroids:
                taken = self._kept(m, row, best.distance, taken, sequencer)
            psums += [taken.word_select(i, spec.weight_bits).as_signed() for i in range(spec.n)]
        return psums

    def _kept(self, m: Module, row: int, distance: Value, taken: Value, sequencer) -> Value:
        """Keeps the table row of the nearest centroid of the slice so far. Returns the row to add,
        which is 0 before the slice's last beat.

        `distance` and `taken` are those of the nearest centroid of the beat.
        """
        kept_distance = Signal(len(distance), name=f"kept_distance{row}", reset_less=True)
        kept = Signal(len(taken), name=f"kept{row}", reset_less=True)
        nearer = named(m, f"nearer{row}", sequencer.first_of_slice | (distance < kept_distance))
        best = named(m, f"best{row}", Mux(nearer, taken, kept))
        with m.If(self.step):
            m.d.sync += [kept_distance.eq(Mux(nearer, distance, kept_distance)), kept.eq(best)]
        return named(m, f"added{row}", best & sequencer.last_of_slice.replicate(len(best)))
