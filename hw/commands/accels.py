"""`evolute accels`: which accelerators have a name."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from evolute.hw.spec import UNITS, CoreSpec, Spec, engine_of
from evolute.hw.spec.presets import DEFAULT, PRESETS
from evolute.support.options import json_option, show


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
            "name": preset.name,
            "kind": _kind(preset.spec),
            "engine": engine_of(preset.spec),
            "description": preset.description,
            "spec": preset.spec.to_dict(),
            "digest": preset.spec.digest,
        }
        for preset in PRESETS.values()
    ]

    def render(console: Console) -> None:
        table = Table("name", "kind", "engine", "description", box=None, pad_edge=False)
        for row in rows:
            name = row["name"] + (" (default)" if row["name"] == DEFAULT else "")
            table.add_row(name, row["kind"], row["engine"], row["description"])
        console.print(table)

    show(as_json, rows, render)
