"""What a model asks of an engine: the shapes and codes of its linear layers, without values."""

from __future__ import annotations

from dataclasses import dataclass

from hw.spec.formats import WeightCodes


@dataclass(frozen=True)
class Linear:
    """`count` equal linear layers, each y[m, n] = sum over k of w[n, k] * x[m, k]."""

    name: str
    n: int
    k: int
    format: WeightCodes
    group: int
    """Weights along K that share a scale; the last group of a row may be shorter."""
    group_bits: int
    """Bits that one group stores beside its codes: scale, minimum or zero point."""
    count: int = 1
    last_token_only: bool = False
    """Whether a prompt needs it for its last token alone, as an output head."""
    row_bits: int = 0
    """Bits that one output stores beside its groups."""
    column_bits: int = 0
    """Bits that one input stores: a place, a scale, a bias."""
    vector_bits: int | None = None
    """Bits of what is stored where weights have no codes of their own: of indices and codebooks, or
    of tables and centroids."""

    @property
    def groups(self) -> int:
        """Scale groups per row."""
        return -(-self.k // self.group)

    @property
    def index_bits(self) -> int:
        """Bits of the codes of all `count` layers, or of what they come from."""
        each = self.n * self.k * self.format.bits
        return self.count * (each if self.vector_bits is None else self.vector_bits)

    @property
    def total_bits(self) -> int:
        """Bits of the codes and of what is stored beside them, of all `count` layers."""
        of_row = self.groups * self.group_bits + self.row_bits
        return self.index_bits + self.count * (self.n * of_row + self.k * self.column_bits)


@dataclass(frozen=True)
class Workload:
    """The linear layers of a model: those an engine runs, and the names of those it leaves."""

    model: str
    weights: str
    linears: tuple[Linear, ...]
    host: tuple[str, ...]

    @property
    def bits_held(self) -> float | None:
        """Bits per weight in the accelerator's memory, of the layers on it, with all that it holds
        beside their codes in its own form; None where no layer is on it."""
        weights = sum(each.count * each.n * each.k for each in self.linears)
        return sum(each.total_bits for each in self.linears) / weights if weights else None
