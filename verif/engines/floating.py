"""How weights fill the beats of the floating baselines, what sums they must give; random specs.

In the place of special values a matrix multiplication names scales, or whole weights: one of 256
tables of any FP16 codes.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from evolute.hw.spec.floating import FP16, RESULT, SUMS, WEIGHTS, FloatEngine, FloatLut, FloatMac
from evolute.hw.spec.formats import WeightCodes
from evolute.sim.golden import floating as golden
from evolute.sim.golden.sums import GroupSums
from evolute.sim.weights import Grid
from evolute.verif.harness.operands import Operands
from evolute.verif.harness.vectors import Matmul

_TABLES = np.random.default_rng(16).integers(0, 1 << FP16.bits, (256, 256), dtype=np.uint16)
_PAIRS = 240
"""Groups of `pairs`."""
ONES = len(_TABLES) - 1
"""The table of which every code is that of 1."""
_TABLES[ONES] = (1 << FP16.exponent_bits - 1) - 1 << FP16.mantissa_bits


def fp16_weights(codes: np.ndarray, special: np.ndarray) -> np.ndarray:
    """The FP16 codes that weight codes name in their groups' tables."""
    return _TABLES[special, codes]


def scales(special: np.ndarray) -> np.ndarray:
    """The FP16 codes of the scales of groups."""
    return _TABLES[special, 0]


def weight_fields(
    spec: FloatEngine, codes: np.ndarray, special: np.ndarray, weight_format: WeightCodes
) -> dict[str, np.ndarray]:
    """Fields [tiles, slices, planes, *shape] of codes [tiles, n, slices, slice_k]."""
    if isinstance(spec, FloatLut):
        bits = codes[..., None] >> np.arange(weight_format.bits) & 1
        bits = bits.reshape(*codes.shape[:-1], spec.kg, spec.k, -1)
        sign = bits[..., -1:, :]
        folded = np.concatenate([bits[..., :-1, :] ^ sign, sign], axis=-2)
        code = (folded << np.arange(spec.k)[:, None]).sum(axis=-2)
        return {"code": code.transpose(0, 2, 4, 1, 3)[:, :, :, :, None]}
    assert isinstance(spec, FloatMac)
    if spec.weights == "fp16":
        code = fp16_weights(codes, special[..., None])
    else:
        code = codes - weight_format.levels // 2
    scale = scales(special).transpose(0, 2, 1)[:, :, None]
    return {"code": code.transpose(0, 2, 1, 3)[:, :, None], "scale": scale}


def random_scales(rng: np.random.Generator, matmul: Matmul) -> np.ndarray:
    """Which table every group takes, uint8 [N, groups]."""
    groups = -(-matmul.x.shape[1] // matmul.group)
    return rng.integers(0, len(_TABLES), (len(matmul.codes), groups), dtype=np.uint8)


def binades(spec: FloatEngine, rng: np.random.Generator) -> np.ndarray | None:
    """Codes [m, K] of activations, powers of two apart, whose sum is one bit longer than sums are
    precise and has ones in all of its bits: rounded up, it carries into the next power of two.
    None where the format's range is too short for that."""
    kind = spec.kind
    width, left = kind.mantissa_bits + 1, spec.significand_bits + 1
    lengths = [min(width, left - start) for start in range(0, left, width)]
    highest = (1 << kind.exponent_bits) - 1 - kind.infinities
    lowest = 1 + width * (len(lengths) - 1)
    if lowest >= highest:
        return None
    top = int(rng.integers(lowest, highest))
    codes = [
        top - width * i << kind.mantissa_bits | (1 << width - 1) - (1 << width - length)
        for i, length in enumerate(lengths)
    ]
    sign = np.arange(spec.m)[:, None] % 2 << kind.bits - 1
    return np.array(codes) | sign


def pairs(spec: FloatEngine, rng: np.random.Generator) -> np.ndarray:
    """Codes [m, K] of activations for scale groups of `pair_group`, in each of which two numbers
    are not zero. In turn, they nearly cancel out, that is, they differ in their sign and in some of
    their lowest bits; their sum is exactly between two numbers that sums can be; or their
    difference is so, and is below the power of two that the greater of them is not below. The last
    two are only where the format's range is long enough."""
    kind, group = spec.kind, pair_group(spec)
    width = kind.mantissa_bits + 1
    most = (1 << kind.exponent_bits) - 1 - kind.infinities
    codes = np.zeros((spec.m, _PAIRS, group), int)
    for row, i in np.ndindex(spec.m, _PAIRS):
        first, second = rng.permutation(group)[:2]
        mantissa = int(rng.integers(1 << kind.mantissa_bits))
        length = int(rng.integers(1, width + 1))
        # Whether the two differ in their sign, and how far the second is below the first where its
        # last one is worth half of the last bit that a sum of the first's exponent has, or a
        # quarter, which is half of the last bit of a sum below the first's power of two.
        opposite = (1, int(rng.integers(2)), 1)[i % 3]
        below = spec.significand_bits - length + i % 3
        if i % 3 and 0 < below < most:
            high = int(rng.integers(below + 1, most + 1))
            odd = 1 << length - 1 | int(rng.integers(1 << length - 1)) | 1
            low = odd << width - length & (1 << kind.mantissa_bits) - 1
            other = high - below << kind.mantissa_bits | low
            if i % 3 == 2:
                mantissa = int(rng.integers((odd >> spec.significand_bits - width + 2) + 1))
        else:
            high = int(rng.integers(1, most + 1))
            opposite = 1
            other = high << kind.mantissa_bits | mantissa ^ int(rng.integers(1 << length - 1))
        negative = int(rng.integers(2))
        codes[row, i, first] = negative << kind.bits - 1 | high << kind.mantissa_bits | mantissa
        codes[row, i, second] = (negative ^ opposite) << kind.bits - 1 | other
    return codes.reshape(spec.m, -1)


def pair_group(spec: FloatEngine) -> int:
    """How long the scale groups of `pairs` are: two slices, so that both numbers meet in one slice,
    or in the sums of two."""
    return 2 * spec.slice_k


def tiny(spec: FloatEngine, rng: np.random.Generator) -> np.ndarray:
    """Codes [m, K] of activations for scale groups of `pair_group`: zeros, the smallest numbers of
    the format, and any of its numbers among them, so that sums of the smallest numbers meet zeros
    of every sign that come of any exponent."""
    kind, shape = spec.kind, (spec.m, _PAIRS * pair_group(spec))
    finite = (1 << kind.exponent_bits) - kind.infinities << kind.mantissa_bits
    choices = [np.zeros(shape, int), rng.integers(1, 4, shape), rng.integers(0, finite, shape)]
    codes = np.choose(rng.choice(len(choices), shape, p=(0.3, 0.5, 0.2)), choices)
    return codes | rng.integers(2, size=shape) << kind.bits - 1


def values(result_codes: np.ndarray) -> np.ndarray:
    """The numbers that a result's fields hold, float64; NaN for -0, which no result is."""
    codes = result_codes.astype(np.int64) & (1 << RESULT.bits) - 1
    numbers = codes.astype(np.uint32).view(np.float32).astype(np.float64)
    return np.where(codes == 1 << RESULT.bits - 1, np.nan, numbers)


def group_sums(spec: FloatEngine, matmul: Matmul, part: int, activations: np.ndarray) -> GroupSums:
    """What golden says, each group being read out in parts of `part` activations, whose sums are
    added up."""
    psums, row_sums = [], []
    for group, start in enumerate(range(0, activations.shape[1], matmul.group)):
        end = min(start + matmul.group, activations.shape[1])
        codes = matmul.codes[:, start:end]
        x = golden.numbers(activations[:, start:end], spec.kind)
        if isinstance(spec, FloatLut):
            planes = matmul.weight_format.bits
            sums = golden.group_by_group(
                lambda x, w, planes=planes: golden.lut_sums(spec, x, w, planes), x, codes, part
            )
        else:
            assert isinstance(spec, FloatMac) and isinstance(matmul.weights, Grid)
            table = matmul.weights.special[:, group, None]
            weights = codes.astype(np.int64) - matmul.weight_format.levels // 2
            if spec.weights == "fp16":
                weights = golden.numbers(fp16_weights(codes, table), FP16)
            elif spec.weights == "dequantized":
                weights = golden.dequantized(weights, scales(table))
            sums = golden.group_by_group(lambda x, w: golden.mac_sums(spec, x, w), x, weights, part)
        psums.append(np.add.reduceat(sums[0], [0], axis=1)[:, 0])
        row_sums.append(np.add.reduceat(sums[1], [0], axis=1)[:, 0])
    return GroupSums(np.stack(psums, axis=1), np.stack(row_sums, axis=1))


SMALL: dict[str, FloatEngine] = {
    "float-mac": FloatMac(m=2, n=1, k=2, weight_bits=3, group_size=13),
    "float-lut": FloatLut(m=1, n=2, k=3, weight_bits=3, group_size=13),
}
"""A small spec of each baseline by name, for verification; they are no presets."""


def random_spec(rng: np.random.Generator) -> FloatEngine:
    """A legal spec, small enough to build in seconds, with every choice drawn freely."""
    common = {
        "m": int(rng.integers(1, 4)),
        "n": int(rng.integers(1, 5)),
        "weight_bits": int(rng.integers(1, 9)),
        "group_size": int(rng.integers(1, 97)),
        "sums": str(rng.choice(list(SUMS))),
    }
    if rng.random() < 0.3:
        common |= {"activation_format": "fp8e5m2", "activation_bits": 8}
    elif rng.random() < 0.3:
        common |= {"activation_format": "fp8e4m3", "activation_bits": 8}
    if rng.random() < 0.5:
        return FloatLut(k=int(rng.integers(2, 6)), kg=int(2 ** rng.integers(0, 3)), **common)
    return FloatMac(k=int(2 ** rng.integers(0, 4)), weights=str(rng.choice(WEIGHTS)), **common)


class FloatOperands(Operands[FloatEngine]):
    """The operands of the floating baselines: groups have FP16 scales or tables of weights in place
    of special values, and sums are rounded."""

    def completed(self, spec, matmul, x, rng):
        weights = dataclasses.replace(matmul.weights, special=random_scales(rng, matmul))
        return dataclasses.replace(matmul, weights=weights)

    def special_values(self, weight_format):
        return len(_TABLES)

    def numbers(self, fields):
        return {name: values(codes) for name, codes in fields.items()}

    def expected(self, spec, matmul, x, part):
        return group_sums(spec, matmul, part, matmul.x)


def by_ones(spec: FloatEngine, matmul: Matmul) -> Matmul:
    """The multiplication by weights that are 1, where weights can be so."""
    if isinstance(spec, FloatMac) and matmul.weight_format.levels > 2:
        one = matmul.weight_format.levels // 2 + 1
        codes = np.full_like(matmul.codes, one)
        return dataclasses.replace(
            matmul, weights=Grid.plain(codes, matmul.weight_format, matmul.group)
        )
    return matmul
