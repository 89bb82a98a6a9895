"""Labels that state what kind of number a figure is, in one place: beside the field that holds it.

A record is a frozen dataclass whose fields are annotated with a `Figure`, as in `cycles:
Annotated[int, Figure("exact")]`. The dataclass is the schema: the JSON that a command prints
(`to_record`), the numbers that a report reads (`numbers`) and the label of every figure
(`labels_of`) are derived from it.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from dataclasses import dataclass
from typing import Any, Literal

Label = Literal["exact", "measured", "modelled", "synthesized", "bound", "host", "absent"]

MEANINGS: dict[Label, str] = {
    "exact": "counted by construction; equal to the RTL, cycle by cycle, wherever it was simulated",
    "measured": "the result of running the model through the engine's bit-exact arithmetic",
    "modelled": "exact cycles at the stated clock; a core's with the stated memory, which keeps to "
    "its times exactly, an engine's with an ideal memory bus",
    "synthesized": "from a netlist that Yosys mapped to a standard-cell library",
    "bound": "what it comes to if every weight beat takes the most steps that it can: those that "
    "weights allow to skip were not measured",
    "host": "work that the accelerator leaves to the host: multiply-accumulates and bytes are "
    "counted, seconds only where the host's rates are stated",
}
"""What a label on a number means; a figure that is `absent` is not shown."""

Kind = Literal["engine", "core"]
"""What a figure is of: an engine alone, or a complete core."""


@dataclass(frozen=True)
class Figure:
    """What a field of a record holds."""

    label: Label
    """The kind of number for an engine alone."""
    core: Label | None = None
    """The same for a core, if it differs."""
    follows_steps: bool = False
    """Whether it depends on the number of steps that weights take. It is a bound if that is not
    known."""
    optional: bool = False
    """Whether records of earlier versions may lack it."""

    def of(self, kind: Kind) -> Label:
        """The label if the steps of weights are known."""
        return self.core if kind == "core" and self.core is not None else self.label


@functools.cache
def figures(record: type) -> dict[str, tuple[Any, Figure]]:
    """The type and the `Figure` of every field of a record that holds a figure, by its name."""
    hints = typing.get_type_hints(record, include_extras=True)
    noted = {}
    for field in dataclasses.fields(record):
        for note in getattr(hints[field.name], "__metadata__", ()):
            if isinstance(note, Figure):
                noted[field.name] = hints[field.name].__origin__, note
    return noted


def labels_of(record: type, kind: Kind, *, is_bound: bool = False) -> dict[str, Label]:
    """The label of every figure of a record by the figure's name, including `absent` ones.

    `is_bound` means that the steps of weights are not known.
    """
    labels: dict[str, Label] = {}
    for name, (_, figure) in figures(record).items():
        label = figure.of(kind)
        labels[name] = "bound" if is_bound and figure.follows_steps and label != "absent" else label
    return labels


def numbers(record: type, kind: Kind, *, optional: bool) -> tuple[str, ...]:
    """The names of a record's numbers that are not `absent`: with `optional`, those that records of
    earlier versions may lack, else all others."""
    return tuple(
        name
        for name, (number_type, figure) in figures(record).items()
        if number_type in (int, float, float | None)
        and figure.of(kind) != "absent"
        and figure.optional == optional
    )


@functools.cache
def _shown(record: type, kind: Kind) -> tuple[str, ...]:
    """The names of a record's fields in order, except `absent` ones."""
    figures_by_name = figures(record)
    names = (field.name for field in dataclasses.fields(record))
    return tuple(
        name
        for name in names
        if name not in figures_by_name or figures_by_name[name][1].of(kind) != "absent"
    )


def to_record(record: Any, kind: Kind) -> dict[str, Any]:
    """A record as JSON: its fields in order, except `absent` ones; records in tuples are converted
    too."""
    values = {name: getattr(record, name) for name in _shown(type(record), kind)}
    return {
        name: [to_record(part, kind) for part in value] if isinstance(value, tuple) else value
        for name, value in values.items()
    }
