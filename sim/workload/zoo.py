"""Models that are known by their sizes alone: one data file each, with the source of its sizes.

`zoo_entry` reads an entry of this package, `read_shape` a file of the same form that a user wrote.
A file is a JSON object. Its keys are the fields of `ModelShape`, except that `layers` says how many
blocks there are and `pattern` which: a list of blocks that is repeated in turn. The keys of blocks,
mixers and feed-forward halves are the fields of their classes; a mixer has a `kind` beside them,
and what a class has a default for may be left out. A file with `convolutions` in the place of
`pattern` is a convolutional network, a `NetworkShape`.

Three more keys tell how far to trust it. `source` names the text or file that the sizes are from,
`published` a total of parameters and who published it, and `unverified` why a reader should doubt
the entry. An entry is verified if it has a source and a total, its own count rounds to that total,
and no doubt is stated.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
import types
import typing
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from evolute.hw.spec.base import SpecError
from evolute.sim.workload.shape import Block, ModelShape, NetworkShape
from evolute.support.errors import RefusedError, UnknownNameError

_PLACE = Path(__file__).parent / "zoo"
_SUFFIX = ".json"

ENTRIES = tuple(sorted(file.stem for file in _PLACE.glob(f"*{_SUFFIX}")))
"""Names of all entries, sorted. A file is read when its entry is first asked for."""

NORMS = (
    "attention_norm",
    "q_norm",
    "k_norm",
    "kv_norm",
    "i_norm",
    "f_norm",
    "g_norm",
    "mixed_norm",
    "o_norm",
    "attention_post_norm",
    "ffn_norm",
    "gate_norm",
    "down_norm",
    "ffn_post_norm",
)
"""Names that a block's norms may have; see `Block.norms`."""
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2")
"""What the activation of a feed-forward half may be."""

_LARGEST_FILE = 1 << 20
_LARGEST_NUMBER = 1 << 40
_MOST_LAYERS = 1 << 12


class ShapeError(RefusedError):
    """A file of sizes that breaks a rule. Names the file, the key and the rule."""

    def __init__(self, file: str, key: str, rule: str):
        super().__init__(f"{file}: {key}: {rule}" if key else f"{file}: {rule}")


@dataclass(frozen=True, kw_only=True)
class PublishedTotal:
    """A total of parameters as somebody published it, such as `1.23 B`, `494.03 M` or
    `109,482,240`."""

    params: str
    source: str

    def __post_init__(self) -> None:
        if self._parts is None:
            raise SpecError("params", "a number, maybe with M or B after it", self.params)

    @property
    def _parts(self) -> tuple[Decimal, int] | None:
        """The number, and what it counts in."""
        match = re.fullmatch(r"(\d{1,3}(?:,\d{3})+|\d{1,12}(?:\.\d{1,9})?) ?([MB]?)", self.params)
        if match is None:
            return None
        unit = {"": 1, "M": 10**6, "B": 10**9}[match[2]]
        return Decimal(match[1].replace(",", "")), unit

    def is_met_by(self, params: int) -> bool:
        """Whether `params` rounds to the published total, in as many digits as that has."""
        assert self._parts is not None
        number, unit = self._parts
        step = Decimal(1).scaleb(int(number.as_tuple().exponent))
        return (Decimal(params) / unit).quantize(step, ROUND_HALF_UP) == number


Shape = ModelShape | NetworkShape


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """A shape, and where its sizes are from."""

    shape: Shape
    source: str | None
    published: PublishedTotal | None
    stated_doubt: str | None
    """Why the file itself says that its sizes are not certain."""

    @property
    def doubt(self) -> str | None:
        """Why the entry is not verified, in a few words; None if it is."""
        if self.stated_doubt is not None:
            return self.stated_doubt
        if self.source is None:
            return "its sizes have no source"
        if self.published is None:
            return "no total of parameters was found to check its sizes against"
        if not self.published.is_met_by(self.shape.params):
            return f"counts {self.shape.params:,} parameters, published are {self.published.params}"
        return None

    @property
    def verified(self) -> bool:
        """Whether the sizes have a source, and the parameters round to a published total."""
        return self.doubt is None


@functools.cache
def zoo_entry(name: str) -> ZooEntry:
    """The entry of a name in `ENTRIES`. Raises `UnknownNameError` for any other."""
    if name not in ENTRIES:
        raise UnknownNameError("model of the zoo", name, ENTRIES)
    return _read(_PLACE / f"{name}{_SUFFIX}", name)


def read_shape(path: Path) -> ZooEntry:
    """The entry in a file of one's own, which is called as the file without its suffix.

    Raises `ShapeError` where the file cannot be read or breaks a rule.
    """
    return _read(path, path.stem)


@dataclass(frozen=True, kw_only=True)
class _About:
    """The keys of every file that are no sizes."""

    source: str | None = None
    published: PublishedTotal | None = None
    unverified: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """The keys of a model's file that say what its blocks are."""

    layers: int
    pattern: tuple[Block, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.layers <= _MOST_LAYERS:
            raise SpecError("layers", f"in 1..{_MOST_LAYERS}", self.layers)
        if not 1 <= len(self.pattern) <= self.layers:
            raise SpecError("pattern", f"of 1..{self.layers} blocks", len(self.pattern))

    @property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(itertools.islice(itertools.cycle(self.pattern), self.layers))


def _read(file: Path, name: str) -> ZooEntry:
    place = str(file)
    try:
        with file.open("rb") as opened:
            text = opened.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ShapeError(place, "", f"cannot be read: {error.strerror or error}") from None
    if len(text) > _LARGEST_FILE:
        raise ShapeError(place, "", f"must be at most {_LARGEST_FILE} bytes")
    stated = _json(place, text)
    reader = _Reader(place)
    network = "convolutions" in stated
    kind = NetworkShape if network else ModelShape
    sizes = _names(kind) - {"name", "blocks"}
    blocks = set() if network else _names(_Blocks)
    reader.require_known(stated, sizes | blocks | _names(_About), "")
    about = reader.record(_About, _only(stated, _names(_About)), "")
    given: dict[str, Any] = {"name": name}
    if not network:
        given["blocks"] = reader.record(_Blocks, _only(stated, blocks), "").blocks
    shape = reader.record(kind, _only(stated, sizes), "", given)
    return ZooEntry(
        shape=shape,
        source=about.source,
        published=about.published,
        stated_doubt=about.unverified,
    )


def _names(kind: type) -> set[str]:
    """Names of the fields of a dataclass."""
    return {field.name for field in dataclasses.fields(kind)}


def _only(stated: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in stated.items() if name in names}


def _json(file: str, text: bytes) -> dict[str, Any]:
    """The object in a file's text. Raises `ShapeError`, also where a key comes twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ShapeError(file, f"{twice:.60}", "must not come twice")
        return values

    def no_number(name: str) -> typing.NoReturn:
        raise ValueError(name)

    try:
        document = json.loads(text, object_pairs_hook=unique, parse_constant=no_number)
    except (ValueError, RecursionError):
        raise ShapeError(file, "", "must be a JSON document") from None
    if not isinstance(document, dict):
        raise ShapeError(file, "", "must be a JSON object")
    return document


_SIMPLE = {bool: "true or false", int: "a whole number", str: "a text"}


@dataclass(frozen=True)
class _Reader:
    """Makes dataclasses of JSON values, by the types that their fields are declared with."""

    file: str

    def require_known(self, stated: dict[str, Any], known: set[str], key: str) -> None:
        for name in stated:
            if name not in known:
                rule = f"is no key here; known are {', '.join(sorted(known))}"
                raise ShapeError(self.file, _inner(key, f"{name:.60}"), rule)

    def record(self, kind: type, stated: Any, key: str, given: dict[str, Any] | None = None) -> Any:
        """An instance of the dataclass `kind` from an object; `given` are fields that no file
        states. Raises `ShapeError`."""
        if not isinstance(stated, dict):
            raise self._wrong("an object", stated, key)
        hints, given = _hints(kind), given or {}
        self.require_known(stated, _names(kind) - given.keys(), key)
        values = dict(given)
        for field in dataclasses.fields(kind):
            place = _inner(key, field.name)
            if field.name in stated:
                values[field.name] = self._value(hints[field.name], stated[field.name], place)
            elif field.name not in given and field.default is dataclasses.MISSING:
                raise ShapeError(self.file, place, "is missing")
        try:
            instance = kind(**values)
        except SpecError as error:
            raise self._wrong(error.rule, error.value, _inner(key, error.field)) from None
        if isinstance(instance, Block):
            self._require_names(instance, key)
        return instance

    def _value(self, hint: Any, stated: Any, key: str) -> Any:
        """A value of the annotated type."""
        choices = typing.get_args(hint)
        if hint in _SIMPLE:
            if type(stated) is not hint:
                raise self._wrong(_SIMPLE[hint], stated, key)
            if hint is int and not 0 <= stated <= _LARGEST_NUMBER:
                raise self._wrong(f"in 0..{_LARGEST_NUMBER}", stated, key)
            return stated
        if typing.get_origin(hint) is typing.Literal:
            return self._one_of(choices, stated, key)
        if typing.get_origin(hint) is tuple:
            if not isinstance(stated, list):
                raise self._wrong("a list", stated, key)
            items = enumerate(stated)
            return tuple(self._value(choices[0], item, f"{key}[{at}]") for at, item in items)
        if not isinstance(hint, types.UnionType):
            return self.record(hint, stated, key)
        if stated is None and types.NoneType in choices:
            return None
        some = [choice for choice in choices if choice is not types.NoneType]
        if len(some) == 1:
            return self._value(some[0], stated, key)
        if not isinstance(stated, dict):
            raise self._wrong("an object", stated, key)
        kinds = {choice.__name__.lower(): choice for choice in some}
        if "kind" not in stated:
            raise ShapeError(self.file, _inner(key, "kind"), "is missing")
        kind = self._one_of(tuple(kinds), stated["kind"], _inner(key, "kind"))
        rest = {name: value for name, value in stated.items() if name != "kind"}
        return self.record(kinds[kind], rest, key)

    def _require_names(self, block: Block, key: str) -> None:
        """Raise `ShapeError` where a norm, a bias or an activation has a name that nothing has."""
        for norm in block.norms:
            self._one_of(NORMS, norm, _inner(key, "norms"))
        for name in ("mixer", "feed_forward"):
            half, place = getattr(block, name), _inner(key, name)
            roles = tuple(matrix.role for matrix in half.matrices(1)) if half is not None else ()
            for bias in getattr(half, "biases", ()):
                self._one_of(roles, bias, _inner(place, "biases"))
        if (half := block.feed_forward) is not None:
            place = _inner(key, "feed_forward.activation")
            self._one_of(ACTIVATIONS, half.activation, place)

    def _one_of(self, choices: tuple[str, ...], stated: Any, key: str) -> str:
        if not isinstance(stated, str) or stated not in choices:
            raise self._wrong(f"one of {', '.join(choices)}", stated, key)
        return stated

    def _wrong(self, rule: str, stated: Any, key: str) -> ShapeError:
        return ShapeError(self.file, key, f"must be {rule}, got {json.dumps(stated):.60}")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _inner(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
