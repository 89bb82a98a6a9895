"""How a bench drives an engine: operands to stream words, result words to sums.

Written from `hw.spec.layout` alone, apart from golden and RTL, so that it can contradict both. What
differs between engines is in a file each: how weights fill a beat, and which specs to draw.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from evolute.hw.spec import BitSerial, Engine, LutDla, LutTensorCore, Mac, VqCodebook, layout
from evolute.hw.spec.floating import FloatEngine
from evolute.hw.spec.formats import FLOATS, Kind, WeightCodes
from evolute.sim import numbers
from evolute.sim.golden import GOLDEN, align, integer
from evolute.sim.golden.sums import GroupSums
from evolute.sim.timing.schedule import Run, fills, plan, weighed
from evolute.sim.weights import Book, Codebook, Form, Grid, Table, group_bounds
from evolute.sim.workload.linear import Linear
from evolute.verif.engines import bit_serial, floating, lut_dla, lut_tensor_core, mac, vq_codebook
from evolute.verif.harness import words
from evolute.verif.harness.vectors import Matmul, Shape, random_special

DRIVERS: dict[type[Engine], ModuleType] = {
    LutTensorCore: lut_tensor_core,
    Mac: mac,
    BitSerial: bit_serial,
    VqCodebook: vq_codebook,
    LutDla: lut_dla,
}
"""For each engine: `weight_fields`, and `random_spec`, which draws a small legal one."""


def random_spec(kind: type[Engine], rng: np.random.Generator) -> Engine:
    """A small legal spec of an engine; of three about one has floating activations."""
    spec = DRIVERS[kind].random_spec(rng)
    if rng.random() < 0.35:
        spec = spec.evolve(activation_format=str(rng.choice(list(FLOATS))))
    return spec


def _run(spec: Engine, shape: Shape, weight_format: WeightCodes) -> Run:
    linear = Linear("bench", shape.n, shape.k, weight_format, shape.group, group_bits=0)
    return plan(spec, linear, shape.m)


def run_of(spec: Engine, matmul: Matmul) -> Run:
    """The command that computes `matmul`."""
    run = _run(spec, matmul.shape, matmul.weight_format)
    if isinstance(spec, BitSerial) and spec.skips:
        cut = tiling(spec, matmul)
        whole = _padded_codes(spec, matmul, cut)
        special = _grid(matmul).special[:, cut.slice_groups]
        beyond = cut.column_tiles * spec.n - len(special)  # where no code is that of a special
        special = np.pad(special, ((0, beyond), (0, 0)))
        special = special.reshape(cut.column_tiles, spec.n, -1)
        run = weighed(run, bit_serial.beat_steps(spec, whole, special, matmul.weight_format))
    return run


def runs_of(spec: Engine, matmul: Matmul) -> list[Run]:
    """`run_of`, after the commands that fill what it needs."""
    return [*(fills(spec) if matmul.fill else []), run_of(spec, matmul)]


@dataclass(frozen=True)
class Tiling:
    """How a matrix multiplication is cut into tiles, slices and groups."""

    row_tiles: int
    column_tiles: int
    positions: np.ndarray
    """For every activation of the padded K, its place in the unpadded K; -1 for padding."""
    slice_groups: np.ndarray
    """For every slice, its scale group."""
    read_outs: np.ndarray
    """For every result beat of a tile, its scale group."""


def tiling(spec: Engine, matmul: Matmul) -> Tiling:
    """Each scale group is padded to whole slices; every `group_slices` of them give a result."""
    group_slices = _run(spec, matmul.shape, matmul.weight_format).group_slices
    positions, slice_groups, read_outs = [], [], []
    for group, (start, end) in enumerate(group_bounds(matmul.x.shape[1], matmul.group)):
        slices = -(-(end - start) // spec.slice_k)
        positions += [*range(start, end), *[-1] * (slices * spec.slice_k - (end - start))]
        slice_groups += [group] * slices
        read_outs += [group] * -(-slices // group_slices)
    return Tiling(
        row_tiles=-(-len(matmul.x) // spec.m),
        column_tiles=-(-len(matmul.codes) // spec.n),
        positions=np.array(positions),
        slice_groups=np.array(slice_groups),
        read_outs=np.array(read_outs),
    )


def command_words(spec: Engine, matmul: Matmul) -> np.ndarray:
    """One word per command, uint8 [commands, bytes]."""
    return np.concatenate([command_word(spec, run) for run in runs_of(spec, matmul)])


def command_word(spec: Engine, run: Run) -> np.ndarray:
    """The command word of a run, uint8 [1, bytes]."""
    return words.pack(
        layout.streams(spec).command,
        planes_minus_1=np.array([run.planes - 1]),
        mode=np.array([run.mode]),
        group_slices_minus_1=np.array([run.group_slices - 1]),
        slices_minus_1=np.array([run.slices - 1]),
        tiles_minus_1=np.array([run.tiles - 1]),
    )


def activation_words(spec: Engine, matmul: Matmul) -> np.ndarray:
    """One word per tile and slice; rows beyond M and places beyond a scale group are zero."""
    cut = tiling(spec, matmul)
    x = np.where(cut.positions < 0, 0, matmul.x[:, cut.positions])
    x = np.pad(x, ((0, cut.row_tiles * spec.m - len(x)), (0, 0)))
    x = x.reshape(cut.row_tiles, spec.m, -1, spec.slice_k).transpose(0, 2, 1, 3)
    fields = {"x": np.repeat(x, cut.column_tiles, axis=0).reshape(-1, spec.m, spec.slice_k)}
    if matmul.shift is not None:
        shift = np.pad(matmul.shift, (0, cut.row_tiles * spec.m - len(matmul.shift)))
        beats = cut.column_tiles * x.shape[1]
        fields["table_shift"] = np.repeat(shift.reshape(-1, spec.m), beats, axis=0)
    if matmul.exponent is not None:
        exponent = matmul.exponent[:, cut.slice_groups]
        exponent = np.pad(exponent, ((0, cut.row_tiles * spec.m - len(exponent)), (0, 0)))
        exponent = exponent.reshape(cut.row_tiles, spec.m, -1).transpose(0, 2, 1)
        fields["exponent"] = np.repeat(exponent, cut.column_tiles, axis=0)
    return words.pack(layout.streams(spec).activation, **fields)


def _padded_codes(
    spec: Engine, matmul: Matmul, cut: Tiling, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Codes [tiles, n, slices, codes of a slice].

    What lies beyond N or a scale group is random, or, where that would change cycles, counts as 0.
    """
    # Of tables no entry is padding.
    at = cut.positions if matmul.weights.is_of_weights else np.arange(matmul.codes.shape[1])
    levels, size = matmul.weight_format.levels, (cut.column_tiles * spec.n, len(at))
    if rng is None or not spec.steps_are_fixed:
        codes = np.full(size, 0 if matmul.weight_format.kind is Kind.BITMOD else levels // 2)
    else:
        codes = rng.integers(0, levels, size)
    codes[: len(matmul.codes), at >= 0] = matmul.codes[:, at[at >= 0]]
    return codes.reshape(cut.column_tiles, spec.n, -1, spec.slice_codes)


def weight_words(spec: Engine, matmul: Matmul, rng: np.random.Generator) -> np.ndarray:
    """The weight beats of a fill, where there is one, and of every tile; what lies beyond N or a
    scale group is random."""
    cut, weight_format = tiling(spec, matmul), matmul.weight_format
    columns = cut.column_tiles * spec.n
    whole = _padded_codes(spec, matmul, cut, rng)
    most = 256 if isinstance(spec, FloatEngine) else max(1, len(weight_format.specials))
    special = rng.integers(0, most, (columns, len(cut.slice_groups)))
    beside, filling = special.reshape(cut.column_tiles, spec.n, -1), []
    match matmul.weights:
        case Grid() as grid:
            special[: len(grid.codes)] = grid.special[:, cut.slice_groups]
        case Codebook() as book:
            assert isinstance(spec, VqCodebook)
            whole = vq_codebook.index_table(spec, book, cut.column_tiles, cut.positions, rng)
            filling += [vq_codebook.fill_words(spec, book, rng)] * matmul.fill
        case Table(centroids=centroids):
            beside = centroids.points
    filler: Any = floating if isinstance(spec, FloatEngine) else DRIVERS[type(spec)]
    fields = filler.weight_fields(spec, whole, beside, weight_format)
    beat = layout.streams(spec).weight
    flat = {each.name: fields[each.name].reshape(-1, *each.shape) for each in beat.fields}
    return np.concatenate([*filling, np.tile(words.pack(beat, **flat), (cut.row_tiles, 1))])


def sums(spec: Engine, matmul: Matmul, result_words: np.ndarray) -> GroupSums:
    """The sums in a command's result words; `row_sum` keeps one copy per column tile.

    `psum` int64 [M, groups, N], `row_sum` int64 [M, groups, column tiles]. A scale group read out
    in parts is added up.
    """
    cut = tiling(spec, matmul)
    fields = words.unpack(layout.streams(spec).result, result_words)
    if isinstance(spec, FloatEngine):
        fields = {name: floating.values(codes) for name, codes in fields.items()}
    starts = np.flatnonzero(np.diff(cut.read_outs, prepend=-1))

    def whole_groups(values: np.ndarray) -> np.ndarray:
        values = values.reshape(
            cut.row_tiles, cut.column_tiles, len(cut.read_outs), spec.m, values.shape[2]
        )
        values = np.add.reduceat(values, starts, axis=2)
        # [row tile, column tile, group, m, n] -> [row, group, column]
        values = values.transpose(0, 3, 2, 1, 4)
        return values.reshape(-1, len(starts), values.shape[3] * values.shape[4])[: len(matmul.x)]

    psum = whole_groups(fields["psum"])[:, :, : len(matmul.codes)]
    if "row_sum" not in fields:  # a sum without numbers, for every column tile
        return GroupSums(psum, np.zeros((*psum.shape[:2], 0)))
    return GroupSums(psum, whole_groups(fields["row_sum"][:, :, None]))


def random_shape(spec: Engine, rng: np.random.Generator, weight_format: WeightCodes) -> Shape:
    """A shape of at most 300 steps (or one slice per tile) that seldom fits the engine's own.

    The scale group may be longer than the engine's, shorter, ragged, or all of K.
    """
    steps = spec.slice_steps(weight_format)
    longest = max(1, min(3 * max(spec.group_size, spec.slice_k), 300 * spec.slice_k // steps))
    while True:
        k = int(rng.integers(1, longest + 1))
        shape = Shape(
            m=int(rng.integers(1, 2 * spec.m + 2)),
            n=int(rng.integers(1, 2 * spec.n + 2)),
            k=k,
            group=(spec.group_size, int(rng.integers(1, k + 1)), k)[rng.integers(3)],
        )
        shape_run = _run(spec, shape, weight_format)
        if shape_run.steps <= 300 or shape_run.slices == 1:
            return shape


def full_shape(spec: Engine) -> Shape:
    """One tile with a whole group, which takes every accumulator to its fullest, and a bit."""
    return Shape(spec.m, spec.n, spec.group_size + 1, spec.group_size)


def integers(spec: Engine, matmul: Matmul) -> np.ndarray:
    """The activations that the engine multiplies, int64 [M, K]."""
    of_code = None
    if matmul.exponent is not None:
        of_code = np.repeat(matmul.exponent, matmul.group, axis=1)[:, : matmul.x.shape[1]]
    return align.integers(matmul.x, of_code, spec.activations)


def float_features(spec: Engine, matmul: Matmul) -> set[str]:
    """What the floating activations among a command's operands cover, in words."""
    kind = spec.activations.format
    if kind is None or matmul.exponent is None:
        return set()
    finite = numbers.is_finite(matmul.x, kind)
    highest = numbers.shared_exponents(matmul.x, kind, matmul.group)
    facts = {
        "exponent too low": (matmul.exponent < highest).any(),
        "not finite": not finite.all(),
        "subnormal": (
            np.abs(numbers.decode(matmul.x, kind))[finite] < 2.0 ** (1 - kind.bias)
        ).any(),
    }
    return {name for name, holds in facts.items() if holds}


def random_weights(
    spec: Engine, weight_format: WeightCodes, shape: Shape, rng: np.random.Generator
) -> Form:
    """Random weights in the form that the engine takes."""
    size = (shape.n, shape.k)
    codes = rng.integers(0, weight_format.levels, size, dtype=np.uint8)
    special = random_special(rng, weight_format, shape)
    if isinstance(spec, LutDla):
        most = spec.activations.maximum
        x = rng.integers(-most, most + 1, (1, shape.k))
        return lut_dla.tables(spec, x, codes, weight_format, shape.group, rng)
    if isinstance(spec, BitSerial) and spec.skips and rng.random() < 0.7:
        codes = bit_serial.sparser(rng, spec, codes, weight_format)
    grid = Grid(codes, weight_format, shape.group, special)
    return _near(spec, grid, rng) if isinstance(spec, VqCodebook) else grid


def _near(spec: VqCodebook, weights: Form, rng: np.random.Generator) -> Codebook:
    """Codewords near weights of any form, most often with the residual codebook that the engine
    has room for."""
    values = weights.codes.astype(int) - weights.format.levels // 2
    v = spec.short_v if weights.format.kind is Kind.SHORT else spec.v
    near = vq_codebook.near(spec, values, weights.format, weights.group, rng, v)
    return dataclasses.replace(near, books=near.books[:1]) if rng.random() < 0.2 else near


def completed(spec: Engine, matmul: Matmul, rng: np.random.Generator) -> Matmul:
    """Adds what the engine needs beside codes.

    That is table shifts where it rounds, the model's choice, or, half the time, any; where codes
    come from codebooks, vectors near them, with which come codes of their own, as they do with
    centroids; and the scales of floating baselines. Where steps can be skipped, weights most often
    have fewer terms.
    """
    if isinstance(spec, LutDla):
        x, codes, kind = integers(spec, matmul), matmul.codes, matmul.weight_format
        weights = lut_dla.tables(spec, x, codes, kind, matmul.group, rng)
        return dataclasses.replace(matmul, weights=weights)
    if isinstance(spec, BitSerial) and spec.skips and rng.random() < 0.7:
        codes = bit_serial.sparser(rng, spec, matmul.codes, matmul.weight_format)
        weights = dataclasses.replace(_grid(matmul), codes=codes)
        return dataclasses.replace(matmul, weights=weights)
    if isinstance(spec, FloatEngine):
        weights = dataclasses.replace(_grid(matmul), special=floating.random_scales(rng, matmul))
        return dataclasses.replace(matmul, weights=weights)
    if isinstance(spec, VqCodebook):
        return dataclasses.replace(matmul, weights=_near(spec, matmul.weights, rng), fill=True)
    if not isinstance(spec, LutTensorCore) or spec.exact:
        return matmul
    x = integers(spec, matmul)
    shift = GOLDEN[LutTensorCore].table_shift(spec, x, matmul.group)
    if rng.random() < 0.5:
        shift = rng.integers(0, 1 << spec.table_shift_bits, len(matmul.x))
    return dataclasses.replace(matmul, shift=shift)


def without_fill(matmul: Matmul, rng: np.random.Generator) -> Matmul:
    """Other weights of the same codebooks, which are there."""
    assert isinstance(matmul.weights, Codebook)
    books = tuple(
        Book(rng.integers(0, len(codewords), index.shape), codewords)
        for index, codewords in matmul.weights.books
    )
    weights = dataclasses.replace(matmul.weights, books=books)
    return dataclasses.replace(matmul, weights=weights, fill=False)


def _grid(matmul: Matmul) -> Grid:
    """The weights for an engine that takes a code for each."""
    assert isinstance(matmul.weights, Grid)
    return matmul.weights


def encoded(spec: Engine, matmul: Matmul) -> Any:
    """A command's weights as golden takes them."""
    return GOLDEN[type(spec)].encode(spec, matmul.weights)


def as_product(spec: Engine, matmul: Matmul) -> Matmul:
    """The same sums as those of a grid of codes, whatever the form of the weights: codewords are
    looked up, and entries of tables meet one-hot rows in the place of activations."""
    x, weights = integers(spec, matmul), matmul.weights
    match weights:
        case Grid():
            grid = weights
        case Codebook():
            grid = Grid.plain(vq_codebook.codes_of(weights), weights.format, weights.group)
        case Table():
            assert isinstance(spec, LutDla)
            x = lut_dla.one_hot(spec, x, weights.centroids.points, weights.group)
            group = lut_dla.product_group(spec, weights.group)
            grid = Grid.plain(weights.codes, weights.format, group)
    return Matmul(x, grid, matmul.shift)


def expected(spec: Engine, matmul: Matmul) -> GroupSums:
    """What golden says; where it is exact, once plain integer multiplication has said the same."""
    if isinstance(spec, FloatEngine):
        part = run_of(spec, matmul).group_slices * spec.slice_k
        return floating.group_sums(spec, matmul, part, matmul.x)
    golden = GOLDEN[type(spec)]
    x = integers(spec, matmul)
    # Golden reads the leftover code of integers by itself.
    taken = x if spec.activations.format else matmul.x
    sums = golden.group_sums(spec, taken, encoded(spec, matmul), matmul.shift)
    if spec.exact:
        product = as_product(spec, matmul)
        values = integer.weights(spec, product.weights)
        plain = integer.group_sums(product.x, values, product.group)
        if not (
            np.array_equal(plain.psum, sums.psum) and np.array_equal(plain.row_sum, sums.row_sum)
        ):
            raise AssertionError(f"golden differs from integer multiplication: {spec}")
    return sums
