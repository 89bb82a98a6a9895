"""The bytes of weights, scales, activations and sums in a core's memory, for whole layers at once.

`sim.program.placement` decides the addresses; this module gives the bytes there. All positions come
from `hw.spec.layout` and `hw.spec.core`: fields of a beat from its lowest bit on, beats in bus
words as `Buffer` says, and the bytes of a word lowest first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec import layout
from evolute.hw.spec.core import RESULT_BITS, Buffer, CoreSpec
from evolute.hw.spec.engine import Engine
from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.hw.spec.layout import Beat
from evolute.sim.program.placement import Batch, Layer, PlaceError, Stage
from evolute.sim.timing.schedule import Run, plan, weighed
from evolute.sim.weights import Codebook, Grid, Table
from evolute.sim.workload.linear import LayerName, Linear
from evolute.sw.deploy.packers import FILLS, INDICES, PACKERS, STEPS
from evolute.sw.deploy.packers.bits import gathered, low_bits
from evolute.sw.tensors.rescale import ScaledTensor
from evolute.sw.tensors.tensor import QuantTensor

Bytes = NDArray[np.uint8]


def places(engine: Engine, k: int, group: int) -> NDArray[np.int64]:
    """For each activation of all slices, int64 [slices * slice_k], its index along K; -1 for
    padding.

    Each scale group is padded to whole slices.
    """
    padded = -(-group // engine.slice_k) * engine.slice_k
    starts = np.arange(0, k, group)[:, None]
    inside = np.arange(padded)
    columns = np.where((inside < group) & (starts + inside < k), starts + inside, -1).reshape(-1)
    last_group = -(-(k % group) // engine.slice_k) * engine.slice_k  # of a shorter last group
    return columns[: k // group * padded + last_group]


def zero_code(weight_format: WeightCodes) -> int:
    """The code that contributes nothing to a sum, apart from its group's offset."""
    return 0 if weight_format.kind is Kind.BITMOD else weight_format.levels // 2


def _codes(
    engine: Engine,
    grid: Grid,
    at: NDArray[np.int64],
    tiles: slice,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Codes of column tiles for the inputs `at`, and the special values of their slices.

    Padding beyond the layer's outputs and inputs has the code 0, or where steps depend on weights a
    code that counts as zero.
    """
    rows = slice(tiles.start * engine.n, min(len(grid.codes), tiles.stop * engine.n))
    padded = (tiles.stop - tiles.start) * engine.n
    blank = 0 if engine.steps_are_fixed else zero_code(grid.format)
    codes = gathered(grid.codes[rows], at, padded, blank)
    groups = at[:: engine.slice_k] // grid.group
    return codes, gathered(grid.special[rows], groups, padded)


def layer_steps(engine: Engine, tensor: QuantTensor | ScaledTensor) -> NDArray[np.int64]:
    """Steps of a layer's weight beats, int64 [column tiles, beats], for an engine where they depend
    on weights."""
    assert isinstance(tensor.form, Grid)
    n, k = tensor.shape
    tiles = slice(0, -(-n // engine.n))
    codes, special = _codes(engine, tensor.form, places(engine, k, tensor.group), tiles)
    return STEPS[type(engine)](engine, codes, special, tensor.format)


def weighed_run(engine: Engine, linear: Linear, tensor: QuantTensor, rows: int) -> Run:
    """The layer's `plan`. Where steps depend on weights, it has the steps of these weights; padding
    counts as 0."""
    run = plan(engine, linear, rows)
    return run if engine.steps_are_fixed else weighed(run, layer_steps(engine, tensor))


def bits(beat: Beat, **fields: NDArray) -> Bytes:
    """Beats as single bits, uint8 [..., beat.bits]. Each field is an array of integers [...,
    *field.shape]."""
    parts = []
    for field in beat.fields:
        values = fields[field.name]
        lead = values.shape[: values.ndim - len(field.shape)]
        kind = "<u1" if field.bits <= 8 else "<u2"
        assert field.bits <= 16
        field_bits = low_bits(values.astype(kind), field.bits)
        parts.append(field_bits.reshape(*lead, field.total_bits))
    return np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


def bus_words(buffer: Buffer, beats: Bytes) -> Bytes:
    """The bytes of bus words, [..., bytes], for beats that are given as bits, [..., beats, bits].

    The first beat begins a word, and the last word is filled with zeros.
    """
    *lead, count, width = beats.shape
    size = buffer.words(count) * buffer.bus_bits
    if width != buffer.stride_bits:
        spread = np.zeros((*lead, count, buffer.stride_bits), np.uint8)
        spread[..., :width] = beats
        beats = spread
    flat = beats.reshape(*lead, -1)
    if flat.shape[-1] < size:
        flat = np.concatenate([flat, np.zeros((*lead, size - flat.shape[-1]), np.uint8)], axis=-1)
    return np.packbits(flat, axis=-1, bitorder="little")


def scale_beats(
    core: CoreSpec, scale: NDArray[np.uint16], offset: NDArray[np.int16], repeats: NDArray
) -> Bytes:
    """The scale beats of whole column tiles as bits, [tiles, read-outs * n/scale_lanes, bits].

    `scale` and `offset` are [tiles * n, groups]; group g is read out `repeats[g]` times.
    """

    def by_tile(values: NDArray) -> NDArray:
        tiles = len(values) // core.engine.n
        values = np.repeat(values, repeats, axis=1).reshape(tiles, core.engine.n, -1)
        return values.transpose(0, 2, 1).reshape(tiles, -1, core.scale_lanes)

    return bits(core.scale_beat, scale=by_tile(scale), offset=by_tile(offset))


def part_words(
    core: CoreSpec, tensor: ScaledTensor, parts: tuple[int, ...], group_slices: int, tiles: slice
) -> list[tuple[Bytes, Bytes]]:
    """The weights and the scales of column tiles of a layer, each uint8 [tiles, bytes], for each
    part of K (`parts` are numbers of slices).

    Scales are read out every `group_slices` slices. Padding has zero scales and offsets beyond the
    layer's outputs. Beyond its inputs it has the code 0, or where steps depend on weights a code
    that counts as zero.
    """
    engine = core.engine
    n, k = tensor.shape
    at = places(engine, k, tensor.group)
    rows = slice(tiles.start * engine.n, min(n, tiles.stop * engine.n))
    padded = (tiles.stop - tiles.start) * engine.n
    match tensor.form:
        case Grid() as grid:
            codes, beside = _codes(engine, grid, at, tiles)
        case Codebook() as codebook:
            codes, beside = INDICES[type(engine)](engine, codebook, at, tiles), None
        case Table(codes=entries, centroids=centroids):
            codes = gathered(entries[rows], np.arange(entries.shape[1]), padded)
            beside = centroids.points
    weights = PACKERS[type(engine)](engine, codes, beside, tensor.format)
    counts = np.minimum(tensor.group, k - np.arange(0, k, tensor.group))
    repeats = -(-counts // (engine.slice_k * group_slices))
    everything = np.arange(tensor.scale.shape[1])
    scales = scale_beats(
        core,
        gathered(tensor.scale[rows], everything, padded),
        gathered(tensor.offset[rows], everything, padded),
        repeats,
    )
    words, planes, steps = [], tensor.coding.planes, engine.n // core.scale_lanes
    first_slice = first_group = 0
    for slices in parts:
        groups = -(-slices // group_slices)
        part = slice(first_slice * planes, (first_slice + slices) * planes)
        part_scales = slice(first_group * steps, (first_group + groups) * steps)
        words.append(
            (
                bus_words(core.weight_buffer, weights[:, part]),
                bus_words(core.scale_buffer, scales[:, part_scales]),
            )
        )
        first_slice, first_group = first_slice + slices, first_group + groups
    return words


def tile_words(words: list[tuple[Bytes, Bytes]], layer: Layer, tiles: slice) -> Bytes:
    """The `part_words` of column tiles of a layer one tile after another, each with the parts that
    it keeps, weights of a stretch of parts before its scales; [bytes]."""
    if layer.stretches is None:
        return np.concatenate([data for part in words for data in part], axis=1).reshape(-1)
    return np.concatenate(
        [
            words[part][kind][tile - tiles.start]
            for tile in range(tiles.start, min(tiles.stop, layer.column_tiles))
            for stretch in layer.tile_stretches(tile)
            for kind in range(2)
            for part in stretch
        ]
    )


_CHUNK_BITS = 1 << 26
"""Weight bits that are packed at once; each takes a byte on the way."""


def layer_words(
    core: CoreSpec, tensor: ScaledTensor, parts: tuple[int, ...], layer: Layer
) -> Bytes:
    """The contents of the engine's own memories, if any, and all column tiles of a layer, one after
    another; see `tile_words`."""
    tiles = -(-tensor.shape[0] // core.engine.n)
    beat_bits = layout.streams(core.engine).weight.bits
    tile_bits = beat_bits * -(-tensor.shape[1] // core.engine.slice_k) * tensor.coding.planes
    step = max(1, _CHUNK_BITS // tile_bits)
    chunks = []
    for start in range(0, tiles, step):
        some = slice(start, min(start + step, tiles))
        words = part_words(core, tensor, parts, layer.group_slices, some)
        chunks.append(tile_words(words, layer, some))
    words = np.concatenate(chunks)
    if not isinstance(tensor.form, Codebook):
        return words
    beats = FILLS[type(core.engine)](core.engine, tensor.form)
    filled = bus_words(core.weight_buffer, beats)
    return np.concatenate([filled, words])


def activation_words(
    core: CoreSpec,
    x: NDArray[np.integer],
    at: NDArray[np.int64],
    parts: tuple[int, ...],
    exponent: NDArray[np.integer] | None = None,
) -> Bytes:
    """The bytes of rows of activations x, integers [M, K]: for each part of K, beats in the order
    [row tile][slice].

    `at` is the result of `places` for the layer. Rows that fill up the last tile are zero. For
    floating activations, `x` are the codes and `exponent` [M] is the exponent that each row shares.
    """
    engine = core.engine
    row_tiles = -(-len(x) // engine.m)
    tiled = gathered(x.astype(np.int16), at, row_tiles * engine.m)
    tiled = tiled.reshape(row_tiles, engine.m, -1, engine.slice_k)
    fields = {"x": tiled.transpose(0, 2, 1, 3)}
    if exponent is not None:
        rows = np.zeros(row_tiles * engine.m, exponent.dtype)
        rows[: len(exponent)] = exponent
        shape = (row_tiles, len(at) // engine.slice_k, engine.m)
        fields["exponent"] = np.broadcast_to(rows.reshape(row_tiles, 1, engine.m), shape)
    beat = layout.streams(engine).activation
    beats = bits(beat, **fields)  # [row tile, slice, bits]
    ends = np.cumsum((0, *parts))
    return np.concatenate(
        [
            bus_words(core.activation_buffer, beats[:, start:end].reshape(-1, beat.bits))
            for start, end in itertools.pairwise(ends)
        ]
    )


def result_tiles(core: CoreSpec, data: Bytes) -> NDArray[np.int64]:
    """The stored results, int64 [tiles, m, n]."""
    results = np.ascontiguousarray(data).view(f"<i{RESULT_BITS // 8}")
    return results.reshape(-1, core.engine.m, core.engine.n)


# Placed stages.


def images(
    core: CoreSpec, stage: Stage, tensors: Mapping[LayerName, ScaledTensor]
) -> Iterator[tuple[int, Bytes]]:
    """The address and the bytes of each layer of a stage. `tensors` are by the names of layers.

    Raises `PlaceError` if a sum could exceed the core's width.
    """
    for layer in stage.layers:
        tensor = tensors[layer.linear.name]
        require_sums(core, layer.linear.name, tensor)
        yield layer.address, layer_words(core, tensor, stage.parts, layer)


def require_sums(core: CoreSpec, name: LayerName, tensor: ScaledTensor) -> None:
    """Raise `PlaceError` if a sum of the layer `name` could exceed the core's width."""
    bits = tensor.largest_sum(core.engine.activations).bit_length() + 1
    if bits > core.sum_bits:
        raise PlaceError(f"{name}: its sums need {bits} bits, sum_bits is {core.sum_bits}")


def pack_input(
    batch: Batch, x: NDArray[np.integer], exponent: NDArray[np.integer] | None = None
) -> Bytes:
    """The bytes at the batch's `input_address` for activations x, integers [rows, K].

    For floating activations, `x` are the codes and `exponent` [rows] is the exponent that each row
    shares.
    """
    core, stage = batch.core, batch.stage
    linear = stage.layers[0].linear
    if x.shape != (batch.rows, linear.k):
        raise ValueError(f"{stage.name}: must be {(batch.rows, linear.k)}, got {x.shape}")
    at = places(core.engine, linear.k, linear.group)
    ends = np.cumsum((0, *batch.blocks)) * core.engine.m
    blocks = [
        activation_words(
            core,
            x[start:end],
            at,
            stage.parts,
            None if exponent is None else exponent[start:end],
        )
        for start, end in itertools.pairwise(ends)
    ]
    return np.concatenate(blocks)


def unpack_results(
    batch: Batch, memory: Bytes, base: int = 0
) -> dict[LayerName, NDArray[np.int64]]:
    """The results of each layer, int64 [rows, N], from a memory that begins at the address
    `base`."""
    core, stage = batch.core, batch.stage
    tiles = result_tiles(core, memory[batch.result_address - base : batch.end - base])
    m, n, columns = core.engine.m, core.engine.n, stage.column_tiles
    blocks, first_tile = [], 0
    for count in batch.blocks:
        block = tiles[first_tile : first_tile + columns * count].reshape(columns, count, m, n)
        blocks.append(block.transpose(1, 2, 0, 3).reshape(count * m, columns * n))
        first_tile += columns * count
    stage_results, results, column = np.concatenate(blocks)[: batch.rows], {}, 0
    for layer in stage.layers:
        results[layer.linear.name] = stage_results[:, column : column + layer.linear.n]
        column += layer.column_tiles * n
    return results
