"""Packs codes into the layouts of published CPU kernels for low-bit weights, and unpacks them
again.

T-MAC (Wei et al., arXiv 2407.00088, section 4): bit-planes; four weights along K form a nibble that
indexes a table; tiled and interleaved in the order in which the kernels read them. bitnet.cpp
(arXiv 2502.11880, section 3) for ternary weights: I2_S with two bits per weight; TL1, where a pair
is the index of one of nine entries; TL2, where a triple is a sign and the index of one of fourteen.
Scales, and padding at the end, are stored separately.

Codes are uint8 [N, K]; the ternary codes 0, 1, 2 mean -1, 0, 1. Every function raises `SpecError`
for a shape that does not fit the layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.base import require

Bytes = NDArray[np.uint8]

_LANES = 16
"""Bytes of the vector register that kernels look up in."""


class _Order(NamedTuple):
    """A permutation of an array: it is reshaped to `shape`, and its axes are put in the order
    `axes`."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def apply(self, values: NDArray) -> NDArray:
        """The values in the new order."""
        return values.reshape(self.shape).transpose(self.axes)

    def undo(self, values: NDArray) -> NDArray:
        """The inverse of `apply`; the result still has the shape `shape`."""
        moved = values.reshape([self.shape[axis] for axis in self.axes])
        return moved.transpose(np.argsort(self.axes))


def _require_multiple(name: str, value: int, of: int) -> None:
    require(value > 0 and value % of == 0, name, f"a multiple of {of}", value)


def _require_codes(codes: Bytes, levels: int) -> None:
    largest = int(codes.max(initial=0))
    require(largest < levels, "codes", f"below {levels}", largest)


# T-MAC.


@dataclass(frozen=True)
class TMac:
    """The parameters of T-MAC's layout, which its tuner chooses: a tile has `bm` rows of bits and
    `kfactor` nibbles of each row. Raises `SpecError`."""

    bits: int
    bm: int = 256
    kfactor: int = 16

    def __post_init__(self) -> None:
        require(1 <= self.bits <= 4, "bits", "in 1..4", self.bits)
        _require_multiple("bm", self.bm, 2 * _LANES)
        _require_multiple("bm", self.bm, self.bits)
        _require_multiple("kfactor", self.kfactor, 1)

    def _orders(self, n: int, k: int) -> tuple[_Order, _Order]:
        """The permutations from rows of codes to rows of bits, and from these to tiles."""
        _require_multiple("N", n, 8)
        _require_multiple("N", n * self.bits, self.bm)
        _require_multiple("K", k, _NIBBLE * self.kfactor)
        columns = k // _NIBBLE
        rows = _Order((n // 8, 8, self.bits, columns), (0, 2, 1, 3))
        tiled = (n * self.bits // self.bm, self.bm // (2 * _LANES), 2, _LANES)
        cut = (columns // self.kfactor, self.kfactor)
        return rows, _Order((*tiled, *cut), (0, 4, 1, 5, 3, 2))

    def pack(self, codes: Bytes) -> Bytes:
        """Codes [N, K] as bytes [N * bits / bm, K / 4, bm / 2]."""
        n, k = codes.shape
        rows, tiles = self._orders(n, k)
        _require_codes(codes, 1 << self.bits)
        planes = codes[:, None] >> np.arange(self.bits, dtype=np.uint8)[:, None] & np.uint8(1)
        quads = planes.reshape(n, self.bits, -1, _NIBBLE)
        nibbles = np.bitwise_or.reduce(quads << np.arange(_NIBBLE, dtype=np.uint8), axis=-1)
        pairs = tiles.apply(rows.apply(nibbles))
        packed = pairs[..., 0] | pairs[..., 1] << np.uint8(4)
        return packed.reshape(n * self.bits // self.bm, k // _NIBBLE, self.bm // 2)

    def unpack(self, packed: Bytes, n: int, k: int) -> Bytes:
        """The codes [n, k] from which `pack` made `packed`."""
        rows, tiles = self._orders(n, k)
        pairs = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)
        nibbles = rows.undo(tiles.undo(pairs)).reshape(n, self.bits, -1, 1)
        planes = nibbles >> np.arange(_NIBBLE, dtype=np.uint8) & np.uint8(1)
        shifted = planes.reshape(n, self.bits, k) << np.arange(self.bits, dtype=np.uint8)[:, None]
        return np.bitwise_or.reduce(shifted, axis=1)

    def pack_scales(self, scales: NDArray, zeros: NDArray | None = None) -> NDArray:
        """Scales [N, G] in the order of the kernels, [N * bits / bm, G, bm / bits].

        With `zeros` of the same shape, groups of eight scales and eight zeros alternate: [..., 2 *
        bm / bits].
        """
        n, groups = scales.shape
        order = self._scale_order(n, groups)
        parts = [
            order.apply(values) for values in ((scales,) if zeros is None else (scales, zeros))
        ]
        return np.stack(parts, axis=-2).reshape(order.shape[0], groups, -1)

    def unpack_scales(self, packed: NDArray, n: int, with_zeros: bool) -> tuple[NDArray, ...]:
        """The scales [n, G] that `pack_scales` packed, and the zeros if there are any."""
        groups = packed.shape[1]
        order = self._scale_order(n, groups)
        parts = packed.reshape(order.shape[0], groups, -1, 1 + with_zeros, 8)
        planes = (parts[..., part, :] for part in range(1 + with_zeros))
        return tuple(order.undo(plane).reshape(n, groups) for plane in planes)

    def _scale_order(self, n: int, groups: int) -> _Order:
        _require_multiple("N", n * self.bits, self.bm)
        _require_multiple("bm", self.bm, 8 * self.bits)
        rows = self.bm // self.bits
        return _Order((n // rows, rows // 8, 8, groups), (0, 3, 1, 2))


_NIBBLE = 4
"""Weights along K that index a table together."""


# bitnet.cpp.


def pack_i2_s(codes: Bytes, block: int = 128) -> Bytes:
    """Ternary codes [N, K] as bytes [N, K / 4].

    The four quarters of a block share the same bytes, the first quarter in the highest bits.
    Kernels for AVX2 read blocks of 128, those for NEON blocks of 64.
    """
    n, k = codes.shape
    _require_multiple("block", block, 4)
    _require_multiple("K", k, block)
    _require_codes(codes, 3)
    quarters = codes.reshape(n, -1, 4, block // 4) << _TWO_BITS
    return np.bitwise_or.reduce(quarters, axis=-2).reshape(n, k // 4)


def unpack_i2_s(packed: Bytes, block: int = 128) -> Bytes:
    """The codes from which `pack_i2_s` made `packed`."""
    parts = packed.reshape(len(packed), -1, 1, block // 4)
    return (parts >> _TWO_BITS & np.uint8(3)).reshape(len(packed), -1)


_TWO_BITS = np.arange(6, -2, -2, dtype=np.uint8)[:, None]


@dataclass(frozen=True)
class Tiles:
    """How TL1 and TL2 divide a matrix: into tiles of `bm` rows and `by` columns, and these into
    inner tiles of `rows` and `columns`."""

    bm: int
    by: int
    rows: int
    columns: int

    def order(self, n: int, units: int, unit: int, lanes: int) -> _Order:
        """The order of units [n, units], each of `unit` weights: tile by tile, within a tile by
        inner tiles, then runs of `lanes` rows, in which two units share a byte. Raises
        `SpecError`."""
        _require_multiple("N", n, self.bm)
        _require_multiple("K", units * unit, self.by)
        _require_multiple("bm", self.bm, self.rows)
        _require_multiple("by", self.by, self.columns)
        _require_multiple("rows", self.rows, lanes)
        _require_multiple("columns", self.columns, 2 * unit)
        cut_n = (n // self.bm, self.bm // self.rows, self.rows // lanes, lanes)
        inner = self.columns // (2 * unit)
        cut_k = (units * unit // self.by, self.by // self.columns, inner, 2)
        return _Order((*cut_n, *cut_k), (0, 4, 1, 5, 2, 6, 3, 7))


def pack_tl1(codes: Bytes, bm: int = 256, by: int = 256, rows: int = 32) -> Bytes:
    """Ternary codes [N, K] as flat bytes; a byte holds two pairs along K, the first in the high
    half.

    The pair a, b has the index 3a + b + 4. Inner tiles have `rows` by 256 / `rows` weights.
    """
    _require_codes(codes, 3)
    n, k = codes.shape
    order = _tl1_order(n, k, bm, by, rows)
    pairs = codes.reshape(n, -1, 2)  # with a code c counting as c - 1
    index = 3 * pairs[..., 0] + pairs[..., 1]
    return _joined(order.apply(index))


def unpack_tl1(
    packed: Bytes, n: int, k: int, bm: int = 256, by: int = 256, rows: int = 32
) -> Bytes:
    """The codes [n, k] from which `pack_tl1` made `packed`."""
    index = _tl1_order(n, k, bm, by, rows).undo(_parted(packed)).reshape(n, k // 2)
    return np.stack([index // 3, index % 3], axis=-1).reshape(n, k)


def _tl1_order(n: int, k: int, bm: int, by: int, rows: int) -> _Order:
    require(rows in (16, 32, 64), "rows", "16, 32 or 64", rows)
    _require_multiple("K", k, 2)
    return Tiles(bm, by, rows, 256 // rows).order(n, k // 2, 2, _LANES)


def _joined(pairs: Bytes) -> Bytes:
    return (pairs[..., 0] << np.uint8(4) | pairs[..., 1]).reshape(-1)


def _parted(packed: Bytes) -> Bytes:
    return np.stack([packed >> np.uint8(4), packed & np.uint8(15)], axis=-1)


_ROWS = 32
"""Rows of an inner tile of TL2."""
_HALVES = (0, 2, 1, 3)
"""The order in which runs of eight rows lie in the 32 bytes of an inner tile."""
_REST = Tiles(0, 32, _ROWS, 4)
"""How what is left of K beyond whole tiles of triples is cut, as pairs; with the same `bm`."""


def pack_tl2(codes: Bytes, bm: int = 256, by: int = 96) -> Bytes:
    """Ternary codes [N, K] as flat bytes: first indices of triples, then their signs, then indices
    of pairs.

    The triple a, b, c has the number 9a + 3b + c; a nibble holds its magnitude and a bit its sign.
    Columns beyond a multiple of `by` are stored as pairs, as in TL1; their number must be a
    multiple of 32.
    """
    n, k = codes.shape
    _require_codes(codes, 3)
    triple_columns = k - k % by
    triples = codes[:, :triple_columns].reshape(n, -1, 3).astype(np.int8) - 1
    value = triples @ np.array([9, 3, 1], np.int8)
    order, signs = _tl2_orders(n, triple_columns, bm, by)
    parts = [
        _halved(_joined(order.apply(np.abs(value).astype(np.uint8)))),
        _sign_words(signs.apply((value < 0).astype(np.uint16))),
    ]
    if triple_columns < k:
        pairs = codes[:, triple_columns:].reshape(n, -1, 2)
        index = 3 * pairs[..., 0] + pairs[..., 1]
        parts.append(_halved(_joined(_rest_order(n, k - triple_columns, bm).apply(index))))
    return np.concatenate(parts)


def unpack_tl2(packed: Bytes, n: int, k: int, bm: int = 256, by: int = 96) -> Bytes:
    """The codes [n, k] from which `pack_tl2` made `packed`."""
    triple_columns = k - k % by
    order, signs = _tl2_orders(n, triple_columns, bm, by)
    ends = n * triple_columns // 6, n * triple_columns // 6 + n * triple_columns // 24
    index, words, packed_pairs = np.split(packed, ends)
    value = order.undo(_parted(_halved(index))).reshape(n, triple_columns // 3).astype(np.int16)
    bits = words.view("<u2").reshape(-1, 1, _ROWS // 2) >> _SIGN_SHIFTS & 1
    value = np.where(signs.undo(bits).reshape(value.shape), -value, value) + 13
    triples = np.stack([value // 9, value // 3 % 3, value % 3], axis=-1).astype(np.uint8)
    codes = triples.reshape(n, triple_columns)
    if triple_columns == k:
        return codes
    pairs = (
        _rest_order(n, k - triple_columns, bm)
        .undo(_parted(_halved(packed_pairs)))
        .reshape(n, (k - triple_columns) // 2)
    )
    extra = np.stack([pairs // 3, pairs % 3], axis=-1).reshape(n, k - triple_columns)
    return np.concatenate([codes, extra], axis=1)


_SIGN_SHIFTS = np.arange(15, -1, -1, dtype=np.uint16)[:, None]


def _tl2_orders(n: int, k: int, bm: int, by: int) -> tuple[_Order, _Order]:
    """The orders of the triples' indices and of their signs. The signs of eight triples in 32 rows
    are the bits of sixteen words, highest bit first; the two halves of the rows follow one
    another."""
    _require_multiple("by", by, 24)
    _require_multiple("K", k, 3)
    index = Tiles(bm, by, _ROWS, 6).order(n, k // 3, 3, _ROWS)
    cut_n = (n // bm, bm // _ROWS, 2, _ROWS // 2)
    return index, _Order((*cut_n, k // by, by // 24, 8), (0, 4, 1, 5, 6, 2, 3))


def _rest_order(n: int, k: int, bm: int) -> _Order:
    _require_multiple("K beyond whole tiles", k, _REST.by)
    return Tiles(bm, _REST.by, _REST.rows, _REST.columns).order(n, k // 2, 2, _ROWS)


def _halved(packed: Bytes) -> Bytes:
    """Runs of eight rows in the order that kernels unpack to whole registers; its own inverse."""
    return packed.reshape(-1, 4, 8)[:, _HALVES].reshape(-1)


def _sign_words(bits: NDArray[np.uint16]) -> Bytes:
    """Bits [..., 8, 2, 16] as words of 16, lowest byte first."""
    words = bits.reshape(-1, 16, _ROWS // 2) << _SIGN_SHIFTS
    return np.bitwise_or.reduce(words, axis=1).astype("<u2").view(np.uint8).reshape(-1)
