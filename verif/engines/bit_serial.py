"""How weights fill the beats of a bit-serial engine, by `hw.spec.layout` alone; random specs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from evolute.hw.spec.bit_serial import TERMS, BitSerial, float_code
from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.sim.golden import bit_serial as golden
from evolute.sim.weights import Grid
from evolute.verif.harness.operands import Operands


def weight_fields(
    spec: BitSerial, codes: np.ndarray, special: np.ndarray, weight_format: WeightCodes
) -> dict[str, np.ndarray]:
    """Fields [tiles, slices, planes, *shape] of codes [tiles, n, slices, slice_k]."""
    if weight_format.kind is Kind.BITMOD:
        scale = spec.coding_of(weight_format).scale
        values = [weight_format.values(special) for special in range(4)]
        table = np.array(
            [[float_code(scale * value) for value in of_special] for of_special in values]
        )
        code = table[special[..., None], codes]
    else:
        code = codes if spec.has_pairs else codes - weight_format.levels // 2
    code = code.transpose(0, 2, 1, 3)[:, :, None]
    if spec.has_planes:
        code = code >> np.arange(weight_format.bits)[:, None, None] & 1
    fields = {"code": code, "special": special.transpose(0, 2, 1)[:, :, None]}
    if spec.skips:
        needed = has_terms(spec, codes, special, weight_format) << np.arange(spec.digits)
        fields["needed"] = needed.sum(axis=2)[:, :, None]
    return fields


def has_terms(
    spec: BitSerial, codes: np.ndarray, special: np.ndarray, weight_format: WeightCodes
) -> np.ndarray:
    """Whether some weight of a beat needs a step, bool [tiles, slices, digits], by the terms of the
    golden model. Codes are [tiles, n, slices, slice_k], special values [tiles, n, slices]."""
    flat = codes.reshape(len(codes) * spec.n, -1)
    grid = Grid(flat, weight_format, spec.k, special.reshape(len(flat), -1))
    terms = golden.encode(spec, grid).terms
    has = (terms.reshape(-1, *codes.shape) != 0).any(axis=(2, 4)).transpose(1, 2, 0)
    return np.pad(has, ((0, 0), (0, 0), (0, spec.digits - len(terms)))).astype(int)


def beat_steps(
    spec: BitSerial, codes: np.ndarray, special: np.ndarray, weight_format: WeightCodes
) -> np.ndarray:
    """The steps of every weight beat, [tiles, slices]."""
    return np.maximum(has_terms(spec, codes, special, weight_format).sum(axis=2), 1)


def taken_steps(fields: Mapping[str, np.ndarray]) -> np.ndarray:
    """The steps of beats given by their fields, int64 [beats]."""
    return np.maximum(np.bitwise_count(fields["needed"].reshape(-1)), 1).astype(np.int64)


def sparser(
    rng: np.random.Generator, spec: BitSerial, codes: np.ndarray, weight_format: WeightCodes
) -> np.ndarray:
    """Codes [N, K] with fewer terms. The weights of a K-slice have some low bits cleared, and most
    are small. BitMoD values have only a few magnitudes, and none is special."""
    half, sparse = weight_format.levels // 2, codes.copy()
    for start in range(0, codes.shape[1], spec.k):
        part = codes[:, start : start + spec.k]
        if weight_format.kind is Kind.BITMOD:
            few = rng.choice(half, int(rng.integers(1, half + 1)), replace=False)
            allowed = np.concatenate([few, few[few > 0] + half])
            sparse[:, start : start + spec.k] = rng.choice(allowed, part.shape)
            continue
        values = part.astype(int) - half
        low = int(rng.integers(0, weight_format.bits))
        most = 1 << int(rng.integers(0, weight_format.bits + 1)) >> 1
        lowest, highest = -min(most, half), min(most, weight_format.levels - 1 - half)
        values = np.clip(values >> low << low, lowest, highest)
        sparse[:, start : start + spec.k] = values + half
    return sparse


def random_spec(rng: np.random.Generator) -> BitSerial:
    """A legal spec, small enough to build in seconds, with every choice drawn freely."""
    while True:
        terms = str(rng.choice(list(TERMS)))
        spec = BitSerial(
            m=int(rng.integers(1, 5)),
            n=int(rng.integers(1, 13)),
            k=int(rng.integers(1, 25)),
            terms=terms,
            activation_bits=int(rng.integers(4, 17)),
            weight_bits=int(rng.integers(4 if terms == "bitmod" else 1, 9)),
            group_size=int(rng.integers(1, 97)),
        )
        if not spec.has_pairs and spec.weight_bits > spec.radix_bits and rng.random() < 0.5:
            spec = spec.evolve(skips=True)
        if spec.has_pairs and spec.activation_bits > 9:
            continue  # a slice would take too many steps
        if spec.macs_per_step * (1 if spec.has_planes else 4) <= 1200:
            return spec


class SparseCodes(Operands[BitSerial]):
    """The operands of an engine that may skip steps. If it does, most weights have few terms, and
    the number of steps differs from beat to beat."""

    def completed(self, spec, matmul, x, rng):
        """`matmul`, if steps are skipped most often with weights of fewer terms."""
        if not spec.skips or rng.random() >= 0.7:
            return matmul
        codes = sparser(rng, spec, matmul.codes, matmul.weight_format)
        return dataclasses.replace(matmul, weights=dataclasses.replace(matmul.weights, codes=codes))

    def beat_steps(self, spec, codes, special, weight_format):
        return beat_steps(spec, codes, special, weight_format)
