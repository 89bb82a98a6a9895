"""Reads result records and checks that each has what a page needs. A record knows the line it came
from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from evolute.sim.cost.metrics import WHOLE, LayerMetrics, PhaseMetrics
from evolute.support import schema
from evolute.support.files import FileError, read_records
from evolute.support.labels import Kind, labels_of, numbers

PHASES = ("prefill", "decode")

_COMPARED_NUMBERS = (
    "slice_steps",
    "cycles",
    "area_um2",
    "area_ge",
    "cells",
    "delay_ns",
    "max_rel_difference",
    "activation_error",
    "weight_bytes",
    "moved_bytes",
)

_COMPARED_COSTS = ("area_um2_per_mac_per_cycle", "area_cycles_um2", "area_cycles_of_best")


@dataclass(frozen=True)
class Record:
    """One line of a record file. `origin` is `file:line`, for error messages."""

    origin: str
    data: dict[str, Any]

    @property
    def kind(self) -> str:
        """The kind of the record, such as `sim`."""
        return self.data["kind"]

    def __getitem__(self, path: str) -> Any:
        """The value at a dotted path, such as `prefill.cycles`. Raises `FileError` if there is
        none."""
        value: Any = self.data
        for name in path.split("."):
            if not isinstance(value, dict) or name not in value:
                raise FileError(f"{self.origin}: {self.kind} record without {path}")
            value = value[name]
        return value

    def text(self, path: str) -> str:
        """The string at `path`. Raises `FileError` for anything else."""
        return self._typed(path, str, "text")

    def number(self, path: str) -> float:
        """The number at `path`. Raises `FileError` for anything else."""
        value = self._typed(path, int | float, "a number")
        if isinstance(value, bool):
            raise FileError(f"{self.origin}: {path} must be a number, got {value!r}")
        return value

    def parts(self, path: str) -> list[Record]:
        """The objects in the list at `path`, each a record with the same origin."""
        items = self._typed(path, list, "a list")
        if not all(isinstance(item, dict) for item in items):
            raise FileError(f"{self.origin}: {path} must be a list of objects")
        return [Record(self.origin, {"kind": self.kind, **item}) for item in items]

    def part(self, path: str) -> Record:
        """The object at `path` as a record with the same origin. Raises `FileError`."""
        return Record(self.origin, {"kind": self.kind, **self._typed(path, dict, "an object")})

    def optional(self, path: str) -> Any:
        """The value at a dotted path; None if it is missing or null."""
        value: Any = self.data
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def _typed(self, path: str, kind: Any, description: str) -> Any:
        value = self[path]
        if not isinstance(value, kind):
            raise FileError(f"{self.origin}: {path} must be {description}, got {value!r}")
        return value


def _check_fields(record: Record, of: type) -> None:
    """Raise `FileError` unless a record, and the objects in its lists, have the fields that the
    dataclass `of` of `evolute.support.schema` requires."""
    hints = get_type_hints(of)
    for field in fields(of):
        if schema.may_be_absent(field):
            continue
        kind = hints[field.name]
        if get_origin(kind) is dict:
            record.part(field.name)
        elif get_origin(kind) is list:
            for part in record.parts(field.name):
                _check_fields(part, *get_args(kind))
        elif isinstance(kind, type) and is_dataclass(kind):
            _check_fields(record.part(field.name), kind)
        elif kind is str:
            record.text(field.name)
        elif type(None) in get_args(kind) and record[field.name] is None:
            continue
        elif str in get_args(kind):
            record.text(field.name)
        else:
            record.number(field.name)


def check(record: Record) -> None:
    """Raise `FileError` unless a record of a known kind has everything that its section of the page
    shows."""
    if record.kind == "sim":
        _check_fields(record, schema.SimRun)
        for name in ("frequency_hz", "bandwidth_bytes_per_s"):
            record.number(f"platform.{name}")
        kind: Kind = "core" if is_core(record) else "engine"
        for phase in PHASES:
            record.text(f"{phase}.bound")
            _check_numbers(record, f"{phase}.", PhaseMetrics, kind)
            layers = record.parts(f"{phase}.layers")
            if not layers:
                raise FileError(f"{record.origin}: {phase}.layers is empty")
            for layer in layers:
                for name in ("name", "weights", "bound"):
                    layer.text(name)
                _check_numbers(layer, "", LayerMetrics, kind)
            if record.optional(f"{phase}.operations"):
                for operation in record.parts(f"{phase}.operations"):
                    for name in ("name", "kind", "label", "limited_by"):
                        operation.text(name)
                    for name in ("count", "macs", "bytes"):
                        operation.number(name)
    elif record.kind == "accuracy":
        _check_fields(record, schema.Accuracy)
    elif record.kind == "dse":
        _check_fields(record, schema.Study)
        objectives = record.parts("objectives")
        for trial in record.parts("trials"):
            if trial["state"] == "complete":
                trial.text("weights")
                trial.part("spec")
                for name in ("clock_mhz", *(objective["name"] for objective in objectives)):
                    trial.number(f"metrics.{name}")
    elif record.kind == "compare":
        _check_fields(record, schema.Comparison)
        for engine in record.parts("results"):
            if engine["refused"] is None:
                costs = () if engine.optional("memory_bits") else _COMPARED_COSTS
                for name in (*_COMPARED_NUMBERS, *costs):
                    engine.number(name)


def _check_numbers(record: Record, path: str, schema: type, kind: Kind) -> None:
    """Raise `FileError` unless the object at `path` has the numbers of its schema, except those
    that records of earlier versions may lack."""
    for name in numbers(schema, kind, optional=False):
        record.number(path + name)
    for name in numbers(schema, kind, optional=True):
        if record.optional(path + name) is not None:
            record.number(path + name)


def is_core(run: Record) -> bool:
    """Whether a `sim` record is about a complete core, whose cycles include the time of its
    memory."""
    return run.optional("spec.engine") is not None


def is_whole(run: Record) -> bool:
    """Whether the speeds of a `sim` record are those of whole tokens, not only of the linear
    layers."""
    return run.optional("decode.scope") == WHOLE


def labels(run: Record, *, of_layers: bool = False) -> dict[str, str]:
    """The kind of number that each figure of a `sim` record is, by the figure's name. With
    `of_layers`, this is for its linear layers, for which it does not matter whether the run is
    about whole tokens.

    The record itself says which figures are bounds, because steps were not measured, and which are
    modelled, because they are about whole tokens.
    """
    of_kind = labels_of(PhaseMetrics, "core" if is_core(run) else "engine")
    stated = {name: run.optional(f"labels.{name}") for name in of_kind}
    weak = ("bound",) if of_layers else ("bound", "modelled")
    weaker = {name: label for name, label in stated.items() if label in weak}
    return {**of_kind, **weaker, "perplexity": "measured"}


def layer_seconds(run: Record, layer: Record) -> float:
    """The time of one layer, or one stage, of a `sim` record, in seconds."""
    seconds = layer.number("cycles") / run.number("platform.frequency_hz")
    return seconds if is_core(run) else max(seconds, layer.number("memory_seconds"))


def host_layers(run: Record) -> tuple[str, ...]:
    """The linear layers that are not included in the figures of a `sim` record."""
    return tuple(run.optional("host_layers") or ())


def accuracy_of(run: Record) -> Record | None:
    """The accuracy in a `sim` record as a record of its own; None if it was not measured."""
    if not run.optional("perplexity"):
        return None
    names = ("model", "weights", "bits_index", "bits_total", "spec")
    facts = {name: run[name] for name in names}
    facts |= {name: run[f"perplexity.{name}"] for name in ("text", "tokens", "context")}
    # Measured with them since; without, a figure stands apart from those of `evolute eval`.
    added_names = ("kl", "top1", "stride", "kv")
    facts |= {name: run.optional(f"perplexity.{name}") for name in added_names}
    accuracy = Record(
        run.origin,
        {
            "kind": "accuracy",
            "method": run.optional("method") or f"simulated on {run.text('accelerator')}",
            "perplexity": run["perplexity.quantized"],
            "reference_perplexity": run["perplexity.float"],
            "provenance": run.optional("provenance"),
            **facts,
        },
    )
    check(accuracy)
    return accuracy


def load(paths: Iterable[Path]) -> list[Record]:
    """All records of JSON-lines files, in order. Raises `FileError` with the file and line of a
    problem."""
    records = []
    for path in paths:
        for number, data in enumerate(read_records(path), 1):
            record = Record(f"{path}:{number}", data)
            if not isinstance(data.get("kind"), str):
                raise FileError(f"{record.origin}: record without kind")
            check(record)
            records.append(record)
    return records


def latest(records: Sequence[Record], kind: str, *keys: str) -> list[Record]:
    """Records of one kind; of those with the same values for `keys` only the last. Oldest first."""
    newest: dict[str, Record] = {}
    for record in records:
        if record.kind == kind:
            identity = repr([record.optional(key) for key in keys])
            newest.pop(identity, None)
            newest[identity] = record
    return list(newest.values())
