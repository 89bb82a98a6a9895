"""Where a core's data lies in memory: weights for all programs, inputs and results for each.

Layers that share an input are a `Stage`: one input region, one result region. A layer's weights and
scales lie in the order in which they are streamed: what fills the engine's own memories, then
column tile after column tile (n outputs each), in a tile part after part of K, in a part weights
before scales. Of a layer with a skip list, a part is a block of it, and a tile has only those that
it keeps: parts next to each other lie together, all their weights before all their scales.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evolute.hw.isa.instructions import OPERATIONS
from evolute.hw.spec.core import CoreSpec
from evolute.sim.timing.schedule import plan
from evolute.sim.workload.linear import Block, LayerName, Linear
from evolute.support.errors import RefusedError

MOST_SLICES = OPERATIONS["matmul"]["slices"].maximum
"""K-slices that a matmul can have."""

_SLOTS = 4
"""Parts of column tiles that the buffers should hold, so that loads run ahead of the engine."""


class PlaceError(RefusedError):
    """A layer that a core has no room for."""


def aligned(address: int, to: int) -> int:
    """The first multiple of `to` that is not below `address`."""
    return -(-address // to) * to


# Weights, whatever the number of rows.


@dataclass(frozen=True)
class Layer:
    """A layer whose fill and column tiles lie one after another from `address` on."""

    linear: Linear
    offset_shift: int
    address: int
    group_slices: int
    """Slices per read-out: a scale group, or an equal part of it."""
    planes: int
    mode: int
    """How the engine takes the weights, as `hw.spec.engine.Coding` says."""
    column_tiles: int
    weight_words: tuple[int, ...]
    """Bus words of one column tile's weights, for each part of K."""
    scale_words: tuple[int, ...]
    fill_words: int = 0
    """Bus words of what the engine's own memories are filled with."""
    stretches: tuple[tuple[range, ...], ...] | None = None
    """Of every column tile the parts that it keeps, those together that lie together in memory;
    None where all tiles have all parts, each by itself."""

    def tile_stretches(self, tile: int) -> tuple[range, ...]:
        """The parts of one column tile, those together that lie together."""
        if self.stretches is None:
            return tuple(range(part, part + 1) for part in range(len(self.weight_words)))
        return self.stretches[tile]

    @property
    def tile_words(self) -> int:
        """Bus words of one column tile that has all parts."""
        return sum(self.weight_words) + sum(self.scale_words)

    @functools.cached_property
    def _tile_ends(self) -> tuple[int, ...]:
        """Of a layer with a skip list, where each column tile ends, as `tile_start` counts."""
        sizes = [sum(pair) for pair in zip(self.weight_words, self.scale_words, strict=True)]
        tiles = self.stretches or ()
        words = (sum(sizes[part] for parts in tile for part in parts) for tile in tiles)
        return tuple(itertools.accumulate(words))

    def tile_start(self, tile: int) -> int:
        """The bus word at which a column tile begins, counted from the first one; of one more than
        there are, where the last one ends."""
        if self.stretches is None:
            return tile * self.tile_words
        return self._tile_ends[tile - 1] if tile else 0

    def fill_end(self, core: CoreSpec) -> int:
        """Where the first column tile lies."""
        return self.address + self.fill_words * core.bus_bytes

    @property
    def words(self) -> int:
        """Bus words of the whole layer."""
        return self.fill_words + self.tile_start(self.column_tiles)


@dataclass(frozen=True)
class Stage:
    """Layers that share an input, and the parts in which all of them take its K, in slices."""

    name: str
    layers: tuple[Layer, ...]
    parts: tuple[int, ...]
    end: int
    """First byte after the weights."""

    @property
    def column_tiles(self) -> int:
        return sum(layer.column_tiles for layer in self.layers)

    @functools.cached_property
    def taken(self) -> frozenset[int]:
        """The parts that some column tile takes."""
        if any(layer.stretches is None for layer in self.layers):
            return frozenset(range(len(self.parts)))
        tiles = (tile for layer in self.layers for tile in layer.stretches or ())
        return frozenset(part for tile in tiles for stretch in tile for part in stretch)

    def moved(self, core: CoreSpec, address: int) -> Stage:
        """The same at `address` or soon after."""
        layers = []
        for layer in self.layers:
            place = aligned(address, core.burst_beats * core.bus_bytes)
            layers.append(replace(layer, address=place))
            address = place + layer.words * core.bus_bytes
        return replace(self, layers=tuple(layers), end=address)


def stage_name(linears: Sequence[Linear]) -> str:
    """The name of a stage of these layers, such as 3.q+k+v."""
    first, *others = (linear.name for linear in linears)
    return "+".join([str(first), *(str(name.kind) for name in others)])


def share_input(core: CoreSpec, first: Linear, second: Linear) -> bool:
    """Whether two layers of one input also cut it into the same slices."""

    def cut(linear: Linear) -> tuple[int, int, int]:
        seamless = linear.group % core.engine.slice_k == 0 or linear.group >= linear.k
        block = 0 if linear.skips is None else linear.skips.inputs
        return linear.k, 0 if seamless else linear.group, block

    return cut(first) == cut(second)


def stages_of(core: CoreSpec, block: Block) -> tuple[tuple[Linear, ...], ...]:
    """The layers of a block stage by stage, in the order they run.

    Layers that share an input are one stage, unless they cut it into different slices, or change
    it first: a layer in parts, and one that scales or moves its inputs, are stages of their own.
    """
    stages: list[tuple[Linear, ...]] = []
    for layers in block:
        alone = [layer for layer in layers if layer.name.part is not None or layer.column_bits]
        stages += [(layer,) for layer in alone]
        rest = [layer for layer in layers if layer not in alone]
        while rest:
            together = [layer for layer in rest if share_input(core, rest[0], layer)]
            stages.append(tuple(together))
            rest = [layer for layer in rest if layer not in together]
    return tuple(stages)


def stage(
    core: CoreSpec,
    name: str,
    linears: Sequence[Linear],
    address: int,
    offset_shifts: Mapping[LayerName, int] | None = None,
) -> Stage:
    """Place layers that share an input at `address` or soon after.

    `offset_shifts` are those of the layers' tensors, by name; a price needs none. Raises
    `PlaceError` where a buffer is too small for a scale group, or a block of a skip list is none
    of whole scale groups and slices.
    """
    assert all(share_input(core, linears[0], other) for other in linears)
    runs = [plan(core.engine, linear, 1) for linear in linears]
    shapes = [_Shape(run.group_slices, run.planes) for run in runs]
    block = _block_slices(core, linears)
    parts = _parts(core, name, runs[0].slices, shapes, block)
    placed = []
    for linear, run, shape in zip(linears, runs, shapes, strict=True):
        layer = Layer(
            linear=linear,
            offset_shift=(offset_shifts or {}).get(linear.name, 0),
            address=aligned(address, core.burst_beats * core.bus_bytes),
            group_slices=shape.group_slices,
            planes=run.planes,
            mode=run.mode,
            column_tiles=-(-linear.n // core.engine.n),
            weight_words=tuple(shape.weight_words(core, part) for part in parts),
            scale_words=tuple(shape.scale_words(core, part) for part in parts),
            fill_words=fill_words(core, name),
            stretches=shape.stretches(core, linear, parts),
        )
        address = layer.address + layer.words * core.bus_bytes
        placed.append(layer)
    return Stage(name, tuple(placed), parts, address)


def placed(core: CoreSpec, stages: Sequence[tuple[Linear, ...]]) -> list[Stage]:
    """Place stages one after another from address 0 on, equal ones alike."""
    results: list[Stage] = []
    known: dict[tuple[Linear, ...], Stage] = {}
    address = 0
    for linears in stages:
        if (like := known.get(linears)) is not None:
            results.append(like.moved(core, address))
        else:
            results.append(stage(core, stage_name(linears), linears, address))
            known[linears] = results[-1]
        address = results[-1].end
    return results


def fill_words(core: CoreSpec, name: str) -> int:
    """Bus words that a layer's fill takes. Raises `PlaceError` where the buffer is too small."""
    buffer = core.weight_buffer
    words = sum(buffer.words(fill.slices * fill.planes) for fill in core.engine.fills)
    if words > buffer.bus_words:
        over, whole = (words - buffer.bus_words) * core.bus_bytes, words * core.bus_bytes
        raise PlaceError(
            f"{name}: the weight buffer is {over} bytes too small; its codebooks need {whole}"
        )
    return words


@dataclass(frozen=True)
class _Shape:
    """What a column tile's size depends on."""

    group_slices: int
    planes: int

    def weight_words(self, core: CoreSpec, slices: int) -> int:
        return core.weight_buffer.words(slices * self.planes)

    def scale_beats(self, core: CoreSpec, slices: int) -> int:
        return -(-slices // self.group_slices) * core.engine.n // core.scale_lanes

    def scale_words(self, core: CoreSpec, slices: int) -> int:
        return core.scale_buffer.words(self.scale_beats(core, slices))

    def stretches(
        self, core: CoreSpec, linear: Linear, parts: tuple[int, ...]
    ) -> tuple[tuple[range, ...], ...] | None:
        """See `Layer.stretches`. Parts lie together where they are next to each other and end with
        a bus word in every buffer, as far as `_SLOTS` of such stretches fit the buffers."""
        if linear.skips is None:
            return None
        weight, activation, scale = core.buffers
        most = weight.bus_words // _SLOTS, scale.bus_words // _SLOTS
        ends_word = [
            slices % activation.beats_per_word == 0
            and slices * self.planes % weight.beats_per_word == 0
            and self.scale_beats(core, slices) % scale.beats_per_word == 0
            for slices in parts
        ]

        def fits(stretch: range) -> bool:
            words = (
                sum(self.weight_words(core, parts[part]) for part in stretch),
                sum(self.scale_words(core, parts[part]) for part in stretch),
            )
            slices = sum(parts[part] for part in stretch)
            return words[0] <= most[0] and words[1] <= most[1] and slices <= MOST_SLICES

        def together(kept: tuple[int, ...]) -> tuple[range, ...]:
            stretches = [range(kept[0], kept[0] + 1)]
            for part in kept[1:]:
                longer = range(stretches[-1].start, part + 1)
                if (
                    part == longer[-2] + 1 == stretches[-1].stop
                    and ends_word[part - 1]
                    and fits(longer)
                ):
                    stretches[-1] = longer
                else:
                    stretches.append(range(part, part + 1))
            return tuple(stretches)

        known = {kept: together(kept) for kept in set(linear.skips.kept)}
        return tuple(known[kept] for kept in linear.skips.kept)


def _block_slices(core: CoreSpec, linears: Sequence[Linear]) -> int | None:
    """The slices of a block of the layers' skip lists; None where they have none. Raises
    `PlaceError` for blocks that the layers' scale groups, or read-outs of these, do not end with.
    """
    slices = 0
    for linear in linears:
        if linear.skips is None:
            return None
        inputs, group, slice_k = linear.skips.inputs, linear.group, core.engine.slice_k
        if inputs >= linear.k:
            slices = plan(core.engine, linear, 1).slices
            continue
        run = plan(core.engine, replace(linear, k=inputs), 1)
        slices = run.slices
        whole = inputs % group == 0
        inside = group % inputs == 0 or group >= linear.k
        read_out = core.engine.read_out_slices(group)
        if not (whole or (inside and inputs % slice_k == 0)) or slices % read_out:
            raise PlaceError(
                f"prune: a block of {linear.name} must be whole scale groups of {group} inputs, or "
                f"a part of one in whole read-outs of {read_out * slice_k}, got {inputs} inputs"
            )
    return slices


def _parts(
    core: CoreSpec, name: str, slices: int, shapes: Sequence[_Shape], block: int | None = None
) -> tuple[int, ...]:
    """K in the fewest about equal parts, cut between read-outs, of which `_SLOTS` fit the buffers.

    Where no cut allows that, the one with the most. An input row that exceeds the activation buffer
    is cut so that two parts of a row tile fit. Of layers with skip lists a part is a `block`, in
    slices.
    """
    unit = block or math.lcm(*(shape.group_slices for shape in shapes))
    units = -(-slices // unit)
    weight, activation, scale = core.buffers

    def needs(part: int) -> dict[str, tuple[int, int]]:
        """Bus words of a part, and of the buffer, by the buffer's name."""
        return {
            "weight": (max(shape.weight_words(core, part) for shape in shapes), weight.bus_words),
            "scale": (max(shape.scale_words(core, part) for shape in shapes), scale.bus_words),
        }

    def cut(count: int) -> tuple[int, ...]:
        ends = [min(slices, units * (i + 1) // count * unit) for i in range(count)]
        return tuple(end - start for start, end in zip([0, *ends], ends, strict=False))

    best: tuple[int, tuple[int, ...]] = 0, ()
    for count in range(units if block else 1, units + 1):
        parts = cut(count)
        words = [activation.words(part) for part in parts]
        if min(sum(words), 2 * max(words)) > activation.bus_words or max(parts) > MOST_SLICES:
            continue
        slots = min(room // size for size, room in needs(max(parts)).values())
        best = max(best, (min(slots, _SLOTS), parts), key=lambda option: option[0])
        if slots >= _SLOTS:
            break
    if best[0]:
        return best[1]
    least = max(cut(units))
    if least > MOST_SLICES:
        raise PlaceError(f"{name}: a scale group must have {MOST_SLICES} slices at most")
    sizes = needs(least) | {"activation": (2 * activation.words(least), activation.bus_words)}
    title, (size, room) = max(sizes.items(), key=lambda share: share[1][0] / share[1][1])
    over, whole = (size - room) * core.bus_bytes, size * core.bus_bytes
    raise PlaceError(
        f"{name}: the {title} buffer is {over} bytes too small; its least part needs {whole}"
    )


# Inputs and results of a program.


@dataclass(frozen=True)
class Batch:
    """A stage's `rows` in a program: its input and its results, in `blocks` of row tiles.

    The input has, block after block, the parts of K, each in beats [row tile][slice]. The results
    have, block after block, the column tiles of all layers, each a result tile [m][n] of 64-bit
    integers per row tile of the block.
    """

    core: CoreSpec
    stage: Stage
    rows: int
    blocks: tuple[int, ...]
    """Row tiles of each block."""
    input_address: int
    result_address: int
    end: int
    """First byte after the results."""

    @property
    def row_tiles(self) -> int:
        return sum(self.blocks)


def batch(core: CoreSpec, stage: Stage, rows: int, blocks: tuple[int, ...], address: int) -> Batch:
    """Place input and results of a stage at `address` or soon after."""
    beats = [count * part for count in blocks for part in stage.parts]
    words = sum(map(core.activation_buffer.words, beats))
    burst_bytes = core.burst_beats * core.bus_bytes
    first = aligned(address, burst_bytes)
    result = aligned(first + words * core.bus_bytes, burst_bytes)
    tiles = sum(blocks) * stage.column_tiles
    end = result + tiles * core.tile_store_words * core.bus_bytes
    return Batch(core, stage, rows, blocks, first, result, end)
