"""Result records as tables for pandas: one row per thing that a record states, in flat columns.

What a row is depends on the record's kind: of `sim` a phase, of `dse` a trial, of `compare` an
engine, of every other kind the record itself. Nested facts have dotted names, such as
`platform.frequency_hz`; lists stay what they are.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolute.reports.records import PHASES, Record, load
from evolute.support.errors import RefusedError, UnknownNameError
from evolute.support.files import FileError, replacing

if TYPE_CHECKING:
    import pandas

ROWS = {"dse": "trials", "compare": "results"}
"""By kind of record, the list whose members are rows of their own."""


def records(paths: Iterable[Path], kind: str | None = None) -> pandas.DataFrame:
    """The records of JSON-lines files as a DataFrame, of one kind if `kind` is given.

    The column `kind` says what a row is of, `origin` the file and line that it came from; a `sim`
    record gives a row for each `phase`. Raises `FileError` for what is no record, and
    `UnknownNameError` where `kind` is given and no record has it.
    """
    loaded = load(paths)
    kinds = list(dict.fromkeys(record.kind for record in loaded))
    if kind is not None and kind not in kinds:
        raise UnknownNameError("kind of record", kind, kinds)
    return table(row for record in loaded if kind in (None, record.kind) for row in rows(record))


def table(rows: Iterable[Mapping[str, Any]]) -> pandas.DataFrame:
    """Rows of facts as a DataFrame; what is nested gets dotted names, what is absent is missing."""
    import pandas

    return pandas.json_normalize([dict(row) for row in rows])


def rows(record: Record) -> Iterator[dict[str, Any]]:
    """The facts of each thing that a record states, a row each, as the module says."""
    facts = {"kind": record.kind, "origin": record.origin, **record.data}
    if record.kind == "sim":
        shared = {name: value for name, value in facts.items() if name not in PHASES}
        for phase in PHASES:
            yield {**shared, "phase": phase, **facts[phase]}
    elif record.kind in ROWS:
        members = facts.pop(ROWS[record.kind])
        for member in members:
            yield {**facts, **member}
    else:
        yield facts


def csv(frame: pandas.DataFrame) -> str:
    """A table as comma-separated values; lists and what else is nested as JSON."""
    return _plain(frame).to_csv(index=False, lineterminator="\n")


def require_parquet() -> None:
    """Raise `RefusedError` where Parquet files cannot be written."""
    if importlib.util.find_spec("pyarrow") is None:
        raise RefusedError("--parquet: needs PyArrow; pip install evolute[parquet]")


def write_parquet(path: Path, frame: pandas.DataFrame) -> None:
    """Write a table as a Parquet file, whole or not at all; nested values as JSON."""
    require_parquet()
    with replacing(path) as temporary:
        try:
            _plain(frame).to_parquet(temporary, index=False)
        except OSError as error:
            raise FileError(f"cannot write {path}: {error.strerror or error}") from None


def _plain(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The table with text in place of lists and objects, and of columns of several types."""
    plain = frame.copy()
    for name in [name for name, dtype in plain.dtypes.items() if str(dtype) == "object"]:
        values = [_text(value) for value in plain[name]]
        kinds = {type(value) for value in values if value is not None}
        if len(kinds) > 1 and not kinds <= {int, float}:
            values = [None if value is None else str(value) for value in values]
        plain[name] = values
    return plain


def _text(value: Any) -> Any:
    if isinstance(value, list | tuple | dict):
        return json.dumps(value)
    return None if isinstance(value, float) and value != value else value
