"""A layer in vectors: parts of its columns, each with codebooks and indices into them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolute.sw.quantizers.vptq.choice import Along, Vptq


@dataclass(eq=False)
class VectorPart:
    """Columns `columns` of the stored order with their codebooks, which change as they are fitted.

    `index` is [rows, columns] along outputs, [N, vectors] along inputs; `books` are float64
    [entries, v] as they are stored.
    """

    columns: slice
    v: int
    along: Along
    books: list[NDArray[np.float64]]
    index: list[NDArray[np.int64]]
    unit: float = 1.0
    """The scale of integer components."""

    @property
    def width(self) -> int:
        """Columns of one vector."""
        return self.v if self.along == "inputs" else 1

    @property
    def ends(self) -> list[int]:
        """Where the columns of each vector end; the last may be short."""
        first, last, _ = self.columns.indices(self.columns.stop)
        return [min(start + self.width, last) for start in range(first, last, self.width)]

    def cut(self, w: NDArray[np.float64]) -> NDArray[np.float64]:
        """Columns [N, columns] in vectors [..., v] as `index` has them, the last filled with
        zeros."""
        n, k = w.shape
        if self.along == "inputs":
            return np.pad(w, ((0, 0), (0, -k % self.v))).reshape(n, -1, self.v)
        padded = np.pad(w, ((0, -n % self.v), (0, 0)))
        return padded.reshape(-1, self.v, k).transpose(0, 2, 1)

    def values(self, n: int, places: slice = slice(None)) -> NDArray[np.float64]:
        """The weights [N, columns], or those of some places of `index`."""
        vectors = sum(book[i[:, places]] for book, i in zip(self.books, self.index, strict=True))
        assert isinstance(vectors, np.ndarray)
        if self.along == "outputs":
            return vectors.transpose(0, 2, 1).reshape(-1, vectors.shape[1])[:n]
        return vectors.reshape(n, -1)[:, : self.columns.stop - self.columns.start]


@dataclass(frozen=True, eq=False)
class VectorLayer:
    """A quantized layer [N, K] in stored order, outliers first, and what is done to its columns.

    w[n, order[c]] = scale[order[c]] * v[n, c] + bias[order[c]]; `scale` and `bias` are None where
    columns are not normalized.
    """

    n: int
    choice: Vptq
    parts: tuple[VectorPart, ...]
    order: NDArray[np.int64]
    scale: NDArray[np.float32] | None
    bias: NDArray[np.float32] | None

    def dequantize(self) -> NDArray[np.float32]:
        """The weights, float32 [N, K]."""
        stored = np.concatenate([part.values(self.n) for part in self.parts], axis=1)
        whole = np.empty(stored.shape, np.float32)
        whole[:, self.order] = stored
        if self.scale is not None and self.bias is not None:
            whole = whole * self.scale + self.bias
        return whole
