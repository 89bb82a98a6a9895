"""The one definition of the words on an engine's streams.

RTL, packers and benches take every bit position from here. A beat is described by fields, lowest
bit first; array indices run fastest in the last place, so field [i][j] of [I][J] elements of b bits
starts at (i*J + j)*b above the field's own offset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from evolute.hw.spec.bit_serial import BitSerial
from evolute.hw.spec.engine import Engine
from evolute.hw.spec.floating import FP16, FloatLut, FloatMac
from evolute.hw.spec.lut_dla import LutDla
from evolute.hw.spec.lut_stationary import LutStationary
from evolute.hw.spec.lut_tensor_core import LutTensorCore
from evolute.hw.spec.mac import Mac
from evolute.hw.spec.vq_codebook import VqCodebook

COUNT_BITS = 16
"""Width of the loop counts in a command: up to 65,536 tiles of up to 65,536 slices."""


@dataclass(frozen=True)
class Field:
    """`shape` elements of `bits` bits; signed ones are two's complement."""

    name: str
    bits: int
    shape: tuple[int, ...] = ()
    signed: bool = False

    @property
    def count(self) -> int:
        product = 1
        for extent in self.shape:
            product *= extent
        return product

    @property
    def total_bits(self) -> int:
        return self.bits * self.count


@dataclass(frozen=True)
class Beat:
    """One word of a stream: its fields from bit 0 upwards, without gaps."""

    fields: tuple[Field, ...]

    @cached_property
    def offsets(self) -> dict[str, int]:
        offsets, position = {}, 0
        for field in self.fields:
            offsets[field.name] = position
            position += field.total_bits
        return offsets

    @cached_property
    def bits(self) -> int:
        return sum(field.total_bits for field in self.fields)

    def field(self, name: str) -> Field:
        return next(field for field in self.fields if field.name == name)


@dataclass(frozen=True)
class EngineStreams:
    """The streams of an engine: what it takes and what it gives."""

    command: Beat
    activation: Beat
    weight: Beat
    result: Beat


@dataclass(frozen=True)
class StationaryStreams:
    """The streams of `LutStationary`; `centroid` and `activation` are of the encoder's clock."""

    command: Beat
    centroid: Beat
    activation: Beat
    table: Beat
    result: Beat
    request: Beat | None


WEIGHT_MEANING = """\
A beat of weights, one per K-slice and plane, by the engine:

- LUT Tensor Core: code[n][planes_per_step][kg]. Bit k-1 of a code is the sign S of the top
  weight; bits 0..k-2 are the other signs, each XORed with S (Eq. 6). Without mirrored tables
  all k are plain bits, of two's complement where a step takes all planes. In base 3, j = the
  sum of 3^i times weight i, -1 .. 1: below the top bit the magnitude of j, in the top bit
  whether j is negative (as TL2's codes, arXiv 2502.11880).
- MAC: code[n][k], two's complement.
- Bit-serial: code[n][k], one bit of each weight's two's complement a plane, or of its code in
  pairs of planes; or all of it, of which a mode with few steps uses the low digits. For BitMoD
  codes are `float_code`s, and special[n] names the special value of the group, of which there
  are four. Where steps are skipped, bit i of needed says whether to take the step of digit, or
  plane, i; of a beat without any it is one step, which adds nothing.
- VQ codebook: index[n/v][k], or [n][k/v] of codewords along inputs: the codebook's index and
  above it the residual's. Of short codewords plane i has those of the i-th part of every n/v
  outputs. See also `codewords`.
- LUT-DLA: centroid[lanes][v] of as many centroids in turn, and entry[lanes][n], what each is
  to every output; both two's complement.
- Floating MAC: code[n][k], two's complement, with scale[n] of their groups where weights are
  dequantized; or FP16 codes. Floating LUT Tensor Core: as that with mirrored tables.
"""
"""What beats of weights carry, by the engine; text for readers of this module and of sidecars."""

STREAMS_MEANING = """\
The streams of the engine that `spec` describes.

- `command`, one per matrix multiplication: planes - 1; the mode, where there are several;
  K-slices per group - 1; K-slices per tile - 1 (the last group of a tile may be shorter);
  tiles - 1.
- `activation`, one per K-slice: x[m][slice_k]; for floating activations, whose codes x are, the
  exponent that each row shares; and, for rounded tables, the right shift of each row's entries.
  Exponent and shift must stay the same within a group. The host finds the exponent, as it finds
  the scale of integer activations: the highest of the group, or of the whole row, as their
  codes hold it. 0 is read as 1, and what no finite number has as the highest of one.
- `weight`: see `weight_beat`.
- `result`, one per group: psum[m][n] = sum of weights times x, as `Coding` counts weights, and
  row_sum[m] = sum of x. Where saturation is chosen, psum does after each slice. Of LUT-DLA
  x are one-hot rows in this place, and row_sum their number. Floating sums are codes of
  `hw.spec.floating.RESULT`.
"""
"""What the streams of an engine carry, as `WEIGHT_MEANING`."""

STATIONARY_MEANING = """\
The streams of the machine that `spec` describes.

Column tiles are outermost, then subspaces, then rows.

- `command`, one per matrix multiplication: rows - 1, subspaces - 1, column tiles - 1.
- `centroid`, of the encoder's clock: x[beat_centroids][v]; all of a subspace, in the order of
  their indices, before its rows, again for every column tile unless indices are kept.
- `activation`, of the encoder's clock: x[v], one row's activations of the subspace, and `last`,
  whether the row is the last one. Again as centroids are.
- `table`: entry[beat_entries]. Of the stream, all rows of a subspace's table in the order of
  their indices, each n / beat_entries beats; of a gather, only the rows asked for, in order.
- `request`, of a gather: `row`, the number of the table row that is wanted, index in the lowest
  bits and above it column tile * subspaces + subspace. With `dedup` none is asked for twice.
- `result`, one per row and column tile: psum[n].
"""
"""What the streams of `LutStationary` carry, as `WEIGHT_MEANING`."""


def weight_beat(spec: Engine) -> Beat:
    """A beat of weights, one per K-slice and plane; `WEIGHT_MEANING` says what it carries."""
    return WEIGHTS[type(spec)](spec)


@lru_cache(maxsize=64)
def streams(spec: Engine) -> EngineStreams:
    """The streams of the engine that `spec` describes; `STREAMS_MEANING` says what each carries."""
    mode = [Field("mode", spec.mode_bits)] if spec.mode_bits else []
    kind = spec.activations
    x = Field("x", kind.code_bits, (spec.m, spec.slice_k), signed=kind.format is None)
    activation = [x]
    if spec.aligns:
        activation.append(Field("exponent", kind.exponent_bits, (spec.m,)))
    if isinstance(spec, LutTensorCore) and spec.table_shift_bits:
        activation.append(Field("table_shift", spec.table_shift_bits, (spec.m,)))
    row_sum = [Field("row_sum", spec.row_sum_bits, (spec.m,), True)] if spec.row_sum_bits else []
    return EngineStreams(
        command=Beat(
            (
                Field("planes_minus_1", 3),
                *mode,
                Field("group_slices_minus_1", COUNT_BITS),
                Field("slices_minus_1", COUNT_BITS),
                Field("tiles_minus_1", COUNT_BITS),
            )
        ),
        activation=Beat(tuple(activation)),
        weight=weight_beat(spec),
        result=Beat(
            (
                Field("psum", spec.acc_bits, (spec.m, spec.n), signed=True),
                *row_sum,
            )
        ),
    )


@lru_cache(maxsize=64)
def stationary_streams(spec: LutStationary) -> StationaryStreams:
    """The streams of the machine that `spec` describes, as `STATIONARY_MEANING` says."""
    x = Field("x", spec.activation_bits, (spec.v,), signed=True)
    space_bits = (spec.subspaces - 1).bit_length()
    tile_bits = (spec.tiles - 1).bit_length()
    index_bits = (spec.centroids - 1).bit_length()
    row = Field("row", index_bits + space_bits + tile_bits)
    return StationaryStreams(
        command=Beat(
            (
                Field("rows_minus_1", (spec.m - 1).bit_length()),
                *([Field("subspaces_minus_1", space_bits)] if space_bits else []),
                Field("tiles_minus_1", tile_bits),
            )
        ),
        centroid=Beat((replace(x, shape=(spec.beat_centroids, spec.v)),)),
        activation=Beat((x, Field("last", 1))),
        table=Beat((Field("entry", spec.weight_bits, (spec.beat_entries,), signed=True),)),
        result=Beat((Field("psum", spec.acc_bits, (spec.n,), signed=True),)),
        request=Beat((row,)) if spec.gathers else None,
    )


def codewords(spec: VqCodebook) -> Beat:
    """What a weight beat carries in a fill, from its lowest bit: components in two's complement of
    whole codewords, [fill_codewords][v], or of one part of a codeword, [1][v / fill_planes].

    A fill goes through the codebook and then the residual one, index by index; of each codeword,
    plane by plane, through its parts from the first component on. Of short codewords each is there
    as often as one of v weights has them.
    """
    shape = (spec.fill_codewords, spec.v // spec.fill_planes)
    return Beat((Field("component", spec.entry_bits, shape, signed=True),))


def aligned(spec: Engine) -> Beat:
    """What an engine keeps of a beat of floating activations: integers in the place of codes, and
    no exponents."""
    first, _, *others = streams(spec).activation.fields
    x = Field(first.name, spec.activation_bits, first.shape, signed=True)
    return Beat((x, *others))


def _bit_serial_beat(spec: BitSerial) -> Beat:
    if spec.has_planes:
        return Beat((Field("code", 1, (spec.n, spec.k)),))
    code = Field("code", spec.weight_bits, (spec.n, spec.k), signed=True)
    special = [Field("special", 2, (spec.n,))] if spec.has_floats else []
    needed = [Field("needed", spec.digits)] if spec.skips else []
    return Beat((code, *special, *needed))


def _float_mac_beat(spec: FloatMac) -> Beat:
    if spec.weights == "fp16":
        return Beat((Field("code", FP16.bits, (spec.n, spec.k)),))
    code = Field("code", spec.weight_bits, (spec.n, spec.k), signed=True)
    scale = [Field("scale", FP16.bits, (spec.n,))] if spec.weights == "dequantized" else []
    return Beat((code, *scale))


WEIGHTS: dict[type[Engine], Callable[[Any], Beat]] = {
    LutTensorCore: lambda spec: Beat(
        (Field("code", spec.code_bits, (spec.n, spec.planes_per_step, spec.kg)),)
    ),
    Mac: lambda spec: Beat((Field("code", spec.weight_bits, (spec.n, spec.k), signed=True),)),
    BitSerial: _bit_serial_beat,
    VqCodebook: lambda spec: Beat((Field("index", spec.index_bits, spec.index_shape),)),
    LutDla: lambda spec: Beat(
        (
            Field("centroid", spec.activation_bits, (spec.lanes, spec.v), signed=True),
            Field("entry", spec.weight_bits, (spec.lanes, spec.n), signed=True),
        )
    ),
    FloatMac: _float_mac_beat,
    FloatLut: lambda spec: Beat((Field("code", spec.k, (spec.n, 1, spec.kg)),)),
}
"""Beats of weights by the class of the engine's spec."""
