"""Result records as pandas tables with one row per thing that a record describes, in flat columns.

The rows depend on the record's kind: a `sim` record gives a row for each phase, a `dse` record for
each trial, a `compare` record for each engine, and every other record one row. Nested facts have
dotted names, such as `platform.frequency_hz`; lists stay lists.
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
    """The records of JSON-lines files as a DataFrame; only those of one kind if `kind` is given.

    The column `kind` is the record's kind, and `origin` its file and line; the rows of a `sim`
    record have a `phase`. Raises `FileError` for lines that are not records, and `UnknownNameError`
    if no record has the given `kind`.
    """
    loaded = load(paths)
    kinds = list(dict.fromkeys(record.kind for record in loaded))
    if kind is not None and kind not in kinds:
        raise UnknownNameError("kind of record", kind, kinds)
    return table(row for record in loaded if kind in (None, record.kind) for row in rows(record))


def table(rows: Iterable[Mapping[str, Any]]) -> pandas.DataFrame:
    """Rows of facts as a DataFrame. Nested facts get dotted names; facts that a row does not have
    are missing values."""
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
    """A table as comma-separated values; lists and other nested values as JSON."""
    return _plain(frame).to_csv(index=False, lineterminator="\n")


def require_parquet() -> None:
    """Raise `RefusedError` if Parquet files cannot be written."""
    if importlib.util.find_spec("pyarrow") is None:
        raise RefusedError("--parquet: needs PyArrow; pip install evolute[parquet]")


def write_parquet(path: Path, frame: pandas.DataFrame) -> None:
    """Write a table as a Parquet file, completely or not at all; nested values as JSON."""
    require_parquet()
    with replacing(path) as temporary:
        try:
            _plain(frame).to_parquet(temporary, index=False)
        except OSError as error:
            raise FileError(f"cannot write {path}: {error.strerror or error}") from None


def _plain(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The table with text instead of lists and objects, and in columns with several types."""
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
