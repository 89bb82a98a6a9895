"""What result records hold: one dataclass for each kind, which readers check records by.

A field without a default is in every record of its kind. One with the default `ABSENT` is left out
by some commands, or by those of older versions. `python -m evolute.support.schema` prints
docs/records.md, with each kind as a JSON Schema.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from dataclasses import dataclass
from typing import Any, Union


class _Absent:
    """The type of `ABSENT` alone."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Any = _Absent()
"""The default of fields that a record may leave out."""


@dataclass(frozen=True)
class Provenance:
    """Where a record's numbers come from."""

    how: str
    tools: dict[str, str]
    seed: int | None
    revision: str | None


@dataclass(frozen=True)
class Accuracy:
    """Perplexity of a model in some weights, by `evolute eval` on an engine's arithmetic or by
    `make accuracy` in float32."""

    model: str
    weights: str
    method: str
    bits_index: float
    bits_total: float
    text: str
    perplexity: float
    reference_perplexity: float | None
    tokens: int
    context: int
    accelerator: str = ABSENT
    spec: dict[str, Any] = ABSENT
    digest: str = ABSENT
    bits_held: float | None = ABSENT
    recoded: dict[str, Any] | None = ABSENT
    kl: float | None = ABSENT
    top1: float | None = ABSENT
    stride: int | None = ABSENT
    kv: str | None = ABSENT
    kv_bytes_per_token: int = ABSENT
    against: str | None = ABSENT
    host: list[str] = ABSENT
    activations: str = ABSENT
    proxy_error: float | None = ABSENT
    calibration_tokens: int | None = ABSENT
    calibration_text: str | None = ABSENT
    other_text: str | None = ABSENT
    other_tokens: int | None = ABSENT
    other_perplexity: float | None = ABSENT
    other_reference_perplexity: float | None = ABSENT
    seconds: float = ABSENT
    provenance: Provenance = ABSENT


@dataclass(frozen=True)
class Objective:
    """What a study looks for the best of."""

    name: str
    title: str
    direction: str
    unit: str
    how: str


@dataclass(frozen=True)
class Trial:
    """One candidate of a study: measured (`complete`) or refused (`pruned`)."""

    number: int
    state: str
    feasible: bool = ABSENT
    spec: dict[str, Any] = ABSENT
    digest: str = ABSENT
    weights: str = ABSENT
    frequency_hz: float = ABSENT
    bandwidth_bytes_per_s: float = ABSENT
    metrics: dict[str, float] = ABSENT
    params: dict[str, Any] = ABSENT
    refused: str = ABSENT


@dataclass(frozen=True)
class Study:
    """A search by `evolute dse`, as far as it went."""

    study: str
    objectives: list[Objective]
    trials: list[Trial]
    engine: str = ABSENT
    model: str = ABSENT
    text: str = ABSENT
    tokens: int = ABSENT
    context: int = ABSENT
    scope: str = ABSENT
    constraints: list[str] = ABSENT
    front: list[int] = ABSENT
    hypervolume: float = ABSENT
    reference: dict[str, float] = ABSENT
    provenance: Provenance = ABSENT


@dataclass(frozen=True)
class Cycles:
    """Cycles of all cases of a verification."""

    rtl: int
    model: int


@dataclass(frozen=True)
class Seconds:
    """How long a verification took."""

    build: float
    run: float


@dataclass(frozen=True)
class Verification:
    """RTL against the golden and the cycle model, by `evolute verify`."""

    preset: str
    simulator: str
    seed: int
    cases: int
    transactions: int
    elements: int
    cycles: Cycles
    mismatches: int
    differences: list[str]
    coverage: dict[str, int]
    seconds: Seconds
    spec: dict[str, Any]
    digest: str
    provenance: Provenance = ABSENT


@dataclass(frozen=True)
class Synthesis:
    """A netlist by `evolute synth`: of standard cells (with an area) or of an FPGA's cells."""

    accelerator: str
    spec: dict[str, Any]
    digest: str
    target: str
    cells: dict[str, int]
    tool: str
    provenance: Provenance
    area_um2: float = ABSENT
    area_ge: float = ABSENT
    delay_ns: float = ABSENT
    delay_is: str = ABSENT
    flops: int = ABSENT
    latches: int = ABSENT
    multipliers: int = ABSENT
    memories: list[dict[str, Any]] = ABSENT
    memory_bits: int = ABSENT
    library: str = ABSENT
    blocks: dict[str, Any] = ABSENT
    blocks_area_um2: float = ABSENT
    blocks_area_ge: float = ABSENT
    device: str | None = ABSENT
    lut: int = ABSENT
    ff: int = ABSENT
    bram: int = ABSENT
    dsp: int = ABSENT
    fmax_mhz: float | None = ABSENT
    fmax_is: str = ABSENT
    utilization: dict[str, float] = ABSENT
    critical_path: list[dict[str, Any]] = ABSENT


@dataclass(frozen=True)
class Shape:
    """The common size of compared engines: rows, columns, products of a sum's step."""

    m: int
    n: int
    slice_k: int


@dataclass(frozen=True)
class Compared:
    """One engine of a comparison; of one that was refused there is nothing but the reason. Areas
    leave out memories of `memory_bits`, and costs in area are null where there are such."""

    name: str
    refused: str | None
    engine: str = ABSENT
    spec: dict[str, Any] = ABSENT
    digest: str = ABSENT
    max_abs_difference: float = ABSENT
    max_rel_difference: float = ABSENT
    activation_error: float = ABSENT
    layer_error: float = ABSENT
    slice_steps: float = ABSENT
    cycles: int = ABSENT
    macs_per_cycle: float = ABSENT
    engine_um2: float = ABSENT
    scaling_um2: float = ABSENT
    area_um2: float = ABSENT
    area_ge: float = ABSENT
    cells: int = ABSENT
    delay_ns: float = ABSENT
    scalings: list[dict[str, Any]] = ABSENT
    memory_bits: int = ABSENT
    area_um2_per_mac_per_cycle: float | None = ABSENT
    area_cycles_um2: float | None = ABSENT
    area_time_um2_ns: float | None = ABSENT
    area_cycles_of_best: float | None = ABSENT
    weight_bytes: int = ABSENT
    scale_bytes: int = ABSENT
    activation_bytes: int = ABSENT
    result_bytes: int = ABSENT
    moved_bytes: int = ABSENT
    library: str = ABSENT
    tool: str = ABSENT


@dataclass(frozen=True)
class Comparison:
    """Engines of one size on one layer, by `evolute compare`."""

    model: str
    layer: str
    n: int
    k: int
    weights: str
    activations: str
    rows: int
    shape: Shape
    inside: str
    outside: str
    results: list[Compared]
    codes: str = ABSENT
    group: int = ABSENT
    activation_bits: int = ABSENT
    tokens: int = ABSENT
    units: list[dict[str, Any]] = ABSENT
    published: list[dict[str, Any]] = ABSENT
    provenance: Provenance = ABSENT


KINDS: dict[str, type] = {
    "accuracy": Accuracy,
    "compare": Comparison,
    "dse": Study,
    "synth": Synthesis,
    "verify": Verification,
}
"""By the `kind` that a record states, what it holds."""


class SchemaError(ValueError):
    """A record that is not as its kind says."""


@functools.cache
def _types(of: type) -> dict[str, Any]:
    return typing.get_type_hints(of)


def may_be_absent(field: dataclasses.Field[Any]) -> bool:
    """Whether records of older versions, or of some commands, do without a field."""
    return field.default is ABSENT


def require(record: dict[str, Any]) -> None:
    """Raise `SchemaError`, naming the field, unless a record is as its kind says, in full: every
    field that must be there is, of its type, and there is no other."""
    kind = KINDS.get(record.get("kind", ""))
    if kind is None:
        raise SchemaError(f"kind: must be one of {', '.join(KINDS)}, got {record.get('kind')!r}")
    _require(kind, {name: value for name, value in record.items() if name != "kind"}, "")


def _require(of: Any, value: Any, path: str) -> None:
    if of is Any:
        return
    origin, parts = typing.get_origin(of), typing.get_args(of)
    if origin in (types.UnionType, Union):
        (some,) = (each for each in parts if each is not type(None))
        if value is not None:
            _require(some, value, path)
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


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of records of a kind."""
    found = _json(KINDS[kind])
    found["properties"] = {"kind": {"const": kind}, **found["properties"]}
    found["required"].insert(0, "kind")
    return found


def _json(of: Any) -> dict[str, Any]:
    if of is Any:
        return {}
    origin, parts = typing.get_origin(of), typing.get_args(of)
    if origin in (types.UnionType, Union):
        (some,) = (each for each in parts if each is not type(None))
        return {"anyOf": [_json(some), {"type": "null"}]}
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
    """docs/records.md."""
    parts = [
        "# Records",
        "Every command that measures adds one line of JSON to `records.jsonl` in its `--out` "
        "folder; with `--json` `eval`, `synth` and `verify` print the same object. `evolute report "
        "--csv` and `--parquet` make tables of them. Of the kinds listed here each is given as a "
        "JSON Schema. What `required` does not name is left out by some commands, or by older "
        "versions. `provenance` says how the numbers came about, with the versions of tools and "
        "the revision of this project.",
        "This page is made by `make docs` from the dataclasses of `evolute/support/schema.py`.",
    ]
    for kind, of in KINDS.items():
        parts.append(f"## {kind}")
        parts.append(" ".join((of.__doc__ or "").split()))
        parts.append(f"```json\n{json.dumps(json_schema(kind), indent=2)}\n```")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page(), end="")
