"""How a bench drives an engine: operands to stream words, result words to sums.

It is written from `hw.spec.layout` alone, independently of the golden model and the RTL, so that it
can contradict both. What differs between engines is in one file per engine in `verif.engines`: how
weights fill a beat, and which random specs to draw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from evolute.hw.spec import BitSerial, Engine, LutDla, LutTensorCore, Mac, VqCodebook, layout
from evolute.hw.spec.floating import FloatLut, FloatMac
from evolute.hw.spec.formats import FLOATS, Kind, WeightCodes
from evolute.sim import numbers
from evolute.sim.golden import align
from evolute.sim.golden.sums import GroupSums
from evolute.sim.timing.schedule import Run, fills, plan, weighed
from evolute.sim.weights import Book, Codebook, Form, Grid, Table, group_bounds
from evolute.sim.workload.linear import LayerName, Linear
from evolute.verif.engines import bit_serial, floating, lut_dla, lut_tensor_core, mac, vq_codebook
from evolute.verif.harness import words
from evolute.verif.harness.operands import Operands, Tiling
from evolute.verif.harness.vectors import Matmul, MatmulShape, random_special


class Driver(Protocol):
    """What the bench must know about an engine; the module in `verif.engines` that has the engine's
    name provides it."""

    def random_spec(self, rng: np.random.Generator, /) -> Engine:
        """A small legal spec."""
        ...

    def weight_fields(
        self, spec: Any, codes: np.ndarray, beside: Any, weight_format: WeightCodes, /
    ) -> Mapping[str, np.ndarray]:
        """The fields of weight beats by name, each [tiles, slices, planes, *shape of the field].

        `codes` are [tiles, n, slices, codes of a slice]. `beside` is what slices carry apart from
        codes, such as special values [tiles, n, slices] or centroids.
        """
        ...


DRIVERS: dict[type[Engine], Driver] = {
    LutTensorCore: lut_tensor_core,
    Mac: mac,
    BitSerial: bit_serial,
    VqCodebook: vq_codebook,
    LutDla: lut_dla,
}

BASELINE_DRIVERS: dict[type[Engine], Driver] = {FloatMac: floating, FloatLut: floating}
"""The drivers of the floating-point baselines."""

OPERANDS: dict[type[Engine], Operands] = {
    LutTensorCore: lut_tensor_core.ShiftedRows(),
    BitSerial: bit_serial.SparseCodes(),
    VqCodebook: vq_codebook.Codewords(),
    LutDla: lut_dla.CentroidTables(),
    FloatMac: floating.FloatOperands(),
    FloatLut: floating.FloatOperands(),
}
"""How operands and results differ from a grid of codes and exact sums, for the engines and
baselines in which they do."""

_PLAIN = Operands()


def _operands(spec: Engine) -> Operands:
    return OPERANDS.get(type(spec), _PLAIN)


def random_spec(kind: type[Engine], rng: np.random.Generator) -> Engine:
    """A small legal spec of an engine. About one in three has floating activations."""
    spec = DRIVERS[kind].random_spec(rng)
    if rng.random() < 0.35:
        spec = spec.evolve(activation_format=str(rng.choice(list(FLOATS))))
    return spec


def _run(spec: Engine, shape: MatmulShape, weight_format: WeightCodes) -> Run:
    linear = Linear(
        LayerName(None, "bench"), shape.n, shape.k, weight_format, shape.group, group_bits=0
    )
    return plan(spec, linear, shape.m)


def run_of(spec: Engine, matmul: Matmul) -> Run:
    """The command that computes `matmul`."""
    run = _run(spec, matmul.shape, matmul.weight_format)
    if spec.steps_are_fixed:
        return run
    assert isinstance(matmul.weights, Grid)
    cut = tiling(spec, matmul)
    whole = _padded_codes(spec, matmul, cut)
    special = matmul.weights.special[:, cut.slice_groups]
    beyond = cut.column_tiles * spec.n - len(special)  # where no code is that of a special
    special = np.pad(special, ((0, beyond), (0, 0)))
    special = special.reshape(cut.column_tiles, spec.n, -1)
    steps = _operands(spec).beat_steps(spec, whole, special, matmul.weight_format)
    assert steps is not None
    return weighed(run, steps)


def runs_of(spec: Engine, matmul: Matmul) -> list[Run]:
    """All commands of `matmul`: those that fill codebooks, if it needs them, and `run_of`."""
    return [*(fills(spec) if matmul.fill else []), run_of(spec, matmul)]


def tiling(spec: Engine, matmul: Matmul) -> Tiling:
    """How the operands are cut: every scale group is padded to whole K-slices, and every
    `group_slices` of them give one result."""
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
    """The activation words of a command, one per tile and slice, uint8 [beats, bytes]. Rows beyond
    M and places beyond a scale group are zero."""
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
    """The weight codes, padded to whole tiles and slices: [tiles, n, slices, codes of a slice].

    Padding beyond N or a scale group is random. Without `rng`, and where codes decide about cycles,
    it consists of codes that count as 0.
    """
    # The entries of tables need no padding.
    at = cut.positions if matmul.weights.is_of_weights else np.arange(matmul.codes.shape[1])
    levels, size = matmul.weight_format.levels, (cut.column_tiles * spec.n, len(at))
    if rng is None or not spec.steps_are_fixed:
        codes = np.full(size, 0 if matmul.weight_format.kind is Kind.BITMOD else levels // 2)
    else:
        codes = rng.integers(0, levels, size)
    codes[: len(matmul.codes), at >= 0] = matmul.codes[:, at[at >= 0]]
    return codes.reshape(cut.column_tiles, spec.n, -1, spec.slice_codes)


def weight_words(spec: Engine, matmul: Matmul, rng: np.random.Generator) -> np.ndarray:
    """The weight words of a command, uint8 [beats, bytes]: those of a fill, if there is one, and
    those of every tile. Padding beyond N or a scale group is random."""
    cut, weight_format = tiling(spec, matmul), matmul.weight_format
    columns = cut.column_tiles * spec.n
    whole = _padded_codes(spec, matmul, cut, rng)
    operands = _operands(spec)
    most = operands.special_values(weight_format)
    special = rng.integers(0, most, (columns, len(cut.slice_groups)))
    beside = special.reshape(cut.column_tiles, spec.n, -1)
    match matmul.weights:
        case Grid() as grid:
            special[: len(grid.codes)] = grid.special[:, cut.slice_groups]
        case Table(centroids=centroids):
            beside = centroids.points
    whole = operands.carried(spec, matmul, whole, cut, rng)
    filling = operands.fill_words(spec, matmul, rng)
    fields = _driver(spec).weight_fields(spec, whole, beside, weight_format)
    beat = layout.streams(spec).weight
    flat = {field.name: fields[field.name].reshape(-1, *field.shape) for field in beat.fields}
    return np.concatenate([*filling, np.tile(words.pack(beat, **flat), (cut.row_tiles, 1))])


def _driver(spec: Engine) -> Driver:
    return {**DRIVERS, **BASELINE_DRIVERS}[type(spec)]


def sums(spec: Engine, matmul: Matmul, result_words: np.ndarray) -> GroupSums:
    """The sums in the result words of a command: `psum` int64 [M, groups, N] and `row_sum` int64
    [M, groups, column tiles], with one copy per column tile.

    The parts of a scale group that is read out in parts are added.
    """
    cut = tiling(spec, matmul)
    fields = _operands(spec).numbers(words.unpack(layout.streams(spec).result, result_words))
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


def random_shape(spec: Engine, rng: np.random.Generator, weight_format: WeightCodes) -> MatmulShape:
    """A random shape of at most 300 steps, or of one slice per tile. It is seldom a multiple of the
    engine's tile.

    The scale group may be longer or shorter than the engine's, and K may be one group or end with a
    shorter one.
    """
    steps = spec.slice_steps(weight_format)
    longest = max(1, min(3 * max(spec.group_size, spec.slice_k), 300 * spec.slice_k // steps))
    while True:
        k = int(rng.integers(1, longest + 1))
        shape = MatmulShape(
            m=int(rng.integers(1, 2 * spec.m + 2)),
            n=int(rng.integers(1, 2 * spec.n + 2)),
            k=k,
            group=(spec.group_size, int(rng.integers(1, k + 1)), k)[rng.integers(3)],
        )
        shape_run = _run(spec, shape, weight_format)
        if shape_run.steps <= 300 or shape_run.slices == 1:
            return shape


def full_shape(spec: Engine) -> MatmulShape:
    """One tile with a whole scale group, which can take every accumulator to its largest value, and
    a second group of one activation."""
    return MatmulShape(spec.m, spec.n, spec.group_size + 1, spec.group_size)


def integers(spec: Engine, matmul: Matmul) -> np.ndarray:
    """The integers that the engine multiplies, int64 [M, K]: the activations, aligned if they are
    floating. For an engine that does not align floating activations, their codes."""
    if spec.activations.format is not None and not spec.aligns:
        return matmul.x
    of_code = None
    if matmul.exponent is not None:
        of_code = np.repeat(matmul.exponent, matmul.group, axis=1)[:, : matmul.x.shape[1]]
    return align.integers(matmul.x, of_code, spec.activations)


def float_features(spec: Engine, matmul: Matmul) -> set[str]:
    """The names of the special classes that a command's floating activations have members of."""
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
    spec: Engine, weight_format: WeightCodes, shape: MatmulShape, rng: np.random.Generator
) -> Form:
    """Random weights in the form that the engine takes."""
    size = (shape.n, shape.k)
    codes = rng.integers(0, weight_format.levels, size, dtype=np.uint8)
    special = random_special(rng, weight_format, shape)
    x = np.zeros((1, shape.k), int)
    if weight_format.kind is Kind.TABLE:  # whose centroids are to be near activations
        most = spec.activations.maximum
        x = rng.integers(-most, most + 1, x.shape)
    matmul = Matmul(x, Grid(codes, weight_format, shape.group, special))
    return _operands(spec).completed(spec, matmul, x, rng).weights


def completed(spec: Engine, matmul: Matmul, rng: np.random.Generator) -> Matmul:
    """The multiplication with what the engine needs beside activations and weight codes.

    - For rounded tables: table shifts, those of the model or, half of the time, random ones.
    - For codebooks and centroids: codewords or centroids near the operands. The codes are then
      replaced by those that the codewords or tables give.
    - For floating baselines: the groups' scales.
    - Where steps can be skipped: most often weights with fewer terms.
    """
    return _operands(spec).completed(spec, matmul, integers(spec, matmul), rng)


def without_fill(matmul: Matmul, rng: np.random.Generator) -> Matmul:
    """A multiplication by other weights of the same codebooks, which are in the engine already."""
    assert isinstance(matmul.weights, Codebook)
    books = tuple(
        Book(rng.integers(0, len(codewords), index.shape), codewords)
        for index, codewords in matmul.weights.books
    )
    weights = dataclasses.replace(matmul.weights, books=books)
    return dataclasses.replace(matmul, weights=weights, fill=False)


def as_product(spec: Engine, matmul: Matmul) -> Matmul:
    """A multiplication by a grid of codes that has the same sums. Codewords are looked up in their
    codebooks, and table entries are multiplied by one-hot rows in place of the activations."""
    return _operands(spec).product(spec, matmul, integers(spec, matmul))


def expected(spec: Engine, matmul: Matmul) -> GroupSums:
    """The sums of the golden model. If it is exact, raises `AssertionError` unless a plain integer
    multiplication gives the same sums."""
    part = run_of(spec, matmul).group_slices * spec.slice_k
    return _operands(spec).expected(spec, matmul, integers(spec, matmul), part)
