"""JSON Schemas of result records, and records against the dataclasses that they are made of.

`python -m evolute.support.json_schema` prints docs/records.md.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from typing import Any, Union

from evolute.support.schema import KINDS, PRINTED, may_be_absent


class SchemaError(ValueError):
    """A record that does not match its kind."""


@functools.cache
def _types(of: type) -> dict[str, Any]:
    return typing.get_type_hints(of)


def require(record: dict[str, Any]) -> None:
    """Raise `SchemaError`, naming the field, unless a record matches its kind completely: all
    required fields are there, with the right types, and no others."""
    kind = KINDS.get(record.get("kind", ""))
    if kind is None:
        raise SchemaError(f"kind: must be one of {', '.join(KINDS)}, got {record.get('kind')!r}")
    _require(kind, {name: value for name, value in record.items() if name != "kind"}, "")


def _require(of: Any, value: Any, path: str) -> None:
    if of is Any:
        return
    origin, parts = typing.get_origin(of), typing.get_args(of)
    if origin in (types.UnionType, Union):
        (required_type,) = (part for part in parts if part is not type(None))
        if value is not None:
            _require(required_type, value, path)
    elif origin is list:
        _require_is(isinstance(value, list), "a list", value, path)
        for number, member in enumerate(value):
            _require(parts[0], member, f"{path}[{number}]")
    elif origin is dict:
        _require_is(isinstance(value, dict), "an object", value, path)
        for name, member in value.items():
            _require(parts[1], member, f"{path}.{name}")
    elif dataclasses.is_dataclass(of):
        assert isinstance(of, type)
        _require_is(isinstance(value, dict), "an object", value, path)
        fields = {field.name: field for field in dataclasses.fields(of)}
        for name in [name for name in value if name not in fields]:
            raise SchemaError(f"{path}.{name}: is no field of {of.__name__}".removeprefix("."))
        for name, field in fields.items():
            place = f"{path}.{name}".removeprefix(".")
            if name in value:
                _require(_types(of)[name], value[name], place)
            elif not may_be_absent(field):
                raise SchemaError(f"{place}: is missing")
    else:
        kinds = (int, float) if of is float else of
        right = isinstance(value, kinds) and (of is bool or not isinstance(value, bool))
        _require_is(right, _NAMES[of], value, path)


_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_JSON = {str: "string", int: "integer", float: "number", bool: "boolean"}


def _require_is(right: bool, rule: str, value: Any, path: str) -> None:
    if not right:
        raise SchemaError(f"{path}: must be {rule}, got {value!r}")


def of_kind(kind: str) -> dict[str, Any]:
    """The JSON Schema of records of a kind."""
    schema = _json(KINDS[kind])
    schema["properties"] = {"kind": {"const": kind}, **schema["properties"]}
    schema["required"].insert(0, "kind")
    return schema


def _json(of: Any) -> dict[str, Any]:
    if of is Any:
        return {}
    origin, parts = typing.get_origin(of), typing.get_args(of)
    if origin in (types.UnionType, Union):
        (required_type,) = (part for part in parts if part is not type(None))
        return {"anyOf": [_json(required_type), {"type": "null"}]}
    if origin is list:
        return {"type": "array", "items": _json(parts[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _json(parts[1])}
    if not dataclasses.is_dataclass(of):
        return {"type": _JSON[of]}
    assert isinstance(of, type)
    fields = dataclasses.fields(of)
    return {
        "description": " ".join((of.__doc__ or "").split()),
        "type": "object",
        "properties": {field.name: _json(_types(of)[field.name]) for field in fields},
        "required": [field.name for field in fields if not may_be_absent(field)],
        "additionalProperties": False,
    }


def page() -> str:
    """The text of docs/records.md."""
    parts = [
        "# Records",
        "Every command that measures adds one line of JSON to `records.jsonl` in its `--out` "
        "folder, and prints the same object with `--json`; `quantize` and `require` only print it. "
        "`verify` of several presets prints a list; what `compare` and `dse` print is said there. "
        "`evolute report --csv` and `--parquet` make tables of records. Each kind of record is "
        "given as a JSON Schema. What `required` does not name is left out by some commands, or "
        "by older versions. `provenance` says how the numbers came about, with the "
        "versions of tools and the revision of this project.",
        "This page is made by `make docs` from the dataclasses of `evolute/support/schema.py`.",
    ]
    for kind, of in KINDS.items():
        parts.append(f"## {kind}")
        parts.append(" ".join((of.__doc__ or "").split()))
        parts.append(f"```json\n{json.dumps(of_kind(kind), indent=2)}\n```")
    for command, of in PRINTED.items():
        parts.append(f"## {command}")
        parts.append(" ".join((of.__doc__ or "").split()))
        parts.append(f"```json\n{json.dumps(_json(of), indent=2)}\n```")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page(), end="")
