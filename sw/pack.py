"""Weights, scales, activations and sums as they lie in a core's memory, whole layers at once.

Positions come from `hw.spec.layout` and `hw.spec.core` alone: fields of a beat from its lowest bit,
beats in bus words as `Buffer` says, bytes of a word lowest first.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from hw.spec import layout
from hw.spec.core import RESULT_BITS, Buffer, CoreSpec
from hw.spec.formats import WeightCodes
from hw.spec.layout import Beat
from hw.spec.lut_tensor_core import LutTensorCore
from sw.quant import ScaledTensor

Bytes = NDArray[np.uint8]


def places(engine: LutTensorCore, k: int, group: int) -> NDArray[np.int64]:
    """For every activation of the slices, [slices * slice_k], its place along K; -1 for padding.

    Each scale group is padded to whole slices.
    """
    padded = -(-group // engine.slice_k) * engine.slice_k
    starts = np.arange(0, k, group)[:, None]
    inside = np.arange(padded)
    found = np.where((inside < group) & (starts + inside < k), starts + inside, -1).reshape(-1)
    rest = -(-(k % group) // engine.slice_k) * engine.slice_k  # of a shorter last group
    return found[: k // group * padded + rest]


def _gather(values: NDArray, at: NDArray[np.int64], rows: int) -> NDArray:
    """Columns of `values` at the places `at`, zero for padding, and zero rows up to `rows`."""
    found = np.zeros((rows, len(at)), values.dtype)
    if np.array_equal(at, np.arange(values.shape[1])):
        found[: len(values)] = values
    else:
        found[: len(values), at >= 0] = values[:, at[at >= 0]]
    return found


def bits(beat: Beat, **fields: NDArray) -> Bytes:
    """Beats as bits, one a byte, [..., beat.bits]; a field is integers [..., *its shape]."""
    parts = []
    for field in beat.fields:
        values = fields[field.name]
        lead = values.shape[: values.ndim - len(field.shape)]
        kind = "<u1" if field.bits <= 8 else "<u2"
        assert field.bits <= 16
        each = values.astype(kind).reshape(*lead, field.count, 1).view(np.uint8)
        each = np.unpackbits(each, axis=-1, count=field.bits, bitorder="little")
        parts.append(each.reshape(*lead, field.total_bits))
    return np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


def bus_words(buffer: Buffer, beats: Bytes) -> Bytes:
    """Beats as bits, [..., beats, bits], in bus words, [..., words * bytes of a word].

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


def _planes(codes: Bytes, weight_format: WeightCodes) -> list[Bytes]:
    """The sign bits of every plane, 1 for +1."""
    if weight_format.ternary:
        return [(codes > level).view(np.uint8) for level in range(2)]
    shifted = (np.right_shift(codes, plane) for plane in range(weight_format.planes))
    return [np.bitwise_and(plane, 1, dtype=np.uint8) for plane in shifted]


def weight_beats(engine: LutTensorCore, codes: Bytes, weight_format: WeightCodes) -> Bytes:
    """Bits of the weight beats of whole column tiles, [tiles, slices * planes, bits].

    `codes` is uint8 [tiles * n, slices * slice_k]. In a table's k sign bits, the others are XORed
    with the top one (LUT Tensor Core, Eq. 6); they are the bits of its code.
    """
    tiles, slices = len(codes) // engine.n, codes.shape[1] // engine.slice_k
    width = layout.lut_tensor_core(engine).weight.bits
    found = np.empty((tiles, slices, weight_format.planes, engine.n, engine.slice_k), np.uint8)
    for plane, signs in enumerate(_planes(codes, weight_format)):
        tables = signs.reshape(-1, engine.k)
        for place in range(engine.k - 1):
            tables[:, place] ^= tables[:, -1]
        columns = tables.reshape(tiles, engine.n, slices, engine.slice_k)
        found[:, :, plane] = columns.transpose(0, 2, 1, 3)
    return found.reshape(tiles, slices * weight_format.planes, width)


def scale_beats(
    core: CoreSpec, scale: NDArray[np.uint16], offset: NDArray[np.int16], repeats: NDArray
) -> Bytes:
    """Bits of the scale beats of whole column tiles, [tiles, read-outs * n/scale_lanes, bits].

    `scale` and `offset` are [tiles * n, groups]; group g is read out `repeats[g]` times.
    """

    def by_tile(values: NDArray) -> NDArray:
        tiles = len(values) // core.engine.n
        values = np.repeat(values, repeats, axis=1).reshape(tiles, core.engine.n, -1)
        return values.transpose(0, 2, 1).reshape(tiles, -1, core.scale_lanes)

    return bits(core.scale_beat, scale=by_tile(scale), offset=by_tile(offset))


def tile_words(
    core: CoreSpec, tensor: ScaledTensor, parts: tuple[int, ...], group_slices: int, tiles: slice
) -> Bytes:
    """Column tiles of a layer as they are streamed, [tiles, bytes].

    A tile has for each part of K, in `parts` slices, its weights and then its scales, which are
    read out every `group_slices` slices. Beyond the layer's outputs scales and offsets are zero,
    beyond its inputs codes are.
    """
    engine = core.engine
    n, k = tensor.shape
    at = places(engine, k, tensor.group)
    rows = slice(tiles.start * engine.n, min(n, tiles.stop * engine.n))
    padded = (tiles.stop - tiles.start) * engine.n
    weights = weight_beats(engine, _gather(tensor.codes[rows], at, padded), tensor.format)
    counts = np.minimum(tensor.group, k - np.arange(0, k, tensor.group))
    repeats = -(-counts // (engine.slice_k * group_slices))
    everything = np.arange(tensor.scale.shape[1])
    scales = scale_beats(
        core,
        _gather(tensor.scale[rows], everything, padded),
        _gather(tensor.offset[rows], everything, padded),
        repeats,
    )
    found, planes, steps = [], tensor.format.planes, engine.n // core.scale_lanes
    first = first_group = 0
    for slices in parts:
        groups = -(-slices // group_slices)
        part = slice(first * planes, (first + slices) * planes)
        part_scales = slice(first_group * steps, (first_group + groups) * steps)
        found.append(bus_words(core.weight_buffer, weights[:, part]))
        found.append(bus_words(core.scale_buffer, scales[:, part_scales]))
        first, first_group = first + slices, first_group + groups
    return np.concatenate(found, axis=1)


_CHUNK_BITS = 1 << 26
"""Weight bits that are packed at once; each takes a byte on the way."""


def layer_words(
    core: CoreSpec, tensor: ScaledTensor, parts: tuple[int, ...], group_slices: int
) -> Bytes:
    """All column tiles of a layer, one after another; see `tile_words`."""
    tiles = -(-tensor.shape[0] // core.engine.n)
    tile_bits = core.engine.n * math.prod((tensor.shape[1], tensor.format.planes))
    step = max(1, _CHUNK_BITS // tile_bits)
    chunks = [
        tile_words(core, tensor, parts, group_slices, slice(start, min(start + step, tiles)))
        for start in range(0, tiles, step)
    ]
    return np.concatenate(chunks).reshape(-1)


def activation_words(
    core: CoreSpec, x: NDArray[np.integer], at: NDArray[np.int64], parts: tuple[int, ...]
) -> Bytes:
    """Rows of activations, integers [M, K], for each part of K in beats [row tile][slice].

    `at` are the layer's `places`; rows up to a whole tile are zero.
    """
    engine = core.engine
    row_tiles = -(-len(x) // engine.m)
    gathered = _gather(x.astype(np.int16), at, row_tiles * engine.m)
    gathered = gathered.reshape(row_tiles, engine.m, -1, engine.kg, engine.k)
    beat = layout.lut_tensor_core(engine).activation
    beats = bits(beat, x=gathered.transpose(0, 2, 1, 3, 4))  # [row tile, slice, bits]
    ends = np.cumsum((0, *parts))
    return np.concatenate(
        [
            bus_words(core.activation_buffer, beats[:, start:end].reshape(-1, beat.bits))
            for start, end in itertools.pairwise(ends)
        ]
    )


def result_tiles(core: CoreSpec, data: Bytes) -> NDArray[np.int64]:
    """Stored result tiles, [tiles, m, n]."""
    results = np.ascontiguousarray(data).view(f"<i{RESULT_BITS // 8}")
    return results.reshape(-1, core.engine.m, core.engine.n)
