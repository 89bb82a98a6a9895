"""How weights fill the beats of a LUT Tensor Core, by `hw.spec.layout` alone; random specs."""

from __future__ import annotations

import dataclasses

import numpy as np

from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.hw.spec.lut_tensor_core import LutTensorCore
from evolute.sim.golden import lut_tensor_core as golden
from evolute.verif.harness.operands import Operands


def bit_planes(spec: LutTensorCore, codes: np.ndarray, weight_format: WeightCodes) -> np.ndarray:
    """Bits [planes, ...] of weight codes, in streaming order; 1 stands for +1."""
    if weight_format.kind is Kind.TERNARY and spec.planes_per_step == 1:
        return np.stack([codes > 0, codes > 1]).astype(np.int64)
    if spec.is_signed:
        wrapped = (codes.astype(int) - weight_format.levels // 2) % (1 << spec.weight_bits)
        return np.stack([wrapped >> plane & 1 for plane in range(spec.weight_bits)])
    return np.stack([(codes >> plane) & 1 for plane in range(weight_format.bits)]).astype(int)


def weight_fields(
    spec: LutTensorCore, codes: np.ndarray, special: np.ndarray, weight_format: WeightCodes
) -> dict[str, np.ndarray]:
    """Fields [tiles, slices, planes, *shape] of codes [tiles, n, slices, slice_k]."""
    if spec.base == 3:
        weights = codes.reshape(*codes.shape[:-1], spec.kg, spec.k).astype(int) - 1
        number = sum(weights[..., i] * 3**i for i in range(spec.k))
        code = np.where(number < 0, -number + (1 << spec.code_bits - 1), number)
        return {"code": code.transpose(0, 2, 1, 3)[:, :, None, :, None]}
    bits = bit_planes(spec, codes, weight_format)
    bits = bits.reshape(*bits.shape[:-1], spec.kg, spec.k)
    if spec.mirrored:
        sign = bits[..., -1:]
        bits = np.concatenate([bits[..., :-1] ^ sign, sign], axis=-1)
    code = (bits << np.arange(spec.k)).sum(axis=-1)  # [planes, tiles, n, slices, kg]
    code = code.reshape(-1, spec.planes_per_step, *code.shape[1:])
    return {"code": code.transpose(2, 4, 0, 3, 1, 5)}


def random_spec(rng: np.random.Generator) -> LutTensorCore:
    """A legal spec, small enough to build in seconds, with every choice drawn freely."""
    while True:
        base = int(rng.choice([2, 2, 2, 3]))
        planes = int(rng.choice([1, 1, 2, 4])) if base == 2 else 1
        spec = LutTensorCore(
            m=int(rng.integers(1, 5)),
            n=int(rng.integers(1, 13)),
            k=int(rng.integers(2, 7 if base == 2 else 4)),
            kg=int(rng.integers(1, 6)),
            base=base,
            mirrored=base == 3 or bool(rng.random() < 0.6),
            planes_per_step=planes,
            activation_bits=int(rng.integers(4, 17)),
            weight_bits=planes * int(rng.integers(1, 8 // planes + 1)) if base == 2 else 2,
            group_size=int(rng.integers(1, 97)),
        )
        lookups = spec.n * spec.planes_per_step
        if spec.m * spec.kg * spec.entries * (lookups + 8) <= 1500:
            break
    if rng.random() < 0.4 and spec.exact_table_bits > 4:
        spec = spec.evolve(table_bits=int(rng.integers(4, spec.exact_table_bits)))
    if rng.random() < 0.2:
        spec = spec.evolve(accumulator_bits=min(64, spec.acc_bits + int(rng.integers(0, 9))))
    return spec


class ShiftedRows(Operands[LutTensorCore]):
    """The operands of an engine whose rows have table shifts where table entries are rounded."""

    def completed(self, spec, matmul, x, rng):
        """`matmul` with the table shifts of the model or, half of the time, with random ones."""
        if spec.exact:
            return matmul
        shift = golden.table_shift(spec, x, matmul.group)
        if rng.random() < 0.5:
            shift = rng.integers(0, 1 << spec.row_shift_bits, len(matmul.x))
        return dataclasses.replace(matmul, shift=shift)
