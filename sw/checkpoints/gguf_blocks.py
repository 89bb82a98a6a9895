"""Reads and writes, without rounding, the GGUF block formats whose codes an engine multiplies.

A block is a number of weights of a row, with a half-precision scale and, for Q4_1, a minimum. The
meaning of codes and the places of their bits are those of ggml's reference code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from evolute.hw.spec.formats import TERNARY, WeightCodes
from evolute.hw.spec.formats import Kind as Codes
from evolute.sim.weights import Grid
from evolute.sw.tensors.tensor import SCALE_BITS, QuantTensor

Bytes = NDArray[np.uint8]


def _halves(pairs: Bytes) -> NDArray[np.float32]:
    return np.ascontiguousarray(pairs).view("<f2")[..., 0].astype(np.float32)


def _as_halves(values: NDArray[np.float32]) -> Bytes:
    return values.astype("<f2")[..., None].view(np.uint8)


def _split_nibbles(packed: Bytes) -> Bytes:
    """The low halves of all bytes, then the high ones."""
    return np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1, dtype=np.uint8)


def _join_nibbles(codes: Bytes) -> Bytes:
    low, high = np.split(codes, 2, axis=-1)
    return low | high << np.uint8(4)


def _split_signed(packed: Bytes) -> Bytes:
    """Converts between two's complement and an offset of 128; its own inverse."""
    return packed ^ np.uint8(128)


_SHIFTS = np.arange(0, 8, 2, dtype=np.uint8)[:, None]


def _split_tq2_0(packed: Bytes) -> Bytes:
    """The bits 2i and 2i+1 of 32 bytes are 32 codes; codes are in the order of i, then of the
    groups of 32 bytes."""
    parts = packed.reshape(*packed.shape[:-1], -1, 1, 32)
    return (parts >> _SHIFTS & np.uint8(3)).reshape(*packed.shape[:-1], -1)


def _join_tq2_0(codes: Bytes) -> Bytes:
    parts = codes.reshape(*codes.shape[:-1], -1, 4, 32)
    return np.bitwise_or.reduce(parts << _SHIFTS, axis=-2).reshape(*codes.shape[:-1], -1)


_TQ1_0 = ((0, 32, 5), (32, 48, 5), (48, 52, 4))
"""First byte, end, and digits of base 3 in each byte of a run; its digits lie one run of bytes
after another."""


def _split_tq1_0(packed: Bytes) -> Bytes:
    """A byte stands for the fraction byte / 256; the codes are its digits in base 3, first digit
    first."""
    parts = []
    for start, end, digits in _TQ1_0:
        powers = np.array([3**digit for digit in range(digits)], np.uint8)[:, None]
        fraction = packed[..., None, start:end] * powers  # modulo 256 in uint8
        digit = (fraction.astype(np.uint16) * 3 >> 8).astype(np.uint8)
        parts.append(digit.reshape(*packed.shape[:-1], -1))
    return np.concatenate(parts, axis=-1, dtype=np.uint8)


def _join_tq1_0(codes: Bytes) -> Bytes:
    """The least byte that has these digits: the value of five digits times 256 / 243, rounded up.
    Bytes of four digits get a zero as the fifth."""
    parts, position = [], 0
    for start, end, digits in _TQ1_0:
        count = (end - start) * digits
        run = codes[..., position : position + count].reshape(*codes.shape[:-1], digits, -1)
        powers = np.array([3 ** (4 - digit) for digit in range(digits)], np.uint16)[:, None]
        value = (run * powers).sum(axis=-2, dtype=np.uint16)
        parts.append((value.astype(np.uint32) * 256 + 242) // 243)
        position += count
    return np.concatenate(parts, axis=-1).astype(np.uint8)


@dataclass(frozen=True)
class Blocks:
    """A block format. `split_bytes` turns the bytes beside the scales into codes, and `join_codes`
    is its inverse."""

    kind: Kind
    format: WeightCodes
    zero: int | None
    """The code that counts as 0; None: a block has a minimum, which the code 0 counts as."""
    scale_first: bool
    split_bytes: Callable[[Bytes], Bytes]
    join_codes: Callable[[Bytes], Bytes]

    @property
    def block(self) -> int:
        """The number of weights in a block."""
        return gguf.GGML_QUANT_SIZES[self.kind][0]

    @property
    def group_bits(self) -> int:
        """Bits that a block stores beside its codes."""
        return SCALE_BITS * (1 if self.zero is not None else 2)

    def split(self, blocks: Bytes) -> QuantTensor:
        """The codes in blocks, uint8 [N, G, bytes]."""
        size = self.group_bits // 8
        beside = blocks[..., :size] if self.scale_first else blocks[..., -size:]
        packed = blocks[..., size:] if self.scale_first else blocks[..., :-size]
        scale = _halves(beside[..., :2])
        minimum = _halves(beside[..., 2:]) if self.zero is None else -self.zero * scale
        codes = self.split_bytes(packed).reshape(len(blocks), -1)
        form = Grid.plain(codes, self.format, self.block)
        return QuantTensor(form, scale, minimum, self.group_bits)

    def join(self, tensor: QuantTensor) -> Bytes | None:
        """The tensor as rows of blocks, uint8 [N, bytes]; None if that would need rounding."""
        evenly = tensor.format.kind in (Codes.INTEGER, Codes.TERNARY)
        k, group = tensor.shape[1], min(tensor.group, tensor.shape[1])
        if not evenly or k % self.block or (group % self.block and group != k):
            return None
        blocks = (k if group == k else group) // self.block
        scale = np.repeat(tensor.scale, blocks, axis=1)[:, : k // self.block]
        minimum = np.repeat(tensor.minimum, blocks, axis=1)[:, : k // self.block]
        codes = tensor.codes.reshape(len(scale), -1, self.block)
        beside = [scale] if self.zero is not None else [scale, minimum]
        with np.errstate(over="ignore"):
            if any(not np.array_equal(factor.astype("<f2"), factor) for factor in beside):
                return None
        if self.zero is not None:
            moved = np.divide(minimum, scale, out=np.zeros_like(scale), where=scale != 0)
            if not np.array_equal(moved, np.rint(moved)) or not np.array_equal(
                moved * scale, minimum
            ):
                return None
            # A group of zeros may have any codes.
            shifted = codes + (moved + self.zero).astype(np.int64)[..., None]
            codes = np.where(scale[..., None] == 0, self.zero, shifted)
        if codes.min() < 0 or codes.max() >= self.format.levels:
            return None
        packed = self.join_codes(codes.astype(np.uint8))
        parts = [_as_halves(factor) for factor in beside]
        parts = [*parts, packed] if self.scale_first else [packed, *parts]
        return np.concatenate(parts, axis=-1, dtype=np.uint8).reshape(len(scale), -1)


CODES = {
    codec.kind: codec
    for codec in (
        Blocks(Kind.Q4_0, WeightCodes(4), 8, True, _split_nibbles, _join_nibbles),
        Blocks(Kind.Q4_1, WeightCodes(4), None, True, _split_nibbles, _join_nibbles),
        Blocks(Kind.Q8_0, WeightCodes(8), 128, True, _split_signed, _split_signed),
        Blocks(Kind.TQ1_0, TERNARY, 1, False, _split_tq1_0, _join_tq1_0),
        Blocks(Kind.TQ2_0, TERNARY, 1, False, _split_tq2_0, _join_tq2_0),
    )
}
