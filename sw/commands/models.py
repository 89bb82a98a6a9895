"""`evolute models`: what models have a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import click
from rich.console import Console
from rich.table import Table

from evolute.sim.workload.shape import ModelShape, NetworkShape
from evolute.sim.workload.zoo import ENTRIES, zoo_entry
from evolute.support.files import client, missing_client
from evolute.support.options import json_option, show
from evolute.sw.checkpoints import zoo

Kind = Literal["decoder", "encoder", "convolutions"]

_TITLES: dict[Kind, str] = {
    "decoder": "Known by their sizes alone, which `evolute sim` and `evolute require` take",
    "encoder": "Encoders, which decode no tokens; `evolute sim` prices one pass",
    "convolutions": "Networks of convolutions, as products by im2col; `evolute sim` prices a pass",
}
"""What models without weights are told apart by, in the order of the list."""


@click.command(epilog="Example: evolute models --json")
@click.option(
    "--check",
    is_flag=True,
    help="Ask the network whether models that are not here are offered now. "
    "Otherwise a model is obtainable where this machine has the program that fetches it.",
)
@json_option
def models(check: bool, as_json: bool) -> None:
    """List the models that have a name, the default first. Those with weights can be run; of all
    others the sizes are known, which is enough to price a token."""
    named = [_with_weights(known, check=check) for known in zoo.KNOWN.values()]
    others = [_sizes_alone(name) for name in ENTRIES if name not in zoo.KNOWN]
    order = list(_TITLES)
    rows = [*named, *sorted(others, key=lambda row: order.index(row["kind"]))]
    show(as_json, rows, lambda console: _render(console, rows))


def _with_weights(known: zoo.KnownModel, *, check: bool) -> dict[str, Any]:
    """The row of a model with weights. It is an entry of the zoo, too, which says its family."""
    return {
        **_sizes_alone(known.name),
        "params": known.params,
        "layers": known.layers,
        "hidden": known.hidden,
        "vocab": known.vocab,
        "weights": True,
        "here": known.here,
        "obtainable": known.obtainable(check=check),
        "licence": known.licence,
        "source": known.source,
    }


def _sizes_alone(name: str) -> dict[str, Any]:
    """The row of an entry of the zoo; what a model of its kind does not have is None."""
    entry = zoo_entry(name)
    shape = entry.shape
    is_model = isinstance(shape, ModelShape)
    return {
        "name": name,
        "kind": _kind(shape),
        "family": shape.family,
        "params": shape.params,
        "layers": shape.layers if is_model else sum(one.count for one in shape.convolutions),
        "hidden": shape.hidden if is_model else None,
        "vocab": shape.vocab if is_model else None,
        "context": shape.context if is_model else None,
        "macs_per_image": None if is_model else shape.macs,
        "weights": False,
        "here": False,
        "obtainable": False,
        "licence": None,
        "verified": entry.verified,
        "doubt": entry.doubt,
        "source": entry.source,
    }


def _kind(shape: ModelShape | NetworkShape) -> Kind:
    if isinstance(shape, NetworkShape):
        return "convolutions"
    return "decoder" if shape.has_head else "encoder"


def _render(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    named = [row for row in rows if row["weights"]]
    console.print("With weights", style="bold")
    console.print(_table(named, "weights", _how))
    for kind, title in _TITLES.items():
        chosen = [row for row in rows if row["kind"] == kind and not row["weights"]]
        console.print(f"\n{title}", style="bold", soft_wrap=True)
        console.print(_table(chosen, "sizes", lambda row: "" if row["verified"] else "in doubt"))
    console.print(
        "\nSizes are checked against a published number of parameters, except where they are in "
        "doubt;\n--json says why, and the source of each model. A command also takes the path of "
        "a GGUF file,\na Hugging Face folder or a llama2.c file, and where no weights are needed "
        "a config.json or a\nJSON file of sizes.",
        soft_wrap=True,
    )


def _table(
    rows: Sequence[dict[str, Any]], last: str, told: Callable[[dict[str, Any]], str]
) -> Table:
    """Rows of one kind; the last column is what `told` says of each."""
    table = Table(box=None, pad_edge=False)
    is_network = rows[0]["kind"] == "convolutions"
    numbers = ("params", "layers", "MACs an image" if is_network else "context")
    for title in ("name", "family", *numbers, last):
        table.add_column(title, justify="right" if title in numbers else "left", no_wrap=True)
    for row in rows:
        name = row["name"] + (" (default)" if row["name"] == zoo.DEFAULT else "")
        width = _large(row["macs_per_image"]) if is_network else f"{row['context']:,}"
        family, params = row["family"], _large(row["params"])
        table.add_row(name, family, params, str(row["layers"]), width, told(row))
    return table


def _large(count: int) -> str:
    """A large number in millions or billions."""
    return f"{count / 1e6:.1f} M" if count < 1e9 else f"{count / 1e9:.2f} B"


def _how(row: dict[str, Any]) -> str:
    """How a model's weights can be had."""
    if row["here"]:
        return "are here"
    archives = zoo.KNOWN[str(row["name"])].archives
    if missing := sorted(
        {client_name for archive in archives if (client_name := missing_client(archive))}
    ):
        return f"no: needs {' and '.join(missing)}"
    return f"with {' and '.join(sorted(set(map(client, archives))))}" if row["obtainable"] else "no"
