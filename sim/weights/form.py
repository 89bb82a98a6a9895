"""What every form of weights has in common, and how scale groups cut the inputs of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.formats import Activations, WeightCodes

Rows = slice | NDArray[np.integer]
"""Which outputs of a layer."""


@dataclass(frozen=True)
class StoredBits:
    """What a form of weights stores, in bits, without scales."""

    codes: int
    """Codes, or indices of codewords, of weights that there are."""
    padding: int = 0
    """Indices of codewords, as far as these exceed the layer's outputs or inputs."""
    codebooks: int = 0
    """Codewords, or the centroids of tables."""

    @property
    def total(self) -> int:
        return self.codes + self.padding + self.codebooks


class WeightForm(Protocol):
    """Integers in the place of a weight matrix [N, K], as files store and engines multiply them.

    An output is a sum over entries, each of which is the product of what its code counts as and of
    an operand made of the activations. Every `group` inputs begin a scale group; scales are the
    same for all forms, and whoever holds a form holds them beside it.
    """

    @property
    def format(self) -> WeightCodes:
        """What the codes count as."""
        ...

    @property
    def group(self) -> int:
        """Inputs that share a scale; the last scale group may have fewer."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """N outputs, K inputs."""
        ...

    @property
    def codes(self) -> NDArray[np.uint8]:
        """The code of every entry, [N, entries]."""
        ...

    @property
    def group_codes(self) -> int:
        """Entries of one output in a whole scale group."""
        ...

    @property
    def is_of_weights(self) -> bool:
        """Whether every entry is a weight, so that entries and inputs are as many."""
        ...

    @property
    def stored(self) -> StoredBits:
        """What the form takes in a file or in a memory."""
        ...

    def operand(self, x: NDArray[np.integer]) -> NDArray[np.integer]:
        """What the entries multiply for integer activations [M, K], [M, entries]."""
        ...

    def operand_bound(self, inputs: Any, activations: Activations) -> Any:
        """The largest magnitude that a sum of operands can have, if the operands come from `inputs`
        activations. `inputs` is a number, or an array of numbers."""
        ...

    def counted(self, values: NDArray[Any], rows: Rows = slice(None)) -> NDArray[Any]:
        """What the codes of some outputs stand for, [rows, entries], by a table `values` [specials,
        levels], which has a row for every special value of the format, or one."""
        ...

    def of_outputs(self, rows: Rows) -> Self:
        """The form of some outputs. Raises ValueError where codewords may serve several outputs."""
        ...


class EntryPerWeight:
    """What is alike in the forms that have an entry for every weight."""

    group: int

    @property
    def group_codes(self) -> int:
        return self.group

    @property
    def is_of_weights(self) -> bool:
        return True

    def operand(self, x: NDArray[np.integer]) -> NDArray[np.integer]:
        """The activations themselves."""
        return x

    def operand_bound(self, inputs: Any, activations: Activations) -> Any:
        """The magnitude of a sum of `inputs` activations that are all as large as they can be."""
        return inputs * activations.maximum


def group_bounds(k: int, group: int) -> list[tuple[int, int]]:
    """Start and end of each scale group along K; the last may be shorter."""
    return [(start, min(start + group, k)) for start in range(0, k, group)]
