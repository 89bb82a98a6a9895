"""Codewords from codebooks (VPTQ, EMNLP 2024), by index."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.formats import WeightCodes
from evolute.sim.weights.form import EntryPerWeight, Rows, StoredBits, group_bounds


class Book(NamedTuple):
    """Indices of codewords, int, and the codebook that they name codewords of, int [entries, v]."""

    indices: NDArray[np.integer]
    codewords: NDArray[np.integer]

    @property
    def index_bits(self) -> int:
        """Bits of one index."""
        return (len(self.codewords) - 1).bit_length()


@dataclass(frozen=True, eq=False)
class Codebook(EntryPerWeight):
    """Weights [N, K], v at a time as the components of a codeword, or of the sum of two.

    `books` are one codebook or two, the second of what is added to the first. Their indices have
    equal shapes: [ceil(N / v), K] where a codeword is of neighbouring outputs (`along` is
    "outputs"). Along "inputs" they are [N, codewords], and every scale group along K begins a
    codeword. A last codeword may exceed N, or its scale group.
    """

    shape: tuple[int, int]
    format: WeightCodes
    group: int
    along: str
    books: tuple[Book, ...]

    @property
    def indices(self) -> NDArray[np.integer]:
        """Those of the first codebook."""
        return self.books[0].indices

    @property
    def v(self) -> int:
        """Weights of one codeword."""
        return self.books[0].codewords.shape[1]

    @property
    def stored(self) -> StoredBits:
        """The indices, and codebooks that add up to weights of the format's bits."""
        axis = 0 if self.along == "outputs" else 1
        held = self.indices.shape[axis] * self.v
        indices = sum(book.indices.size * book.index_bits for book in self.books)
        padding = indices * (held - self.shape[axis]) // held
        components = sum(book.codewords.size for book in self.books)
        bits = self.format.bits - (len(self.books) - 1)
        return StoredBits(indices - padding, padding, components * bits)

    def decoded(self) -> NDArray[np.int16]:
        """The integers that the codewords stand for, [N, K]."""
        total = np.zeros((), np.int16)
        for indices, codewords in self.books:
            gathered = codewords.astype(np.int16)[indices]  # [..., v]
            if self.along == "outputs":
                gathered = gathered.transpose(0, 2, 1).reshape(-1, indices.shape[1])
            else:
                gathered = gathered.reshape(len(indices), -1)
            total = total + gathered
        n, k = self.shape
        if self.along == "inputs":
            counts = [end - start for start, end in group_bounds(k, self.group)]
            padded = [-(-count // self.v) * self.v for count in counts]
            inside = [np.arange(p) < count for p, count in zip(padded, counts, strict=True)]
            total = total[:, np.concatenate(inside)]
        return total[:n]

    @property
    def codes(self) -> NDArray[np.uint8]:
        """`decoded` counted from the format's middle, [N, K]; decoded once, and kept.

        Raises ValueError where a component is beyond the format's bits.
        """
        return self._codes

    @cached_property
    def _codes(self) -> NDArray[np.uint8]:
        codes = self.decoded() + self.format.levels // 2
        if codes.min() < 0 or codes.max() >= self.format.levels:
            raise ValueError(f"codewords stand for a code beyond {self.format.levels - 1}")
        return codes.astype(np.uint8)

    def counted(self, values: NDArray[Any], rows: Rows = slice(None)) -> NDArray[Any]:
        """What the codes of some outputs stand for, [rows, K], by a table [1, levels]."""
        return values[0].take(self.codes[rows])

    def of_outputs(self, rows: Rows) -> Codebook:
        """The codewords of some outputs, which all of the codebooks serve.

        Raises ValueError where a codeword is of outputs inside and outside of them: along outputs
        `rows` must be a slice that begins and ends between codewords.
        """
        n, k = self.shape
        if self.along == "inputs":
            chosen, count = rows, len(np.arange(n)[rows])
        else:
            start, stop, step = rows.indices(n) if isinstance(rows, slice) else (0, 0, 0)
            if step != 1 or start % self.v or (stop % self.v and stop != n):
                raise ValueError("vectors of several layers in one are not supported")
            chosen, count = slice(start // self.v, -(-stop // self.v)), stop - start
        books = tuple(Book(book.indices[chosen], book.codewords) for book in self.books)
        return replace(self, shape=(count, k), books=books)
