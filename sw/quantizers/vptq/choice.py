"""The choices of VPTQ, and the bits that a layer has with them, counted before it is quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from evolute.sw.tensors.tensor import ORDER_BITS, SCALE_BITS, QuantError

Norm = Literal["none", "consistent", "released"]
Along = Literal["outputs", "inputs"]

WEIGHT_BITS = 8
"""Width of a weight that codewords add up to."""

HALF_BITS = 16
"""Width of a component in the published form."""


@dataclass(frozen=True)
class Vptq:
    """Choices of VPTQ."""

    v: int = 8
    along: Along = "outputs"
    """What a vector lies along: outputs of one column, or neighbouring columns of one output."""
    entries: int = 256
    residual_entries: int = 0
    """0 for no residual codebook."""
    groups: int = 1
    outliers: float = 0.0
    """Percent of columns, those of the strongest inputs, with a codebook of their own."""
    outlier_v: int = 2
    outlier_entries: int = 256
    norm: Norm = "none"
    fits: int = 2
    """How often codebooks are fitted to indices after the loop, and indices found again."""
    half: bool = False
    """Whether codewords are half-precision numbers, as published, and not integers."""

    @property
    def component_bits(self) -> int:
        """Width of a codeword's component."""
        return HALF_BITS if self.half else WEIGHT_BITS - bool(self.residual_entries)

    def indices(self, n: int, k: int, v: int) -> int:
        """How many vectors of v a matrix [N, K] is cut into."""
        return -(-n // v) * k if self.along == "outputs" else n * -(-k // v)


class Cut(NamedTuple):
    """Columns of a layer: the outliers and the size of a group."""

    outliers: int
    group: int


def cut(choice: Vptq, k: int) -> Cut:
    """How K columns are cut; outliers are rounded up so that groups are equal.

    Raises `QuantError` where groups have no columns, or end within a vector.
    """
    outliers = -int(-k * choice.outliers // 100)
    outliers += (k - outliers) % choice.groups
    group = (k - outliers) // choice.groups
    if not group:
        raise QuantError(f"method: {choice.groups} groups of {k} columns leave no column to each")
    if choice.along == "inputs" and choice.groups > 1 and group % choice.v:
        raise QuantError(
            f"method: groups must be of whole vectors of {choice.v} inputs, got {group}"
        )
    return Cut(outliers, group)


def stored_bits(choice: Vptq, n: int, k: int) -> dict[str, int]:
    """Bits of a layer [N, K]: `indices` with padding, `codebooks`, the `scales` that their integers
    have, `columns` (order and norm).

    As published, every column has an order, a scale and a bias: 48 bits.
    """
    outliers, group = cut(choice, k)
    main = index_bits(choice.entries) + index_bits(choice.residual_entries)
    indices = choice.groups * choice.indices(n, group, choice.v) * main
    books = choice.groups * choice.v * (choice.entries + choice.residual_entries)
    codebooks = books * choice.component_bits
    if outliers:
        short = choice.indices(n, outliers, choice.outlier_v)
        indices += short * index_bits(choice.outlier_entries)
        codebooks += (
            choice.outlier_v * choice.outlier_entries * (HALF_BITS if choice.half else WEIGHT_BITS)
        )
    columns = 0
    if choice.half or choice.norm != "none":
        columns += 2 * SCALE_BITS
    if choice.half or outliers or choice.groups > 1:
        columns += ORDER_BITS
    parts = choice.groups + (outliers > 0)
    return {
        "indices": indices,
        "codebooks": codebooks,
        "scales": 0 if choice.half else parts * SCALE_BITS,
        "columns": k * columns,
    }


def index_bits(entries: int) -> int:
    """Width of an index into a codebook of `entries` codewords; 0 for no codebook."""
    return max(0, entries - 1).bit_length()


def require_useful(choice: Vptq, n: int, k: int) -> None:
    """Raise `QuantError` where the codebooks of a layer [N, K] exceed their indices."""
    bits = stored_bits(choice, n, k)
    if bits["codebooks"] > bits["indices"]:
        raise QuantError(
            f"method: codebooks of {bits['codebooks']:,} bits for indices of {bits['indices']:,} "
            f"bits in a layer of {n} x {k}; choose fewer entries, or force it"
        )
