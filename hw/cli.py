"""Commands about accelerators themselves, and the options that every command shares."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from hw.files import RECORDS
from hw.spec import UNITS, CoreSpec, Spec, engine_of
from hw.spec.presets import DEFAULT, PRESETS, preset

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out"),
    show_default=True,
    help=f"Folder whose {RECORDS} the result is added to.",
)
set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Change a field of the preset; may be repeated.",
)


def spec_from(name: str, assignments: tuple[str, ...]) -> Spec:
    """The preset `name` with `field=value` changes applied."""
    return preset(name).spec.evolve_text(assignments)


def show(as_json: bool, document: Any, render: Callable[[Console], None]) -> None:
    """Print `document` as JSON, or let `render` draw it on a console."""
    if as_json:
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    else:
        render(Console(highlight=False))


def _kind(spec: Spec) -> str:
    if isinstance(spec, CoreSpec):
        return "core"
    return "unit" if type(spec) in UNITS.values() else "engine"


@click.command(epilog="Example: evolute accels --json")
@json_option
def accels(as_json: bool) -> None:
    """List the named accelerators, engines, units and complete cores, the default first."""
    rows = [
        {
            "name": each.name,
            "kind": _kind(each.spec),
            "engine": engine_of(each.spec),
            "description": each.description,
            "spec": each.spec.to_dict(),
            "digest": each.spec.digest,
        }
        for each in PRESETS.values()
    ]

    def render(console: Console) -> None:
        table = Table("name", "kind", "engine", "description", box=None, pad_edge=False)
        for row in rows:
            name = row["name"] + (" (default)" if row["name"] == DEFAULT else "")
            table.add_row(name, row["kind"], row["engine"], row["description"])
        console.print(table)

    show(as_json, rows, render)
