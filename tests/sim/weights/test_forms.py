"""What holds for every form of weights: one battery of laws, which each variant goes through.

Where a law needs the sums of an engine, a file or a model's digest, it takes the project's own, so
that the laws bind all who share the forms.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolute.hw.spec import BitSerial, Engine, LutDla, Mac, VqCodebook
from evolute.hw.spec.formats import TERNARY, Activations, Kind, WeightCodes
from evolute.sim.golden import GOLDEN, integer
from evolute.sim.weights import (
    FORMS,
    Book,
    Centroids,
    Codebook,
    Form,
    Grid,
    Table,
    WeightForm,
    group_bounds,
)
from evolute.sw.checkpoints import quantized_file
from evolute.sw.checkpoints.zoo import load
from evolute.sw.language_model.model import LanguageModel, model_digest
from evolute.sw.language_model.products import product_of
from evolute.sw.tensors.bits import bits_of
from evolute.sw.tensors.rescale import golden_weights, rescale
from evolute.sw.tensors.tensor import QuantError, QuantTensor, rows_of
from evolute.verif.engines import lut_dla, vq_codebook

N, ROWS = 10, 3


@dataclass(frozen=True)
class Example:
    """A form to test, and an engine that runs it."""

    k: int
    group: int
    engine: Engine
    form: Callable[[np.random.Generator], Form]

    def tensor(self, seed: int = 0) -> QuantTensor:
        """The form with scales and minima of its own for every output and group."""
        rng = np.random.default_rng(seed)
        size = N, -(-self.k // self.group)
        scale, minimum = (rng.uniform(low, 2, size).astype(np.float16) for low in (0.01, -2))
        form = self.form(rng)
        if form.format.specials:  # of such formats zero is a code
            minimum = np.zeros_like(minimum)
        return QuantTensor(form, scale.astype(np.float32), minimum.astype(np.float32), 32)

    def activations(self, seed: int = 1) -> np.ndarray:
        """Random activations, the extremes among them, int [ROWS, K]."""
        most = self.engine.activations.maximum
        x = np.random.default_rng(seed).integers(-most, most + 1, (ROWS, self.k))
        x[0] = most
        return x


def grid(codes: WeightCodes, k: int, group: int) -> Callable[[np.random.Generator], Grid]:
    def drawn(rng: np.random.Generator) -> Grid:
        special = rng.integers(0, max(1, len(codes.specials)), (N, -(-k // group)), np.uint8)
        return Grid(rng.integers(0, codes.levels, (N, k), np.uint8), codes, group, special)

    return drawn


def codebook(
    along: str, v: int, k: int, group: int, entries: tuple[int, ...]
) -> Callable[[np.random.Generator], Codebook]:
    """Components of 6 bits; of outputs the last codewords reach beyond N."""

    def drawn(rng: np.random.Generator) -> Codebook:
        inputs = sum(-(-(end - start) // v) for start, end in group_bounds(k, group))
        shape = (-(-N // v), k) if along == "outputs" else (N, inputs)
        books = (
            Book(rng.integers(0, size, shape), rng.integers(-32, 32, (size, v))) for size in entries
        )
        return Codebook((N, k), WeightCodes(8, Kind.VECTOR), group, along, tuple(books))

    return drawn


def table(v: int, k: int, group: int) -> Callable[[np.random.Generator], Table]:
    """Tables by 8 centroids of integers of 8 bits."""

    def drawn(rng: np.random.Generator) -> Table:
        spaces = sum(-(-(end - start) // v) for start, end in group_bounds(k, group))
        points = rng.integers(-100, 100, (spaces, 8, v))
        entries = rng.integers(0, 1 << 6, (N, spaces * 8), np.uint8)
        centroids = Centroids(k, Activations(8), "l2", points)
        return Table(entries, WeightCodes(6, Kind.TABLE), group, centroids)

    return drawn


MAC = Mac(weight_bits=8)
FLOATS = BitSerial(terms="bitmod", weight_bits=8)
GATHER = VqCodebook(n=16, k=4, v=4, entries=64, residual_entries=16)
ACROSS = VqCodebook(n=8, k=6, v=3, along="inputs", entries=64, residual_entries=16)
TABLES = LutDla(v=2, centroids=8, lanes=8, metric="l2", weight_bits=6)

EXAMPLES = {
    "grid": Example(24, 8, MAC, grid(WeightCodes(4), 24, 8)),
    "grid, last group short": Example(21, 8, MAC, grid(WeightCodes(3), 21, 8)),
    "grid, one group": Example(21, 21, MAC, grid(WeightCodes(1), 21, 21)),
    "grid, ternary": Example(20, 8, MAC, grid(TERNARY, 20, 8)),
    "grid, special values": Example(21, 8, FLOATS, grid(WeightCodes(4, Kind.BITMOD), 21, 8)),
    "codebook": Example(12, 12, GATHER, codebook("outputs", 4, 12, 12, (40,))),
    "codebook, residual": Example(11, 4, GATHER, codebook("outputs", 4, 11, 4, (64, 9))),
    "codebook, inputs": Example(22, 8, ACROSS, codebook("inputs", 3, 22, 8, (33, 16))),
    "table": Example(24, 8, TABLES, table(2, 24, 8)),
    "table, last group short": Example(21, 7, TABLES, table(2, 21, 7)),
}

every_form = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)


def group_entries(form: Form) -> list[slice]:
    """The entries of every scale group, by the definition: what its inputs ask for."""
    ends = [0]
    for start, end in group_bounds(form.shape[1], form.group):
        inputs = end - start
        if isinstance(form, Table):
            inputs = -(-inputs // form.centroids.v) * form.centroids.points.shape[1]
        ends.append(ends[-1] + inputs)
    return [slice(first, last) for first, last in itertools.pairwise(ends)]


def special_of(form: Form, n: int, g: int) -> int:
    """Which special value a group has."""
    return int(form.special[n, g]) if isinstance(form, Grid) else 0


def test_every_variant_is_tested() -> None:
    forms = {type(example.tensor().form) for example in EXAMPLES.values()}
    assert forms == set(FORMS)


@every_form
def test_a_form_has_what_the_protocol_says(example: Example) -> None:
    form = example.tensor().form
    names = {name for name in vars(WeightForm) if not name.startswith("_")}
    assert names >= {"codes", "operand", "counted", "stored", "of_outputs"}
    assert all(hasattr(form, name) for name in names)


@every_form
def test_groups_fill_the_entries(example: Example) -> None:
    form = example.tensor().form
    groups = group_entries(form)
    assert form.shape == (N, example.k)
    assert form.codes.shape == (N, groups[-1].stop) and form.codes.dtype == np.uint8
    assert form.codes.max() < form.format.levels
    assert form.group_codes == groups[0].stop
    assert form.operand(example.activations()).shape == (ROWS, groups[-1].stop)
    assert form.is_of_weights == (form.codes.shape == form.shape)


@every_form
def test_codes_of_codebooks_are_what_the_bench_looks_up(example: Example) -> None:
    """It cuts and joins matrices in a way of its own; other forms store their codes."""
    form = example.tensor().form
    if isinstance(form, Codebook):
        assert np.array_equal(form.codes, vq_codebook.codes_of(form))
        assert np.array_equal(form.decoded() + form.format.levels // 2, form.codes)


@every_form
def test_operands_are_activations_or_what_the_bench_finds_nearest(example: Example) -> None:
    form, x = example.tensor().form, example.activations()
    wanted = x
    if isinstance(form, Table):
        assert isinstance(example.engine, LutDla)
        wanted = lut_dla.one_hot(example.engine, x, form.centroids.points, form.group)
    assert np.array_equal(form.operand(x), wanted)


@every_form
def test_an_engine_sums_what_codes_count_as_times_their_operands(example: Example) -> None:
    """Group by group, one product after the other; and row sums are those of the operands."""
    tensor, x, engine = example.tensor(), example.activations(), example.engine
    form, coding = tensor.form, engine.coding_of(tensor.format)
    sums = GOLDEN[type(engine)].group_sums(engine, x, golden_weights(engine, tensor))
    operand = form.operand(x).astype(int)
    for g, entries in enumerate(group_entries(form)):
        assert np.array_equal(sums.row_sum[:, g], operand[:, entries].sum(axis=1))
        for n in range(N):
            values = coding.values(form.format, special_of(form, n, g))
            weights = [values[code] for code in form.codes[n, entries]]
            assert sums.psum[:, g, n].tolist() == (operand[:, entries] @ weights).tolist()


@every_form
def test_plain_integers_are_the_same(example: Example) -> None:
    """What golden multiplies by is what the codes count as in the engine's coding."""
    form, coding = example.tensor().form, example.engine.coding_of(example.tensor().format)
    found = integer.weights(example.engine, form)
    assert found.shape == form.codes.shape
    for g, entries in enumerate(group_entries(form)):
        for n in range(N):
            values = coding.values(form.format, special_of(form, n, g))
            wanted = [values[code] for code in form.codes[n, entries]]
            assert found[n, entries].tolist() == wanted


@every_form
def test_the_bound_of_operands_is_reached_and_never_exceeded(example: Example) -> None:
    form, kind, x = example.tensor().form, example.engine.activations, example.activations()
    operand, reached = np.abs(form.operand(x).astype(int)), []
    bounds = group_bounds(example.k, example.group)
    for (start, end), entries in zip(bounds, group_entries(form), strict=True):
        bound = form.operand_bound(end - start, kind)
        assert (operand[:, entries].sum(axis=1) <= bound).all()
        reached.append(operand[0, entries].sum() == bound)
    assert all(reached)
    counts = np.array([end - start for start, end in bounds])
    each = [form.operand_bound(int(count), kind) for count in counts]
    assert form.operand_bound(counts, kind).tolist() == each


@every_form
@pytest.mark.parametrize("rows", [slice(2, 7), np.array([8, 0, 3])], ids=["slice", "places"])
def test_rows_of_what_is_counted_are_counted_rows(
    example: Example, rows: slice | np.ndarray
) -> None:
    form = example.tensor().form
    size = max(1, len(form.format.specials)), form.format.levels
    values = np.random.default_rng(2).permutation(size[0] * size[1]).reshape(size)
    whole = form.counted(values)
    assert np.array_equal(form.counted(values, rows), whole[rows])
    for g, entries in enumerate(group_entries(form)):
        for n in range(N):
            wanted = values[special_of(form, n, g)][form.codes[n, entries]]
            assert np.array_equal(whole[n, entries], wanted)


@every_form
@pytest.mark.parametrize("rows", [slice(2, 7), np.array([8, 0, 3])], ids=["slice", "places"])
def test_a_form_of_some_outputs_has_their_rows_or_says_that_there_is_none(
    example: Example, rows: slice | np.ndarray
) -> None:
    tensor = example.tensor()
    form = tensor.form
    if isinstance(form, Codebook) and form.along == "outputs":
        with pytest.raises(ValueError, match="vectors of several layers"):
            rows_of(tensor, rows)
        rows = slice(form.v, 2 * form.v)  # between codewords
    cut = rows_of(tensor, rows)
    assert isinstance(cut, QuantTensor) and type(cut.form) is type(tensor.form)
    assert cut.shape == (len(tensor.codes[rows]), example.k)
    assert np.array_equal(cut.rows(slice(None), np.float64), tensor.rows(rows, np.float64))


@every_form
def test_dequantized_entries_are_exact(example: Example) -> None:
    tensor = example.tensor()
    found = tensor.rows(slice(None), np.float64)
    for g, entries in enumerate(group_entries(tensor.form)):
        for n in range(N):
            values = tensor.format.values(special_of(tensor.form, n, g))
            scale, minimum = Fraction(float(tensor.scale[n, g])), float(tensor.minimum[n, g])
            wanted = [scale * values[code] + Fraction(minimum) for code in tensor.codes[n, entries]]
            assert [Fraction(each) for each in found[n, entries].tolist()] == wanted


@every_form
def test_weights_are_dequantized_and_tables_are_refused(example: Example) -> None:
    tensor = example.tensor()
    if not tensor.form.is_of_weights:
        with pytest.raises(QuantError, match="tables by centroid stand for no weights"):
            tensor.dequantize()
        return
    exact = tensor.rows(slice(None), np.float64)
    assert np.array_equal(tensor.dequantize(), exact.astype(np.float32))


@every_form
def test_products_are_those_of_operands_and_dequantized_entries(example: Example) -> None:
    tensor, x = example.tensor(), example.activations()
    weights = tensor.rows(slice(None), np.float64)
    assert np.array_equal(product_of(tensor)(x), tensor.form.operand(x) @ weights.T)


@every_form
def test_a_core_holds_the_form_as_it_is(example: Example) -> None:
    """With integers for scales, whose sums stay below what is foretold."""
    tensor, engine = example.tensor(), example.engine
    held = rescale(tensor, engine.coding_of(tensor.format), 8, 16)
    assert held.form is tensor.form and held.shape == tensor.shape
    integers = held.integers(slice(None))
    rebuilt, wanted = integers * held.unit[:, None], tensor.rows(slice(None), np.float64)
    assert np.abs(rebuilt - wanted).max() < 0.02 * np.abs(wanted).max()
    sums = tensor.form.operand(example.activations()) @ integers.T
    assert np.abs(sums).max() <= held.largest_sum(engine.activations)


@every_form
def test_stored_bits_are_those_of_the_file(example: Example) -> None:
    """Codes or indices up to the last byte of a row, and codebooks in whole bytes."""
    tensor = example.tensor()
    stored = tensor.form.stored
    bits = bits_of(tensor)
    assert (bits.codes, bits.padding, bits.codebooks) == (
        stored.codes,
        stored.padding,
        stored.codebooks,
    )
    assert bits.total == tensor.total_bits == stored.total + tensor.scale_bits
    streams = books = rows = 0
    for name, array in quantized_file.stored({"w": tensor})[1].items():
        what = name.removeprefix("w.").rstrip("01")
        if what in ("codes", "index"):
            streams, rows = streams + 8 * array.nbytes, rows + len(array)
        elif what in ("codebook", "centroids"):
            books += 8 * array.nbytes
    assert 0 <= streams - (stored.codes + stored.padding) < 8 * rows
    assert stored.codebooks <= books and bool(stored.codebooks) == bool(books)


@every_form
def test_codebooks_store_components_of_the_width_that_they_need(example: Example) -> None:
    """Components of several codebooks add up to no more than the bits of a weight; centroids are
    activations; a grid has neither."""
    form = example.tensor().form
    match form:
        case Grid():
            assert form.stored.codebooks == 0
        case Codebook(books=books):
            components = sum(book.codewords.size for book in books)
            width, rest = divmod(form.stored.codebooks, components)
            assert rest == 0 and len(books) << width - 1 == 1 << form.format.bits - 1
        case Table(centroids=centroids):
            assert form.stored.codebooks == centroids.points.size * centroids.activations.bits


@every_form
def test_padding_is_what_no_weight_has(example: Example) -> None:
    """Of indices, by the part of their codewords that lies beyond the matrix."""
    form = example.tensor().form
    if not isinstance(form, Codebook):
        assert form.stored.padding == 0
        return
    along = form.along == "outputs"
    covered = form.indices.size * form.v
    inside = form.shape[0] * form.shape[1]
    per_index = sum(book.index_bits for book in form.books)
    assert covered > inside or along
    assert form.stored.padding == form.indices.size * per_index * (covered - inside) // covered


def written(tensor: QuantTensor, path: Path) -> QuantTensor:
    """The tensor as a file gives it back."""
    documents, arrays = quantized_file.stored({"w": tensor})
    quantized_file.write_arrays(path, arrays, {})
    found = dict(quantized_file.read_stored(path, documents))["w"]
    assert isinstance(found, QuantTensor)
    return found


@every_form
def test_a_file_gives_the_form_back(example: Example, tmp_path: Path) -> None:
    tensor = example.tensor()
    found = written(tensor, tmp_path / "a")
    assert type(found.form) is type(tensor.form)
    assert (found.format, found.group, found.shape) == (tensor.format, tensor.group, tensor.shape)
    assert found.form.stored == tensor.form.stored and found.total_bits == tensor.total_bits
    x = example.activations()
    assert np.array_equal(found.form.operand(x), tensor.form.operand(x))
    assert np.array_equal(found.rows(slice(None), np.float64), tensor.rows(slice(None), np.float64))
    written(found, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load("evolute-tiny")


def changed(form: Form) -> list[Form]:
    """The form with one number of each kind that it holds changed."""

    def bumped(values: np.ndarray, modulus: int) -> np.ndarray:
        moved = values.copy()
        moved.flat[0] = (int(moved.flat[0]) + 1) % modulus
        return moved

    others: list[Form] = [replace(form, group=form.group + 1)]
    match form:
        case Grid():
            others.append(replace(form, codes=bumped(form.codes, form.format.levels)))
            if form.format.specials:
                others.append(replace(form, special=bumped(form.special, 4)))
        case Codebook(books=books):
            for i, (indices, codewords) in enumerate(books):
                for book in (
                    Book(bumped(indices, len(codewords)), codewords),
                    Book(indices, bumped(codewords, 31)),
                    Book(indices, np.concatenate([codewords, codewords[:1]])),  # that nobody names
                ):
                    kept: list[Any] = list(books)
                    kept[i] = book
                    others.append(replace(form, books=tuple(kept)))
        case Table(centroids=centroids):
            others.append(replace(form, codes=bumped(form.codes, form.format.levels)))
            points = bumped(centroids.points, 99)
            others.append(replace(form, centroids=replace(centroids, points=points)))
            others.append(replace(form, centroids=replace(centroids, metric="l1")))
    return others


@every_form
def test_whatever_changes_a_form_changes_the_models_digest(
    example: Example, model: LanguageModel
) -> None:
    tensor = example.tensor()

    def digest(form: Form) -> str:
        held = replace(tensor, form=form)
        return model_digest(replace(model, tensors={"0.q": held}))

    others = changed(tensor.form)
    assert digest(tensor.form) == digest(example.tensor().form)
    assert len({digest(form) for form in (tensor.form, *others)}) == 1 + len(others)
