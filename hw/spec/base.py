"""What every spec is: a frozen record of choices that refuses impossible ones."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
import typing
from dataclasses import dataclass
from typing import Any, Self

from evolute.support.errors import RefusedError


class SpecError(RefusedError):
    """An impossible spec. The message names the field, the rule that it breaks and the value that
    was given."""

    def __init__(self, field: str, rule: str, value: object):
        self.field, self.rule, self.value = field, rule, value
        super().__init__(f"{field}: must be {rule}, got {value!r}")


def require(holds: bool, field: str, rule: str, value: object) -> None:
    """Raise `SpecError` unless `holds`."""
    if not holds:
        raise SpecError(field, rule, value)


def require_range(field: str, value: int, low: int, high: int) -> None:
    """Raise `SpecError` unless `low <= value <= high`."""
    require(low <= value <= high, field, f"in {low}..{high}", value)


def require_type(field: str, value: object, wanted: Any) -> None:
    """Raise `SpecError` unless `value` is of the type `wanted`, or of one of a union."""
    # bool is an int to isinstance, but `m=True` is a slip, not a one.
    wrong_bool = isinstance(value, bool) and wanted is not bool
    if wrong_bool or not isinstance(value, wanted):
        raise SpecError(field, f"of type {getattr(wanted, '__name__', wanted)}", value)


@functools.cache
def types_of(spec: type[Spec]) -> dict[str, Any]:
    """The types of a spec's fields, by name."""
    return typing.get_type_hints(spec)


def _parse(text: str, annotation: Any) -> Any:
    """`text` as a value of the annotated type: int, bool, str, or any of them or None."""
    choices = (
        typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    )
    if types.NoneType in choices and text.lower() in ("none", "exact", "auto"):
        return None
    if bool in choices and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if int in choices:
        return int(text, 0)
    if str in choices:
        return text
    raise ValueError(text)


def added(default: Any) -> Any:
    """A field for a choice that was added to an existing spec class. `default` describes the
    hardware of specs made before the field existed. `to_dict` leaves the field out where it has
    this default, so that the digests and records of those specs stay the same."""
    return dataclasses.field(default=default, metadata={"added": True})


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Base of every accelerator spec.

    A subclass declares its choices as fields, everything computable as properties, and its legality
    in `__post_init__` (after calling this one's), which raises `SpecError`.
    """

    def __post_init__(self) -> None:
        types = types_of(type(self))
        for field in dataclasses.fields(self):
            require_type(field.name, getattr(self, field.name), types[field.name])

    def evolve(self, **changes: Any) -> Self:
        """A copy with some choices changed; legality is checked again."""
        names = [field.name for field in dataclasses.fields(self)]
        for name, value in changes.items():
            require(name in names, name, f"one of {', '.join(names)}", value)
        return dataclasses.replace(self, **changes)

    def evolve_text(self, assignments: typing.Iterable[str]) -> Self:
        """A copy changed by `field=value` strings, as typed on a command line.

        A field of a spec within this one is `outer.field`.
        """
        hints = types_of(type(self))
        changes: dict[str, Any] = {}
        inner: dict[str, list[str]] = {}
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            require(bool(equals), assignment, "of the form field=value", assignment)
            outer, dot, rest = name.partition(".")
            if dot and isinstance(getattr(self, outer, None), Spec):
                inner.setdefault(outer, []).append(f"{rest}={text}")
                continue
            require(name in hints, name, f"one of {', '.join(hints)}", text)
            try:
                changes[name] = _parse(text, hints[name])
            except ValueError:
                rule = f"of type {getattr(hints[name], '__name__', hints[name])}"
                raise SpecError(name, rule, text) from None
        for outer, texts in inner.items():
            try:
                changes[outer] = getattr(self, outer).evolve_text(texts)
            except SpecError as error:
                raise SpecError(f"{outer}.{error.field}", error.rule, error.value) from None
        return self.evolve(**changes)

    def to_dict(self) -> dict[str, Any]:
        """The choices, with the spec class's name under `kind`; JSON-serializable.

        A choice declared as `added` is left out where it has its default.
        """
        values = {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
            or not field.metadata.get("added")
        }
        plain = {k: v.to_dict() if isinstance(v, Spec) else v for k, v in values.items()}
        return {"kind": type(self).__name__, **plain}

    @property
    def digest(self) -> str:
        """Twelve hex digits that are equal exactly for equal specs."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
