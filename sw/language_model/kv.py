"""Formats of the cache of keys and values: `float32`, narrower floats, or integers with one scale
per vector (a token's key or value in one head), as in BitMoD (arXiv 2411.11745, section V)."""

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
    """A format by name: floating-point numbers of `kind`, or signed integers of `bits` with one
    FP16 scale per vector."""

    name: str
    bits: int
    kind: FloatFormat | None = None

    @property
    def cache(self) -> CacheFormat:
        """The bits that a vector takes."""
        return CacheFormat(self.name, self.bits, SCALE_BITS if self.is_integer else 0)

    @property
    def is_integer(self) -> bool:
        """Whether numbers are stored as integers with a scale."""
        return self.name.startswith("int")

    def held(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The vectors x (along the last axis) as the cache returns them, float32.

        Values are rounded to nearest, halves to even, and limited to the greatest finite number.
        Integers are symmetric about 0; the scale is the largest magnitude of the vector over the
        largest integer, rounded to FP16.
        """
        if self.kind is not None:
            return numbers.decode(numbers.encode(x, self.kind), self.kind).astype(np.float32)
        if not self.is_integer:
            return x
        largest = np.float32((1 << (self.bits - 1)) - 1)
        widest = np.abs(x).max(axis=-1, keepdims=True) / largest
        half = np.minimum(widest, np.finfo(np.float16).max).astype(np.float16).astype(np.float32)
        return np.clip(np.rint(x * inverse(half)), -largest, largest) * half


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
    """Bytes that the keys and values of a token take in all layers; each vector takes whole
    bytes."""
    return 2 * config.layers * config.kv_heads * kv.cache.vector_bytes(config.head_dim)
