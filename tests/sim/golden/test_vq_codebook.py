"""Vectors by brute force: VPTQ's arithmetic, tables, fills, and what fills cost."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.hw.spec import SpecError, VqCodebook, layout
from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.sim.golden import vq_codebook as golden
from evolute.sim.timing.engine import fold, run_cycles
from evolute.sim.timing.schedule import Run, fills, plan
from evolute.sim.weights import Book, Codebook, Grid
from evolute.sim.workload.linear import Linear
from evolute.sw.deploy.packers import PACKERS
from evolute.sw.deploy.packers.vq_codebook import fill_beats, stored_index
from evolute.verif.engines import vq_codebook
from evolute.verif.harness import driver, words
from evolute.verif.harness.vectors import MatmulShape, random_matmul

CODES, SHORT = WeightCodes(8, Kind.VECTOR), WeightCodes(8, Kind.SHORT)


def random_vectors(
    rng: np.random.Generator, along: str, v: int, n: int, k: int, group: int, residual: bool
) -> Codebook:
    """Weights of 16 and 8 codewords of 7 bits."""
    places = sum(-(-(min(k, start + group) - start) // v) for start in range(0, k, group))
    shape = (-(-n // v), k) if along == "outputs" else (n, places)
    books = [Book(rng.integers(0, e, shape), rng.integers(-64, 64, (e, v))) for e in (16, 8)]
    kind = SHORT if v == 2 else CODES
    return Codebook((n, k), kind, group, along, tuple(books[: 1 + residual]))


def weight(vectors: Codebook, n: int, k: int) -> int:
    """The weight of output n and input k, by the definition."""
    v, group, total = vectors.v, vectors.group, 0
    if vectors.along == "outputs":
        row, column, component = n // v, k, n % v
    else:
        before = k // group * -(-group // v)  # codewords of the scale groups before
        row, column, component = n, before + k % group // v, k % group % v
    for index, book in vectors.books:
        total += int(book[index[row, column], component])
    return total


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("along", ["outputs", "inputs"])
@pytest.mark.parametrize("v", [1, 3, 4])
def test_weights_are_sums_of_components(v: int, along: str, residual: bool) -> None:
    rng = np.random.default_rng(v)
    for n, k, group in ((5, 11, 4), (8, 12, 12), (7, 9, 6)):
        vectors = random_vectors(rng, along, v, n, k, group, residual)
        found = vectors.decoded()
        assert found.shape == (n, k)
        for i, j in itertools.product(range(n), range(k)):
            assert found[i, j] == weight(vectors, i, j)


def test_a_table_of_dot_products_gives_the_same_sums() -> None:
    """Along inputs: products with each centroid once, then a lookup per output."""
    rng = np.random.default_rng(3)
    spec = VqCodebook(n=6, k=8, v=4, along="inputs", entries=16, residual_entries=8, form="table")
    vectors = random_vectors(rng, "inputs", 4, 6, 16, 8, residual=True)
    x = rng.integers(-127, 128, (2, 16))
    encoded = golden.encode(spec, vectors)
    found = golden.group_sums(spec, x, encoded).psum
    for row, group in itertools.product(range(2), range(2)):
        total = np.zeros(6, int)
        for place in (2 * group, 2 * group + 1):
            for index, book in vectors.books:
                table = book @ x[row, 4 * place : 4 * place + 4]
                total += table[index[:, place]]
        assert np.array_equal(found[row, group], total)


def test_refusals() -> None:
    rng = np.random.default_rng(4)
    vectors = random_vectors(rng, "outputs", 4, 8, 6, 6, residual=False)
    spec = VqCodebook(n=8, k=2, v=4, entries=16, weight_bits=8)
    golden.encode(spec, vectors)
    for changes, message in (
        ({"along": "inputs", "k": 4}, "along: must be outputs for these vectors"),
        ({"v": 2}, "v: must be 4 for these vectors"),
        ({"entries": 8}, r"entries: must be at least \(16,\)"),
        ({"weight_bits": 6}, "weights: must be one of vector2"),
    ):
        with pytest.raises(SpecError, match=message):
            golden.encode(spec.evolve(**changes), vectors)
    ((indices, codewords),) = vectors.books
    wide = replace(vectors, books=(Book(indices, codewords + 200),))
    with pytest.raises(SpecError, match="entry_bits: must be wide enough"):
        golden.encode(spec, wide)
    with pytest.raises(ValueError, match="codewords stand for a code beyond 255"):
        assert wide.codes.size
    with pytest.raises(ValueError, match="without the vectors"):
        golden.encode(spec, Grid.plain(vectors.codes, CODES, 6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 30}, "n: must be a multiple of v = 4"),
        ({"along": "inputs", "k": 6}, "k: must be a multiple of v = 4"),
        ({"entries": 48}, "entries: must be a power of two"),
        ({"residual_entries": 1}, "residual_entries: must be in 2..32768"),
        ({"along": "rows"}, "along: must be one of outputs, inputs"),
        ({"form": "lut"}, "form: must be one of gather, table"),
        ({"n": 4, "k": 1, "entries": 2}, "weight beat: must be wide enough"),
        ({"weight_bits": 2, "residual_entries": 4}, r"weight_bits: must be in 3\.\.8"),
        ({"short_v": 3}, "short_v: must be 0, or for a gather along outputs a divisor of v = 4"),
        ({"short_v": 4}, "short_v: must be 0, or"),
        ({"short_v": 2, "form": "table"}, "short_v: must be 0, or"),
        ({"short_v": 2, "along": "inputs"}, "short_v: must be 0, or"),
        ({"short_v": 1, "v": 16}, r"v / short_v: must be in 2\.\.8"),
    ],
)
def test_impossible_specs_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        VqCodebook(n=32, k=4, v=4).evolve(**changes)


@pytest.mark.parametrize("seed", range(40))
def test_a_fill_brings_the_codebooks(seed: int) -> None:
    """Two packers give the same bits, and golden reads from them what the vectors hold."""
    rng = np.random.default_rng(seed)
    spec = vq_codebook.random_spec(rng)
    half = 1 << spec.entry_bits - 1
    books = [rng.integers(-half, half, (size, spec.v)) for size in spec.codebooks]
    indices = np.zeros((1, 1), int)
    held_by = tuple(Book(indices, book) for book in books)
    vectors = Codebook((1, 1), spec.formats[0], 1, spec.along, held_by)
    beat, (fill,) = spec.codewords, spec.fills
    packed = fill_beats(spec, vectors)
    assert packed.shape == (fill.slices * fill.planes, spec.beat_bits)
    sent = vq_codebook.fill_words(spec, vectors, rng)
    bits = np.unpackbits(sent, axis=1, count=beat.bits, bitorder="little")
    assert np.array_equal(packed[:, : beat.bits], bits)
    held = golden.contents(spec)
    golden.fill(spec, words.unpack(beat, sent), held)
    for found, wanted in zip(held.values(), books, strict=True):
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("residual", [False, True])
def test_short_codewords_by_hand(residual: bool) -> None:
    """Two of 2 in the place of one of 4: each a beat, and in both halves of its entry."""
    spec = VqCodebook(n=8, k=3, v=4, short_v=2, entries=16, residual_entries=8)
    rng = np.random.default_rng(3)
    vectors = random_vectors(rng, "outputs", 2, 8, 6, 6, residual)
    weights = np.array([[weight(vectors, n, k) for k in range(6)] for n in range(8)])
    coding = spec.coding_of(SHORT)
    assert (coding.planes, coding.mode) == (2, 2) and spec.modes == {0: range(1, 2), 2: range(2, 3)}
    linear = Linear("short", 8, 6, SHORT, 6, 0)
    assert plan(spec, linear, 1).steps == 2 * plan(spec, replace(linear, format=CODES), 1).steps

    held = golden.contents(spec)
    beats = words.unpack(
        spec.codewords, np.packbits(fill_beats(spec, vectors), axis=1, bitorder="little")
    )
    golden.fill(spec, beats, held)
    assert np.array_equal(held["book0"], np.tile(vectors.books[0].codewords, 2))
    assert residual or not held["book1"].any()
    bits = PACKERS[VqCodebook](spec, stored_index(spec, vectors), None, SHORT)
    fields = words.unpack(
        layout.streams(spec).weight,
        np.packbits(bits.reshape(-1, bits.shape[2]), axis=1, bitorder="little"),
    )
    x = rng.integers(-127, 128, (2, 6))
    found = golden.slice_sums(spec, fields | held, x.reshape(2, 2, 3), 2, coding.mode)
    assert np.array_equal(found.sum(axis=1), x @ weights.T)
    encoded = golden.encode(spec, vectors)
    assert np.array_equal(golden.group_sums(spec, x, encoded).psum[:, 0], x @ weights.T)
    with pytest.raises(SpecError, match="v: must be 2 for these vectors, got 4"):
        golden.encode(spec, replace(vectors, format=CODES))


def test_what_a_fill_has_no_room_for_is_refused() -> None:
    vectors = random_vectors(np.random.default_rng(1), "outputs", 2, 8, 2, 2, residual=True)
    spec = VqCodebook(n=8, k=4, v=4, short_v=2, entries=16, residual_entries=8)
    fill_beats(spec, vectors)
    for changes, message in (
        ({"short_v": 0}, "v: must be 2 for these vectors, got 4"),
        ({"entries": 8}, "entries: must be at least 16, got 8"),
        ({"residual_entries": 0}, "residual_entries: must be at least 8, got 0"),
        ({"weight_bits": 7}, "entry_bits: must be wide enough for every component, got 6"),
    ):
        with pytest.raises(SpecError, match=message):
            fill_beats(spec.evolve(**changes), vectors)


def test_the_residuals_index_is_above() -> None:
    spec = VqCodebook(n=8, k=2, v=4, entries=16, residual_entries=8)
    vectors = random_vectors(np.random.default_rng(1), "outputs", 4, 8, 2, 2, residual=True)
    stored = stored_index(spec, vectors)
    assert spec.index_bits == 7
    assert np.array_equal(stored & 15, vectors.books[0].indices)
    assert np.array_equal(stored >> 4, vectors.books[1].indices)


@given(
    st.lists(
        st.one_of(st.none(), st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3))),
        max_size=5,
    ),
    st.sampled_from(["gather", "table"]),
    st.sampled_from(["int", "fp16"]),
)
def test_closed_form_with_fills_equals_the_fold(between: list, form: str, kind: str) -> None:
    """Any sequence of fills and multiplications that ends with one of these."""
    spec = VqCodebook(n=8, k=8, v=4, along="inputs", entries=4, form=form, activation_format=kind)
    runs = [
        run
        for each in [*between, (1, 2, 1)]
        for run in (fills(spec) if each is None else [Run(*each, planes=1)])
    ]
    assert fold(spec, runs).cycles == run_cycles(spec, runs)


def test_cycles_of_a_fill_by_hand() -> None:
    """A beat a cycle from the second on, one cycle until lookups see them, then 6 slices."""
    spec = VqCodebook(n=8, k=4, v=4, entries=16)
    assert fills(spec) == [Run(1, 16, 1, 1, mode=1, fill=True)]
    assert run_cycles(spec, [*fills(spec), Run(2, 3, 3, 1)]) == 1 + 16 + 1 + 6 + 2


def test_random_specs_cover_every_choice() -> None:
    specs = [vq_codebook.random_spec(np.random.default_rng(i)) for i in range(200)]
    assert {(s.along, s.form, bool(s.residual_entries)) for s in specs} == set(
        itertools.product(("outputs", "inputs"), ("gather", "table"), (False, True))
    )
    assert any(s.short_v for s in specs) and any(s.short_planes > 2 for s in specs if s.short_v)
    assert any(s.fill_planes > 1 for s in specs) and any(s.fill_codewords > 1 for s in specs)


def test_near_vectors_keep_extremes() -> None:
    """Sums of greatest magnitude stay among the bench's corners."""
    rng = np.random.default_rng(0)
    for seed in range(20):
        spec = vq_codebook.random_spec(np.random.default_rng(seed))
        half = 1 << spec.weight_bits - 1
        values = np.full((2 * spec.n, 2 * spec.k), -half)
        values[spec.n :] = half - 1
        kind = WeightCodes(spec.weight_bits, Kind.VECTOR)
        codes = vq_codebook.codes_of(vq_codebook.near(spec, values, kind, spec.k, rng))
        top = 2 * half - 1 - bool(spec.residual_entries)  # the greatest sum of two
        assert (codes[: spec.n] == 0).all() and (codes[spec.n :] == top).all()


def test_a_filled_command_has_two_words() -> None:
    rng = np.random.default_rng(2)
    spec = VqCodebook(n=8, k=4, v=4, entries=16, group_size=8)
    shape = MatmulShape(1, 8, 8, 8)
    matmul = random_matmul(rng, spec.activations, CODES, shape)
    matmul = driver.completed(spec, matmul, rng)
    fields = words.unpack(layout.streams(spec).command, driver.command_words(spec, matmul))
    assert fields["mode"].tolist() == [1, 0] and fields["slices_minus_1"].tolist() == [15, 1]
    assert len(driver.weight_words(spec, matmul, rng)) == 16 + 2
