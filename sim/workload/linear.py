"""What a model asks of an engine: the shapes and codes of its linear layers, without values."""

from __future__ import annotations

import collections
import functools
import re
from dataclasses import dataclass, replace

from evolute.hw.spec.formats import WeightCodes
from evolute.sim.workload.skip_list import SkipList


@dataclass(frozen=True)
class LayerName:
    """Which linear layer of a model: the block it is in, its role there, and which part of it.

    `str` gives the text that files of weights, records and messages have, and `parse` reads it
    back: `3.q`, `3.q/1` for a part, `head` for a layer outside all blocks. `q` is every block's.
    """

    block: int | None
    """The block's number; None outside all blocks, and for layers of all blocks alike."""
    role: str
    part: int | None = None
    """Of a layer that is stored in several parts, the number of one."""

    def __str__(self) -> str:
        block = "" if self.block is None else f"{self.block}."
        return block + self.role + ("" if self.part is None else f"/{self.part}")

    @classmethod
    def parse(cls, text: str) -> LayerName:
        """The name that is written as `text`. Raises ValueError for what is no name."""
        match = re.fullmatch(r"(?:(\d+)\.)?([^./]+)(?:/(\d+))?", text)
        if match is None:
            raise ValueError(f"not the name of a layer: {text!r}")
        block, role, part = match.groups()
        return cls(None if block is None else int(block), role, None if part is None else int(part))

    @property
    def kind(self) -> LayerName:
        """The name without the block: equal for layers of one role in all blocks."""
        return replace(self, block=None)

    @property
    def whole(self) -> LayerName:
        """The name of the layer that a part is of."""
        return replace(self, part=None)


HEAD = LayerName(None, "head")
"""The output head, which turns the last hidden state into logits."""


@dataclass(frozen=True)
class Linear:
    """`count` equal linear layers, each y[m, n] = sum over k of w[n, k] * x[m, k]."""

    name: LayerName
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
    own_rows: int | None = None
    """Rows that it computes whatever a pass has: an expert those that are sent to it."""
    skips: SkipList | None = None
    """Which blocks of weights there are; None where all of them."""

    @property
    def multiplied(self) -> int:
        """Weights of one layer that are multiplied for each row."""
        return self.n * self.k if self.skips is None else self.skips.counted(self.n, self.k)

    @property
    def groups(self) -> int:
        """Scale groups per row."""
        return -(-self.k // self.group)

    @property
    def index_bits(self) -> int:
        """Bits of the codes of all `count` layers, or of what they come from."""
        code_bits = self.multiplied * self.format.bits
        return self.count * (code_bits if self.vector_bits is None else self.vector_bits)

    @property
    def total_bits(self) -> int:
        """Bits of the codes and of what is stored beside them, of all `count` layers."""
        groups = self.n * self.groups
        if self.skips is not None and self.skips.inputs % self.group == 0:
            groups = self.skips.counted(self.n, self.k, self.group)
        beside = groups * self.group_bits + self.n * self.row_bits + self.k * self.column_bits
        return self.index_bits + self.count * beside


@dataclass(frozen=True)
class HostLayer:
    """A linear layer that the accelerator leaves to the host, which computes it in float32."""

    name: LayerName
    n: int
    k: int
    last_token_only: bool = False

    @property
    def weight_bytes(self) -> int:
        """What the host reads of its weights whenever it computes the layer."""
        return 4 * self.n * self.k


Block = tuple[tuple[Linear, ...], ...]
"""Linear layers of a block in the order they run, those together that share an input."""


@dataclass(frozen=True)
class Workload:
    """The linear layers of a model: those an accelerator runs, and those it leaves to the host."""

    model: str
    weights: str
    linears: tuple[Linear, ...]
    """In the order they run."""
    left: tuple[HostLayer, ...] = ()
    shared_inputs: tuple[tuple[str, ...], ...] = ()
    """Roles of the layers of a block that share an input; any other layer has one of its own."""

    @functools.cached_property
    def kinds(self) -> tuple[Linear, ...]:
        """The layers without their blocks' numbers, equal ones counted together."""
        counts: collections.Counter[Linear] = collections.Counter()
        for linear in self.linears:
            counts[replace(linear, name=linear.name.kind, count=1)] += linear.count
        return tuple(replace(linear, count=count) for linear, count in counts.items())

    @functools.cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The layers of every block, and at last of none, such as the head; some may be empty."""
        together = {role: roles for roles in self.shared_inputs for role in roles}
        numbers = [linear.name.block for linear in self.linears]
        count = max((number for number in numbers if number is not None), default=-1) + 1
        blocks: dict[int | None, dict[tuple[str, ...], list[Linear]]] = {
            number: {} for number in (*range(count), None)
        }
        for linear in self.linears:
            roles = together.get(linear.name.role, (linear.name.role,))
            blocks[linear.name.block].setdefault(roles, []).append(linear)
        return tuple(tuple(map(tuple, groups.values())) for groups in blocks.values())

    @property
    def host(self) -> tuple[str, ...]:
        """The names of the layers that are left."""
        return tuple(str(layer.name) for layer in self.left)

    def macs(self, rows: int = 1, last_rows: int = 1) -> int:
        """Multiply-accumulates on the accelerator for `rows` tokens at once, of which `last_rows`
        need what only a last token needs."""
        return sum(
            layer.count * layer.multiplied * rows_of(layer, rows, last_rows)
            for layer in self.linears
        )

    def host_macs(self, rows: int = 1, last_rows: int = 1) -> int:
        """The same of the layers that are left."""
        return sum(layer.n * layer.k * rows_of(layer, rows, last_rows) for layer in self.left)

    @property
    def host_bytes(self) -> int:
        """Bytes of weights that the host reads for each token, or for a prompt at once."""
        return sum(layer.weight_bytes for layer in self.left)

    def mac_share(self, rows: int = 1, last_rows: int = 1) -> float:
        """The part of the linear layers' multiply-accumulates that is on the accelerator, 0..1."""
        own = self.macs(rows, last_rows)
        return own / (own + self.host_macs(rows, last_rows))

    @property
    def bits_held(self) -> float | None:
        """Bits per weight in the accelerator's memory, of the layers on it, with all that it holds
        beside their codes in its own form; None where no layer is on it."""
        weights = sum(layer.count * layer.n * layer.k for layer in self.linears)
        return sum(layer.total_bits for layer in self.linears) / weights if weights else None


def rows_of(layer: Linear | HostLayer, rows: int, last_rows: int = 1) -> int:
    """Rows that a layer computes of a pass of `rows` tokens, `last_rows` of them last ones."""
    if isinstance(layer, Linear) and layer.own_rows is not None:
        return layer.own_rows
    return last_rows if layer.last_token_only else rows
