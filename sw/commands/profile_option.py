"""The option `--profile`: ways of serving a model, by name and parameters, and how their figures
are shown."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from typing import Any, Literal

import click
from rich.console import Console
from rich.table import Table

from evolute.hw.spec.base import SpecError
from evolute.sim.cost.metrics import LINEAR
from evolute.sim.workload.profiles import PROFILES, Profile
from evolute.support.errors import RefusedError, UnknownNameError
from evolute.sw.deploy.profiles import Served

LIST_MARK = "/"
"""Between the values of a parameter that has several."""

profile_option = click.option(
    "--profile",
    "profile_text",
    metavar="NAME[:KEY=VALUE,...]",
    help=f"Price a way of serving, too: {', '.join(PROFILES)}. Several values of a key are "
    f"separated by {LIST_MARK}. docs/serving.md has every key.",
)


def parse_profile(text: str) -> Profile:
    """The profile that `text` names, with its parameters. Raises `RefusedError`."""
    name, _, parameters = text.partition(":")
    if name not in PROFILES:
        raise UnknownNameError("profile", name, list(PROFILES))
    kind = PROFILES[name]
    hints, keys = typing.get_type_hints(kind), [parameter.name for parameter in fields(kind)]
    values: dict[str, Any] = {}
    for part in parameters.split(",") if parameters else ():
        key, mark, value = part.partition("=")
        if not mark:
            raise RefusedError(f"--profile {name}: must be written KEY=VALUE,..., got {part!r:.60}")
        if key not in keys:
            rule = f"one of {', '.join(keys)}" if keys else "left out: it has no parameters"
            raise RefusedError(f"--profile {name}: a key must be {rule}, got {key!r:.60}")
        if key in values:
            raise RefusedError(f"--profile {name}: {key}: must be given once, got {part!r:.60}")
        values[key] = _value(name, key, value, hints[key])
    return told(name, lambda: kind(**values))


_T = typing.TypeVar("_T")


def told(name: str, work: Callable[[], _T]) -> _T:
    """The result of `work`. If it breaks a rule, the message also names the option and the
    profile."""
    try:
        return work()
    except SpecError as error:
        raise RefusedError(f"--profile {name}: {error}") from None


_RULES = {int: "a whole number", float: "a number", bool: "yes or no", str: "a name"}


def _value(name: str, key: str, text: str, annotation: Any) -> Any:
    """`text` as a value of the annotated type: a number, yes or no, a name, or several numbers."""
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    kinds = list(typing.get_args(annotation)) if union else [annotation]
    words = [
        word
        for option in kinds
        if typing.get_origin(option) is Literal
        for word in typing.get_args(option)
    ]
    if text in words:
        return text
    kind = kinds[0]
    if typing.get_origin(kind) is tuple:
        kind = typing.get_args(kind)[0]
        return tuple(_one(name, key, part, kind, words) for part in text.split(LIST_MARK))
    return _one(name, key, text, kind, words)


def _one(name: str, key: str, text: str, kind: Any, words: list[str]) -> Any:
    try:
        if kind is bool:
            return {"yes": True, "no": False}[text]
        if kind is str and not text:
            raise ValueError
        return kind(text)
    except (KeyError, ValueError):
        rule = " or ".join([_RULES[kind], *words])
        raise RefusedError(f"--profile {name}: {key}: must be {rule}, got {text!r:.60}") from None


def profile_record(served: Served) -> dict[str, Any]:
    """The part of a record about a profile. Tokens, bytes and seconds are totals."""
    metrics, solved = served.metrics, served.metrics.solved
    return {
        "name": served.profile.name,
        "parameters": asdict(served.profile),
        "scope": metrics.scope,
        "label": metrics.label,
        "seconds": metrics.seconds,
        "bytes": metrics.bytes,
        "tokens": metrics.tokens,
        "tokens_per_s": metrics.tokens_per_s,
        "bytes_per_token": metrics.bytes_per_token,
        "energy_j": metrics.energy_j,
        "facts": metrics.facts,
        "stages": [asdict(stage) for stage in metrics.stages],
        "solved": solved and asdict(solved),
    }


def render_profile(console: Console, record: dict[str, Any]) -> None:
    """Draw the result of `profile_record` on a console."""
    parameters_shown = {
        key: value for key, value in record["parameters"].items() if value not in (None, [], ())
    }
    parameters = ", ".join(f"{key}={_shown(value)}" for key, value in parameters_shown.items())
    console.print(
        f"profile {record['name']}" + (f": {parameters}" if parameters else ""), soft_wrap=True
    )
    table = Table(box=None, pad_edge=False)
    for title in ("stage", "model"):
        table.add_column(title)
    for title in ("passes", "rows", "ms", "MB"):
        table.add_column(title, justify="right")
    for stage in record["stages"]:
        table.add_row(
            stage["name"],
            stage["model"],
            f"{stage['passes']:,.4g}" if stage["passes"] < 1e4 else f"{stage['passes']:,.0f}",
            f"{stage['rows']:,.4g}" if stage["rows"] < 1e4 else f"{stage['rows']:,.0f}",
            f"{stage['seconds'] * 1e3:,.4g}"
            if stage["seconds"] < 10
            else f"{stage['seconds'] * 1e3:,.0f}",
            "-" if stage["bytes"] is None else f"{stage['bytes'] / 1e6:,.2f}",
        )
    console.print(table)
    for line in _lines(record):
        console.print(line, soft_wrap=True)
    console.print()


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return LIST_MARK.join(f"{number:.4g}" for number in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_FACTS = {
    "chunks": "chunks",
    "rows": "rows of a verifying pass",
    "tokens_per_pass": "tokens per verifying pass",
    "passes": "verifying passes",
    "rejected_cache_bytes_per_pass": "bytes of the cache per pass that are thrown away",
    "compacted_cache_bytes_per_pass": "bytes of the cache per pass that are moved together",
    "attempts": "attempts",
    "nodes": "steps written",
    "leaves": "leaves",
    "at_once": "sequences at once",
    "occupancy": "share of the places in a batch that are in use",
    "shared_cache_bytes": "bytes of cache with one copy of what sequences share",
    "separate_cache_bytes": "bytes of cache with a copy for each",
    "tree_fits": "the tree's cache fits the memory",
    "layers_per_token": "layers per token in the mean",
    "own_layers": "layers with weights of their own",
    "own_weight_bytes": "bytes of these weights",
    "resident": "these weights stay on the chip",
    "speedup": "speed, where decoding one by one is 1",
}
"""How a fact of a record is called."""


def _lines(record: dict[str, Any]) -> Iterator[str]:
    """The totals of a profile, and its other facts."""
    moved = "unknown bytes" if record["bytes"] is None else f"{record['bytes'] / 1e6:,.2f} MB"
    yield (
        f"together {record['seconds']:.4g} s and {moved} for {record['tokens']:,} "
        f"token{'' if record['tokens'] == 1 else 's'}: "
        f"{record['tokens_per_s']:.4g} tokens/s, {record['scope']} ({record['label']})"
    )
    if record["bytes_per_token"] is not None:
        per_token = record["seconds"] / record["tokens"]
        yield f"per token {per_token:.4g} s and {record['bytes_per_token'] / 1e6:,.4g} MB"
    if (solved := record["solved"]) is not None:
        moved = "unknown" if solved["bytes"] is None else f"{solved['bytes'] / 1e6:,.2f}"
        yield (
            f"{solved['attempts']} attempts solve {solved['coverage']:.1%} of questions: per "
            f"solved question {solved['seconds']:.4g} s and {moved} MB"
        )
    for name, value in record["facts"].items():
        if value is not None:
            yield f"  {_FACTS[name]}: {_fact(value)}"
    if record["scope"] == LINEAR:
        yield "  seconds of the profile are of the linear layers only"


def _fact(value: float | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:,.4g}"
        if abs(value) < 1e4
        else f"{value:,.0f}"
    )
