"""How a bench drives a LUT Tensor Core: operands to stream words, result words to sums.

Written from `hw.spec.layout` alone, apart from golden and RTL, so that it can contradict both.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from hw.spec import layout
from hw.spec.formats import WeightCodes
from hw.spec.lut_tensor_core import LutTensorCore
from sim.golden import integer
from sim.golden import lut_tensor_core as golden
from sim.golden.sums import GroupSums, group_bounds
from sim.schedule.lut_tensor_core import Run, plan
from sim.workload import Linear
from verif import words
from verif.vectors import Matmul, Shape


def _run(spec: LutTensorCore, shape: Shape, weight_format: WeightCodes) -> Run:
    linear = Linear("bench", shape.n, shape.k, weight_format, shape.group, group_bits=0)
    return plan(spec, linear, shape.m)


def run_of(spec: LutTensorCore, matmul: Matmul) -> Run:
    """The command that computes `matmul`."""
    return _run(spec, matmul.shape, matmul.weight_format)


@dataclass(frozen=True)
class Tiling:
    """How a matrix multiplication is cut into tiles, slices and groups."""

    row_tiles: int
    column_tiles: int
    positions: np.ndarray
    """For every activation of the padded K, its place in the unpadded K; -1 for padding."""
    read_outs: np.ndarray
    """For every result beat of a tile, its scale group."""


def tiling(spec: LutTensorCore, matmul: Matmul) -> Tiling:
    """Each scale group is padded to whole slices; every `group_slices` of them give a result."""
    group_slices = run_of(spec, matmul).group_slices
    positions, read_outs = [], []
    for group, (start, end) in enumerate(group_bounds(matmul.x.shape[1], matmul.group)):
        slices = -(-(end - start) // spec.slice_k)
        positions += [*range(start, end), *[-1] * (slices * spec.slice_k - (end - start))]
        read_outs += [group] * -(-slices // group_slices)
    return Tiling(
        row_tiles=-(-len(matmul.x) // spec.m),
        column_tiles=-(-len(matmul.codes) // spec.n),
        positions=np.array(positions),
        read_outs=np.array(read_outs),
    )


def sign_planes(codes: np.ndarray, weight_format: WeightCodes) -> np.ndarray:
    """Bits [planes, ...] of weight codes, in streaming order; 1 stands for +1."""
    if weight_format.ternary:
        return np.stack([codes > 0, codes > 1]).astype(np.int64)
    return np.stack([(codes >> plane) & 1 for plane in range(weight_format.planes)]).astype(int)


def command_words(spec: LutTensorCore, matmul: Matmul) -> np.ndarray:
    """The one command word, uint8 [1, bytes]."""
    return command_word(spec, run_of(spec, matmul), matmul.weight_format.ternary)


def command_word(spec: LutTensorCore, run: Run, ternary: bool) -> np.ndarray:
    """The command word of a run, uint8 [1, bytes]."""
    return words.pack(
        layout.lut_tensor_core(spec).command,
        planes_minus_1=np.array([run.planes - 1]),
        ternary=np.array([int(ternary)]),
        group_slices_minus_1=np.array([run.group_slices - 1]),
        slices_minus_1=np.array([run.slices - 1]),
        tiles_minus_1=np.array([run.tiles - 1]),
    )


def activation_words(spec: LutTensorCore, matmul: Matmul) -> np.ndarray:
    """One word per tile and slice; rows beyond M and places beyond a scale group are zero."""
    cut = tiling(spec, matmul)
    x = np.where(cut.positions < 0, 0, matmul.x[:, cut.positions])
    x = np.pad(x, ((0, cut.row_tiles * spec.m - len(x)), (0, 0)))
    x = x.reshape(cut.row_tiles, spec.m, -1, spec.kg, spec.k).transpose(0, 2, 1, 3, 4)
    fields = {"x": np.repeat(x, cut.column_tiles, axis=0).reshape(-1, spec.m, spec.kg, spec.k)}
    if matmul.shift is not None:
        shift = np.pad(matmul.shift, (0, cut.row_tiles * spec.m - len(matmul.shift)))
        beats = cut.column_tiles * x.shape[1]
        fields["table_shift"] = np.repeat(shift.reshape(-1, spec.m), beats, axis=0)
    return words.pack(layout.lut_tensor_core(spec).activation, **fields)


def weight_words(spec: LutTensorCore, matmul: Matmul, rng: np.random.Generator) -> np.ndarray:
    """One word per tile, slice and plane; what lies beyond N or a scale group is random."""
    cut = tiling(spec, matmul)
    columns = cut.column_tiles * spec.n
    codes = rng.integers(0, matmul.weight_format.levels, (columns, len(cut.positions)))
    inside = cut.positions >= 0
    codes[: len(matmul.codes), inside] = matmul.codes[:, cut.positions[inside]]
    bits = sign_planes(codes, matmul.weight_format)
    bits = bits.reshape(len(bits), cut.column_tiles, spec.n, -1, spec.kg, spec.k)
    sign = bits[..., -1:]
    bits = np.concatenate([bits[..., :-1] ^ sign, sign], axis=-1)
    code = (bits << np.arange(spec.k)).sum(axis=-1)  # [planes, tiles, n, slices, kg]
    code = code.transpose(1, 3, 0, 2, 4).reshape(-1, spec.n, spec.kg)
    return np.tile(words.pack(layout.lut_tensor_core(spec).weight, code=code), (cut.row_tiles, 1))


def sums(spec: LutTensorCore, matmul: Matmul, result_words: np.ndarray) -> GroupSums:
    """The sums in a command's result words; `row_sum` keeps one copy per column tile.

    `psum` int64 [M, groups, N], `row_sum` int64 [M, groups, column tiles]. A scale group read out
    in parts is added up.
    """
    cut = tiling(spec, matmul)
    fields = words.unpack(layout.lut_tensor_core(spec).result, result_words)
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
    return GroupSums(psum, whole_groups(fields["row_sum"][:, :, None]))


def random_spec(rng: np.random.Generator) -> LutTensorCore:
    """A legal spec, small enough to build in seconds, with every choice drawn freely."""
    while True:
        spec = LutTensorCore(
            m=int(rng.integers(1, 5)),
            n=int(rng.integers(1, 13)),
            k=int(rng.integers(2, 7)),
            kg=int(rng.integers(1, 6)),
            activation_bits=int(rng.integers(4, 17)),
            weight_bits=int(rng.integers(1, 9)),
            group_size=int(rng.integers(1, 97)),
        )
        if spec.m * spec.kg * spec.entries * (spec.n + 8) <= 1500:
            break
    if rng.random() < 0.4 and spec.exact_table_bits > 4:
        spec = spec.evolve(table_bits=int(rng.integers(4, spec.exact_table_bits)))
    if rng.random() < 0.2:
        spec = spec.evolve(accumulator_bits=min(64, spec.acc_bits + int(rng.integers(0, 9))))
    return spec


def random_shape(spec: LutTensorCore, rng: np.random.Generator, planes: int) -> Shape:
    """A shape of at most 300 steps (or one slice per tile) that seldom fits the engine's own.

    The scale group may be longer than the engine's, shorter, ragged, or all of K.
    """
    longest = min(3 * max(spec.group_size, spec.slice_k), 300 * spec.slice_k // planes)
    while True:
        k = int(rng.integers(1, longest + 1))
        shape = Shape(
            m=int(rng.integers(1, 2 * spec.m + 2)),
            n=int(rng.integers(1, 2 * spec.n + 2)),
            k=k,
            group=(spec.group_size, int(rng.integers(1, k + 1)), k)[rng.integers(3)],
        )
        shape_run = _run(spec, shape, WeightCodes(planes))
        if shape_run.steps <= 300 or shape_run.slices == 1:
            return shape


def full_shape(spec: LutTensorCore) -> Shape:
    """One tile with a whole group, which takes every accumulator to its fullest, and a bit."""
    return Shape(spec.m, spec.n, spec.group_size + 1, spec.group_size)


def with_shift(spec: LutTensorCore, matmul: Matmul, rng: np.random.Generator) -> Matmul:
    """Adds table shifts where the engine rounds: the model's choice, or, half the time, any."""
    if spec.table_bits is None:
        return matmul
    shift = golden.table_shift(spec, matmul.x, matmul.group)
    if rng.random() < 0.5:
        shift = rng.integers(0, 1 << spec.table_shift_bits, len(matmul.x))
    return dataclasses.replace(matmul, shift=shift)


def expected(spec: LutTensorCore, matmul: Matmul) -> GroupSums:
    """What golden says; for exact tables, once plain integer multiplication has said the same."""
    encoded = golden.encode(spec, matmul.codes, matmul.weight_format, matmul.group)
    sums = golden.group_sums(spec, matmul.x, encoded, matmul.shift)
    if spec.table_bits is None:
        x = np.maximum(matmul.x, -spec.activations.maximum)
        plain = integer.group_sums(x, matmul.codes, matmul.weight_format, matmul.group)
        if not (
            np.array_equal(plain.psum, sums.psum) and np.array_equal(plain.row_sum, sums.row_sum)
        ):
            raise AssertionError(f"golden differs from integer multiplication: {spec}")
    return sums
