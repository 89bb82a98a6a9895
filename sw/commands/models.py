"""`evolute models`: what models have a name."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from evolute.support.files import client, missing_client
from evolute.support.options import json_option, show
from evolute.sw.checkpoints import zoo


@click.command(epilog="Example: evolute models --json")
@click.option(
    "--check",
    is_flag=True,
    help="Ask the network whether models that are not here are offered now. "
    "Otherwise a model is obtainable where this machine has the program that fetches it.",
)
@json_option
def models(check: bool, as_json: bool) -> None:
    """List the known language models, the default first."""
    rows = [
        {
            "name": known.name,
            "params": known.params,
            "layers": known.layers,
            "hidden": known.hidden,
            "vocab": known.vocab,
            "here": known.here,
            "obtainable": known.obtainable(check=check),
            "licence": known.licence,
            "source": known.source,
        }
        for known in zoo.KNOWN.values()
    ]

    def render(console: Console) -> None:
        table = Table("name", "params", "layers", "obtainable", "source", box=None, pad_edge=False)
        for row in rows:
            name = row["name"] + (" (default)" if row["name"] == zoo.DEFAULT else "")
            size = f"{row['params'] / 1e6:.1f} M"
            table.add_row(name, size, str(row["layers"]), _how(row), row["source"])
        console.print(table)
        console.print(
            "\nA command also takes the path of a GGUF file, a Hugging Face folder or a "
            "llama2.c file."
        )

    show(as_json, rows, render)


def _how(row: dict[str, object]) -> str:
    """How a model can be had."""
    if row["here"]:
        return "is here"
    archives = zoo.KNOWN[str(row["name"])].archives
    if missing := sorted({each for archive in archives if (each := missing_client(archive))}):
        return f"no: needs {' and '.join(missing)}"
    return f"with {' and '.join(sorted(set(map(client, archives))))}" if row["obtainable"] else "no"
