"""Tensors that stay in their file until they are used."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evolute.support.errors import RefusedError
from evolute.sw.tensors.tensor import Coded, parted

Tensor: TypeAlias = NDArray[np.float32] | Coded

FORWARD_TABLES = ("embedding", "positions")
"""Matrices of which a forward pass itself reads rows, rather than a linear layer the whole."""


class CheckpointError(RefusedError):
    """A model file that is broken or not supported. The message names the file and the problem."""

    def __init__(self, path: Path, problem: str):
        super().__init__(f"{path}: {problem}")


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor in a file: its shape, whether it holds codes, and a function that reads it.

    `read` may raise ValueError to say what is wrong with the values.
    """

    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    coded: bool = False


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of the file at `path`, by name. Each is read and checked when it is used.

    Codes, vectors and the tables of a forward pass stay in memory. A matrix of floats only stays as
    long as something refers to it, so that a model need not fit into memory as float32. Getting a
    tensor raises `CheckpointError` if it holds a number that is not finite.
    """

    def __init__(self, path: Path, stored: Mapping[str, Stored]):
        self.path, self.stored = path, dict(stored)
        self._kept: dict[str, Tensor] = {}
        self._held: weakref.WeakValueDictionary[str, Tensor] = weakref.WeakValueDictionary()

    def __getitem__(self, name: str) -> Tensor:
        stored = self.stored[name]
        available = self._kept.get(name)
        if available is None:
            available = self._held.get(name)
        if available is not None:
            return available
        try:
            with np.errstate(all="ignore"):  # what is not finite is refused below
                tensor = stored.read()
        except ValueError as error:
            raise CheckpointError(self.path, f"tensor {name}: {error}") from None
        require_finite(self.path, name, tensor)
        keep = stored.coded or len(stored.shape) < 2 or name in FORWARD_TABLES
        (self._kept if keep else self._held)[name] = tensor
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self.stored  # the inherited one would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


def require_finite(path: Path, name: str, tensor: Tensor) -> None:
    """Raise `CheckpointError` if a number of the tensor is not finite."""
    if not all(np.isfinite(array).all() for array in _numbers(tensor)):
        raise CheckpointError(path, f"tensor {name}: holds a number that is not finite")


def shape_of(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """The shape of a tensor; it is not read."""
    return tensors.stored[name].shape if isinstance(tensors, StoredTensors) else tensors[name].shape


def without(tensors: Mapping[str, Tensor], names: Collection[str]) -> Mapping[str, Tensor]:
    """The tensors except those with the given names."""
    if not isinstance(tensors, StoredTensors):
        return {name: tensor for name, tensor in tensors.items() if name not in names}
    remaining = {name: stored for name, stored in tensors.stored.items() if name not in names}
    return StoredTensors(tensors.path, remaining)


def is_coded(tensors: Mapping[str, Tensor], name: str) -> bool:
    """Whether a tensor holds codes; it is not read."""
    if isinstance(tensors, StoredTensors):
        return tensors.stored[name].coded
    return isinstance(tensors[name], Coded)


def _numbers(tensor: Tensor) -> Iterator[NDArray[np.floating]]:
    """The arrays of a tensor that must be finite."""
    if not isinstance(tensor, Coded):
        yield tensor
        return
    stored = parted(tensor)
    yield from (
        column_values for column_values in (stored.scale, stored.bias) if column_values is not None
    )
    for part in stored.parts:
        yield part.scale
        yield part.minimum
