"""The bits that weights take: the one definition that every command, record and table uses.

`bits_index` counts only codes, or indices of codewords. `bits_total` counts everything that is
stored for the weights: codes or indices with their padding, codebooks, scales, minima or zero
points, special values, and data of columns. Both are averages over the weights of a model's linear
layers without the output head, in the form in which the model's file has them, wherever a layer
runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from evolute.sw.language_model.model import LanguageModel
from evolute.sw.quantizers.rounding import Rounding
from evolute.sw.tensors.tensor import Coded, parted
from evolute.sw.tensors.weights import Weights

FLOAT_BITS = 32
"""Of a weight that is in no codes: it is computed with as float32."""


@dataclass(frozen=True)
class Bits:
    """The bits that layers store, by what they are for."""

    codes: int = 0
    """Codes, or indices of codewords."""
    padding: int = 0
    """The part of the indices that belongs to outputs or inputs that do not exist."""
    codebooks: int = 0
    groups: int = 0
    """Scales, minima or zero points, and special values; or one scale of a whole part."""
    columns: int = 0
    """Order, scale and bias of columns."""

    @property
    def total(self) -> int:
        return sum(vars(self).values())

    def __add__(self, other: Bits) -> Bits:
        sums = (bits + getattr(other, name) for name, bits in vars(self).items())
        return Bits(*sums)

    def to_dict(self) -> dict[str, int]:
        return {**vars(self), "total": self.total}


@dataclass(frozen=True)
class BitsPerWeight:
    """`Bits` of layers divided by their number of weights."""

    bits_index: float
    bits_total: float


def per_weight(bits: Bits, weights: int) -> BitsPerWeight:
    """`bits` divided by the number of weights that the layers have."""
    return BitsPerWeight(bits.codes / weights, bits.total / weights)


def bits_of(tensor: Coded) -> Bits:
    """The bits that `tensor` stores."""
    stored = parted(tensor)
    total = Bits(columns=stored.shape[1] * stored.column_bits)
    for part in stored.parts:
        form = part.form.stored
        total += Bits(form.codes, form.padding, form.codebooks, groups=part.scale_bits)
    return total


def rounded_bits(shape: tuple[int, int], rounding: Rounding) -> Bits:
    """The bits that a matrix [N, K] stores after rounding."""
    n, k = shape
    groups = -(-k // min(rounding.group or k, k))
    return Bits(codes=n * k * rounding.format.bits, groups=n * groups * rounding.group_bits)


def model_bits(model: LanguageModel, weights: Weights) -> BitsPerWeight:
    """The bits per weight that the model's linear layers without the head store, for a choice of
    weights.

    For `native` and `float`, this is the form in which the model's file has them.
    """
    total, count = Bits(), 0
    for layer in range(model.config.layers):
        for role, shape in model.config.layer_linears().items():
            count += math.prod(shape)
            if weights.rounding is not None:
                total += rounded_bits(shape, weights.rounding)
            elif (tensor := model.codes(f"{layer}.{role}")) is not None:
                total += bits_of(tensor)
            else:
                total += Bits(codes=FLOAT_BITS * math.prod(shape))
    return per_weight(total, count)
