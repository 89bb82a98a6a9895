"""The command that writes an accelerator's Verilog and what an FPGA project needs beside it."""

from __future__ import annotations

from pathlib import Path

import click

from evolute.hw.commands.specs import set_option, spec_from
from evolute.hw.emit.export import PREFIX, TARGETS, write_export
from evolute.support.options import json_option, show


@click.command(epilog="Example: evolute export lut-fpga -o build --target ecp5")
@click.argument("preset")
@click.option(
    "-o",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder to write into; files of the same names are replaced.",
)
@set_option
@click.option(
    "--target",
    type=click.Choice(list(TARGETS)),
    default=next(iter(TARGETS)),
    show_default=True,
    help="What the constraints and scripts are for.",
)
@click.option(
    "--prefix",
    default=PREFIX,
    show_default=True,
    metavar="NAME",
    help="What the names of all modules and files begin with.",
)
@json_option
def export(
    preset: str,
    folder: Path,
    assignments: tuple[str, ...],
    target: str,
    prefix: str,
    as_json: bool,
) -> None:
    """Write an engine's or a core's Verilog, port description, constraints and scripts."""
    spec = spec_from(preset, assignments)
    files = [str(path) for path in write_export(spec, folder, target, prefix)]
    document = {"files": files, "digest": spec.digest}
    show(as_json, document, lambda console: console.print("\n".join(document["files"])))
