"""What a cache of keys and values holds of them: `float32`, a narrower float, or integers with a
scale for each head's vector of each token, as BitMoD (arXiv 2411.11745, section V) has them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.base import require
from evolute.hw.spec.formats import FLOATS, FloatFormat
from evolute.sim import numbers
from evolute.sim.workload.operations import CacheFormat
from evolute.sw.language_model.model import ModelConfig
from evolute.sw.tensors.tensor import SCALE_BITS, inverse

_INTEGERS = re.compile(r"int([2-8])")

NAMES = f"float32, {', '.join(FLOATS)}, or int2 to int8"


@dataclass(frozen=True)
class KvFormat:
    """A format by name: numbers of `kind`, or signed integers of `bits` beside an FP16 scale."""

    name: str
    bits: int
    kind: FloatFormat | None = None

    @property
    def cache(self) -> CacheFormat:
        """What a vector of numbers takes."""
        return CacheFormat(self.name, self.bits, SCALE_BITS if self.is_integer else 0)

    @property
    def is_integer(self) -> bool:
        return self.name.startswith("int")

    def held(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The vectors along the last axis as the cache gives them back, float32.

        Rounded to nearest, halves to even, at most to the greatest finite number. Integers are
        symmetric about 0, of a vector's largest magnitude over its rounded scale.
        """
        if self.kind is not None:
            return numbers.decode(numbers.encode(x, self.kind), self.kind).astype(np.float32)
        if not self.is_integer:
            return x
        most = np.float32((1 << (self.bits - 1)) - 1)
        widest = np.abs(x).max(axis=-1, keepdims=True) / most
        half = np.minimum(widest, np.finfo(np.float16).max).astype(np.float16).astype(np.float32)
        return np.clip(np.rint(x * inverse(half)), -most, most) * half


FLOAT32 = KvFormat("float32", 32)


def parse_kv(text: str) -> KvFormat:
    """The format that `text` names. Raises `SpecError`."""
    if kind := FLOATS.get(text):
        return KvFormat(text, kind.bits, kind)
    if match := _INTEGERS.fullmatch(text):
        return KvFormat(text, int(match[1]))
    require(text == FLOAT32.name, "kv", f"one of {NAMES}", text)
    return FLOAT32


def token_bytes(kv: KvFormat, config: ModelConfig) -> int:
    """What a token's keys and values take in all layers, each vector in whole bytes."""
    return 2 * config.layers * config.kv_heads * kv.cache.vector_bytes(config.head_dim)
