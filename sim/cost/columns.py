"""Many designs as one spec: engines of one kind whose choices are columns of numbers.

The class of a spec says in plain Python what it refuses, how it codes weights and how long its
pipeline is. That code is written for one design, whose fields are numbers. It runs on many designs
at once if fields are arrays instead, up to the first `if` that some of the designs take and others
do not. There an array of the class `Column` raises `DividedError`, and `uniform_parts` starts again
with each of the two sides apart. In the end every part consists of designs that take the same
branches. So no rule and no formula is stated a second time, and a new engine needs nothing here.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from evolute.hw.spec.base import Spec, SpecError, require, require_type, types_of
from evolute.hw.spec.engine import Engine, largest_divisor

Indices = NDArray[np.int64]
"""Places of designs in their columns."""

Result = TypeVar("Result")


class DividedError(Exception):
    """Designs disagree about a condition, which `holds` for some of them: bool, one per design."""

    def __init__(self, holds: NDArray[np.bool_]):
        super().__init__("designs take different branches")
        self.holds = holds


class Column(np.ndarray):
    """One number per design, int64 or bool, [designs].

    Arithmetic and comparisons give columns. Where Python asks for one truth value or for one
    integer, all designs have to agree: `DividedError` otherwise.
    """

    def __bool__(self) -> bool:
        holds = self.view(np.ndarray).astype(bool, copy=False)
        if holds.all():
            return True
        if not holds.any():
            return False
        assert holds.ndim == 1, "what depends on layers, too, takes no branch"
        raise DividedError(holds)

    def __index__(self) -> int:
        numbers = self.view(np.ndarray)
        first = numbers.flat[0]
        alike = numbers == first
        if not alike.all():
            raise DividedError(alike)
        return int(first)

    def __int__(self) -> int:
        return self.__index__()

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(self.__index__())

    def bit_length(self) -> Column:
        """As that of `int`, for numbers from 0 on."""
        numbers = self.view(np.ndarray)
        high, low = numbers >> 32, numbers & 0xFFFFFFFF  # each is exact in float64
        lengths = np.where(high > 0, np.frexp(high)[1] + 32, np.frexp(low)[1])
        return lengths.astype(np.int64).view(Column)

    def __format__(self, _: str) -> str:
        return "one of a column"

    __repr__ = __str__ = lambda self: f"{self}"


def uniform_parts(
    parts: Iterable[Indices], work: Callable[[Indices], Result]
) -> Iterator[tuple[Indices, Result]]:
    """Call `work` with each part of the designs, and give the part with what `work` returns.

    Where the designs of a part take different branches, it is divided, and `work` is called again
    with both halves: it must not keep anything before the last branch is taken.
    """
    pending = [part for part in parts if part.size]
    while pending:
        part = pending.pop()
        try:
            result = work(part)
        except DividedError as divided:
            pending += [part[divided.holds], part[~divided.holds]]
        else:
            yield part, result


@dataclass(frozen=True, kw_only=True)
class _Columns(Spec):
    """Stands before `Spec` among the bases of a spec of many designs: where `Spec` wants an int, a
    column is one."""

    def __post_init__(self) -> None:
        types = types_of(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            number = 0 if isinstance(value, Column) else value
            require_type(field.name, number, types[field.name])


def _once_for_each(method: Callable[[Any, Any], Result]) -> Callable[[Any, Any], Result]:
    """The method of a spec, with the results for arguments it had before kept in the spec."""
    place = f"{method.__name__} of"

    @functools.wraps(method)
    def known(self: Any, argument: Any) -> Result:
        results = self.__dict__.setdefault(place, {})
        if argument not in results:
            results[argument] = method(self, argument)
        return results[argument]

    return known


@functools.cache
def _of_many(kind: type[Engine]) -> type[Engine]:
    """The class of specs of many engines of a kind. It is the kind's own class, but works out each
    property once."""

    @_once_for_each
    def read_out_slices(self: Engine, group: int) -> Any:
        """As that of `Engine`, with one search for all designs that need the same."""
        slices, most = np.broadcast_arrays(-(-group // self.slice_k), self.group_slices)
        sizes = slices.copy()
        cut = slices > most
        pairs, places = np.unique(slices[cut] << 32 | most[cut], return_inverse=True)
        divisors = [largest_divisor(pair >> 32, pair & 0xFFFFFFFF) for pair in pairs.tolist()]
        sizes[cut] = np.array(divisors, np.int64)[places]
        return sizes.view(Column)

    coding = _once_for_each(kind.coding)
    members: dict[str, Any] = {"coding": coding, "read_out_slices": read_out_slices}
    for name in dir(kind):
        member = inspect.getattr_static(kind, name)
        if isinstance(member, property) and member.fget is not None:
            members[name] = cached_property(member.fget)
    return type(kind.__name__, (kind, _Columns), members)


def _plain(value: Any) -> Any:
    """A single number or text of NumPy as Python has it, anything else as it is."""
    return value.item() if isinstance(value, np.generic | np.ndarray) else value


class _Choice:
    """A field's column in a form that is quick to divide: integers as such, other values by their
    place among all that there are.

    `labels` says of each design which of `values` it has; -1 stands for the one in `integers`.
    """

    def __init__(self, column: NDArray[Any]):
        self.labels = np.full(len(column), -1)
        self.values: list[Any] = []
        if column.dtype.kind in "iu":
            self.integers = column.astype(np.int64)
            return
        rest = np.ones(len(column), bool)
        if column.dtype == object:
            whole = (int, np.integer)
            rest = np.array(
                [type(one) is bool or not isinstance(one, whole) for one in column], bool
            )
        self.integers = np.where(rest, 0, column).astype(np.int64) if not rest.all() else None
        while rest.any():
            value = column[rest.argmax()]
            alike = rest & (column == value)
            self.labels[alike] = len(self.values)
            self.values.append(_plain(value))
            rest &= ~alike

    def of(self, part: Indices) -> Any:
        """The value of these designs, or a column of their integers."""
        label = operator.index(self.labels[part].view(Column)) if self.values else -1
        if label >= 0:
            return self.values[label]
        assert self.integers is not None
        return self.integers[part].view(Column)


@dataclass(frozen=True)
class Designs:
    """Engines of one kind, legal or not: for each field a column with one value per design, or one
    value for all; fields that are not named have their default.

    Columns are one-dimensional and equally long: integers, texts, truth values, or objects, which
    are integers and None. Raises `SpecError` for a field that there is not, or columns that differ
    in length or hold other values, such as floats.
    """

    kind: type[Engine]
    fields: Mapping[str, Any]

    def __post_init__(self) -> None:
        names = types_of(self.kind)
        for name in self.fields:
            require(name in names, name, f"one of {', '.join(names)}", self.fields[name])
        for name, column in self._columns.items():
            shape, count = column.shape, len(self)
            require(shape == (count,), name, f"a column of {count} designs", f"shape {shape}")
            rule = "a column of integers, texts, truth values or objects"
            require(column.dtype.kind in "iubUO", name, rule, str(column.dtype))

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        arrays = {name: np.asarray(value) for name, value in self.fields.items()}
        return {name: array for name, array in arrays.items() if array.ndim}

    @cached_property
    def _constants(self) -> dict[str, Any]:
        constants = {name: self.fields[name] for name in self.fields if name not in self._columns}
        return {name: _plain(value) for name, value in constants.items()}

    def __len__(self) -> int:
        """How many designs there are; 1 where no field is a column."""
        return max((len(column) for column in self._columns.values()), default=1)

    def __getitem__(self, index: int) -> Engine:
        """The spec of one design. Raises `SpecError` if it is not legal."""
        row = {name: _plain(column[index]) for name, column in self._columns.items()}
        return self.kind(**self._constants, **row)

    @cached_property
    def _choices(self) -> dict[str, _Choice]:
        return {name: _Choice(column) for name, column in self._columns.items()}

    def spec(self, part: Indices) -> Engine:
        """One spec for the designs at these places. Raises `SpecError` if all of them break a rule,
        and `DividedError` if they take different branches."""
        columns = {name: choice.of(part) for name, choice in self._choices.items()}
        return _of_many(self.kind)(**self._constants, **columns)

    def parts(self, work: Callable[[Engine], Result]) -> Iterator[tuple[Indices, Result]]:
        """Parts of the legal designs, each with what `work` returns for their spec; without those
        for which that is None."""

        def of_part(part: Indices) -> Result | None:
            try:
                spec = self.spec(part)
            except SpecError:
                return None
            return work(spec)

        for part, result in uniform_parts([np.arange(len(self))], of_part):
            if result is not None:
                yield part, result

    @cached_property
    def is_legal(self) -> NDArray[np.bool_]:
        """Of which designs a spec can be made: those whose class raises no `SpecError`, bool
        [designs]."""
        legal = np.zeros(len(self), bool)
        for part, _ in self.parts(lambda spec: True):
            legal[part] = True
        return legal
