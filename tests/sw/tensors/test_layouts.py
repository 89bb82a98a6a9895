"""Layouts of published kernels: each bit's place by its description, weight by weight, and back."""

from __future__ import annotations

import numpy as np
import pytest

from evolute.hw.spec import SpecError
from evolute.sw.tensors.layouts import (
    TMac,
    pack_i2_s,
    pack_tl1,
    pack_tl2,
    unpack_i2_s,
    unpack_tl1,
    unpack_tl2,
)


def ternary(n: int, k: int) -> np.ndarray:
    return np.random.default_rng(n + k).integers(0, 3, (n, k)).astype(np.uint8)


@pytest.mark.parametrize(
    ("bits", "bm", "kfactor", "n", "k"),
    [(1, 64, 8, 64, 64), (2, 128, 16, 128, 128), (3, 192, 8, 128, 64), (4, 128, 4, 64, 48)],
)
def test_t_mac(bits, bm, kfactor, n, k):
    layout = TMac(bits, bm, kfactor)
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (n, k)).astype(np.uint8)
    packed = layout.pack(codes)
    assert packed.shape == (n * bits // bm, k // 4, bm // 2)
    flat = packed.reshape(-1)
    # Rows of bits: eight rows' lowest bits, then their next ones. A byte has two rows of bits 16
    # apart; in a tile 16 bytes for each of kfactor nibbles, then the next 32 rows of bits.
    for row in range(0, n, 3):
        for column in range(0, k, 5):
            for bit in range(bits):
                line = row // 8 * 8 * bits + bit * 8 + row % 8
                tile, line = divmod(line, bm)
                group, line = divmod(line, 32)
                high, lane = divmod(line, 16)
                outer, nibble = divmod(column // 4, kfactor)
                place = ((tile * (k // 4 // kfactor) + outer) * (bm // 32) + group) * kfactor
                byte = flat[(place + nibble) * 16 + lane]
                assert byte >> 4 * high + column % 4 & 1 == codes[row, column] >> bit & 1
    assert np.array_equal(layout.unpack(packed, n, k), codes)


@pytest.mark.parametrize("zeros", [False, True])
def test_t_mac_scales(zeros):
    layout = TMac(2, 128)
    rng = np.random.default_rng(0)
    scales, offsets = rng.normal(size=(2, 128, 5))
    packed = layout.pack_scales(scales, offsets if zeros else None)
    assert packed.shape == (2, 5, 64 * (1 + zeros))
    for row in (0, 7, 8, 63, 64, 127):
        for group in range(5):
            tile, inside = divmod(row, 64)
            place = inside // 8 * 8 * (1 + zeros) + inside % 8
            assert packed[tile, group, place] == scales[row, group]
            if zeros:
                assert packed[tile, group, place + 8] == offsets[row, group]
    found = layout.unpack_scales(packed, 128, zeros)
    assert np.array_equal(found[0], scales) and (not zeros or np.array_equal(found[1], offsets))


@pytest.mark.parametrize("block", [128, 64])
def test_i2_s(block):
    codes = ternary(6, 256)
    packed = pack_i2_s(codes, block)
    assert packed.shape == (6, 64)  # two bits per weight
    for row in range(6):
        for column in range(256):
            outer, inside = divmod(column, block)
            quarter, place = divmod(inside, block // 4)
            byte = packed[row, outer * block // 4 + place]
            assert byte >> 6 - 2 * quarter & 3 == codes[row, column]
    assert np.array_equal(unpack_i2_s(packed, block), codes)


@pytest.mark.parametrize(
    ("n", "k", "bm", "by", "rows"),
    [(64, 128, 64, 64, 32), (128, 64, 64, 32, 64), (64, 96, 32, 48, 16)],
)
def test_tl1(n, k, bm, by, rows):
    codes, columns = ternary(n, k), 256 // rows
    packed = pack_tl1(codes, bm, by, rows)
    assert packed.size * 8 == 2 * n * k
    place = 0
    for tile_n in range(0, n, bm):
        for tile_k in range(0, k, by):
            for inner_n in range(tile_n, tile_n + bm, rows):
                for inner_k in range(tile_k, tile_k + by, columns):
                    for run in range(inner_n, inner_n + rows, 16):
                        for quad in range(inner_k, inner_k + columns, 4):
                            for row in range(run, run + 16):
                                a, b, c, d = codes[row, quad : quad + 4].astype(int) - 1
                                assert packed[place] >> 4 == 3 * a + b + 4
                                assert packed[place] & 15 == 3 * c + d + 4
                                place += 1
    assert place == packed.size
    assert np.array_equal(unpack_tl1(packed, n, k, bm, by, rows), codes)


@pytest.mark.parametrize(
    ("n", "k", "bm", "by"), [(64, 96, 64, 96), (128, 224, 64, 96), (64, 80, 32, 48)]
)
def test_tl2(n, k, bm, by):
    codes = ternary(n, k)
    weights, most = codes.astype(int) - 1, k - k % by
    packed = pack_tl2(codes, bm, by)
    index, signs, rest = np.split(packed, [n * most // 6, n * most // 6 + n * most // 24])
    inner = [
        (row, column)
        for tile_n in range(0, n, bm)
        for tile_k in range(0, most, by)
        for row in range(tile_n, tile_n + bm, 32)
        for column in range(tile_k, tile_k + by, 6)
    ]
    for at, (row, column) in enumerate(inner):
        for lane in range(32):
            run, inside = divmod(lane, 8)
            byte = index[at * 32 + (0, 2, 1, 3)[run] * 8 + inside]
            a, b, c, d, e, f = weights[row + lane, column : column + 6]
            assert byte >> 4 == abs(9 * a + 3 * b + c) and byte & 15 == abs(9 * d + 3 * e + f)
    words = signs.view("<u2").reshape(-1, 16)
    quads = [(row, column) for row, column in inner if (column % by) % 24 == 0]
    for at, (row, column) in enumerate(quads):
        for triple in range(8):
            for lane in range(32):
                half, word = divmod(lane, 16)
                a, b, c = weights[row + lane, column + 3 * triple : column + 3 * triple + 3]
                assert words[at, word] >> 15 - (2 * triple + half) & 1 == (9 * a + 3 * b + c < 0)
    place = 0
    for tile_n in range(0, n, bm):
        for tile_k in range(most, k, 32):
            for row in range(tile_n, tile_n + bm, 32):
                for column in range(tile_k, tile_k + 32, 4):
                    for lane in range(32):
                        run, inside = divmod(lane, 8)
                        byte = rest[place + (0, 2, 1, 3)[run] * 8 + inside]
                        a, b, c, d = weights[row + lane, column : column + 4]
                        assert (byte >> 4, byte & 15) == (3 * a + b + 4, 3 * c + d + 4)
                    place += 32
    assert place == rest.size
    assert np.array_equal(unpack_tl2(packed, n, k, bm, by), codes)


def test_tl2_takes_the_published_bits():
    """1536 x 4096 in tiles of 96 columns: 4032 as triples, 64 as pairs, 1.672 bits per weight."""
    packed = pack_tl2(ternary(1536, 4096))
    assert packed.size * 8 / (1536 * 4096) == pytest.approx(1.672, abs=5e-4)
    assert np.array_equal(unpack_tl2(packed, 1536, 4096), ternary(1536, 4096))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TMac(5), "bits: must be in 1..4"),
        (lambda: TMac(2, 100), "bm: must be a multiple of 32"),
        (lambda: TMac(3, 64), "bm: must be a multiple of 3"),
        (lambda: TMac(2).pack(np.zeros((100, 64), np.uint8)), "N: must be a multiple of 8"),
        (lambda: TMac(2).pack(np.zeros((128, 60), np.uint8)), "K: must be a multiple of 64"),
        (lambda: TMac(2).pack(np.full((128, 64), 4, np.uint8)), "codes: must be below 4, got 4"),
        (lambda: pack_i2_s(ternary(2, 100)), "K: must be a multiple of 128, got 100"),
        (lambda: pack_i2_s(np.full((1, 128), 3, np.uint8)), "codes: must be below 3"),
        (lambda: pack_tl1(ternary(100, 256)), "N: must be a multiple of 256, got 100"),
        (lambda: pack_tl1(ternary(256, 128)), "K: must be a multiple of 256, got 128"),
        (lambda: pack_tl1(ternary(256, 256), rows=8), "rows: must be 16, 32 or 64"),
        (lambda: pack_tl2(ternary(256, 100)), "K beyond whole tiles: must be a multiple of 32"),
        (lambda: pack_tl2(ternary(256, 32)), "K: must be a multiple of 3, got 0"),
    ],
)
def test_shapes_that_do_not_fit(call, message):
    with pytest.raises(SpecError) as refused:
        call()
    assert message in str(refused.value)
