"""Reads Liberty files, the format in which makers of standard cells state area, delay and power.

A file may come from anyone, so nothing of it is trusted: sizes and depths are bounded, tables must
have the shape that their axes say, and units or models that are not understood are refused. Only
the cells that are asked for are read, since a library has many megabytes.

All quantities come out in one set of units: ns, fF, fJ, nW and um2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from evolute.hw.synthesis import boolean
from evolute.hw.synthesis.boolean import Expression
from evolute.support.files import FileError

MOST_CHARACTERS = 1 << 30
"""A text that is longer is refused."""

_MOST_DEPTH = 16
"""Groups within groups; a cell's tables are five deep."""

_MOST_ENTRIES = 1 << 14
"""Numbers in one table; the libraries known here have 49."""


@dataclass
class Group:
    """A Liberty group: `kind (name) { attributes and groups }`; attributes keep their text."""

    kind: str
    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def inner(self, kind: str, name: str = "") -> Iterator[Group]:
        """The direct groups of a kind, of any name unless one is given."""
        return (group for group in self.groups if group.kind == kind and name in ("", group.name))


_STATEMENT = re.compile(
    r"""\s*(?:
        (?P<close>}) \s*;? |
        (?P<word>\w+)\s*(?:
            :\s*(?P<value>"[^"]*"|[^;\s"{}]+)\s*;? |
            \((?P<arguments>(?:"[^"]*"|[^")])*)\)\s*(?P<open>{)?\s*;?
        )
    )""",
    re.VERBOSE,
)
_CELL = re.compile(r"\bcell\s*\(\s*\"?([^\"()\s]+)\"?\s*\)\s*{")
_LIBRARY = re.compile(r"\s*library\s*\(\s*\"?([^\"()]*)\"?\s*\)\s*{")
_NO_TEXT = re.compile(r"/\*.*?\*/|//[^\n\"]*$|\\\s*\n", re.DOTALL | re.MULTILINE)
"""Comments, and marks that a statement goes on in the next line."""


@dataclass(frozen=True)
class LibertyTable:
    """Numbers over one or two axes, between which they are linear, and beyond which they go on so.

    For delays and powers `rows` are transition times of the input (ns) and `columns` capacitances
    of the load (fF); for setup times `rows` are transition times of the clock and `columns` those
    of the data. An axis that the library does not have has one point, 0.
    """

    rows: tuple[float, ...]
    columns: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]

    def __call__(self, row: float, column: float) -> float:
        """The number at a place, one place at a time: what `hw.synthesis.timing` does for many."""
        (i, row_share), (j, column_share) = _place(self.rows, row), _place(self.columns, column)
        i_next, j_next = min(i + 1, len(self.rows) - 1), min(j + 1, len(self.columns) - 1)
        low = self.values[i][j] + column_share * (self.values[i][j_next] - self.values[i][j])
        high = self.values[i_next][j]
        high += column_share * (self.values[i_next][j_next] - high)
        return low + row_share * (high - low)


def _place(axis: tuple[float, ...], at: float) -> tuple[int, float]:
    """Returns (i, share): where `at` lies between points i and i + 1 of the axis, or beyond."""
    if len(axis) == 1:
        return 0, 0.0
    i = min(max(int(np.searchsorted(axis, at, side="right")) - 1, 0), len(axis) - 2)
    return i, (at - axis[i]) / (axis[i + 1] - axis[i])


@dataclass(frozen=True)
class Arc:
    """A path through a cell, or a setup time: from the pin `related` to the pin that has the arc.

    `kind` is Liberty's `timing_type`, and `sense` its `timing_sense`. `tables` are by Liberty's
    names: `cell_rise`, `cell_fall`, `rise_transition`, `fall_transition` for a path, in ns;
    `rise_constraint` and `fall_constraint` for a setup time.
    """

    related: str
    kind: str
    sense: str
    tables: Mapping[str, LibertyTable]


@dataclass(frozen=True)
class InternalPower:
    """Energy (fJ) that a change of the pin costs inside the cell, beside what charges its load.

    It holds where `when` does, for a change that comes from the pin `related` (any, if None);
    what is drawn from different `supply` pins adds up.
    """

    related: str | None
    when: Expression | None
    supply: str
    rise: LibertyTable | None
    fall: LibertyTable | None


@dataclass(frozen=True)
class Pin:
    """A signal pin of a cell."""

    name: str
    direction: str
    rise_capacitance_ff: float
    fall_capacitance_ff: float
    function: Expression | None
    """Of an output: what it gives, from inputs or from the state of a flip-flop."""
    arcs: tuple[Arc, ...]
    powers: tuple[InternalPower, ...]


@dataclass(frozen=True)
class FlipFlop:
    """How a cell keeps a bit: `state` takes `next_state` at rising edges of the pin `clock`."""

    state: str
    inverse: str
    next_state: Expression
    clock: str


@dataclass(frozen=True)
class Cell:
    """A standard cell."""

    name: str
    area_um2: float
    leakage_nw: tuple[tuple[Expression | None, float], ...]
    """By a condition on pins; without one it is the average over all."""
    pins: Mapping[str, Pin]
    flip_flop: FlipFlop | None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the input pins, the clock among them."""
        return tuple(name for name, pin in self.pins.items() if pin.direction == "input")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the output pins."""
        return tuple(name for name, pin in self.pins.items() if pin.direction == "output")


@dataclass(frozen=True)
class Library:
    """What a Liberty file says, as far as it was asked for."""

    name: str
    voltage_v: float
    temperature_c: float
    cells: Mapping[str, Cell]


def read(text: str, names: Iterable[str], where: str) -> Library:
    """Read the cells that `names` lists, and the library's voltage and temperature, from a Liberty
    text. Error messages begin with `where`, which names the text, such as its path.

    Raises `evolute.support.files.FileError` in one line for a text that is broken, a cell that is
    absent, or a model or unit that is not known here.
    """
    return Reader(text, where).library(names)


class Reader:
    """A Liberty text whose cells are found, and read one by one when they are asked for."""

    def __init__(self, text: str, where: str):
        if len(text) > MOST_CHARACTERS:
            raise FileError(f"{where}: has {len(text):,} characters, at most {MOST_CHARACTERS:,}")
        self._where = where
        self._text = _NO_TEXT.sub(lambda gone: "\n" * gone[0].count("\n"), text)
        opening = _LIBRARY.match(self._text)
        if not opening:
            raise FileError(f"{where}: is no Liberty file: it must begin with `library (name) {{`")
        self._starts: dict[str, int] = {}
        for start in _CELL.finditer(self._text):
            if start[1] in self._starts:
                raise self._error(f"has two cells {start[1]}", start.start())
            self._starts[start[1]] = start.end()
        if not self._starts:
            raise FileError(f"{where}: has no cell")
        first = next(iter(self._starts.values()))
        self.name = opening[1].strip()
        self._head = self._group(Group("library", self.name), opening.end(), first)
        self._units = self._read_units()
        self._templates = {
            template.name: template
            for kind in ("lu_table_template", "power_lut_template")
            for template in self._head.inner(kind)
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all cells."""
        return tuple(self._starts)

    def library(self, names: Iterable[str]) -> Library:
        """The library's facts and these cells."""
        return Library(
            name=self.name,
            voltage_v=self._number(self._head, "nom_voltage", None),
            temperature_c=self._number(self._head, "nom_temperature", 25.0),
            cells={name: self.cell(name) for name in names},
        )

    def area_um2(self, name: str) -> float:
        """The area of a cell, of which nothing else is read."""
        return self._number(self.group(name), "area", 0.0)

    def group(self, name: str) -> Group:
        """A cell as its statements."""
        if name not in self._starts:
            raise FileError(f"{self._where}: has no cell {name}")
        return self._group(Group("cell", name), self._starts[name], None)

    def cell(self, name: str) -> Cell:
        """A cell, with its tables."""
        group = self.group(name)
        for unknown in ("latch", "statetable", "ff_bank", "latch_bank"):
            if any(group.inner(unknown)):
                raise FileError(f"{self._where}: cell {name}: a {unknown} is not known here")
        leakage_nw = [
            (
                self._expression(name, state.attributes.get("when")),
                self._number(state, "value", None) * self._units.leakage_nw,
            )
            for state in group.inner("leakage_power")
        ]
        if "cell_leakage_power" in group.attributes and not any(
            when is None for when, _ in leakage_nw
        ):
            average = self._number(group, "cell_leakage_power", None) * self._units.leakage_nw
            leakage_nw.append((None, average))
        return Cell(
            name=name,
            area_um2=self._number(group, "area", 0.0),
            leakage_nw=tuple(leakage_nw),
            pins={pin.name: self._pin(name, pin) for pin in group.inner("pin")},
            flip_flop=self._flip_flop(name, group),
        )

    # Statements.

    def _group(self, root: Group, position: int, end: int | None) -> Group:
        """Fill a group from its statements; up to its brace, or up to `end` where one is given."""
        path = [root]
        while path:
            statement = _STATEMENT.match(self._text, position)
            if not statement:
                raise self._error("is broken or ends too early", position)
            if end is not None and statement.end() >= end:
                return root
            position = statement.end()
            if statement["close"]:
                path.pop()
            elif statement["open"]:
                group = Group(statement["word"], statement["arguments"].replace('"', "").strip())
                path[-1].groups.append(group)
                path.append(group)
                if len(path) > _MOST_DEPTH:
                    raise self._error(
                        f"has more than {_MOST_DEPTH} groups in one another", position
                    )
            else:
                arguments = statement["arguments"]
                value = statement["value"] if arguments is None else arguments
                path[-1].attributes[statement["word"]] = value.replace('"', "")
        return root

    def _error(self, what: str, position: int) -> FileError:
        line = self._text.count("\n", 0, position) + 1
        return FileError(f"{self._where}: line {line}: {what}")

    def _number(self, group: Group, name: str, default: float | None) -> float:
        text = group.attributes.get(name)
        if text is None:
            if default is None:
                raise FileError(f"{self._where}: {group.kind} {group.name}: has no {name}")
            return default
        return self._numbers(text, f"{group.kind} {group.name}: {name}")[0]

    def _numbers(self, text: str, what: str) -> list[float]:
        try:
            numbers = [float(number) for number in text.replace(",", " ").split()]
        except ValueError:
            raise FileError(f"{self._where}: {what}: must be numbers, got {text[:40]!r}") from None
        if not numbers or not all(map(math.isfinite, numbers)):
            raise FileError(f"{self._where}: {what}: must be finite numbers, got {text[:40]!r}")
        return numbers

    def _read_units(self) -> _Units:
        attributes = self._head.attributes
        model = attributes.get("delay_model", "table_lookup").strip()
        if model != "table_lookup":
            raise FileError(f"{self._where}: delay_model: must be table_lookup, got {model}")
        load = attributes.get("capacitive_load_unit", "1, pf").replace(" ", "").split(",")
        voltage_v = _unit(self._where, attributes, "voltage_unit", "1V", "v")
        count = self._numbers(load[0], "capacitive_load_unit")[0]
        if len(load) != 2 or load[1].lower() not in ("ff", "pf"):
            raise FileError(f"{self._where}: capacitive_load_unit: must be in ff or pf, got {load}")
        load_ff = count * {"ff": 1.0, "pf": 1e3}[load[1].lower()]
        return _Units(
            time_ns=_unit(self._where, attributes, "time_unit", "1ns", "s") * 1e9,
            load_ff=load_ff,
            energy_fj=load_ff * voltage_v**2,
            leakage_nw=_unit(self._where, attributes, "leakage_power_unit", "1nW", "w") * 1e9,
        )

    # Cells.

    def _expression(self, cell: str, text: str | None) -> Expression | None:
        if text is None or not text.strip():
            return None
        try:
            return boolean.expression(text)
        except ValueError:
            raise FileError(
                f"{self._where}: cell {cell}: {text[:60]!r} is no boolean function"
            ) from None

    def _flip_flop(self, cell: str, group: Group) -> FlipFlop | None:
        stated = list(group.inner("ff"))
        if not stated:
            return None
        state, inverse = (name.strip() for name in [*stated[0].name.split(","), ""][:2])
        unknown = stated[0].attributes.keys() - {"next_state", "clocked_on", "power_down_function"}
        next_state = self._expression(cell, stated[0].attributes.get("next_state"))
        clock = self._expression(cell, stated[0].attributes.get("clocked_on"))
        if len(stated) > 1 or unknown or next_state is None or not isinstance(clock, str):
            what = ", ".join(sorted(unknown)) or "its clock or next state"
            raise FileError(
                f"{self._where}: cell {cell}: a flip-flop with {what} is not known here"
            )
        return FlipFlop(state, inverse, next_state, clock)

    def _pin(self, cell: str, group: Group) -> Pin:
        capacitance_ff = self._number(group, "capacitance", 0.0) * self._units.load_ff
        rise_ff, fall_ff = (
            self._number(group, f"{edge}_capacitance", -1.0) * self._units.load_ff
            for edge in ("rise", "fall")
        )
        arcs = []
        for timing in group.inner("timing"):
            kind = timing.attributes.get("timing_type", "combinational").strip()
            scale = self._units.time_ns
            tables = {
                table.kind: self._table(cell, table, scale)
                for table in timing.groups
                if table.kind in _TIMING_TABLES
            }
            for related in timing.attributes.get("related_pin", "").split():
                sense = timing.attributes.get("timing_sense", "non_unate").strip()
                arcs.append(Arc(related, kind, sense, tables))
        return Pin(
            name=group.name,
            direction=group.attributes.get("direction", "internal").strip(),
            rise_capacitance_ff=capacitance_ff if rise_ff < 0 else rise_ff,
            fall_capacitance_ff=capacitance_ff if fall_ff < 0 else fall_ff,
            function=self._expression(cell, group.attributes.get("function")),
            arcs=tuple(arcs),
            powers=tuple(
                power
                for stated in group.inner("internal_power")
                for power in self._power(cell, stated)
            ),
        )

    def _power(self, cell: str, group: Group) -> Iterator[InternalPower]:
        def table(kind: str) -> LibertyTable | None:
            stated = next(group.inner(kind), None)
            return None if stated is None else self._table(cell, stated, self._units.energy_fj)

        both = table("power")
        for related in group.attributes.get("related_pin", "").split() or [None]:
            yield InternalPower(
                related=related,
                when=self._expression(cell, group.attributes.get("when")),
                supply=group.attributes.get("related_pg_pin", "").strip(),
                rise=table("rise_power") or both,
                fall=table("fall_power") or both,
            )

    def _table(self, cell: str, group: Group, scale: float) -> LibertyTable:
        what = f"cell {cell}: {group.kind}"
        template = self._templates.get(group.name)
        if template is None and group.name != "scalar":
            raise FileError(f"{self._where}: {what}: has no template {group.name!r}")
        axes = []
        for i in (1, 2):
            name = f"index_{i}"
            variable = template and template.attributes.get(f"variable_{i}", "").strip()
            if not template or not variable:
                continue
            if variable not in _AXES:
                raise FileError(f"{self._where}: {what}: an axis {variable} is not known here")
            text = group.attributes.get(name) or template.attributes.get(name, "")
            unit = self._units.load_ff if _AXES[variable] == "load" else self._units.time_ns
            axis = [unit * number for number in self._numbers(text, f"{what}: {name}")]
            if sorted(set(axis)) != axis:
                raise FileError(f"{self._where}: {what}: {name} must increase, got {text[:60]}")
            axes.append((_AXES[variable], tuple(axis)))
        numbers = [
            scale * number
            for number in self._numbers(group.attributes.get("values", ""), f"{what}: values")
        ]
        size = math.prod(len(axis) for _, axis in axes)
        if len(numbers) != size or size > _MOST_ENTRIES:
            sizes = " x ".join(str(len(axis)) for _, axis in axes) or "1"
            raise FileError(f"{self._where}: {what}: needs {sizes} values, got {len(numbers)}")
        values = np.array(numbers).reshape([len(axis) for _, axis in axes])
        names = [name for name, _ in axes]
        if names in (["load"], ["data"]):
            axes, values = [("slew", (0.0,)), *axes], values[None]
        elif names in (["load", "slew"], ["data", "slew"]):
            axes, values = axes[::-1], values.T
        elif names == ["slew"]:
            axes, values = [*axes, ("load", (0.0,))], values[:, None]
        elif not names:
            axes, values = [("slew", (0.0,)), ("load", (0.0,))], values.reshape(1, 1)
        elif names not in (["slew", "load"], ["slew", "data"]):
            raise FileError(f"{self._where}: {what}: axes {names} are not known here")
        rows, columns = (axis for _, axis in axes)
        return LibertyTable(rows, columns, tuple(map(tuple, values.tolist())))


@dataclass(frozen=True)
class _Units:
    """What a number of the file counts in the units used here."""

    time_ns: float
    load_ff: float
    energy_fj: float
    leakage_nw: float


_TIMING_TABLES = (
    "cell_rise",
    "cell_fall",
    "rise_transition",
    "fall_transition",
    "rise_constraint",
    "fall_constraint",
)

_AXES = {
    "input_net_transition": "slew",
    "input_transition_time": "slew",
    "related_pin_transition": "slew",
    "constrained_pin_transition": "data",
    "total_output_net_capacitance": "load",
}
"""What an axis of a table counts, by Liberty's name of the variable."""

_PREFIXES = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15}


def _unit(where: str, attributes: Mapping[str, str], name: str, default: str, base: str) -> float:
    """What a unit such as `10ps` is of its base unit."""
    text = attributes.get(name, default).strip()
    unit = re.fullmatch(r"([\d.]+)\s*([munpf]?)" + base, text, re.IGNORECASE)
    if not unit:
        raise FileError(f"{where}: {name}: must be a number of {base}, got {text!r}")
    return float(unit[1]) * _PREFIXES[unit[2].lower()]
