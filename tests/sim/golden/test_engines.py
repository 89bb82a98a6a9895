"""What holds for the golden model and the packed weights of every engine, by brute force."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from evolute.hw.spec import Engine, VqCodebook, layout
from evolute.hw.spec.formats import FORMATS, WeightCodes
from evolute.sim.golden import GOLDEN
from evolute.sim.weights import Codebook, Form, Grid, Table
from evolute.sw.deploy.packers import PACKERS
from evolute.sw.deploy.packers.vq_codebook import stored_index
from evolute.verif.harness import driver, operands, words
from evolute.verif.harness.driver import DRIVERS
from evolute.verif.harness.vectors import Matmul, MatmulShape, random_matmul

each_engine = pytest.mark.parametrize("kind", DRIVERS, ids=lambda kind: kind.__name__)


def exact_specs(kind: type[Engine], seed: int, count: int) -> list[Engine]:
    """Random specs of the engine whose sums are exact."""
    rng = np.random.default_rng(seed)
    drawn = (DRIVERS[kind].random_spec(rng) for _ in range(50 * count))
    specs = list(itertools.islice((spec for spec in drawn if spec.exact), count))
    assert len(specs) == count
    return specs


def value(spec: Engine, matmul: Matmul, n: int, k: int) -> int:
    """What the weight of output n and input k multiplies by."""
    assert isinstance(matmul.weights, Grid)
    special = matmul.weights.special[n, k // matmul.group]
    return spec.coding_of(matmul.weight_format).values(matmul.weight_format, special)[
        matmul.codes[n, k]
    ]


def whole(spec: Engine, rng: np.random.Generator) -> list[Matmul]:
    """In each format, two rows by two column tiles and three slices, a scale group each."""
    shape = MatmulShape(2, 2 * spec.n, 3 * spec.slice_k, spec.slice_k)
    matmuls = [random_matmul(rng, spec.activations, each, shape) for each in spec.formats]
    return [replace(driver.completed(spec, each, rng), fill=False) for each in matmuls]


def stored(spec: Engine, matmul: Matmul) -> np.ndarray:
    """What beats carry of a matrix's weights: codes, or what stands for codewords."""
    if not isinstance(matmul.weights, Codebook):
        return matmul.codes
    assert isinstance(spec, VqCodebook)
    return stored_index(spec, matmul.weights)


def beside(weights: Form) -> np.ndarray | None:
    """What a packer takes beside codes."""
    match weights:
        case Grid():
            return weights.special
        case Codebook():
            return None
        case Table():
            return weights.centroids.points


def codebooks(spec: Engine, matmul: Matmul) -> dict[str, np.ndarray]:
    """What a fill has brought before the weights."""
    if not isinstance(matmul.weights, Codebook):
        return {}
    assert isinstance(spec, VqCodebook)
    found = {f"book{i}": np.zeros((size, spec.v), int) for i, size in enumerate(spec.codebooks)}
    for i, (_, codewords) in enumerate(matmul.weights.books):
        tiled = np.tile(codewords, spec.v // codewords.shape[1])
        found[f"book{i}"][: len(codewords)] = tiled
    return found


@each_engine
def test_golden_is_the_definition(kind: type[Engine]) -> None:
    """psum = sum of (scale * v + origin) * x over a group's k, in every format that runs."""
    rng, golden = np.random.default_rng(1), GOLDEN[kind]
    seen: set[WeightCodes] = set()
    for spec in exact_specs(kind, 1, 60):
        lowest = -spec.activations.maximum
        unseen = [each for each in spec.formats if each not in seen]
        for weight_format in [*unseen, spec.formats[rng.integers(len(spec.formats))]]:
            matmul = random_matmul(rng, spec.activations, weight_format, MatmulShape(2, 3, 25, 7))
            matmul = driver.completed(spec, matmul, rng)
            matmul.x[0, 0] = lowest - 1  # the leftover code, which reads as the lowest
            found = golden.group_sums(spec, matmul.x, operands.encoded(spec, matmul))
            psum, row_sum = np.zeros((2, 4, 3), object), np.zeros((2, 4), object)
            product = driver.as_product(spec, matmul)
            for m, k in itertools.product(range(2), range(product.codes.shape[1])):
                x, group = int(product.x[m, k]), k // product.group
                assert x >= lowest
                row_sum[m, group] += x
                for n in range(3):
                    psum[m, group, n] += value(spec, product, n, k) * x
            assert (found.psum == psum).all(), (spec, weight_format)
            assert (found.row_sum == row_sum).all(), (spec, weight_format)
        seen |= set(spec.formats)


@each_engine
def test_beats_of_weights_are_what_golden_multiplies_by(kind: type[Engine]) -> None:
    """The bench's weight words, read by the model of the core's compute unit."""
    rng, golden = np.random.default_rng(2), GOLDEN[kind]
    for spec in exact_specs(kind, 3, 8):
        for matmul in whole(spec, rng):
            coding = spec.coding_of(matmul.weight_format)
            beats = driver.weight_words(spec, matmul, rng)[: 3 * coding.planes]
            fields = words.unpack(layout.streams(spec).weight, beats) | codebooks(spec, matmul)
            x = np.maximum(matmul.x, -spec.activations.maximum).reshape(2, 3, spec.slice_k)
            found = golden.slice_sums(spec, fields, x, coding.planes, coding.mode)
            product = driver.as_product(spec, matmul)
            weights = np.array(
                [
                    [value(spec, product, n, k) for k in range(3 * spec.slice_codes)]
                    for n in range(spec.n)
                ]
            ).reshape(spec.n, 3, -1)
            expected = np.einsum("rsk,nsk->rsn", product.x.reshape(2, 3, -1), weights)
            assert np.array_equal(found, expected), (spec, matmul.weight_format)


@each_engine
def test_packed_weights_are_the_benchs_words(kind: type[Engine]) -> None:
    """Two packers, written apart, give the same bits."""
    rng = np.random.default_rng(4)
    for spec in exact_specs(kind, 5, 8):
        for matmul in whole(spec, rng):
            expected = driver.weight_words(spec, matmul, rng)[: 2 * 3 * 8]
            given = stored(spec, matmul).copy()
            bits = PACKERS[kind](spec, given, beside(matmul.weights), matmul.weight_format)
            packed = np.packbits(bits.reshape(-1, bits.shape[2]), axis=1, bitorder="little")
            assert np.array_equal(packed, expected[: len(packed)]), (spec, matmul.weight_format)
            planes = spec.coding_of(matmul.weight_format).planes
            assert bits.shape == (2, 3 * planes, layout.streams(spec).weight.bits)


@each_engine
def test_codings_keep_their_rules(kind: type[Engine]) -> None:
    for spec in exact_specs(kind, 6, 40):
        assert spec.formats and spec.exact
        for weight_format in FORMATS:
            coding = spec.coding(weight_format)
            assert spec.accepts(weight_format) == (weight_format in spec.formats)
            assert (coding is not None) == spec.accepts(weight_format)
            if coding is None:
                continue
            assert coding.scale > 0 and coding.planes in spec.modes[coding.mode]
            # Groups with special values have no offset that could take an origin back.
            assert not (weight_format.specials and coding.origin)
            assert spec.slice_steps(weight_format) == coding.planes * spec.beat_steps(coding.mode)
            largest = spec.slice_maximum * spec.group_slices
            assert coding.maximum(weight_format) * largest < 1 << spec.acc_bits - 1
