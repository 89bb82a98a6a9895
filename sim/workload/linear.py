"""What a model asks of an engine: the shapes and codes of its linear layers, without values."""

from __future__ import annotations

from dataclasses import dataclass

from evolute.hw.spec.formats import WeightCodes


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
class HostLayer:
    """A linear layer that the accelerator leaves to the host, which computes it in float32."""

    name: str
    n: int
    k: int
    last_token_only: bool = False

    @property
    def weight_bytes(self) -> int:
        """What the host reads of its weights whenever it computes the layer."""
        return 4 * self.n * self.k


@dataclass(frozen=True)
class Workload:
    """The linear layers of a model: those an accelerator runs, and those it leaves to the host."""

    model: str
    weights: str
    linears: tuple[Linear, ...]
    left: tuple[HostLayer, ...] = ()

    @property
    def host(self) -> tuple[str, ...]:
        """The names of the layers that are left."""
        return tuple(each.name for each in self.left)

    def macs(self, rows: int = 1) -> int:
        """Multiply-accumulates on the accelerator for `rows` tokens at once."""
        return sum(each.count * each.n * each.k * _rows(each, rows) for each in self.linears)

    def host_macs(self, rows: int = 1) -> int:
        """Multiply-accumulates of the layers that are left, for `rows` tokens at once."""
        return sum(each.n * each.k * _rows(each, rows) for each in self.left)

    @property
    def host_bytes(self) -> int:
        """Bytes of weights that the host reads for each token, or for a prompt at once."""
        return sum(each.weight_bytes for each in self.left)

    def mac_share(self, rows: int = 1) -> float:
        """The part of the linear layers' multiply-accumulates that is on the accelerator, 0..1."""
        own = self.macs(rows)
        return own / (own + self.host_macs(rows))

    @property
    def bits_held(self) -> float | None:
        """Bits per weight in the accelerator's memory, of the layers on it, with all that it holds
        beside their codes in its own form; None where no layer is on it."""
        weights = sum(each.count * each.n * each.k for each in self.linears)
        return sum(each.total_bits for each in self.linears) / weights if weights else None


def _rows(layer: Linear | HostLayer, rows: int) -> int:
    """Rows that a layer computes of `rows` tokens."""
    return 1 if layer.last_token_only else rows
