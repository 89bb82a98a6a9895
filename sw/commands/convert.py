"""The command `evolute convert`, which writes a model as a file for llama.cpp."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
import gguf
from rich.console import Console
from rich.table import Table

from evolute.support.files import provenance
from evolute.support.options import json_option, show
from evolute.sw.checkpoints import zoo
from evolute.sw.checkpoints.gguf_export import TYPES, write_gguf
from evolute.sw.commands.eval import load_model, model_argument, progress

_MOST_HALF = 0.1
"""Part of the layers' weights in half precision that goes without saying."""


@click.command(epilog="Example: evolute convert smollm2-135m --type q4_0 -o smollm2.gguf")
@model_argument
@click.option(
    "--type",
    "kind",
    type=click.Choice(list(TYPES)),
    required=True,
    help="What linear layers become. Codes that the type holds are written as they are; other "
    "weights are rounded to it, by the method of llama.cpp.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The GGUF file, tokenizer included.",
)
@json_option
def convert(model: str | None, kind: str, output: Path, as_json: bool) -> None:
    """Write MODEL to a GGUF file, which llama.cpp loads."""
    loaded = load_model(model)
    with progress("writing") as done:
        written = write_gguf(loaded, output, TYPES[kind], done, zoo.as_parent(model, loaded))
    record = {
        "model": loaded.name,
        "file": str(output),
        "bytes": output.stat().st_size,
        "type": kind,
        "architecture": written.architecture,
        "exact": list(written.exact),
        "rounded": list(written.rounded),
        "half": list(written.half),
        "half_part": written.half_part,
        "provenance": asdict(provenance("codes as they are, others by gguf.quantize", ("gguf",))),
    }

    block = gguf.GGML_QUANT_SIZES[TYPES[kind]][0]

    def render(console: Console) -> None:
        console.print(f"{output}: {loaded.name} as {written.architecture}, {record['bytes']} bytes")
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_row("same weights", str(len(written.exact)))
        table.add_row(f"rounded to {kind}", str(len(written.rounded)))
        table.add_row("half precision", str(len(written.half)))
        console.print(table)

    show(as_json, record, render)
    if written.half_part > _MOST_HALF:
        click.echo(
            f"evolute: {written.half_part:.0%} of the layers' weights stay in half precision: "
            f"their rows are no whole number of the {block} weights that a block of {kind} holds",
            err=True,
        )
