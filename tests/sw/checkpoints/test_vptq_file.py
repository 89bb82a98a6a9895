"""VPTQ's published layout: hand-made streams, the `vptq` package where it is, and folding."""

import numpy as np
import pytest

from evolute.hw.spec import SpecError
from evolute.sw.checkpoints.vptq_file import (
    Indices,
    column_order,
    fold_columns,
    join_groups,
    pack_indices,
    unpack_indices,
    with_outliers,
)


def test_a_stream_by_hand() -> None:
    """Fields of 3 + 2 bits, lowest first: residual above main; the seventh straddles two words."""
    main, residual = [5, 0, 7, 1, 2, 3, 6], [1, 3, 0, 2, 2, 0, 3]
    stream = 0
    for place, (low, high) in enumerate(zip(main, residual, strict=True)):
        stream |= (low | high << 3) << 5 * place
    words = pack_indices(Indices(np.array([main]), np.array([residual])), 3, 2)
    assert words.dtype == np.int32 and words.shape == (1, 2)
    assert words.view(np.uint32)[0].tolist() == [stream & 0xFFFFFFFF, stream >> 32]
    assert stream >> 32 == 0b111  # the upper bits of the seventh field, 11110


@pytest.mark.parametrize("bits", [(1, 0), (8, 0), (12, 0), (13, 3), (16, 8), (16, 16), (4, 9)])
@pytest.mark.parametrize("columns", [1, 31, 64])
def test_unpacking_inverts_packing(bits: tuple[int, int], columns: int) -> None:
    rng = np.random.default_rng(columns)
    shape = (2, 5, columns)
    residual = rng.integers(0, 1 << bits[1], shape) if bits[1] else None
    given = Indices(rng.integers(0, 1 << bits[0], shape), residual)
    words = pack_indices(given, *bits)
    assert words.shape == (2, 5, -(-columns * sum(bits) // 32))
    found = unpack_indices(words, columns, *bits)
    assert np.array_equal(found.main, given.main)
    if residual is None:
        assert found.residual is None
    else:
        assert found.residual is not None and np.array_equal(found.residual, residual)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SpecError, match=r"main: must be below 2\^3, got 8"):
        pack_indices(Indices(np.array([[8]])), 3)
    with pytest.raises(SpecError, match="columns: must be at most 10 in 1 words, got 11"):
        unpack_indices(np.zeros((1, 1), np.int32), 11, 3)
    with pytest.raises(SpecError, match="permutation: must be an order of 3 columns"):
        column_order(np.array([0, 0, 2]))


@pytest.mark.parametrize(("main_bits", "residual_bits"), [(8, 8), (12, 12), (13, 4)])
def test_the_published_package_reads_the_same(main_bits: int, residual_bits: int) -> None:
    pack = pytest.importorskip("vptq.utils.pack")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(main_bits)
    added = rng.integers(0, 1 << residual_bits, (2, 3, 40))
    given = Indices(rng.integers(0, 1 << main_bits, (2, 3, 40)), added)
    words = torch.from_numpy(pack_indices(given, main_bits, residual_bits))
    main, residual = pack.unpack_index_tensor(words, main_bits, 40, residual_bits, 40)
    assert np.array_equal(main.numpy().astype(int), given.main)
    assert np.array_equal(residual.numpy().astype(int), added)


def test_codewords_of_groups_are_joined_along_outputs() -> None:
    """Group g's row r and column c hold outputs r*v.. of stored column g*columns + c."""
    parts = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    whole = join_groups(parts, 14)
    assert whole.shape == (14, 8)
    for m in range(14):
        for column in range(8):
            assert whole[m, column] == parts[column // 4, m // 5, column % 4, m % 5]


def test_folding_is_exact_up_to_rounding() -> None:
    """Against weights put in their original order, scaled and biased, in float64."""
    rng = np.random.default_rng(7)
    stored = with_outliers(rng.normal(size=(6, 2)), rng.normal(size=(6, 9)))
    permutation = rng.permutation(11).astype(np.int16)
    scale, bias = rng.normal(size=11), rng.normal(size=11)
    x = rng.normal(size=(4, 11))
    weights = np.empty((6, 11))
    for column, place in enumerate(permutation):
        weights[:, place] = stored[:, column] * scale[place] + bias[place]
    folded = fold_columns(x, permutation, scale, bias)
    found = folded.x @ stored.T + folded.bias[:, None]
    np.testing.assert_allclose(found, x @ weights.T, rtol=0, atol=1e-12)
    plain = fold_columns(x)
    assert np.array_equal(plain.x, x) and not plain.bias.any()
